"""Where a split for everybody is cut, found by counting what lies before a moment, so that any engine can tell."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from diffrec_jax.data.cuts import cut_moments, of_shares, said_at
from diffrec_jax.data.prepared.recipe import Recipe


def moments_of(
    recipe: Recipe, n: int, first: int, last: int, before: Callable[[int], int]
) -> tuple[tuple[int, ...], str]:
    """The moments that begin valid and test, or test alone, in microseconds, and a sentence where they were given.

    Args:
      recipe: with ``rule == "global_time"``.
      n: events.
      first, last: the first and the last time of all.
      before: how many events are earlier than a moment.

    Raises:
      ValueError: where a part that is asked for would be empty.
    """
    if recipe.cuts:
        moments = cut_moments(recipe.cuts)
        bounds = [0, *(before(moment) for moment in moments), n]
        sizes = np.diff(bounds).tolist()
        return tuple(moments), said_at(moments, sizes, first, last)
    asked = of_shares(np.asarray(n), recipe.shares).tolist()
    moments = [_smallest(min(n - 1, at), first, last, before) for at in asked]
    if recipe.shares[1] == 0:
        moments = moments[:1]
    if not before(moments[0]) or before(moments[-1]) == n:
        raise ValueError(
            f"split 'global_time' leaves train or test empty: too many of the {n:,} events share one time; "
            "use split 'temporal' or finer times"
        )
    return tuple(moments), ""


def _smallest(k: int, first: int, last: int, before: Callable[[int], int]) -> int:
    """The time of event k, counted from 0 in the order of time."""
    low, high = first, last
    while low < high:
        middle = (low + high) // 2
        if before(middle + 1) > k:
            high = middle
        else:
            low = middle + 1
    return low
