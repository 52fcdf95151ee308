"""Masked top-K of a large catalogue, a block of items at a time: no scores of size B·I are held.

For models whose scores are ``user_vectors @ item_vectors.T``. Every block is ranked by score and place, as ``ranking``
does it, and merged with the best so far, so that the lists are those of a ranking of the whole.

Letters: B users, V width of a vector, I items, K list length.
"""

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from diffrec_jax.evaluation.ranking import by_value_and_place, top_k
from diffrec_jax.evaluation.standing import Standing
from diffrec_jax.finite import rankable
from diffrec_jax.models.contract import Scorer

BLOCK = 2**16  # items
BEHIND_ALL = -3.0e38  # in place of the score of an unknown item (rule 2 of ``standing``), until the lowest is known
Lists: TypeAlias = dict[str, tuple[jax.Array, jax.Array, jax.Array]]  # values, places, items
LARGE = 2**16  # items: from here on a catalogue is streamed


def streams(model: Scorer, n_items: int, mesh: Mesh | None) -> bool:
    """Whether a model is ranked a block of items at a time: where no mesh spreads a large catalogue already."""
    return model.factored and n_items >= LARGE and (mesh is None or mesh.size == 1)


def streamed_top_k(
    users: jax.Array,
    items: jax.Array,
    lengths: jax.Array,
    standing: Standing,
    k: int,
    *,
    hidden: Mapping[str, jax.Array | None],
    allowed: jax.Array | None = None,
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """The K best items of each user, for each way of hiding items.

    Args:
      users: ``[B, V]`` user vectors.
      items: ``[I, V]`` item vectors.
      lengths: ``[B]`` of the histories.
      standing: of the items.
      k: K, at most I.
      hidden: by name, ``[B, S]`` item numbers not to be listed, padded with I or more; None hides nothing.
      allowed: ``[I]`` bool, the only items that may be listed; None for all.

    Returns:
      By the same names ``(values [B, K], items [B, K] int32)``, best first; -inf where no item is left.
    """
    n_rows, n_items = users.shape[0], items.shape[0]
    block = min(BLOCK, n_items)
    row = jnp.arange(n_rows)[:, None]
    k_of_block = min(k, block)

    def scores_of(first: jax.Array) -> jax.Array:
        """``[B, block]`` by rule 1 of ``standing``."""
        part = jax.lax.dynamic_slice_in_dim(items, first, block)
        scores = rankable(jnp.matmul(users, part.T).astype(jnp.float32))
        share = jax.lax.dynamic_slice_in_dim(standing.share, first, block)
        return jnp.where((lengths == 0)[:, None], share[None, :], scores)

    def body(n: jax.Array, carry: tuple[jax.Array, Lists]) -> tuple[jax.Array, Lists]:
        lowest, best = carry
        first = jnp.minimum(n * block, n_items - block)
        number = first + jnp.arange(block, dtype=jnp.int32)
        fresh = number >= n * block  # the last block overlaps with the one before
        if allowed is not None:
            fresh = fresh & jax.lax.dynamic_slice_in_dim(allowed, first, block)
        place = jax.lax.dynamic_slice_in_dim(standing.place, first, block)
        known = jax.lax.dynamic_slice_in_dim(standing.users, first, block) > 0
        scores = scores_of(first)
        lowest = jnp.minimum(lowest, jnp.min(jnp.where(known[None, :], scores, jnp.inf), axis=1))
        scores = jnp.where(known[None, :], scores, BEHIND_ALL)
        scores = jnp.where(fresh[None, :], scores, -jnp.inf)
        found = {}
        for name, numbers in hidden.items():
            left = scores
            if numbers is not None:
                column = jnp.where(numbers >= first, numbers - first, block)
                left = scores.at[row, column].set(-jnp.inf, mode="drop")
            values, at = top_k(left, k_of_block, place=place)
            candidates = zip(best[name], (values, place[at], first + at))
            values, places, which = (jnp.concatenate(pair, axis=1) for pair in candidates)
            found[name] = by_value_and_place(values, places, which, k)
        return lowest, found

    number = jnp.zeros((n_rows, k), jnp.int32)
    nothing = (jnp.full((n_rows, k), -jnp.inf), number + n_items, number)
    start = (jnp.full(n_rows, jnp.inf), dict.fromkeys(hidden, nothing))
    lowest, best = jax.lax.fori_loop(0, -(-n_items // block), body, start)
    lowest = jnp.where(lengths == 0, 0.0, lowest)  # the share of an unknown item
    return {
        name: (jnp.where(values == BEHIND_ALL, lowest[:, None], values), which)
        for name, (values, _, which) in best.items()
    }
