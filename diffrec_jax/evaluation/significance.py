"""Whether one model is better than another, and how sure that is: paired per user, on the host.

Letters: n users, M columns (models, metrics or differences), R resamples.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.stats

Test = Literal["wilcoxon", "t"]
TESTS: tuple[Test, ...] = ("wilcoxon", "t")


def paired_test(ours: np.ndarray, theirs: np.ndarray, *, test: Test = "wilcoxon") -> float:
    """The two-sided p-value of a paired test over users.

    Args:
      ours: ``[n]`` a metric of each user.
      theirs: ``[n]`` the same users' metric under the other model.
      test: ``wilcoxon``, the signed-rank test (users without a difference say nothing), or ``t``.

    Returns:
      p; 1 if no user differs.

    Raises:
      ValueError: for an unknown test, or columns of different lengths.
    """
    if test not in TESTS:
        raise ValueError(f"test={test!r} is unknown: choose one of {', '.join(TESTS)}")
    if ours.shape != theirs.shape:
        raise ValueError(f"a paired test needs the same users on both sides, not {len(ours):,} and {len(theirs):,}")
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    if test == "wilcoxon":  # metrics are kept in float32: what differs by less is no difference to rank
        difference = np.round(difference, 6)
    if not difference.any():
        return 1.0
    if test == "wilcoxon":
        return float(scipy.stats.wilcoxon(difference).pvalue)
    return float(scipy.stats.ttest_1samp(difference, 0.0).pvalue) if np.ptp(difference) else 0.0


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P-values adjusted for their number by Holm's step-down method: ``max_{j ≤ i} min(1, (m − j + 1) · p_(j))``.

    Source: Holm, *A Simple Sequentially Rejective Multiple Test Procedure* (1979).
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(stepped)
    return adjusted


def bootstrap_intervals(
    values: np.ndarray, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile intervals of means over users; all columns share their resamples.

    Args:
      values: ``[n, M]``.
      level: of the interval.
      resamples: R.
      seed: of the resamples.

    Returns:
      ``(low [M], high [M])``.
    """
    values = np.asarray(values, np.float64)
    n = len(values)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, values.shape[1]))
    at_once = max(1, min(resamples, 4_000_000 // max(n, 1)))
    for first in range(0, resamples, at_once):
        size = min(at_once, resamples - first)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)  # how often each user was drawn
        means[first : first + size] = times @ values / n
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
