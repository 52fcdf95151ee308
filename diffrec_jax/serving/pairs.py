"""Scores of chosen (person, item) pairs, however many each person has, and the best of chosen items.

Pairs lie one after the other: ``rows [N]`` are numbers of histories, ``items [N]`` item numbers. People with about as
many pairs share a call on the device; widths are rounded up to a few, so that few programs are compiled.
"""

from collections.abc import Callable

import numpy as np

from diffrec_jax.serving.histories import Histories

WIDTHS = (32, 256, 2048)  # pairs of one person in one call
PAIRS_AT_ONCE = 2**17  # padding included: a gathered vector for each must fit the device
ScoresAt = Callable[[Histories, np.ndarray], np.ndarray]  # ``Ranker.listed_scores_at``


def scores_of_pairs(scores_at: ScoresAt, histories: Histories, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Scores ``[N] float32`` of pairs in any order.

    Args:
      scores_at: scores ``[n, R]`` of histories at item numbers ``[n, R]``.
      histories: of the people.
      rows: ``[N]`` numbers of histories.
      items: ``[N]`` item numbers.
    """
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=len(histories))
    pieces = -(-counts // WIDTHS[-1])  # of each person
    person = np.repeat(np.arange(len(histories)), pieces)
    within = np.arange(len(person)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = np.repeat(np.cumsum(counts) - counts, pieces) + within * WIDTHS[-1]
    length = np.minimum(counts[person] - within * WIDTHS[-1], WIDTHS[-1])
    ragged = Histories(items[order].astype(np.int32), np.append(start, len(items)), person.astype(np.int32))
    width = np.asarray(WIDTHS)[np.searchsorted(WIDTHS, length)]
    found = np.empty(len(items), np.float32)
    for size in np.unique(width).tolist():
        alike = np.flatnonzero(width == size)
        for begin in range(0, len(alike), PAIRS_AT_ONCE // size):
            some = alike[begin : begin + PAIRS_AT_ONCE // size]
            own = ragged.take(some)
            at = own.padded(own.items, len(some), size, 0)
            scores = scores_at(histories.take(person[some]), at)
            there = np.arange(size) < length[some, None]
            found[(start[some, None] + np.arange(size))[there]] = scores[there]
    out = np.empty(len(items), np.float32)
    out[order] = found
    return out


def best_of(
    scores_at: ScoresAt, histories: Histories, candidates: Histories, k: int, *, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The K best of each person's own candidates.

    Args:
      scores_at: as above.
      histories: n of them.
      candidates: item numbers of each person, without repetition.
      k: list length.
      place: ``[I]``, which of equal scores comes first (``Standing.place``).

    Returns:
      ``(scores [n, K] float32, items [n, K] int32)``, best first; where fewer than K are left, -inf and -1.
    """
    rows, items = np.repeat(np.arange(len(candidates)), candidates.lengths), candidates.items
    scores = scores_of_pairs(scores_at, histories, rows, items)
    order = np.lexsort((place[items], -scores, rows))
    rows, items, scores = rows[order], items[order], scores[order]
    rank = np.arange(len(rows)) - candidates.offsets[rows]
    best = rank < k
    found = np.full((len(histories), k), -1, np.int32)
    values = np.full((len(histories), k), -np.inf, np.float32)
    found[rows[best], rank[best]], values[rows[best], rank[best]] = items[best], scores[best]
    return values, found
