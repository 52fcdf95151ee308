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
SPARE = 8  # items looked at beyond the end of a list
_ONE = 0x7F000000  # as float32 a number so large that all integers below it, read as float32, keep their order


def mask_seen(scores: jax.Array, seen: Rows) -> jax.Array:
    """``scores [B, I]`` with -inf at the items of ``seen``, whose weights must be 1 (no recency kernel)."""
    return jnp.where(seen.dense() > 0, -jnp.inf, scores)


def top_k(
    scores: jax.Array, k: int, *, place: jax.Array | None = None, mesh: Mesh | None = None
) -> tuple[jax.Array, jax.Array]:
    """The K best items of each row of ``scores [B, I]``.

    On a mesh every shard ranks its own items for its own users, and only K of each cross, where ``items`` splits the
    catalogue. The result is the same on any mesh.

    Args:
      scores: ``[B, I]``.
      k: K.
      place: ``[I]`` int32, a permutation: of equal scores the lower place comes first (``standing.Standing.place``);
        None takes the item numbers.
      mesh: the devices.

    Returns:
      ``(values [B, K], items [B, K] int32)``, best first.
    """
    n_items = scores.shape[1]
    if not 1 <= k <= n_items:
        raise ValueError(f"k={k} must lie between 1 and the {n_items} items of the catalogue")
    if mesh is None or mesh.size == 1:
        return _top_k(scores, k, place)
    place = jnp.arange(n_items, dtype=jnp.int32) if place is None else place
    shards = mesh.shape["items"]
    width = -(-n_items // shards)
    missing = shards * width - n_items
    scores = jnp.pad(scores, ((0, 0), (0, missing)), constant_values=-jnp.inf)
    place = jnp.pad(place, (0, missing), constant_values=n_items)

    def ranked(part: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
        values, items = _top_k(part, min(k, width), place)
        if shards == 1:
            return values, items
        local = (values, place[items], items + jax.lax.axis_index("items") * width)
        values, places, items = (jax.lax.all_gather(array, "items", axis=1, tiled=True) for array in local)
        values, _, items = by_value_and_place(values, places, items, k)
        return values, items

    specs = (P("users", "items"), P("items"))
    return jax.shard_map(ranked, mesh=mesh, in_specs=specs, out_specs=P("users"), check_vma=False)(scores, place)


def _top_k(scores: jax.Array, k: int, place: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """``top_k`` on one device. Ties are looked at only where there are any."""
    if place is None:
        return _largest(scores, k)
    place = jnp.asarray(place)
    values, items = _largest(scores, min(k + SPARE, scores.shape[1]))  # [B, M]; M > K holds most ties at the end whole
    is_listed = values > -jnp.inf
    if items.shape[1] < scores.shape[1]:
        last = values[:, k - 1 : k]
        goes_on = jnp.any((last == values[:, -1:]) & is_listed[:, -1:])  # beyond the M
        items = jax.lax.cond(goes_on, _from_all, lambda *given: given[1], values, items, scores, last, place)
    equal = (values[:, 1:] == values[:, :-1]) & is_listed[:, 1:]
    return values[:, :k], _sorted_by_place(items, place[items], equal)[:, :k]


def _from_all(values: jax.Array, items: jax.Array, scores: jax.Array, last: jax.Array, place: jax.Array) -> jax.Array:
    """``items [B, M]``, those of the score ``last [B, 1]`` being the ones with the lowest places of all."""
    of_last = _largest(jnp.where(scores == last, _height(place), 0.0), items.shape[1])[1]
    above = jnp.sum(values > last, axis=1, keepdims=True)
    rank = jnp.arange(items.shape[1])[None, :]
    return jnp.where(rank < above, items, jnp.take_along_axis(of_last, jnp.maximum(rank - above, 0), axis=1))


def _sorted_by_place(items: jax.Array, places: jax.Array, equal: jax.Array) -> jax.Array:
    """``items [B, M]`` with neighbours exchanged until places ascend wherever neighbours are ``equal [B, M - 1]``.

    Runs of equal scores are short or in order, so that a few turns do.
    """
    left_is_even = jnp.arange(items.shape[1] - 1)[None, :] % 2 == 0

    def exchange(items: jax.Array, places: jax.Array, pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
        swap = pairs & (places[:, :-1] > places[:, 1:])
        from_right = jnp.pad(swap, ((0, 0), (0, 1)))
        from_left = jnp.pad(swap, ((0, 0), (1, 0)))

        def swapped(array: jax.Array) -> jax.Array:
            right, left = (jnp.roll(array, shift, axis=1) for shift in (-1, 1))
            return jnp.where(from_right, right, jnp.where(from_left, left, array))

        return swapped(items), swapped(places)

    def turn(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return exchange(*exchange(*carry, equal & left_is_even), equal & ~left_is_even)

    def is_out_of_order(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.any(equal & (carry[1][:, :-1] > carry[1][:, 1:]))

    return jax.lax.while_loop(is_out_of_order, turn, (items, places))[0]


def by_value_and_place(
    values: jax.Array, places: jax.Array, items: jax.Array, k: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The first K of ``[B, M]`` by value and then by place, in the order of the arguments; NaN comes first."""
    key = jnp.where(jnp.isnan(values), -jnp.inf, -values)
    _, places, values, items = (array[:, :k] for array in jax.lax.sort((key, places, values, items), num_keys=2))
    return values, places, items


def _height(place: jax.Array) -> jax.Array:
    """Positive float32 numbers, the lower the place the larger."""
    return jax.lax.bitcast_convert_type(_ONE - place, jnp.float32)


def _largest(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """``jax.lax.top_k``, ties (to the lower item number) included, several times faster on long rows.

    The K best lie in the K blocks whose maxima are best: only these are sorted. Blocks stay in the order of their
    items, so that ties go to the lower item here too.
    """
    n_rows, n_items = scores.shape
    n_blocks = -(-n_items // BLOCK)
    if n_items < LONG or n_blocks < 8 * k:
        return _best(scores, k)
    block, padding = (1, BLOCK), ((0, 0), (0, n_blocks * BLOCK - n_items))
    maxima = jax.lax.reduce_window(scores, -jnp.inf, jax.lax.max, block, block, padding)  # no copy of the scores
    best = jnp.sort(_best(maxima, k)[1], axis=1)  # [B, K] blocks
    within = jnp.arange(BLOCK, dtype=best.dtype)[None, None, :]
    items = (best[:, :, None] * BLOCK + within).reshape(n_rows, k * BLOCK)
    found = jnp.take_along_axis(scores, items, axis=1, mode="fill", fill_value=-jnp.inf)  # the last block may be short
    values, place = _best(found, k)
    return values, jnp.take_along_axis(items, place, axis=1)


def _best(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """``jax.lax.top_k``. Behind a barrier, since XLA makes a full sort of it where a part of the result is cut out."""
    values, items = (jax.lax.optimization_barrier(array) for array in jax.lax.top_k(scores, k))
    return values, items


def hits(recommended: jax.Array, truth: Rows) -> jax.Array:
    """``[B, K]`` bool: which recommended items are held-out ones."""
    held_out = jnp.sort(truth.items, axis=1)  # padding holds I, which is never recommended
    place = jax.vmap(lambda row, items: jnp.searchsorted(row, items, method="scan_unrolled"))(held_out, recommended)
    return jnp.take_along_axis(held_out, jnp.minimum(place, held_out.shape[1] - 1), axis=1) == recommended
