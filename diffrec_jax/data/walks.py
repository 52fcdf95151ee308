"""Computing with packed rows, a block of pieces at a time: a batch costs what its events cost.

Every history is cut into pieces of ``PIECE`` events, and a loop goes over as many blocks of pieces as the batch has:
nothing is padded but the last piece of each row, no capacity can overflow, and what a block needs is gathered when it
is its turn. ``product`` and ``event_sums`` have gradients, made by a second walk over the blocks.

Letters: B rows, I items, H columns of a matrix, V width of a vector, Q pieces of a block.
"""

import functools
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec as P

from diffrec_jax.data.packed import PIECE, Dropout, PackedRows, rows_of
from diffrec_jax.data.rows import DeviceCSR
from diffrec_jax.types import PyTree

Carry = TypeVar("Carry")  # of a loop
Three: TypeAlias = tuple[jax.Array, jax.Array, jax.Array]
Term: TypeAlias = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def product(rows: PackedRows, matrix: jax.Array, *, dropout: Dropout | None = None) -> jax.Array:
    """``X @ matrix`` for the rows X ``[B, I]`` and ``matrix [I, H]``, as ``[B, H]``, with dropout of X if any."""
    return _product(matrix, rows, dropout)


def weight_sums(rows: PackedRows, *, power: int = 1) -> jax.Array:
    """The sum of the weights of each row to this power, ``[B]``."""
    sums: jax.Array = _on_devices(rows, None, lambda walk: walk.weight_sums(power), (), (), P("users"), sums="items")
    return sums


def event_sums(
    rows: PackedRows, table: jax.Array, vectors: jax.Array, term: Term, of_row: jax.Array | None = None
) -> jax.Array:
    """``Σ_events term(s, x, a)`` of each row, ``[B]``, with the score ``s = table[item] · vectors[row]``.

    Its gradients are towards table, vectors and ``of_row``; that of the term is JAX's.

    Args:
      rows: the batch; x are its weights.
      table: ``[I, V]``.
      vectors: ``[B, V]``.
      term: of scores, weights x and ``of_row`` at the events, elementwise; the same function at every call.
      of_row: a, ``[B]``; None for zeros.
    """
    of_row = jnp.zeros(vectors.shape[0], jnp.float32) if of_row is None else of_row
    return _event_sums(table, vectors, of_row, rows, term)


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


class _Walk:
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
        self.n_blocks = (jnp.sum(rows.n_pieces) + self.n_rows - 1) // self.n_rows

    def block(self, n: jax.Array) -> _Block:
        """Block ``n``: as many pieces as there are rows."""
        rows = self.rows
        number = n * self.n_rows + jnp.arange(self.n_rows, dtype=jnp.int32)
        row, piece = rows.pieces(number)
        position = (piece * PIECE)[:, None] + jnp.arange(PIECE, dtype=jnp.int32)[None, :]
        items, weights = rows.weights_at(row[:, None], position)
        items = items - self.first_item
        here = (position < rows_of(rows.lengths, row)[:, None]) & (items >= 0) & (items < self.width)
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
                return total + weight[:, None] * rows_of(matrix, item).astype(dtype)

            total = _over_piece(add, jnp.zeros((self.n_rows, width), dtype))
            return out.at[block.row].add(total, indices_are_sorted=True)

        return self.walk(body, jnp.zeros((self.n_rows, width), dtype))

    def weight_sums(self, power: int) -> jax.Array:
        """The sums of the weights to this power, ``[B]``."""

        def body(block: _Block, out: jax.Array) -> jax.Array:
            return out.at[block.row].add(jnp.sum(block.weights**power, axis=1), indices_are_sorted=True)

        return self.walk(body, jnp.zeros(self.n_rows))

    def transposed_product(self, vectors: jax.Array) -> jax.Array:
        """``Xᵀ @ vectors``, ``[width, H]``, the gradient of ``product``."""

        def body(block: _Block, out: jax.Array) -> jax.Array:
            mine = rows_of(vectors, block.row)

            def add(j: jax.Array, out: jax.Array) -> jax.Array:
                item, weight, _ = block.column(j)
                return out.at[item].add(weight[:, None] * mine)

            return _over_piece(add, out)

        return self.walk(body, jnp.zeros((self.width, vectors.shape[1]), vectors.dtype))

    def event_sums(self, table: jax.Array, vectors: jax.Array, of_row: jax.Array, term: Term) -> jax.Array:
        """See ``event_sums``."""

        def body(block: _Block, out: jax.Array) -> jax.Array:
            mine, a = rows_of(vectors, block.row), rows_of(of_row, block.row)

            def add(j: jax.Array, total: jax.Array) -> jax.Array:
                item, x, here = block.column(j)
                s = jnp.sum(rows_of(table, item) * mine, axis=1)
                return total + jnp.where(here, term(s, x, a), 0.0)

            return out.at[block.row].add(_over_piece(add, jnp.zeros(self.n_rows)), indices_are_sorted=True)

        return self.walk(body, jnp.zeros(self.n_rows))

    def event_sums_back(
        self, table: jax.Array, vectors: jax.Array, of_row: jax.Array, term: Term, cotangent: jax.Array
    ) -> Three:
        """Gradients of ``event_sums`` towards table, vectors and ``of_row``."""

        def body(block: _Block, carry: Three) -> Three:
            mine, a, c = (rows_of(array, block.row) for array in (vectors, of_row, cotangent))

            def add(j: jax.Array, carry: Three) -> Three:
                of_table, of_mine, of_a = carry
                item, x, here = block.column(j)
                w = rows_of(table, item)
                pull = jax.vjp(lambda s, a: term(s, x, a), jnp.sum(w * mine, axis=1), a)[1]
                of_s, slope = (jnp.where(here, each, 0.0) for each in pull(c))
                return of_table.at[item].add(of_s[:, None] * mine), of_mine + of_s[:, None] * w, of_a + slope

            start = (carry[0], jnp.zeros_like(mine), jnp.zeros_like(a))
            of_table, of_mine, of_a = _over_piece(add, start)
            of_vectors = carry[1].at[block.row].add(of_mine, indices_are_sorted=True)
            return of_table, of_vectors, carry[2].at[block.row].add(of_a, indices_are_sorted=True)

        return self.walk(body, (jnp.zeros_like(table), jnp.zeros_like(vectors), jnp.zeros_like(of_row)))


def _over_piece(body: Callable[[jax.Array, Carry], Carry], start: Carry) -> Carry:
    found: Carry = jax.lax.fori_loop(0, PIECE, body, start)
    return found


@jax.custom_vjp
def _product(matrix: jax.Array, rows: PackedRows, dropout: Dropout | None) -> jax.Array:
    out = _on_devices(
        rows, dropout, lambda walk, m: walk.product(m), (matrix,), (P("items"),), P("users"), sums="items"
    )
    product: jax.Array = out.astype(matrix.dtype)
    return product


def _product_forward(matrix: jax.Array, rows: PackedRows, dropout: Dropout | None) -> tuple[jax.Array, PyTree]:
    return _product(matrix, rows, dropout), (rows, dropout, jnp.zeros((0,), matrix.dtype))


def _product_backward(kept: PyTree, cotangent: jax.Array) -> tuple[PyTree, ...]:
    rows, dropout, like = kept
    vectors = cotangent.astype(jnp.promote_types(cotangent.dtype, jnp.float32))
    found = _on_devices(
        rows, dropout, lambda walk, v: walk.transposed_product(v), (vectors,), (P("users"),), P("items"), sums="users"
    )
    return found.astype(like.dtype), None, None


_product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _event_sums(table: jax.Array, vectors: jax.Array, of_row: jax.Array, rows: PackedRows, term: Term) -> jax.Array:
    found: jax.Array = _on_devices(
        rows,
        None,
        lambda walk, *arrays: walk.event_sums(*arrays, term),
        _precise(table, vectors, of_row),
        (P("items"), P("users"), P("users")),
        P("users"),
        sums="items",
    )
    return found


def _event_sums_forward(
    table: jax.Array, vectors: jax.Array, of_row: jax.Array, rows: PackedRows, term: Term
) -> tuple[jax.Array, PyTree]:
    return _event_sums(table, vectors, of_row, rows, term), (table, vectors, of_row, rows)


def _event_sums_backward(term: Term, kept: PyTree, cotangent: jax.Array) -> tuple[PyTree, ...]:
    *arrays, rows = kept
    found = _on_devices(
        rows,
        None,
        lambda walk, *given: walk.event_sums_back(*given[:-1], term, given[-1]),
        (*_precise(*arrays), cotangent),
        (P("items"), P("users"), P("users"), P("users")),
        (P("items"), P("users"), P("users")),
        sums=("users", "items", "items"),
    )
    return (*(gradient.astype(array.dtype) for gradient, array in zip(found, arrays)), None)


_event_sums.defvjp(_event_sums_forward, _event_sums_backward)


def _precise(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in arrays)


def _on_devices(
    rows: PackedRows,
    dropout: Dropout | None,
    function: Callable[..., PyTree],
    arrays: tuple[jax.Array, ...],
    specs: tuple[P, ...],
    out: PyTree,
    *,
    sums: str | tuple[str, ...],
) -> PyTree:
    """``function(walk, *arrays)`` on every device of the mesh, and its results summed over the axes ``sums``."""
    mesh, n_items = rows.mesh, rows.n_items
    if mesh is None or mesh.size == 1:
        return function(_Walk(rows, dropout, 0, 0, n_items), *arrays)
    width = -(-n_items // mesh.shape["items"])
    stored = width * mesh.shape["items"]  # as ``mesh.Layout`` pads it, where it is not padded already
    arrays = tuple(
        jnp.pad(a, ((0, stored - a.shape[0]), *((0, 0),) * (a.ndim - 1))) if spec == P("items") else a
        for a, spec in zip(arrays, specs)
    )

    def local(
        start: jax.Array, lengths: jax.Array, users: jax.Array, csr: DeviceCSR, words: PyTree, *mine: jax.Array
    ) -> PyTree:
        of = rows.replace(start=start, lengths=lengths, users=users, csr=csr)
        drop = None if dropout is None else dropout.replace(words=words)
        first_row = jax.lax.axis_index("users") * lengths.shape[0]
        found = function(_Walk(of, drop, first_row, jax.lax.axis_index("items") * width, width), *mine)
        return jax.tree.map(jax.lax.psum, found, sums) if isinstance(sums, tuple) else jax.lax.psum(found, sums)

    into = (P("users"), P("users"), P("users"), P(), P(), *specs)
    words = None if dropout is None else dropout.words
    found = jax.shard_map(local, mesh=mesh, in_specs=into, out_specs=out, check_vma=False)(
        rows.start, rows.lengths, rows.users, rows.csr, words, *arrays
    )
    return jax.tree.map(lambda a, spec: a[:n_items] if spec == P("items") else a, found, out)
