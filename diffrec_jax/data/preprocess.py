"""Preparation of a log before it is split: thresholds, duplicates, k-core, minimum history.

Every function takes ``Events`` and returns new ones of the same class, with unused users and items removed from the
vocabularies, events in their old order, and one ``FilterReport`` appended to ``provenance``. A filter that would leave
nothing raises ``ValueError`` naming itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from diffrec_jax.data.events import Events, EventsT, FilterReport
from diffrec_jax.data.order import first_occurrences, pair_keys


def min_rating(data: EventsT, threshold: float) -> EventsT:
    """Keep events rated at least ``threshold`` (the paper's clean sets: 4 of 5). Needs ratings."""
    if data.ratings is None:
        raise ValueError(
            f"min_rating({threshold:g}) needs ratings and this log has none; name the rating column or drop the filter"
        )
    return keep_events(data, data.ratings >= threshold, f"min_rating({threshold:g})")


def deduplicate(data: EventsT, keep: str = "first") -> EventsT:
    """Keep one event per (user, item) pair: the ``first`` or the ``last``.

    Times decide which that is, of one moment the rating (the best is kept) and then the weight; without times file
    order does. The event that is kept keeps its own weight: of what came later, nothing is known yet.
    """
    if keep not in ("first", "last"):
        raise ValueError(f"deduplicate(keep={keep!r}): keep must be 'first' or 'last'")
    mask = None if data.distinct else _once(data, keep)
    mask = np.ones(len(data), bool) if mask is None else mask
    notes = data.notes if data.weights is None else (*data.notes, *_outweighed(data, data.weights, mask, keep))
    return replace(keep_events(data, mask, f"deduplicate({keep})"), distinct=True, notes=notes)


def _outweighed(data: Events, weights: np.ndarray, mask: np.ndarray, keep: str) -> list[str]:
    keys = pair_keys(data.users, data.items, data.n_items)
    order = np.argsort(keys[mask])
    kept = order[np.searchsorted(keys[mask], keys[~mask], sorter=order)]
    return outweighed(int((weights[~mask] > weights[mask][kept]).sum()), keep)


def outweighed(heavier: int, keep: str) -> list[str]:
    """Says that so many events were dropped for the first or last of their pair, which weighs less."""
    if not heavier:
        return []
    advice = "; duplicates=last keeps the newest" if keep == "first" else ""
    return [f"weights: {heavier:,} events weigh more than the {keep} of their pair, which is the one kept{advice}."]


def keep_repeats(data: EventsT) -> EventsT:
    """The log whose rows hold an item as often as somebody met it, in splits, too.

    For models that read the order of events; others read each item once, the first (``Scorer.needs_order``).
    """
    return replace(data, repeats=True)


def without_repeats(data: EventsT) -> EventsT:
    """The log as rows hold it: ``deduplicate()`` where a pair is repeated, unless repeats are kept."""
    if data.distinct or data.repeats:
        return data
    return replace(data, distinct=True) if _once(data) is None else deduplicate(data)


def _once(data: Events, keep: str = "first") -> np.ndarray | None:
    """One event per pair, bool [N]; None where no pair is repeated."""
    worth = [column for column in (data.ratings, data.weights) if column is not None]
    return first_occurrences(data.users, data.items, data.n_items, data.times, worth, keep=keep)


def k_core(data: EventsT, k: int, *, of_users: int | None = None) -> EventsT:
    """Drop users and items with fewer than ``k`` partners, again and again, until every one left has at least ``k``,
    users ``of_users`` where that is given.

    A repeated pair counts once, as rows hold it once: preparing in Python and on the command line is the same.
    """
    if k < 1:
        raise ValueError(f"k_core({k}): k must be at least 1 (1 keeps everything)")
    once = None if data.distinct else _once(data)
    users, items = (data.users, data.items) if once is None else (data.users[once], data.items[once])
    cut = False
    while True:
        user_stays = np.bincount(users, minlength=data.n_users) >= (k if of_users is None else of_users)
        item_stays = np.bincount(items, minlength=data.n_items) >= k
        alive = user_stays[users] & item_stays[items]
        if alive.all():
            break
        users, items, cut = users[alive], items[alive], True
    mask = user_stays[data.users] & item_stays[data.items] if cut else np.ones(len(data), bool)
    return keep_events(data, mask, f"k_core({k})" if of_users is None else f"k_core({k}, of_users={of_users})")


def min_history(data: EventsT, n: int) -> EventsT:
    """Drop users with fewer than ``n`` items, once (items may fall below any count); a repeated pair counts once."""
    if n < 1:
        raise ValueError(f"min_history({n}): n must be at least 1 (1 keeps everything)")
    once = None if data.distinct else _once(data)
    counts = np.bincount(data.users if once is None else data.users[once], minlength=data.n_users)
    return keep_events(data, counts[data.users] >= n, f"min_history({n})")


def prepare(
    data: EventsT,
    *,
    rating: float | None = None,
    duplicates: str | None = "first",
    core: int = 0,
    history: int = 0,
    core_of_users: int | None = None,
) -> EventsT:
    """The usual chain in its usual order: rating threshold and duplicates, k-core, minimum history.

    With 'last', duplicates go before the threshold: a rating that was taken back is not kept for having been high once.
    With 'first', the first event of a pair that passes the threshold is kept.

    Args:
      data: the log as read.
      rating: keep events rated at least this; None keeps all.
      duplicates: 'first' or 'last' event of a pair; None keeps repeats (rows still hold an item once).
      core: k of the k-core; 0 or 1 for none.
      core_of_users: what the k-core asks of users instead.
      history: minimum events per user after everything else; 0 or 1 for none.
    """
    steps: list[Callable[[EventsT], EventsT]] = []
    if rating is not None:
        steps.append(lambda d: min_rating(d, rating))
    if duplicates is not None:
        steps.insert(0 if duplicates == "last" else len(steps), lambda d: deduplicate(d, duplicates))
    if core > 1:
        steps.append(lambda d: k_core(d, core, of_users=core_of_users))
    if history > 1:
        steps.append(lambda d: min_history(d, history))
    for step in steps:
        data = step(data)
    return data


def keep_events(data: EventsT, mask: np.ndarray, name: str) -> EventsT:
    """Keep the events where ``mask`` [N] is true, shrink the vocabularies to what is used, report it as ``name``."""
    if not mask.any():
        raise ValueError(
            f"{name} left no events: it removed all {len(data):,} ({data.n_users:,} users, {data.n_items:,} items). "
            f"Loosen it, or check the columns{_history_of(data)}"
        )
    kept = data if mask.all() else data.select(mask)
    user_map, user_keep = _compact(kept.users, data.n_users)
    item_map, item_keep = _compact(kept.items, data.n_items)
    titles = data.item_titles
    report = FilterReport(name, len(data), len(kept), data.n_users, len(user_keep), data.n_items, len(item_keep))
    return replace(
        kept,
        users=kept.users if len(user_keep) == data.n_users else user_map[kept.users],
        items=kept.items if len(item_keep) == data.n_items else item_map[kept.items],
        user_ids=data.user_ids[user_keep],
        item_ids=data.item_ids[item_keep],
        item_titles=None if titles is None else titles[item_keep],
        provenance=(*data.provenance, report),
    )


def _compact(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Old code -> new code, int32 [size], and the old codes still used, in order."""
    used = np.bincount(codes, minlength=size) > 0
    return (np.cumsum(used, dtype=np.int64) - 1).astype(np.int32), np.flatnonzero(used)


def _history_of(data: Events) -> str:
    return f" (before it: {'; '.join(map(str, data.provenance))})" if data.provenance else ""
