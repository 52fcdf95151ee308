"""From ``Config`` to a split: a named dataset or somebody's own log, prepared, split, and noisy if asked."""

import dataclasses
import hashlib

import numpy as np

from diffrec_jax.data import catalog, noise, preprocess, readers, splits
from diffrec_jax.data.interactions import Interactions
from diffrec_jax.data.splits import Split
from experiments.config import Config


def load(config: Config) -> Split:
    """The interactions of a run; its ``notes`` are what a person should read."""
    return _log(config) if config.data else _dataset(config)


def fingerprint(split: Split) -> str:
    """A checksum of the interactions, so that a run is never taken up with other data."""
    digest = hashlib.sha256()
    for part in split:
        for array in (part.users, part.items, part.times):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _dataset(config: Config) -> Split:
    split = catalog.load(config.dataset, data_dir=config.data_dir)
    if not config.noise:
        return split
    ratings, threshold = None, 4.0
    if config.noise.startswith("natural"):
        entry = catalog.CATALOGUE.get(config.dataset)
        if entry is not None and entry.reader is not None:
            ratings, threshold = catalog.read(config.dataset, data_dir=config.data_dir), entry.rating or threshold
    return noise.apply(config.noise, split, ratings=ratings, threshold=threshold, seed=config.data_seed)


def _log(config: Config) -> Split:
    raw = readers.read_log(
        config.data,
        user=config.user_col or None,
        item=config.item_col or None,
        time=config.time_col or None,
        rating=config.rating_col or None,
    )
    split = _split(config, raw)
    if config.noise:
        threshold = 4.0 if config.min_rating is None else config.min_rating
        ratings = raw if raw.ratings is not None else None
        split = noise.apply(config.noise, split, ratings=ratings, threshold=threshold, seed=config.data_seed)
    return dataclasses.replace(split, name=config.data_name)


def _split(config: Config, raw: Interactions) -> Split:
    if config.split == "diffrec":  # brings its own filters
        threshold = 4.0 if config.min_rating is None else config.min_rating
        return splits.diffrec(raw, rating=None if raw.ratings is None else threshold)
    data = preprocess.prepare(
        raw,
        rating=config.min_rating,
        duplicates=config.duplicates,
        core=config.k_core,
        history=config.min_history,
    )
    if config.split == "random":
        return splits.random(data, seed=config.data_seed)
    if config.split == "leave_one_out":
        return splits.leave_one_out(data)
    if config.split == "global_time":
        return splits.global_time(data)
    return splits.temporal(data)
