"""Whether one model is better than another, and how sure that is: paired per user, on the host.

Letters: n users, M columns (models, metrics or differences), R resamples, S systems.
"""

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Differences:
    """Systems and how they differ from the first of them; arrays ``[S, M]`` of S systems and M metrics.

    The row of the first system holds 0 for its differences and 1 for p.

    Attributes:
      mean: over users; ``low`` and ``high`` bound it.
      difference: of the means to those of the first system; ``difference_low`` and ``difference_high`` bound it.
      p: of a paired test over users.
      p_holm: the same after Holm's correction for all these tests together.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    difference: np.ndarray
    difference_low: np.ndarray
    difference_high: np.ndarray
    p: np.ndarray
    p_holm: np.ndarray


def compare_systems(
    per_user: np.ndarray, *, test: Test = "wilcoxon", level: float = 0.95, resamples: int = 2000
) -> Differences:
    """Test systems against the first of them, user by user.

    Args:
      per_user: ``[S, n, M]`` metrics of each user under each system; of several seeds, their mean.
      test: see ``paired_test``.
      level: of the intervals.
      resamples: of the bootstrap, which draws the same users for every system.

    Raises:
      ValueError: if there are no users.
    """
    n_systems, n_users, n_metrics = per_user.shape
    if not n_users:
        raise ValueError("there are no users with held-out items: there is nothing to test")
    together = np.concatenate([per_user, per_user - per_user[:1]])  # the second half: differences
    columns = np.moveaxis(together, 1, 0).reshape(n_users, -1)
    bounds = bootstrap_intervals(columns, level=level, resamples=resamples)
    low, high = (bound.reshape(2, n_systems, n_metrics) for bound in bounds)
    mean = np.array([[float(np.mean(system[:, m])) for m in range(n_metrics)] for system in per_user])
    p = np.ones((n_systems, n_metrics))
    for s in range(1, n_systems):
        p[s] = [paired_test(per_user[s, :, m], per_user[0, :, m], test=test) for m in range(n_metrics)]
    p_holm = np.ones_like(p)
    if n_systems > 1:
        p_holm[1:] = np.reshape(holm(p[1:].ravel().tolist()), p[1:].shape)
    return Differences(mean, low[0], high[0], mean - mean[0], low[1], high[1], p, p_holm)
