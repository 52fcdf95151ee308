"""Preparation in memory, by the functions that prepare any log: what every other engine is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from diffrec_jax.data import preprocess, readers
from diffrec_jax.data.events import Events, taken
from diffrec_jax.data.order import row_order
from diffrec_jax.data.prepared.folder import Meta
from diffrec_jax.data.prepared.moments import moments_of
from diffrec_jax.data.prepared.parts import PartWriter, Shard
from diffrec_jax.data.prepared.recipe import Recipe
from diffrec_jax.data.prepared.selection import by_count

Say = Callable[[str], None]


def prepare(folder: Path, recipe: Recipe, *, name: str, titles: Mapping[str, str] | None, say: Say) -> Meta:
    """Read, filter, number and split a log of any kind, and write the folder.

    Raises:
      ValueError: as the readers and filters do.
      OSError: if the folder cannot be written.
    """
    say("reading the log")
    log = _filtered(read_log(recipe), recipe)
    say(f"{log} are left; writing")
    per_user, per_item = (
        np.bincount(codes, minlength=n) for codes, n in ((log.users, log.n_users), (log.items, log.n_items))
    )
    (user_number, users), (item_number, items) = by_count(per_user), by_count(per_item)
    moments, note = _moments(log, recipe)
    n_parts = recipe.n_parts(len(log))
    sizes = {"n_users": len(users), "n_items": len(items), "n_parts": n_parts}
    writer = PartWriter(folder, recipe, **sizes, moments=moments)
    numbers = user_number[log.users]
    rows = row_order(log.users, log.items, log.times, log.weights)
    rows = np.arange(len(log)) if rows is None else rows
    rows = rows[np.lexsort((numbers[rows], numbers[rows] % n_parts))]  # stable: the order within a user stays
    ends = np.searchsorted(numbers[rows] % n_parts, np.arange(n_parts + 1))
    for part in range(n_parts):
        own = rows[ends[part] : ends[part + 1]]
        if not writer.done(part):
            shard = Shard(numbers[own], item_number[log.items[own]], taken(log.times, own), taken(log.weights, own))
            writer.write(part, shard)
    ids = {
        "users": id_table(_arrow(log.user_ids[users]), per_user[users]).to_reader(),
        "items": id_table(_arrow(log.item_ids[items]), per_item[items], titles).to_reader(),
    }
    return writer.finish(name=name, ids=ids, notes=log.notes, reports=log.provenance, engine="arrow", cut_note=note)


def id_table(ids: pa.Array, events: np.ndarray, titles: Mapping[str, str] | None = None) -> pa.Table:
    """The file of users or items: raw ids in the order of their numbers, and their events."""
    columns = {
        "number": pa.array(np.arange(len(ids), dtype=np.int32)),
        "id": ids,
        "events": pa.array(events.astype(np.int64)),
    }
    if titles is not None:
        columns["title"] = titles_of(ids, titles)
    return pa.table(columns)


def titles_of(ids: pa.Array, titles: Mapping[str, str]) -> pa.Array:
    """The title of each id, or the id itself."""
    return pa.array([titles.get(str(id_), str(id_)) for id_ in ids.to_pylist()], pa.large_string())


def _arrow(ids: np.ndarray) -> pa.Array:
    return pa.array(ids, pa.int64() if ids.dtype.kind in "iu" else pa.large_string())


def read_log(recipe: Recipe) -> Events:
    """The log of a recipe, in one piece."""
    named = recipe.columns
    return readers.read_log(
        recipe.path,
        user=named.get("user"),
        item=named.get("item"),
        time=named.get("time"),
        rating=named.get("rating"),
        weight=named.get("weight"),
        delimiter=recipe.delimiter,
        encoding=recipe.encoding,
        header=recipe.header,
    )


def _filtered(log: Events, recipe: Recipe) -> Events:
    data = preprocess.prepare(
        log,
        rating=recipe.min_rating,
        duplicates=None if recipe.repeats else recipe.duplicates,
        core=recipe.core,
        history=recipe.history,
    )
    return preprocess.keep_repeats(data) if recipe.repeats else data


def _moments(log: Events, recipe: Recipe) -> tuple[tuple[int, ...], str]:
    """Where a split for everybody is cut; nothing for one by user."""
    if recipe.rule != "global_time":
        return (), ""
    times = log.times
    assert times is not None
    return moments_of(
        recipe, len(times), int(times.min()), int(times.max()), lambda moment: int((times < moment).sum())
    )
