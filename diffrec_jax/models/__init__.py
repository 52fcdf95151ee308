"""Parameters and the pure functions of them."""

from diffrec_jax.models.contract import Catalogue
from diffrec_jax.models.diffrec import DiffRec
from diffrec_jax.models.latent_diffrec import LatentDiffRec

__all__ = ["Catalogue", "DiffRec", "LatentDiffRec"]
