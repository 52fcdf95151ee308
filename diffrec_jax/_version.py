"""The version, in one place (read by ``setup.cfg`` and by ``diffrec_jax.__version__``)."""

__version__ = "0.1.0"
