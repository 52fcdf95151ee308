"""A small shop with titles, and recommenders of every kind of model on it."""

import functools

import jax
import numpy as np
import pytest

import diffrec_jax as dr
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue
from diffrec_jax.models.baselines import EASE, Popularity
from diffrec_jax.models.linear_path import LinearPath
from diffrec_jax.serving import (
    ModelFolder,
    Recommender,
    Vocabulary,
    export_program,
    export_safetensors,
    export_vectors,
)
from diffrec_jax.training import InterruptedRunError, Observer

N_USERS, N_ITEMS = 40, 60
CLUSTERS = np.arange(N_ITEMS) % 2
MODELS = {
    "diffrec": dr.DiffRec(dims=(8, 12), steps=3),
    "normalised": dr.DiffRec(dims=(8,), norm=True),
    "eps": dr.DiffRec(dims=(8,), mean_type="eps"),
    "corrupted": dr.DiffRec(dims=(8,), sampling_steps=2),
    "noisy": dr.DiffRec(dims=(8,), sampling_noise=True),
    "linear": dr.DiffRec(dims=(8,), recency=dr.Recency("linear")),
    "exponential": dr.DiffRec(dims=(8,), recency=dr.Recency("exponential", half_life=2.0)),
    "latent": dr.LatentDiffRec(clusters=CLUSTERS, in_dims=(9,), mlp_dims=(8,), steps=5),
    "latent_deep": dr.LatentDiffRec(clusters=CLUSTERS, in_dims=(9, 15), out_dims=(9, 15), mlp_dims=(8,), steps=5),
    "ease": EASE(l2=10.0),
    "popularity": Popularity(),
    "path": LinearPath(
        network=dr.DiffRec(dims=(8,), guidance=1.0, forecast=3.0, recency=dr.Recency("power")),
        linear=EASE(l2=10.0, forecast=3.0, recency=dr.Recency("power")),
    ),
    "latent_path": LinearPath(
        network=dr.LatentDiffRec(clusters=CLUSTERS, in_dims=(9,), mlp_dims=(8,), steps=5),
        linear=EASE(l2=10.0),
        weight=20.0,
    ),
}


def one_device():
    """A mesh that compiles faster than the eight devices that tests simulate."""
    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def split():
    """Interactions with text ids, times and titles; user 0 has the longest history."""
    rng = np.random.default_rng(0)
    users = np.concatenate([np.full(25, 0), rng.integers(0, N_USERS, 900)])
    items = np.concatenate([np.arange(25), (N_ITEMS * rng.random(900) ** 2).astype(int)])
    every = np.arange(N_ITEMS)
    users, items = np.concatenate([users, every % N_USERS]), np.concatenate([items, every])
    titles = {f"sku{i}": f"Thing number {i}" if i != 7 else "Émile's <b>Größe</b>" for i in range(N_ITEMS)}
    data = dr.Interactions.from_arrays(
        [f"u{u}" for u in users],
        [f"sku{i}" for i in items],
        times=rng.integers(1_600_000_000, 1_600_900_000, len(users)),
        item_titles=titles,
    ).deduplicate()
    return data.split_by_time(0.7, 0.1, 0.2)


@pytest.fixture(scope="session")
def make(split):
    """``make(name or model, **options)`` gives a recommender with random (or computed) parameters; made once."""

    @functools.cache
    def recommender(model, **options):
        model = MODELS[model] if isinstance(model, str) else model
        train, valid = split.train.csr(), split.valid.csr()
        vocabulary = Vocabulary(split.user_ids, split.item_ids, split.item_titles)
        catalogue = Catalogue(n_items=split.n_items, n_users=split.n_users)
        trained = model.trained
        params = model.assemble(train, None if trained is None else trained.init(jax.random.key(1), catalogue))
        about = {"dataset": "shop", "split": split.rule, "guarantee": split.guarantee, "notes": list(split.notes)}
        return Recommender(ModelFolder(model, vocabulary, train, valid, about), params, **options)

    return recommender


@pytest.fixture(scope="session")
def shop(make):
    """A DiffRec recommender."""
    return make("diffrec")


class StopAfterTwo(Observer):
    """Ctrl-C in the second epoch."""

    def epoch(self, report):
        self.seen = report.epoch

    def interrupted(self):
        return getattr(self, "seen", 0) >= 2


@pytest.fixture(scope="session")
def run_folder(split, tmp_path_factory):
    """What a run leaves that was stopped after two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    options = {"epochs": 9, "eval_every": 1, "about": {"dataset": "shop", "split": split.rule}, "mesh": one_device()}
    with pytest.raises(InterruptedRunError):
        dr.fit(MODELS["diffrec"], split.train, split.valid, workdir=folder, **options, observer=StopAfterTwo())
    return folder


RESULTS = {"test": {"official": {"recall@20": 0.25, "ndcg@10": 0.125}}, "eval_history": "train"}


@pytest.fixture(scope="session")
def exported(shop, tmp_path_factory):
    """A folder with every export of the DiffRec recommender: ``safetensors``, ``jax`` (k = 9) and ``vectors``."""
    folder = tmp_path_factory.mktemp("exported")
    export_safetensors(shop, folder / "safetensors", results=RESULTS)
    export_program(shop, folder / "jax", k=9, results=RESULTS)
    export_vectors(shop, folder / "vectors", results=RESULTS)
    return folder
