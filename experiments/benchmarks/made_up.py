"""Models of a given shape with random weights on random interactions: speed does not depend on what was learned."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffrec_jax.data.events import CSR
from diffrec_jax.models import Catalogue, DiffRec, LatentDiffRec
from diffrec_jax.serving import ModelFolder, Recommender, Vocabulary, export_safetensors


def random_rows(rng: np.random.Generator, *, users: int, items: int, length: int) -> CSR:
    """``users`` rows of about ``length`` different items, popular ones more often."""
    drawn = (items * rng.random((users, length)) ** 3).astype(np.int32)
    who = np.repeat(np.arange(users, dtype=np.int32), length)
    return CSR.from_pairs(who, drawn.ravel(), n_users=users, n_items=items)


def diffrec(*, steps: int, dims: tuple[int, ...]) -> DiffRec:
    """DiffRec."""
    return DiffRec(steps=steps, dims=dims)


def latent(*, items: int, width: int, clusters: int = 2) -> LatentDiffRec:
    """L-DiffRec with one linear decoder."""
    return LatentDiffRec(clusters=np.arange(items) % clusters, in_dims=(width,), mlp_dims=(width,))


def export(model: Any, rows: CSR, folder: Path, *, seed: int = 0) -> None:
    """Write the model as an exported folder."""
    catalogue = Catalogue(n_items=rows.n_items, n_users=rows.n_users)
    content = ModelFolder(model, Vocabulary.numbers(rows.n_users, rows.n_items), rows, None, {"dataset": "made up"})
    export_safetensors(Recommender(content, model.init(jax.random.key(seed), catalogue)), folder)
