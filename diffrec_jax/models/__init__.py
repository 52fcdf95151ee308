"""Parameters and the pure functions of them; the classes of ``registry``, imported when they are first used."""

from typing import TYPE_CHECKING, Any

from diffrec_jax.models.registry import HOMES, load_class

if TYPE_CHECKING:
    from diffrec_jax.models.contract import Catalogue
    from diffrec_jax.models.diffrec import DiffRec
    from diffrec_jax.models.latent_diffrec import LatentDiffRec

__all__ = ["Catalogue", "DiffRec", "LatentDiffRec"]


def __getattr__(name: str) -> Any:
    """Import a class when it is first used."""
    if name in HOMES:
        return load_class(HOMES[name])
    if name == "Catalogue":
        return load_class("contract:Catalogue")
    raise AttributeError(f"module 'diffrec_jax.models' has no attribute {name!r}")
