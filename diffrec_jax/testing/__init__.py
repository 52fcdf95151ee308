"""What every model promises, as tests to inherit: see ``ModelSuite``. It needs pytest, which the library does not."""

from diffrec_jax.testing.data import N_ITEMS, N_USERS, small_split
from diffrec_jax.testing.suite import ModelSuite

__all__ = ["N_ITEMS", "N_USERS", "ModelSuite", "small_split"]
