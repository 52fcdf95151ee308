"""Which models there are, and which flags mean something to which.

A flag that bears the name of a hyper-parameter belongs to the models that have one of this name; the group of every
other flag says to whom it belongs.
"""

import dataclasses
import functools
from typing import Any

from diffrec_jax.data.recency import Recency
from diffrec_jax.models.registry import MODELS

KINDS: dict[str, Any] = {name: entry.model for name, entry in MODELS.items()}
NETWORKS = ("diffusion", "autoencoders")  # the families beside which EASE may stand
LATENT = tuple(name for name, entry in MODELS.items() if entry.latent)
TIME_AWARE = tuple(name for name, entry in MODELS.items() if entry.time_aware)
RECENCY_FLAGS = {"kernel": "recency", "power": "recency_power"}  # where they are not called as in ``Recency``


@functools.cache
def hyper_parameters(model: str) -> dict[str, Any]:
    """Names and defaults of the hyper-parameters that are flags of their own: without clusters and recency."""
    fields = dataclasses.fields(KINDS[model])
    return {field.name: field.default for field in fields if field.name not in ("clusters", "recency")}


def recency_flag(name: str) -> str:
    """The flag of a field of ``Recency``."""
    return RECENCY_FLAGS.get(name, name)


RECENCY = {recency_flag(field.name) for field in dataclasses.fields(Recency)}
HYPER_PARAMETERS = {name for model in KINDS for name in hyper_parameters(model)} - {"seed"}


def takes_recency(model: str) -> bool:
    """Whether a model may have a recency kernel: DiffRec without one and T-DiffRec have two names."""
    named = {field.name for field in dataclasses.fields(KINDS[model])}
    return "recency" in named and MODELS[model].time_aware is not False


def is_trained(model: str) -> bool:
    """Whether a model is trained by epochs, not fitted in one go."""
    return MODELS[model].is_trained


@functools.cache
def models_of(flag: str, group: str) -> tuple[str, ...]:
    """The models to which a flag means something."""

    def means_something(model: str) -> bool:
        if flag in RECENCY and takes_recency(model):
            return True
        if flag in RECENCY | HYPER_PARAMETERS:
            return flag in hyper_parameters(model)
        network = MODELS[model].family in NETWORKS
        of_group = {"latent": model in LATENT, "trained": is_trained(model), "network": network}
        return of_group.get(group, True)

    return tuple(model for model in KINDS if means_something(model))
