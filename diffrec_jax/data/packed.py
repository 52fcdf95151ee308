"""Histories read piece by piece: a batch costs what its events cost, and not rows x the longest history.

``Rows`` pads every history of a batch to the longest of the data, so one person with 100,000 events makes every batch
pay for it. Here every history is cut into pieces of ``PIECE`` events, and a loop goes over as many blocks of pieces as
the batch has: nothing is padded but the last piece of each row, no capacity can overflow, and what a block needs is
gathered when it is its turn. ``product`` and ``squared_errors`` have gradients, made by a second walk over the blocks.

Letters: B rows, I items, H columns of a matrix, Q pieces of a block, N interactions.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import jax.typing
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffrec_jax.data.rows import DeviceCSR

PIECE = 16  # events
Carry = TypeVar("Carry")  # of a loop


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
        counted = (self.users >= 0) & where
        return jnp.sum(jnp.where(counted, values, 0.0)) / jnp.maximum(jnp.sum(counted), 1).astype(values.dtype)

    def product(self, matrix: jax.Array, *, dropout: Dropout | None = None) -> jax.Array:
        """``X @ matrix`` for the rows X ``[B, I]`` and ``matrix [I, H]``, as ``[B, H]``, with dropout of X if any."""
        return _product(matrix, self, dropout)

    def square_sums(self) -> jax.Array:
        """The sum of the squared weights of each row, ``[B]``."""
        sums: jax.Array = _on_devices(self, None, lambda local: local.square_sums(), (), (), P("users"), sums="items")
        return sums

    def weights_at(self, row: jax.Array, position: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Item and weight of the events at ``position`` of the rows ``row`` (shapes broadcast), where there are any."""
        csr, length, start = self.csr, _rows_of(self.lengths, row), _rows_of(self.start, row)
        place = start + position
        items = csr.indices.at[place].get(mode="clip")
        if self.kernel is None:
            return items, jnp.ones(place.shape, jnp.float32)
        age = None
        if csr.days is not None:
            last = csr.days.at[start + jnp.maximum(length - 1, 0)].get(mode="clip")
            age = last - csr.days.at[place].get(mode="clip")
        return items, jnp.broadcast_to(self.kernel.at(position, length, age), place.shape).astype(jnp.float32)

    def events(self, capacity: int, dropout: Dropout | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Row, item and weight of every event of the batch, each ``[capacity]``; behind them B, I and 0.

        ``DeviceCSR.most_events`` is a capacity that holds any batch.
        """
        n_rows = self.lengths.shape[0]
        ends = jnp.cumsum(self.lengths)
        row = jnp.cumsum(jnp.zeros(capacity, jnp.int32).at[ends].add(1, mode="drop")).astype(jnp.int32)
        real, inside = row < n_rows, jnp.minimum(row, n_rows - 1)
        position = jnp.arange(capacity, dtype=jnp.int32) - (_rows_of(ends, inside) - _rows_of(self.lengths, inside))
        items, weights = self.weights_at(inside, position)
        if dropout is not None:
            pieces = (self.lengths + PIECE - 1) // PIECE
            after = jnp.cumsum(pieces)
            number = jnp.arange(capacity // PIECE + n_rows, dtype=jnp.int32)
            of = jnp.minimum(jnp.searchsorted(after, number, side="right", method="sort"), n_rows - 1).astype(jnp.int32)
            factors = dropout.factors(of, number - (_rows_of(after, of) - _rows_of(pieces, of)))
            piece = _rows_of(after, inside) - _rows_of(pieces, inside) + position // PIECE
            weights = weights * factors.at[piece, position % PIECE].get(mode="clip")
        return jnp.where(real, row, n_rows), jnp.where(real, items, self.n_items), jnp.where(real, weights, 0.0)

    def squared_errors(self, table: jax.Array, vectors: jax.Array, *, unobserved: float = 1.0) -> jax.Array:
        """What the events contribute to ``Σ_i w_i (s_i - x_i)²`` beside ``unobserved · Σ_i s_i²``, ``[B]``.

        Of scores ``s = table @ vectors[b]`` and the row x, with ``w_i = 1`` where x is not zero and ``unobserved``
        elsewhere, that is ``Σ_events (1 - unobserved) s² - 2 x s + x²``.

        Args:
          table: ``[I, V]``.
          vectors: ``[B, V]``.
          unobserved: the weight of what is not in the row.
        """
        return _squared_errors(table, vectors, self, unobserved)


def take_packed(
    csr: DeviceCSR, users: jax.Array, *, recency: Kernel | None = None, mesh: Mesh | None = None
) -> PackedRows:
    """The histories of ``users [B]`` (int32; -1 gives an empty row); call it inside jit. See ``rows.take_rows``."""
    if mesh is not None:
        users = jax.lax.with_sharding_constraint(users, NamedSharding(mesh, P("users")))
    start = csr.indptr.at[users].get(mode="clip")
    lengths = jnp.where(users >= 0, csr.indptr.at[users + 1].get(mode="clip") - start, 0)
    return PackedRows(csr, start, lengths, users, recency, mesh)


class _Block(struct.PyTreeNode):
    """Pieces of the rows that one device has."""

    row: jax.Array  # [Q] int32
    items: jax.Array  # [Q, PIECE] int32, less the first item of the device
    weights: jax.Array  # [Q, PIECE]; 0 where there is no event, or none of this device
    here: jax.Array  # [Q, PIECE] bool: an event of this device

    def column(self, j: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Items, weights and presence at one position of all pieces, each ``[Q]``."""

        def at(array: jax.Array) -> jax.Array:
            found: jax.Array = jax.lax.dynamic_index_in_dim(array, j, axis=1, keepdims=False)
            return found

        return at(self.items), at(self.weights), at(self.here)


class _Local:
    """The rows of one device and its range of items, a block at a time."""

    def __init__(
        self,
        rows: PackedRows,
        dropout: Dropout | None,
        first_row: jax.Array | int,
        first_item: jax.Array | int,
        width: int,
    ) -> None:
        self.rows, self.dropout = rows, dropout
        self.first_row, self.first_item, self.width = first_row, first_item, width
        self.n_rows = rows.lengths.shape[0]
        self.pieces = jnp.cumsum((rows.lengths + PIECE - 1) // PIECE)  # of this row and those before
        self.n_blocks = (self.pieces[-1] + self.n_rows - 1) // self.n_rows

    def block(self, n: jax.Array) -> _Block:
        """Block ``n``: as many pieces as there are rows."""
        rows = self.rows
        number = n * self.n_rows + jnp.arange(self.n_rows, dtype=jnp.int32)
        row = jnp.searchsorted(self.pieces, number, side="right", method="sort").astype(jnp.int32)
        row = jnp.minimum(row, self.n_rows - 1)
        length = _rows_of(rows.lengths, row)
        piece = number - (_rows_of(self.pieces, row) - (length + PIECE - 1) // PIECE)
        position = (piece * PIECE)[:, None] + jnp.arange(PIECE, dtype=jnp.int32)[None, :]
        items, weights = rows.weights_at(row[:, None], position)
        items = items - self.first_item
        here = (position < length[:, None]) & (items >= 0) & (items < self.width)
        weights = jnp.where(here, weights, 0.0)
        if self.dropout is not None:
            weights = weights * self.dropout.factors(row + self.first_row, piece)
        return _Block(row, jnp.where(here, items, 0), weights, here)

    def walk(self, body: Callable[[_Block, Carry], Carry], start: Carry) -> Carry:
        """``body(block, carry) -> carry`` over all blocks."""
        found: Carry = jax.lax.fori_loop(0, self.n_blocks, lambda n, carry: body(self.block(n), carry), start)
        return found

    def product(self, matrix: jax.Array) -> jax.Array:
        """``X @ matrix``, ``[B, H]``, in float32 at least."""
        dtype, width = jnp.promote_types(matrix.dtype, jnp.float32), matrix.shape[1]

        def body(block: _Block, out: jax.Array) -> jax.Array:
            def add(j: jax.Array, total: jax.Array) -> jax.Array:
                item, weight, _ = block.column(j)
                return total + weight[:, None] * _rows_of(matrix, item).astype(dtype)

            total = _over_piece(add, jnp.zeros((self.n_rows, width), dtype))
            return out.at[block.row].add(total, indices_are_sorted=True)

        return self.walk(body, jnp.zeros((self.n_rows, width), dtype))

    def square_sums(self) -> jax.Array:
        """See ``PackedRows.square_sums``."""

        def body(block: _Block, out: jax.Array) -> jax.Array:
            return out.at[block.row].add(jnp.sum(jnp.square(block.weights), axis=1), indices_are_sorted=True)

        return self.walk(body, jnp.zeros(self.n_rows))

    def transposed_product(self, vectors: jax.Array) -> jax.Array:
        """``Xᵀ @ vectors``, ``[width, H]``, the gradient of ``product``."""

        def body(block: _Block, out: jax.Array) -> jax.Array:
            mine = _rows_of(vectors, block.row)

            def add(j: jax.Array, out: jax.Array) -> jax.Array:
                item, weight, _ = block.column(j)
                return out.at[item].add(weight[:, None] * mine)

            return _over_piece(add, out)

        return self.walk(body, jnp.zeros((self.width, vectors.shape[1]), vectors.dtype))

    def squared_errors(self, table: jax.Array, vectors: jax.Array, unobserved: float) -> jax.Array:
        """See ``PackedRows.squared_errors``."""

        def body(block: _Block, out: jax.Array) -> jax.Array:
            mine = _rows_of(vectors, block.row)

            def add(j: jax.Array, total: jax.Array) -> jax.Array:
                item, x, here = block.column(j)
                s = jnp.sum(_rows_of(table, item) * mine, axis=1)
                s2 = jnp.where(x != 0, (1.0 - unobserved) * jnp.square(s), 0.0)
                return total + jnp.where(here, s2 - 2.0 * x * s + jnp.square(x), 0.0)

            return out.at[block.row].add(_over_piece(add, jnp.zeros(self.n_rows)), indices_are_sorted=True)

        return self.walk(body, jnp.zeros(self.n_rows))

    def squared_errors_back(
        self, table: jax.Array, vectors: jax.Array, unobserved: float, cotangent: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Gradients of ``squared_errors`` towards table and vectors."""

        def body(block: _Block, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            mine, c = _rows_of(vectors, block.row), _rows_of(cotangent, block.row)

            def add(j: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                of_table, total = carry
                item, x, here = block.column(j)
                w = _rows_of(table, item)
                s = jnp.sum(w * mine, axis=1)
                s_weighed = jnp.where(x != 0, (1.0 - unobserved) * s, 0.0)
                slope = jnp.where(here, 2.0 * c * (s_weighed - x), 0.0)[:, None]
                return of_table.at[item].add(slope * mine), total + slope * w

            of_table, total = _over_piece(add, (carry[0], jnp.zeros_like(mine)))
            return of_table, carry[1].at[block.row].add(total, indices_are_sorted=True)

        return self.walk(body, (jnp.zeros_like(table), jnp.zeros_like(vectors)))


def _over_piece(body: Callable[[jax.Array, Carry], Carry], start: Carry) -> Carry:
    found: Carry = jax.lax.fori_loop(0, PIECE, body, start)
    return found


def _rows_of(matrix: jax.Array, index: jax.Array) -> jax.Array:
    found: jax.Array = matrix.at[index].get(mode="promise_in_bounds")
    return found


@jax.custom_vjp
def _product(matrix: jax.Array, rows: PackedRows, dropout: Dropout | None) -> jax.Array:
    out = _on_devices(
        rows, dropout, lambda local, m: local.product(m), (matrix,), (P("items"),), P("users"), sums="items"
    )
    product: jax.Array = out.astype(matrix.dtype)
    return product


def _product_forward(matrix: jax.Array, rows: PackedRows, dropout: Dropout | None) -> tuple[jax.Array, Any]:
    return _product(matrix, rows, dropout), (rows, dropout, jnp.zeros((0,), matrix.dtype))


def _product_backward(kept: Any, cotangent: jax.Array) -> tuple[Any, ...]:
    rows, dropout, like = kept
    vectors = cotangent.astype(jnp.promote_types(cotangent.dtype, jnp.float32))
    found = _on_devices(
        rows, dropout, lambda local, v: local.transposed_product(v), (vectors,), (P("users"),), P("items"), sums="users"
    )
    return found.astype(like.dtype), None, None


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _squared_errors(table: jax.Array, vectors: jax.Array, rows: PackedRows, unobserved: float) -> jax.Array:
    found: jax.Array = _on_devices(
        rows,
        None,
        lambda local, t, v: local.squared_errors(t, v, unobserved),
        _precise(table, vectors),
        (P("items"), P("users")),
        P("users"),
        sums="items",
    )
    return found


def _squared_errors_forward(
    table: jax.Array, vectors: jax.Array, rows: PackedRows, unobserved: float
) -> tuple[jax.Array, Any]:
    return _squared_errors(table, vectors, rows, unobserved), (table, vectors, rows)


def _squared_errors_backward(unobserved: float, kept: Any, cotangent: jax.Array) -> tuple[Any, ...]:
    table, vectors, rows = kept
    of_table, of_vectors = _on_devices(
        rows,
        None,
        lambda local, t, v, c: local.squared_errors_back(t, v, unobserved, c),
        (*_precise(table, vectors), cotangent),
        (P("items"), P("users"), P("users")),
        (P("items"), P("users")),
        sums=("users", "items"),
    )
    return of_table.astype(table.dtype), of_vectors.astype(vectors.dtype), None


_squared_errors.defvjp(_squared_errors_forward, _squared_errors_backward)


def _precise(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in arrays)


def _on_devices(
    rows: PackedRows,
    dropout: Dropout | None,
    function: Callable[..., Any],
    arrays: tuple[jax.Array, ...],
    specs: tuple[P, ...],
    out: Any,
    *,
    sums: Any,
) -> Any:
    """``function(local, *arrays)`` on every device of the mesh, and its results summed over the axes ``sums``."""
    mesh, n_items = rows.mesh, rows.n_items
    if mesh is None or mesh.size == 1:
        return function(_Local(rows, dropout, 0, 0, n_items), *arrays)
    width = -(-n_items // mesh.shape["items"])
    stored = width * mesh.shape["items"]  # as ``mesh.Layout`` pads it, where it is not padded already
    arrays = tuple(
        jnp.pad(a, ((0, stored - a.shape[0]), *((0, 0),) * (a.ndim - 1))) if spec == P("items") else a
        for a, spec in zip(arrays, specs)
    )

    def local(
        start: jax.Array, lengths: jax.Array, users: jax.Array, csr: DeviceCSR, words: Any, *mine: jax.Array
    ) -> Any:
        of = rows.replace(start=start, lengths=lengths, users=users, csr=csr)
        drop = None if dropout is None else dropout.replace(words=words)
        first_row = jax.lax.axis_index("users") * lengths.shape[0]
        found = function(_Local(of, drop, first_row, jax.lax.axis_index("items") * width, width), *mine)
        return jax.tree.map(jax.lax.psum, found, sums) if isinstance(sums, tuple) else jax.lax.psum(found, sums)

    into = (P("users"), P("users"), P("users"), P(), P(), *specs)
    words = None if dropout is None else dropout.words
    found = jax.shard_map(local, mesh=mesh, in_specs=into, out_specs=out, check_vma=False)(
        rows.start, rows.lengths, rows.users, rows.csr, words, *arrays
    )
    return jax.tree.map(lambda a, spec: a[:n_items] if spec == P("items") else a, found, out)
