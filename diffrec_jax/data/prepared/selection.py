"""Which users and items of a coded log stay, and their numbers in a prepared folder: by counts alone, in a few passes.

A log is given as a function that yields its (user, item) pairs some at a time, each pair once; nothing that is kept has
more entries than there are users or items.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from diffrec_jax.data.events import FilterReport
from diffrec_jax.data.prepared.recipe import Recipe

Pairs = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


@dataclasses.dataclass
class Alive:
    """What is left after the filters so far."""

    users: np.ndarray  # bool [U]
    items: np.ndarray  # bool [I]
    per_user: np.ndarray  # int64 [U], pairs that are left
    per_item: np.ndarray  # int64 [I]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Pairs, users and items that are left."""
        return int(self.per_user.sum()), int((self.per_user > 0).sum()), int((self.per_item > 0).sum())


def select(
    pairs: Pairs, n_users: int, n_items: int, recipe: Recipe, *, events: Pairs | None = None
) -> tuple[Alive, list[FilterReport]]:
    """The k-core and the least history of ``recipe``, as ``data.preprocess`` has them.

    Args:
      pairs: of users and items, each once.
      n_users, n_items: how many there are.
      recipe: what to keep.
      events: all events, where pairs are repeated; what is left is counted in these.

    Returns:
      What is left, and what each filter did.

    Raises:
      ValueError: if a filter leaves nothing.
    """
    left = _counted(pairs, np.ones(n_users, bool), np.ones(n_items, bool))
    reports = []

    def sizes(left: Alive) -> tuple[int, int, int]:
        return (left if events is None else _counted(events, left.users, left.items)).sizes

    if recipe.core > 1:
        before = sizes(left)
        while True:
            users, items = left.per_user >= recipe.core, left.per_item >= recipe.core
            if np.array_equal(users, left.per_user > 0) and np.array_equal(items, left.per_item > 0):
                break
            left = _counted(pairs, users, items)
        reports.append(report(f"k_core({recipe.core})", before, sizes(left)))
    if recipe.history > 1:
        before = sizes(left)
        left = _counted(pairs, left.users & (left.per_user >= recipe.history), left.items)
        reports.append(report(f"min_history({recipe.history})", before, sizes(left)))
    return (left if events is None else _counted(events, left.users, left.items)), reports


def _counted(pairs: Pairs, users: np.ndarray, items: np.ndarray) -> Alive:
    """The counts of what these users have of these items."""
    per_user, per_item = np.zeros(len(users), np.int64), np.zeros(len(items), np.int64)
    for user, item in pairs():
        alive = users[user] & items[item]
        if not alive.all():
            user, item = user[alive], item[alive]
        per_user += np.bincount(user, minlength=len(users))
        per_item += np.bincount(item, minlength=len(items))
    return Alive(users, items, per_user, per_item)


def report(name: str, before: tuple[int, int, int], after: tuple[int, int, int]) -> FilterReport:
    """What one step did to (events, users, items).

    Raises:
      ValueError: if it left nothing.
    """
    if not after[0]:
        raise ValueError(
            f"{name} left no events: it removed all {before[0]:,} ({before[1]:,} users, {before[2]:,} items). "
            "Loosen it, or check the columns"
        )
    (a, b, c), (d, e, f) = before, after
    return FilterReport(name, a, d, b, e, c, f)


def by_count(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """New numbers of old ones, int32 [V] with -1 for what has no events, and the old ones in their new order.

    Most events first, equal counts in the old order, which is that of the raw ids.
    """
    there = np.flatnonzero(counts)
    order = there[np.argsort(-counts[there], kind="stable")]
    number = np.full(len(counts), -1, np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    return number, order
