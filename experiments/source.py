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
    check_noise(config)
    return _log(config) if config.data else _dataset(config)


def check_noise(config: Config) -> None:
    """Refuse natural noise for data that came without its low ratings, before anything is read."""
    entry = catalog.CATALOGUE.get(config.dataset)
    if config.noise.startswith("natural") and not config.data and (entry is None or entry.rating is None):
        raise ValueError(
            f"noise={config.noise} adds low ratings, which {config.data_name} comes without: use a log "
            "with ratings, such as --dataset=ml-100k, or random noise"
        )


def fingerprint(split: Split) -> str:
    """A checksum of the interactions and their ids, so that a run is never taken up with other data."""
    digest = hashlib.sha256()
    for part in split:
        for array in (part.users, part.items, part.times):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    for ids in (split.user_ids, split.item_ids):
        digest.update("\n".join(map(str, ids.tolist())).encode())
    return digest.hexdigest()[:16]


def _dataset(config: Config) -> Split:
    entry = catalog.CATALOGUE.get(config.dataset)
    if entry is not None and entry.reader is None:  # a released folder, not a log
        entry = None
    if config.split and entry is None:
        raise ValueError(f"split={config.split} cannot change {config.dataset}, which comes split: drop it")
    if not config.split:
        split = catalog.load(config.dataset, data_dir=config.data_dir)
    if entry is None or not (config.split or config.noise):
        return _noisy(config, split, None, 4.0)
    raw = catalog.read(config.dataset, data_dir=config.data_dir)
    if config.split:
        split = dataclasses.replace(_split(config, raw, rating=entry.rating, core=entry.core), name=config.dataset)
    return _noisy(config, split, raw, 4.0 if entry.rating is None else entry.rating)


def _log(config: Config) -> Split:
    titles = _titles(config)
    raw = readers.read_log(
        config.data,
        user=config.user_col or None,
        item=config.item_col or None,
        time=config.time_col or None,
        rating=config.rating_col or None,
        delimiter=config.delimiter or None,
        encoding=_encoding(config, config.data),
        header=config.header,
    )
    if titles is not None:
        raw = readers.with_titles(raw, titles)
        if not any(str(id_) in titles for id_ in raw.item_ids.tolist()):
            raise ValueError(
                f"titles={config.titles} has no title of any item of {config.data}: its ids are like "
                f"{next(iter(titles), '(none)')!r} and the log's like {str(raw.item_ids[0])!r}; name their column "
                "(--title_item_col)"
            )
    split = dataclasses.replace(
        _split(config, raw, rating=config.min_rating, core=config.k_core), name=config.data_name
    )
    return _noisy(config, split, raw, 4.0 if config.min_rating is None else config.min_rating)


def _titles(config: Config) -> dict[str, str] | None:
    """The titles of the items of a log, by their ids as text; None where no file holds them."""
    if not config.titles:
        return None
    item, title = config.title_item_col or None, config.title_col or None
    return readers.read_titles(config.titles, item=item, title=title, encoding=_encoding(config, config.titles))


def _encoding(config: Config, path: str) -> str | None:
    """The encoding for one of the two files; of two, Parquet needs none."""
    other = config.titles if path == config.data else config.data
    return config.encoding if config.encoding and (readers.is_text(path) or not readers.is_text(other)) else None


def _noisy(config: Config, split: Split, raw: Interactions | None, threshold: float) -> Split:
    if not config.noise:
        return split
    ratings = raw if raw is not None and raw.ratings is not None else None
    return noise.apply(config.noise, split, ratings=ratings, threshold=threshold, seed=config.data_seed)


def _split(config: Config, raw: Interactions, *, rating: float | None, core: int) -> Split:
    if config.split == "diffrec":  # brings its own filters
        threshold = 4.0 if rating is None else rating
        return splits.diffrec(raw, rating=None if raw.ratings is None else threshold)
    data = preprocess.prepare(raw, rating=rating, duplicates=config.duplicates, core=core, history=config.min_history)
    if config.split == "random":
        return splits.random(data, seed=config.data_seed)
    if config.split == "leave_one_out":
        return splits.leave_one_out(data)
    if config.split == "global_time":
        return splits.global_time(data)
    return splits.temporal(data)
