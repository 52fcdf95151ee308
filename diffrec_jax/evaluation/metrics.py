"""Ranking metrics per user, from which of the K recommended items were hits.

With ``hit_j ∈ {0, 1}`` for the item at rank j = 1 … K, and the n held-out items of a user (their *truth*)::

    precision@K = Σ_j hit_j / K                                                            (1)
    recall@K    = Σ_j hit_j / n                                                            (2)
    ndcg@K      = Σ_j hit_j / log2(j + 1)  /  Σ_{j ≤ min(n, K)} 1 / log2(j + 1)             (3)
    mrr@K       = 1 / (rank of the first hit), 0 without one                               (4)
    hit@K       = 1 if there is a hit                                                      (5)

A user without truth has 0 in all of them. Two conventions average over users, and the two differ, so that a number
means nothing without its convention: ``official``, the authors', divides by the number of *all* users, ``standard``
by the number of users with truth. (Others divide recall by min(n, K) instead of n: never compare with those.)
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

METRICS = ("precision", "recall", "ndcg", "mrr", "hit")
Protocol = Literal["official", "standard"]
PROTOCOLS: tuple[Protocol, ...] = ("official", "standard")


def parse_metric(name: str) -> tuple[str, int]:
    """``("ndcg", 10)`` of ``ndcg@10``.

    Raises:
      ValueError: if it is no metric at a list length.
    """
    metric, _, k = str(name).partition("@")
    if metric not in METRICS or not (k.isascii() and k.isdigit() and int(k) >= 1):
        raise ValueError(f"metric {name!r} is unknown: say one of {', '.join(METRICS)} at a list length, as in ndcg@10")
    return metric, int(k)


def list_lengths(ks: Sequence[int]) -> tuple[int, ...]:
    """List lengths in ascending order, each once.

    Raises:
      ValueError: if there are none, or one of them is no whole number of at least 1.
    """
    listed = isinstance(ks, Sequence | np.ndarray) and not isinstance(ks, str | bytes) and len(ks) > 0
    if not listed or not all(isinstance(k, int | np.integer) and not isinstance(k, bool) and k >= 1 for k in ks):
        raise ValueError(f"ks={ks!r} must be list lengths, whole numbers of at least 1, such as (1, 5, 20)")
    return tuple(sorted({int(k) for k in ks}))


def ranking_metrics(hits: jax.Array, n_truth: jax.Array, ks: Sequence[int]) -> dict[str, jax.Array]:
    """Metrics of each user at each K (Eq. 1-5), on the device.

    Args:
      hits: ``[B, max(ks)]`` bool, best item first.
      n_truth: ``[B]`` int, number of held-out items.
      ks: list lengths.

    Returns:
      ``{"recall@20": [B] float32, …}``.
    """
    hits = hits.astype(jnp.float32)
    width = hits.shape[1]
    if max(ks) > width:
        raise ValueError(f"metrics at K={max(ks)} need a list of that length, and this one has {width} items")
    discount = jnp.asarray(1.0 / np.log2(np.arange(width) + 2.0), jnp.float32)
    ideal = jnp.concatenate([jnp.zeros(1), jnp.cumsum(discount)])
    found, gain = jnp.cumsum(hits, axis=1), jnp.cumsum(hits * discount[None, :], axis=1)
    place = jnp.arange(1.0, width + 1.0)[None, :]
    reciprocal = jnp.max(hits / place, axis=1, keepdims=True)  # best possible with the whole list
    truth = jnp.maximum(n_truth, 1)
    metrics: dict[str, jax.Array] = {}
    for k in ks:
        hit = found[:, k - 1] > 0
        metrics[f"precision@{k}"] = found[:, k - 1] / k
        metrics[f"recall@{k}"] = found[:, k - 1] / truth.astype(jnp.float32)
        metrics[f"ndcg@{k}"] = gain[:, k - 1] / ideal.at[jnp.minimum(truth, k)].get(mode="clip")
        metrics[f"mrr@{k}"] = jnp.where(hit, reciprocal[:, 0], 0.0)
        metrics[f"hit@{k}"] = hit.astype(jnp.float32)
    return metrics


def average(per_user: Mapping[str, np.ndarray], *, n_users: int, protocol: Protocol) -> dict[str, float]:
    """Average metrics of the users with truth.

    Args:
      per_user: each ``[number of users with truth]``.
      n_users: number of all users, with and without truth.
      protocol: ``official`` divides by ``n_users``, ``standard`` by the number of users with truth.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is unknown: choose one of {', '.join(PROTOCOLS)}")
    means = {}
    for name, values in per_user.items():
        denominator = n_users if protocol == "official" else len(values)
        means[name] = float(np.sum(values, dtype=np.float64) / max(denominator, 1))
    return means
