"""Packed rows: the histories of a batch where they lie, none of them padded.

``Rows`` pads every history of a batch to the longest of the data, so one person with 100,000 events makes every batch
pay for it. ``PackedRows`` only say where each history is; ``walks`` computes with them, a few pieces of ``PIECE``
events at a time, and ``touched`` goes over their events by item.

Letters: B rows, I items, C a number of events that holds any batch.
"""

from typing import Protocol, TypeAlias

import jax
import jax.numpy as jnp
import jax.typing
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffrec_jax.data.rows import DeviceCSR, Rows, mean_over

PIECE = 16  # events


class Kernel(Protocol):
    """Weighs the events of a history, hashable; a recency kernel is one (``data.recency.Recency.at``)."""

    def at(self, position: jax.Array, lengths: jax.Array, age: jax.Array | None = None) -> jax.Array:
        """Weights of events at ``position`` (0 is the oldest) of histories of ``lengths``, ``age`` days old."""


class Dropout(struct.PyTreeNode):
    """Inverted dropout of the events of a batch: each stays with probability ``1 - rate``, its weight over that.

    What stays is a function of the key, the row and the position alone, whatever the block and the device.
    """

    words: jax.Array  # [2] uint32
    rate: float = struct.field(pytree_node=False)

    @classmethod
    def of(cls, key: jax.Array, rate: float) -> "Dropout":
        """From a key of any generator."""
        return cls(words=jax.random.bits(key, (2,), jnp.uint32), rate=rate)

    def factors(self, row: jax.Array, piece: jax.Array) -> jax.Array:
        """What the events of a block are multiplied by, ``[Q, PIECE]``, for pieces ``piece [Q]`` of rows ``row``."""
        key = jax.random.wrap_key_data(self.words, impl="threefry2x32")

        def of_piece(row: jax.Array, piece: jax.Array) -> jax.Array:
            bits = jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, row), piece), (PIECE,), jnp.uint16)
            kept: jax.Array = bits >= jnp.uint16(min(round(self.rate * 2**16), 2**16 - 1))
            return kept

        return jnp.where(jax.vmap(of_piece)(row, piece), 1.0 / (1.0 - self.rate), 0.0)


class PackedRows(struct.PyTreeNode):
    """The histories of a batch of users, where they lie; ``data.rows.Rows`` is the padded form."""

    csr: DeviceCSR
    start: jax.Array  # [B] int32, where each history begins
    lengths: jax.Array  # [B] int32
    users: jax.Array  # [B] int32 user ids; -1: padding
    kernel: Kernel | None = struct.field(pytree_node=False, default=None)  # None weighs all 1
    mesh: Mesh | None = struct.field(pytree_node=False, default=None)

    @property
    def n_items(self) -> int:
        """I."""
        return self.csr.n_items

    def cast(self, dtype: jax.typing.DTypeLike) -> "PackedRows":
        """The rows themselves: what they are multiplied with decides the precision."""
        return self

    def mean(self, values: jax.Array, *, where: jax.Array | bool = True) -> jax.Array:
        """See ``Rows.mean``."""
        return mean_over(self.users, values, where)

    def weights_at(self, row: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Item and weight of the events at ``position`` of the rows ``row`` (shapes broadcast), where there are any."""
        csr, length, start = self.csr, rows_of(self.lengths, row), rows_of(self.start, row)
        place = start + position
        items = csr.indices.at[place].get(mode="clip")
        logged = 1.0 if csr.weights is None else csr.weights.at[place].get(mode="clip")
        if self.kernel is None:
            return items, jnp.broadcast_to(jnp.asarray(logged, jnp.float32), place.shape)
        age = None
        if csr.days is not None:
            last = csr.days.at[start + jnp.maximum(length - 1, 0)].get(mode="clip")
            age = last - csr.days.at[place].get(mode="clip")
        weights = self.kernel.at(position, length, age) * logged
        return items, jnp.broadcast_to(weights, place.shape).astype(jnp.float32)

    @property
    def n_pieces(self) -> jax.Array:
        """Pieces of each history, ``[B]``."""
        return (self.lengths + PIECE - 1) // PIECE

    @property
    def first_piece(self) -> jax.Array:
        """The number of the first piece of each history, among those of the batch, ``[B]``."""
        return jnp.cumsum(self.n_pieces) - self.n_pieces

    def pieces(self, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The row of each piece ``number [Q]`` of the batch, the last row beyond them, and which of its row it is."""
        row = jnp.searchsorted(jnp.cumsum(self.n_pieces), number, side="right", method="sort").astype(jnp.int32)
        row = jnp.minimum(row, self.lengths.shape[0] - 1)
        return row, number - rows_of(self.first_piece, row)

    def events(self, capacity: int, dropout: Dropout | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Row, item and weight of every event of the batch, each ``[capacity]``; behind them B, I and 0.

        ``DeviceCSR.most_events`` is a capacity that holds any batch.
        """
        n_rows = self.lengths.shape[0]
        ends = jnp.cumsum(self.lengths)
        row = jnp.cumsum(jnp.zeros(capacity, jnp.int32).at[ends].add(1, mode="drop")).astype(jnp.int32)
        real, inside = row < n_rows, jnp.minimum(row, n_rows - 1)
        position = jnp.arange(capacity, dtype=jnp.int32) - (rows_of(ends, inside) - rows_of(self.lengths, inside))
        items, weights = self.weights_at(inside, position)
        if dropout is not None:
            factors = dropout.factors(*self.pieces(jnp.arange(capacity // PIECE + n_rows, dtype=jnp.int32)))
            piece = rows_of(self.first_piece, inside) + position // PIECE
            weights = weights * factors.at[piece, position % PIECE].get(mode="clip")
        return jnp.where(real, row, n_rows), jnp.where(real, items, self.n_items), jnp.where(real, weights, 0.0)


AnyRows: TypeAlias = Rows | PackedRows


def take_packed(
    csr: DeviceCSR, users: jax.Array, *, recency: Kernel | None = None, mesh: Mesh | None = None
) -> PackedRows:
    """The histories of ``users [B]`` (int32; -1 gives an empty row); call it inside jit. See ``rows.take_rows``."""
    if mesh is not None:
        users = jax.lax.with_sharding_constraint(users, NamedSharding(mesh, P("users")))
    start = csr.indptr.at[users].get(mode="clip")
    lengths = jnp.where(users >= 0, csr.indptr.at[users + 1].get(mode="clip") - start, 0)
    return PackedRows(csr, start, lengths, users, recency, mesh)


def rows_of(matrix: jax.Array, index: jax.Array) -> jax.Array:
    """``matrix[index]``, for indices that are known to be in range."""
    found: jax.Array = matrix.at[index].get(mode="promise_in_bounds")
    return found
