"""A seeded synthetic log with what real ones have: clusters of taste, skewed popularity, and tastes that drift.

Every item belongs to one cluster and is popular within it by a Zipf law. Every user starts with one favourite cluster
and ends with another; along their history the chance of drawing from the second grows from 0 to 1, so what they did
last says more about what they do next than what they did first. Some events are drawn from the whole catalogue.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffrec_jax.data.interactions import Interactions
from diffrec_jax.data.times import MICROSECONDS_PER_DAY

START = 1_577_836_800_000_000  # 2020-01-01, microseconds


def generate(
    *,
    n_users: int = 1000,
    n_items: int = 1200,
    mean_events: float = 60.0,
    n_clusters: int = 12,
    skew: float = 0.8,
    stray: float = 0.15,
    days: int = 365,
    seed: int = 0,
) -> Interactions:
    """Draw a log, ordered by time, without repeated pairs; the same arguments give the same log.

    Args:
      n_users: users; each has at least 8 draws.
      n_items: items, spread evenly over the clusters.
      mean_events: draws per user on average (log-normal); repeated pairs are dropped, so events are fewer.
      n_clusters: clusters of items.
      skew: exponent of popularity by rank within a cluster.
      stray: share of draws from the whole catalogue, by popularity.
      days: length of the period.
      seed: of everything drawn.
    """
    if min(n_users, n_items, n_clusters, days) < 1 or n_clusters > n_items or mean_events < 1:
        raise ValueError(
            f"synthetic: n_users={n_users}, n_items={n_items}, n_clusters={n_clusters}, days={days}, "
            f"mean_events={mean_events:g} must be at least 1, with no more clusters than items"
        )
    if not 0 <= stray <= 1:
        raise ValueError(f"synthetic: stray={stray:g} is a share; it must lie in [0, 1]")
    rng = np.random.default_rng(seed)
    lengths = np.maximum(8, rng.lognormal(np.log(mean_events) - 0.125, 0.5, n_users)).astype(np.int64)
    users = np.repeat(np.arange(n_users, dtype=np.int32), lengths)
    progress = rng.random(len(users))  # position of an event in its user's history
    first, last = rng.integers(n_clusters, size=(2, n_users))
    cluster = np.where(rng.random(len(users)) < progress, last[users], first[users])

    # Items are numbered cluster by cluster, so a draw within a cluster is a draw from one stretch of the cumulated
    # popularity, and a stray draw is one from all of it.
    item_cluster = np.sort(np.arange(n_items) % n_clusters)
    starts = np.searchsorted(item_cluster, np.arange(n_clusters + 1))
    rank = np.arange(n_items) - starts[item_cluster]
    weight = (1.0 + rank) ** -skew
    edges = np.concatenate([[0.0], np.cumsum(weight)])
    astray = rng.random(len(users)) < stray
    low = np.where(astray, 0.0, edges[starts[cluster]])
    high = np.where(astray, edges[-1], edges[starts[cluster + 1]])
    drawn = np.searchsorted(edges, low + rng.random(len(users)) * (high - low), side="right") - 1
    items = np.clip(drawn, 0, n_items - 1).astype(np.int32)

    begin = rng.random(n_users) * 0.3
    times = START + ((begin[users] + progress * 0.7) * days * MICROSECONDS_PER_DAY).astype(np.int64)
    order = np.lexsort((items, users, times))
    data = Interactions(
        users[order],
        items[order],
        user_ids=np.array([f"user-{u}" for u in range(n_users)], object),
        item_ids=np.array([f"item-{i}" for i in range(n_items)], object),
        times=times[order],
        item_titles=np.array([f"Cluster {c + 1}, no. {r + 1}" for c, r in zip(item_cluster, rank)], object),
    ).deduplicate()
    return replace(
        data,
        provenance=(),
        notes=(f"Synthetic data (seed {seed}): {n_clusters} clusters, popularity skew {skew:g}, drifting tastes.",),
    )
