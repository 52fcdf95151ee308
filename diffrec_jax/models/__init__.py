"""Parameters and the pure functions of them."""

from diffrec_jax.models.contract import Catalogue
from diffrec_jax.models.diffrec import DiffRec

__all__ = ["Catalogue", "DiffRec"]
