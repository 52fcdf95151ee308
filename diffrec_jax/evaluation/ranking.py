"""Masked top-K over the whole catalogue, on the device.

Letters: B users, I items, K list length.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from diffrec_jax.data.rows import Rows

BLOCK = 16  # items; a long row is searched by the maxima of its blocks
LONG = 2**14  # items


def mask_seen(scores: jax.Array, seen: Rows) -> jax.Array:
    """``scores [B, I]`` with -inf at the items of ``seen``, whose weights must be 1 (no recency kernel)."""
    return jnp.where(seen.dense() > 0, -jnp.inf, scores)


def top_k(scores: jax.Array, k: int, *, mesh: Mesh | None = None) -> tuple[jax.Array, jax.Array]:
    """The K best items of each row of ``scores [B, I]``.

    On a mesh every shard ranks its own items for its own users, and only K of each cross, where ``items`` splits the
    catalogue. Ties go to the lower item id, on any mesh.

    Returns:
      ``(values [B, K], items [B, K] int32)``, best first.
    """
    n_items = scores.shape[1]
    if not 1 <= k <= n_items:
        raise ValueError(f"k={k} must lie between 1 and the {n_items} items of the catalogue")
    if mesh is None or mesh.size == 1:
        return _top_k(scores, k)
    shards = mesh.shape["items"]
    width = -(-n_items // shards)
    scores = jnp.pad(scores, ((0, 0), (0, shards * width - n_items)), constant_values=-jnp.inf)

    def local(part: jax.Array) -> tuple[jax.Array, jax.Array]:
        values, items = _top_k(part, min(k, width))
        if shards == 1:
            return values, items
        items = items + jax.lax.axis_index("items") * width
        values = jax.lax.all_gather(values, "items", axis=1, tiled=True)  # [B, shards · K], in order of item ids
        items = jax.lax.all_gather(items, "items", axis=1, tiled=True)
        values, place = jax.lax.top_k(values, k)
        return values, jnp.take_along_axis(items, place, axis=1)

    return jax.shard_map(local, mesh=mesh, in_specs=P("users", "items"), out_specs=P("users"), check_vma=False)(scores)


def _top_k(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """``jax.lax.top_k``, ties included, several times faster on long rows.

    The K best lie in the K blocks whose maxima are best: only these are sorted. Blocks stay in the order of their
    items, so that ties go to the lower item here too.
    """
    n_rows, n_items = scores.shape
    n_blocks = -(-n_items // BLOCK)
    if n_items < LONG or n_blocks < 8 * k:
        return jax.lax.top_k(scores, k)
    block, padding = (1, BLOCK), ((0, 0), (0, n_blocks * BLOCK - n_items))
    maxima = jax.lax.reduce_window(scores, -jnp.inf, jax.lax.max, block, block, padding)  # no copy of the scores
    best = jnp.sort(jax.lax.top_k(maxima, k)[1], axis=1)  # [B, K] blocks
    items = (best[:, :, None] * BLOCK + jnp.arange(BLOCK, dtype=best.dtype)).reshape(n_rows, k * BLOCK)
    found = jnp.take_along_axis(scores, items, axis=1, mode="fill", fill_value=-jnp.inf)  # the last block may be short
    values, place = jax.lax.top_k(found, k)
    return values, jnp.take_along_axis(items, place, axis=1)


def hits(recommended: jax.Array, truth: Rows) -> jax.Array:
    """``[B, K]`` bool: which recommended items are held-out ones."""
    held_out = jnp.sort(truth.items, axis=1)  # padding holds I, which is never recommended
    place = jax.vmap(lambda row, items: jnp.searchsorted(row, items, method="scan_unrolled"))(held_out, recommended)
    return jnp.take_along_axis(held_out, jnp.minimum(place, held_out.shape[1] - 1), axis=1) == recommended
