"""What the lists are like beside being right: how much of the catalogue they show, how evenly, how popular, how new.

With ``c_i`` = how many of the lists of length K hold item i, ``n = Σ c_i``, and ``m_i`` = how many of U users have
item i in training::

    coverage@K          = |{i : c_i > 0}| / I                                                       (1)
    gini@K              = Σ_j (2j − I − 1) · c_(j) / (I · n),   c_(1) ≤ … ≤ c_(I)                     (2)
    popularity_share@K  = Σ_{i in head} c_i / n,  head: the fifth of the items that stand first by m_i  (3)
    novelty@K           = Σ c_i · −log2(max(m_i, 1) / U) / n, in bits                                (4)

Gini is 0 where every item is listed equally often and nears 1 where all lists are alike. All four follow from the
counts ``c``, which are added up on the device batch by batch, so nothing is larger than the catalogue.

Sources: (2) Shani & Gunawardana, *Evaluating Recommendation Systems* (2011); (4) mean self-information, Castells,
Hurley & Vargas, *Novelty and Diversity in Recommender Systems* (2015).

Letters: B users of a batch, I items, K the longest list, N list lengths.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

BEYOND = ("coverage", "gini", "popularity_share", "novelty")
HEAD = 0.2  # share of the items that count as popular


class ListCounts(struct.PyTreeNode):
    """How often each item was listed and rightly so, by bands of rank: band n holds ranks K_{n-1} + 1 … K_n."""

    listed: jax.Array  # [N, I] int32
    hits: jax.Array  # [N, I] int32

    @classmethod
    def create(cls, ks: Sequence[int], n_items: int) -> "ListCounts":
        """Nothing counted yet."""
        return cls(listed=jnp.zeros((len(ks), n_items), jnp.int32), hits=jnp.zeros((len(ks), n_items), jnp.int32))

    def add(self, items: jax.Array, found: jax.Array, real: jax.Array, ks: Sequence[int]) -> "ListCounts":
        """Count the lists of one batch, inside jit.

        Args:
          items: ``[B, K]`` int32, best first.
          found: ``[B, K]`` bool, which of them were held out.
          real: ``[B, K]`` bool, False for padded users and for what lies beyond the end of a list.
          ks: list lengths, ascending.
        """
        band = jnp.broadcast_to(np.searchsorted(ks, np.arange(1, items.shape[1] + 1)), items.shape)
        items = jnp.where(real, items, self.listed.shape[1])
        return ListCounts(
            listed=self.listed.at[band, items].add(1, mode="drop"),
            hits=self.hits.at[band, items].add(found.astype(jnp.int32), mode="drop"),
        )

    def cumulated(self) -> tuple[jax.Array, jax.Array]:
        """``(listed, hits)``, each ``[N, I]``, of the lists of length K_n."""
        return jnp.cumsum(self.listed, axis=0), jnp.cumsum(self.hits, axis=0)


def beyond_accuracy(
    listed: jax.Array, popularity: jax.Array, n_users: int, place: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Eq. 1-4 of lists of one length.

    Args:
      listed: ``[I]`` int, how many lists hold each item.
      popularity: ``[I]`` int, how many users have each item in training.
      n_users: U.
      place: ``[I]``, which of equally popular items stands first (``standing.Standing.place``); None takes their
        numbers.

    Returns:
      One float32 scalar for each name of ``BEYOND``; all 0 if nothing was listed.
    """
    n_items = listed.shape[0]
    counts = listed.astype(jnp.float32)
    share = counts / jnp.maximum(jnp.sum(counts), 1.0)
    weight = 2.0 * jnp.arange(1, n_items + 1) - n_items - 1.0
    place = jnp.arange(n_items) if place is None else place
    head = jnp.lexsort((place, -popularity))[: -(-n_items // round(1 / HEAD))]
    information = jnp.log2(n_users / jnp.maximum(popularity, 1).astype(jnp.float32))
    return {
        "coverage": jnp.mean(listed > 0, dtype=jnp.float32),
        "gini": jnp.sum(weight * jnp.sort(share)) / n_items,
        "popularity_share": jnp.sum(share[head]),
        "novelty": jnp.sum(share * information),
    }
