"""What a model takes on a Cloud TPU, before you rent one."""
