"""Quality by history length of the users, and by popularity of the items, from the evidence of finished runs.

Letters: n users, I items, G groups.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.reporting import evidence
from experiments.reporting.systems import System

GROUPS = 5


@dataclasses.dataclass(frozen=True)
class Grouped:
    """One number for each group and system."""

    labels: tuple[str, ...]  # of the groups, such as "10–23"
    sizes: tuple[int, ...]  # users, or held-out interactions, of each group
    values: Mapping[str, np.ndarray]  # by system, [G]


def groups_of_equal_weight(key: np.ndarray, weight: np.ndarray, n_groups: int = GROUPS) -> np.ndarray:
    """Groups ``[n]`` by ascending ``key``, of about the same total weight; equal keys stay together.

    Args:
      key: ``[n]`` what is grouped by.
      weight: ``[n]`` not negative.
      n_groups: at most this many; ties may leave fewer.
    """
    place = np.unique(key, return_inverse=True)[1]
    weights = np.bincount(place, weights=weight)
    middle = np.cumsum(weights) - weights / 2
    group = np.minimum((middle * n_groups / max(weights.sum(), 1e-9)).astype(int), n_groups - 1)
    return np.unique(group, return_inverse=True)[1][place]


def by_history(systems: Sequence[System], metric: str) -> Grouped:
    """The mean of a metric over users of similar history length (standard convention)."""
    columns = {s.name: [evidence.read(run.path, evidence.PER_USER) for run in s.runs] for s in systems}
    lengths = columns[systems[0].name][0]["history"]
    group = groups_of_equal_weight(lengths, np.ones(len(lengths)))
    sizes = np.bincount(group)
    values = {}
    for name, runs in columns.items():
        per_user = np.mean([run[metric].astype(np.float64) for run in runs], axis=0)
        values[name] = np.bincount(group, weights=per_user) / sizes
    return Grouped(_labels(lengths, group), tuple(sizes.tolist()), values)


def by_popularity(systems: Sequence[System], k: int) -> Grouped:
    """The share of held-out interactions found in the lists of length K, by popularity of their items in training."""
    columns = {s.name: [evidence.read(run.path, evidence.PER_ITEM) for run in s.runs] for s in systems}
    first = columns[systems[0].name][0]
    held_out = first["truth"] > 0
    popularity, truth = first["popularity"][held_out], first["truth"][held_out]
    group = groups_of_equal_weight(popularity, truth)
    sizes = np.bincount(group, weights=truth)
    values = {}
    for name, runs in columns.items():
        hits = np.mean([run[f"hits@{k}"][held_out] for run in runs], axis=0)
        values[name] = np.bincount(group, weights=hits) / sizes
    return Grouped(_labels(popularity, group), tuple(sizes.astype(int).tolist()), values)


def _labels(key: np.ndarray, group: np.ndarray) -> tuple[str, ...]:
    labels = []
    for g in range(group.max(initial=-1) + 1):
        low, high = key[group == g].min(), key[group == g].max()
        labels.append(f"{low}" if low == high else f"{low}–{high}")
    return tuple(labels)
