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
from diffrec_jax.models.registry import MODELS

if TYPE_CHECKING:  # under their own names: these are public
    from diffrec_jax.api import Fitted as Fitted
    from diffrec_jax.api import evaluate as evaluate
    from diffrec_jax.api import fit as fit
    from diffrec_jax.data.events import CSR as CSR
    from diffrec_jax.data.interactions import Interactions as Interactions
    from diffrec_jax.data.recency import Recency as Recency
    from diffrec_jax.evaluation import evaluate_lists as evaluate_lists
    from diffrec_jax.fit_options import FitOptions as FitOptions
    from diffrec_jax.models import DiffRec as DiffRec
    from diffrec_jax.models import LatentDiffRec as LatentDiffRec
    from diffrec_jax.models.acvae import ACVAE as ACVAE
    from diffrec_jax.models.baselines import EASE as EASE
    from diffrec_jax.models.baselines import Popularity as Popularity
    from diffrec_jax.models.baselines import RecentPopularity as RecentPopularity
    from diffrec_jax.models.bert4rec import BERT4Rec as BERT4Rec
    from diffrec_jax.models.block_ease import BlockEASE as BlockEASE
    from diffrec_jax.models.caser import Caser as Caser
    from diffrec_jax.models.causal_diffurec import CausalDiffuRec as CausalDiffuRec
    from diffrec_jax.models.diffurec import DiffuRec as DiffuRec
    from diffrec_jax.models.elsa import ELSA as ELSA
    from diffrec_jax.models.gru4rec import GRU4Rec as GRU4Rec
    from diffrec_jax.models.item_knn import ItemKNN as ItemKNN
    from diffrec_jax.models.lightgcn import LightGCN as LightGCN
    from diffrec_jax.models.markov import Markov as Markov
    from diffrec_jax.models.markov import Transitions as Transitions
    from diffrec_jax.models.mult_vae import MultiDAE as MultiDAE
    from diffrec_jax.models.mult_vae import MultVAE as MultVAE
    from diffrec_jax.models.sasrec import SASRec as SASRec
    from diffrec_jax.models.seq_diffrec import SeqDiffRec as SeqDiffRec
    from diffrec_jax.models.stosa import STOSA as STOSA
    from diffrec_jax.serving import Recommender as Recommender
    from diffrec_jax.serving import load as load

_HOMES = {
    "FitOptions": "fit_options",
    "CSR": "data.events",
    "Fitted": "api",
    "Interactions": "data.interactions",
    "Recency": "data.recency",
    "Recommender": "serving",
    "evaluate": "api",
    "evaluate_lists": "evaluation",
    "fit": "api",
    "load": "serving",
    **{entry.class_name: "models" for entry in MODELS.values()},
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, so that what needs no JAX starts without it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'diffrec_jax' has no attribute {name!r}")
    return getattr(import_module(f"diffrec_jax.{_HOMES[name]}"), name)
