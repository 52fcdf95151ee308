"""Packing: several short histories in one row of a window, so that they do not pay for long ones.

A batch of windows (``data.windows``) is mostly padding where histories are short: of 22,363 histories of a shop, in
windows of 50, four slots of five. ``plan`` puts the longest first, each into the first row with room for it; within a
row, ``segments`` say who is who, and ``columns`` keep the place that each event had in its window, which counts back
from its last. All of it runs on the device. ``in_few_rows`` calls a function on as few rows as it takes, and puts what
it gives back where it came from.

Letters: B histories, L slots of a window, R rows.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SHARES = (8, 2)  # a size may be the whole one divided by these, rounded up; each is compiled


class Plan(NamedTuple):
    """Where each history lies; those without events lie nowhere."""

    row: jax.Array  # [B] int32
    slot: jax.Array  # [B, L] int32, of each entry of its window; L for padding
    rows: jax.Array  # [] int32, how many it takes


def plan(real: jax.Array) -> Plan:
    """Rows for windows ``real [B, L]`` bool, by first fit, longest first: at most 11/9 of the fewest, and a row."""
    n_histories, length = real.shape
    lengths = jnp.sum(real, axis=1, dtype=jnp.int32)
    order = jnp.argsort(-lengths, stable=True)

    def put(free: jax.Array, n: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        row = jnp.argmax(free >= n)  # the first
        return free.at[row].add(-n), (row, length - free[row])

    free, (row, start) = jax.lax.scan(put, jnp.full(n_histories, length, jnp.int32), lengths[order])
    row, start = (jnp.zeros_like(a).at[order].set(a).astype(jnp.int32) for a in (row, start))
    slot = jnp.where(real, start[:, None] + jnp.cumsum(real, axis=1, dtype=jnp.int32) - 1, length)
    return Plan(row, slot, jnp.sum(free < length, dtype=jnp.int32))


def pack(values: jax.Array, where: Plan, *, rows: int, fill: int) -> jax.Array:
    """``values [B, L]`` in R rows, ``[R, L]``; what no history takes holds ``fill``."""
    empty = jnp.full((rows, values.shape[1]), fill, values.dtype)
    return empty.at[where.row[:, None], where.slot].set(values, mode="drop", unique_indices=False)


def unpack(values: jax.Array, where: Plan) -> jax.Array:
    """``values [R, L, D]`` where they came from, ``[B, L, D]``; padding holds zeros."""
    return values.at[where.row[:, None], where.slot].get(mode="fill", fill_value=0)


def in_few_rows(
    function: Callable[[jax.Array, jax.Array, jax.Array], jax.Array], items: jax.Array, real: jax.Array
) -> jax.Array:
    """``function(items, segments, columns)`` of windows packed, ``[B, L, D]``; its results at padding are zeros.

    Args:
      function: ``items [R, L]``, ``segments [R, L]`` (-1: nobody's) and ``columns [R, L]`` to ``[R, L, D]``; it is
        compiled for a few R, of which the smallest that is large enough is taken.
      items: ``[B, L]``.
      real: ``[B, L]`` bool.
    """
    n_histories, length = items.shape
    where = plan(real)
    owner = jnp.broadcast_to(jnp.arange(n_histories, dtype=jnp.int32)[:, None], items.shape)
    column = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), items.shape)
    fewer = sizes(n_histories)

    def of(rows: int) -> Callable[[], jax.Array]:
        def call() -> jax.Array:
            arrays = (pack(a, where, rows=rows, fill=fill) for a, fill in ((items, 0), (owner, -1), (column, 0)))
            return unpack(function(*arrays), where)

        return call

    def apart() -> jax.Array:
        return jnp.where(real[..., None], function(items, jnp.where(real, owner, -1), column), 0)

    large_enough = jnp.sum(where.rows > jnp.asarray(fewer, jnp.int32))
    found: jax.Array = jax.lax.switch(large_enough, [*(of(rows) for rows in fewer), apart])
    return found


def waste(lengths: np.ndarray, length: int, *, batch: int, packed: bool) -> float:
    """The share of slots that hold nothing, of histories of ``lengths [U]`` in windows of ``length``.

    Where they are ``packed``, that of four batches drawn at random.
    """
    held = np.minimum(lengths, length)
    if not packed:
        return 1.0 - float(held.mean()) / length
    rng, batch, used, slots = np.random.default_rng(0), min(batch, len(held)), 0, 0
    for _ in range(4):
        drawn = rng.choice(held, batch, replace=False)
        needed = int(plan(jnp.asarray(np.arange(length) >= length - drawn[:, None])).rows)
        used += int(drawn.sum())
        slots += length * min(rows for rows in (*sizes(batch), batch) if rows >= needed)
    return 1.0 - used / slots


def sizes(n: int) -> list[int]:
    """The sizes below ``n`` that a function is compiled for."""
    return sorted({-(-n // share) for share in SHARES} - {n})
