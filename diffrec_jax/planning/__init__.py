"""What a model takes on a Cloud TPU, before you rent one.

``programs`` compiles the real steps for chips that are not here and counts what they take; ``no_tpu`` tells the TPU's
runtime that there is none.
"""
