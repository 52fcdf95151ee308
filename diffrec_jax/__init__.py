"""Diffusion recommender models in JAX.

::

    import diffrec_jax as dr

    data = dr.Interactions.from_csv("events.csv", user="user", item="sku", time="ts").k_core(5)
    train, valid, test = data.split_by_time(0.7, 0.1, 0.2)
    fitted = dr.fit(dr.DiffRec(steps=5, dims=(1000,)), train, valid, workdir="runs/a", seed=0)
    dr.evaluate(fitted, test)
    dr.load("runs/a").recommend(histories=[["sku12", "sku99"]], k=10)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from diffrec_jax._version import __version__

if TYPE_CHECKING:
    from diffrec_jax.api import Fitted, evaluate, fit
    from diffrec_jax.data.interactions import CSR, Interactions
    from diffrec_jax.data.recency import Recency
    from diffrec_jax.evaluation import evaluate_lists
    from diffrec_jax.models import DiffRec, LatentDiffRec
    from diffrec_jax.models.baselines import EASE, Popularity, RecentPopularity
    from diffrec_jax.models.elsa import ELSA
    from diffrec_jax.models.item_knn import ItemKNN
    from diffrec_jax.models.lightgcn import LightGCN
    from diffrec_jax.models.mult_vae import MultiDAE, MultVAE
    from diffrec_jax.serving import Recommender, load

__all__ = [
    "CSR",
    "EASE",
    "ELSA",
    "DiffRec",
    "Fitted",
    "Interactions",
    "ItemKNN",
    "LatentDiffRec",
    "LightGCN",
    "MultVAE",
    "MultiDAE",
    "Popularity",
    "Recency",
    "RecentPopularity",
    "Recommender",
    "__version__",
    "evaluate",
    "evaluate_lists",
    "fit",
    "load",
]

_HOMES = {
    "CSR": "data.interactions",
    "DiffRec": "models",
    "EASE": "models.baselines",
    "ELSA": "models.elsa",
    "Fitted": "api",
    "Interactions": "data.interactions",
    "ItemKNN": "models.item_knn",
    "LatentDiffRec": "models",
    "LightGCN": "models.lightgcn",
    "MultVAE": "models.mult_vae",
    "MultiDAE": "models.mult_vae",
    "Popularity": "models.baselines",
    "Recency": "data.recency",
    "RecentPopularity": "models.baselines",
    "Recommender": "serving",
    "evaluate": "api",
    "evaluate_lists": "evaluation",
    "fit": "api",
    "load": "serving",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that what needs no JAX starts without it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'diffrec_jax' has no attribute {name!r}")
    return getattr(import_module(f"diffrec_jax.{_HOMES[name]}"), name)
