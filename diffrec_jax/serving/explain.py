"""Why an item was recommended: exact leave-one-out over the history.

The effect of a history item on a recommended one is the score of the full history minus the score of the history
without that item. The model is run again on every shortened history, many at a time; nothing is approximated, and a
recency kernel weighs the shortened history anew.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from diffrec_jax.data.events import taken
from diffrec_jax.serving.histories import Histories
from diffrec_jax.serving.ranker import Ranker

ENTRIES_AT_ONCE = 2**22  # of shortened histories on the host


def effects(ranker: Ranker, histories: Histories, chosen: np.ndarray) -> dict[str, np.ndarray]:
    """Effects of every history item on every chosen item.

    Args:
      ranker: of the model.
      histories: n of them; an empty one has nothing to explain.
      chosen: ``[n, R]`` item numbers, -1 where there is none.

    Returns:
      Columns ``row`` (number of the history), ``item``, ``because``, ``effect`` and ``rank`` of the effect (from 1,
      largest first), grouped by row and item.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("row", "item", "because", "effect", "rank")}
    for rows in _groups(histories):
        some, at = histories.take(rows), chosen[rows]
        who = np.repeat(np.arange(len(some)), some.lengths)
        fall = ranker.scores_at(some, at)[who] - ranker.scores_at(leave_one_out(some), at[who])  # [entries, R]
        for i, row in enumerate(rows):
            own, its = some.row(i), fall[some.offsets[i] : some.offsets[i + 1]]
            for column in np.flatnonzero(at[i] >= 0) if len(own) else ():
                order = np.argsort(-its[:, column], kind="stable")
                parts["row"].append(np.full(len(own), row))
                parts["item"].append(np.full(len(own), at[i, column]))
                parts["because"].append(own[order])
                parts["effect"].append(its[order, column])
                parts["rank"].append(np.arange(1, len(own) + 1, dtype=np.int32))
    kinds: dict[str, Any] = {"effect": np.float32}
    return {n: np.concatenate(p) if p else np.zeros(0, kinds.get(n, np.int32)) for n, p in parts.items()}


def leave_one_out(histories: Histories) -> Histories:
    """Every history without one of its items, for each of its items in turn."""
    lengths = histories.lengths
    position = np.arange(len(histories.items)) - np.repeat(histories.offsets[:-1], lengths)
    copies = histories.take(np.repeat(np.arange(len(histories)), lengths))
    inside = np.arange(len(copies.items)) - np.repeat(copies.offsets[:-1], copies.lengths)
    keep = inside != np.repeat(position, copies.lengths)
    offsets = np.concatenate([[0], np.cumsum(copies.lengths - 1)]).astype(np.int64)
    columns = (taken(values, keep) for values in (copies.days, copies.weights))
    return Histories(copies.items[keep], offsets, copies.users, *columns)


def _groups(histories: Histories) -> Iterator[np.ndarray]:
    """Rows whose shortened histories fit ``ENTRIES_AT_ONCE``, at least one row at a time."""
    entries = np.cumsum(histories.lengths.astype(np.int64) ** 2)
    start = 0
    while start < len(entries):
        done = entries[start - 1] if start else 0
        stop = max(int(np.searchsorted(entries, done + ENTRIES_AT_ONCE, side="right")), start + 1)
        yield np.arange(start, stop)
        start = stop
