"""The one order of events and of ids, which no accident of a file may decide.

Ids are numbered in ascending order. Events of a user are in time order, those of one moment by item; where a log has no
times, its own order is the time order. Of two events of one pair at one moment, the better rated comes first,
then the weightier.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def id_order(ids: np.ndarray, role: str) -> np.ndarray | None:
    """Permutation [V] that sorts raw ids: numbers by size, text by code points; None where they already are.

    Raises:
      ValueError: if an id appears twice.
    """
    if np.all(ids[:-1] < ids[1:]):
        return None
    order = _argsort(ids)
    ordered = ids[order]
    same = np.flatnonzero(ordered[:-1] == ordered[1:])
    if len(same):
        raise ValueError(f"{role}_ids hold {ordered[same[:1]].tolist()[0]!r} more than once; every id has one number")
    return order


def _argsort(ids: np.ndarray) -> np.ndarray:
    if ids.dtype.kind != "O":
        return np.argsort(ids, kind="stable")
    try:  # several times faster than comparing Python strings, and the same order
        return np.asarray(pc.sort_indices(pa.array(ids, pa.large_string())))
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError):  # lone surrogates
        return np.argsort(ids, kind="stable")


def row_order(
    users: np.ndarray, items: np.ndarray, times: np.ndarray | None, weights: np.ndarray | None = None
) -> np.ndarray | None:
    """Permutation [N] that sorts events by user, then time, then item, then weight (the largest first), then file
    order; without times by user, then file order. None where they already are.
    """
    if weights is not None and times is not None:
        return np.lexsort((-weights, items, times, users))
    step = users[1:] - users[:-1]
    by_user = bool(np.all(step >= 0))
    if times is None:
        return None if by_user else np.argsort(users, kind="stable")
    if by_user:
        rises = (times[1:] > times[:-1]) | ((times[1:] == times[:-1]) & (items[1:] >= items[:-1]))
        if np.all((step > 0) | rises):
            return None
    order, tied = _by_user_and_time(users, times)
    if tied.any():  # stretches of one user and one moment, which go by item
        stretch = np.cumsum(np.append(False, ~tied))
        rows = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
        order[rows] = order[rows][np.lexsort((items[order[rows]], stretch[rows]))]
    return order


def _by_user_and_time(users: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The stable permutation [N], and whether an event and the next one are of one user and one moment, [N - 1]."""
    if not np.all(times[1:] >= times[:-1]):  # a log in time order needs only its users sorted
        # One sort of one combined key is more than twice as fast as a lexsort; whole seconds keep it within 63 bits.
        start = int(times.min())
        unit = 1 if np.any((times - start) % 1_000_000) else 1_000_000
        span = (int(times.max()) - start) // unit + 1
        if span * (int(users.max()) + 1) < 2**63:
            keys = users.astype(np.int64) * span + (times - start) // unit
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
            return order, keys[1:] == keys[:-1]
        order = np.lexsort((times, users))
    else:
        order = np.argsort(users, kind="stable")
    who, when = users[order], times[order]
    return order, (who[1:] == who[:-1]) & (when[1:] == when[:-1])


def pair_keys(users: np.ndarray, items: np.ndarray, n_items: int) -> np.ndarray:
    """One int64 per event that is equal exactly for equal (user, item) pairs, [N]."""
    keys: np.ndarray = users.astype(np.int64) * n_items + items
    return keys


def n_shared(a: np.ndarray, b: np.ndarray) -> int:
    """How many of the keys ``b`` are among the sorted keys ``a``."""
    if not len(a) or not len(b):
        return 0
    at = np.searchsorted(a, b)
    return int((a[np.minimum(at, len(a) - 1)] == b).sum())


def repeated_rows(keys: np.ndarray) -> np.ndarray:
    """Positions of the events whose pair key occurs more than once, in order."""
    ordered = np.sort(keys)  # without its permutation: several times faster, and often all that is needed
    if not np.any(ordered[1:] == ordered[:-1]):
        return np.empty(0, np.int64)
    order = np.argsort(keys)
    same = ordered[1:] == ordered[:-1]
    return np.sort(order[np.append(same, False) | np.append(False, same)])


def first_occurrences(
    users: np.ndarray,
    items: np.ndarray,
    n_items: int,
    times: np.ndarray | None = None,
    worth: Sequence[np.ndarray] = (),
    *,
    keep: str = "first",
) -> np.ndarray | None:
    """Mask [N] of one event per (user, item) pair: the first or the last in time, of one moment the one of most
    ``worth``, columns [N] of which the first counts most; without times in file order. None: keep all.
    """
    keys = pair_keys(users, items, n_items)
    rows = repeated_rows(keys)
    if not len(rows):
        return None
    keys = keys[rows]
    if times is None:
        order = np.argsort(keys, kind="stable")
    else:
        best_outside = [column[rows] if keep == "last" else -column[rows] for column in reversed(worth)]
        order = np.lexsort((*best_outside, times[rows], keys))
    edge = keys[order][1:] != keys[order][:-1]
    chosen = np.append(edge, True) if keep == "last" else np.append(True, edge)
    mask = np.ones(len(users), bool)
    mask[rows] = False
    mask[rows[order[chosen]]] = True
    return None if mask.all() else mask
