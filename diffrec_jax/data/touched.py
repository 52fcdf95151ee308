"""The events of a batch in the order of items: what updates only those rows of a table that the batch touches.

A walk goes over them a slice at a time. A slice holds all events of its items, so that slices touch different rows,
each row is read once, changed once and written once, and nothing as long as the catalogue is made.

Letters: B rows of a batch, C most events that B rows can have, Q events of a slice, I items.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from diffrec_jax.data.packed import Dropout, PackedRows

Carry = TypeVar("Carry")


class Slice(struct.PyTreeNode):
    """All events of some items."""

    items: jax.Array  # [Q] int32 the items, each once; what is no item of the device is n_items or more
    place: jax.Array  # [Q] int32 of each event, which of these items it is of; Q: none of the device
    rows: jax.Array  # [Q] int32 the row of each event
    weights: jax.Array  # [Q] its weight

    def sums(self, values: jax.Array) -> jax.Array:
        """The weighted sum of ``values[row]`` over the events of each item, ``[Q, H]`` for ``values [B, H]``."""
        of_events = self.weights[:, None] * values.at[self.rows].get(mode="promise_in_bounds")
        return jnp.zeros_like(of_events).at[self.place].add(of_events, mode="drop")


class Touched(struct.PyTreeNode):
    """The events of a batch, ascending by item."""

    items: jax.Array  # [C + Q] int32; behind the last event n_items
    rows: jax.Array  # [C + Q] int32
    weights: jax.Array  # [C + Q] float32
    total: jax.Array  # [] int32, how many there are
    slice_size: int = struct.field(pytree_node=False)  # Q

    @classmethod
    def of(cls, rows: PackedRows, *, dropout: Dropout | None = None, first_item: jax.Array | int = 0) -> "Touched":
        """The events of packed rows, with dropout of their weights if any; items count from ``first_item``."""
        n_rows, capacity = rows.lengths.shape[0], rows.csr.most_events(rows.lengths.shape[0])
        row, items, weights = rows.events(capacity, dropout)
        total = jnp.sum(rows.lengths).astype(jnp.int32)
        items, order = jax.lax.sort_key_val(items, jnp.arange(capacity, dtype=jnp.int32))
        room = 2 * n_rows  # an item has at most n_rows events, so that every slice holds all events of at least one
        return cls(
            jnp.pad(items, (0, room), constant_values=rows.n_items) - first_item,
            jnp.pad(jnp.minimum(row, n_rows - 1).at[order].get(mode="promise_in_bounds"), (0, room)),
            jnp.pad(weights.at[order].get(mode="promise_in_bounds"), (0, room)),
            total,
            room,
        )

    def walk(self, body: Callable[[Slice, Carry], Carry], start: Carry, *, n_items: int) -> Carry:
        """``body(slice, carry) -> carry`` over all slices."""
        size = self.slice_size
        number = jnp.arange(size, dtype=jnp.int32)

        def at(array: jax.Array, first: jax.Array) -> jax.Array:
            found: jax.Array = jax.lax.dynamic_slice_in_dim(array, first, size)
            return found

        def one(carry: tuple[jax.Array, Carry]) -> tuple[jax.Array, Carry]:
            first, inner = carry
            items = at(self.items, first)
            is_last = first + size >= self.total
            here = (first + number < self.total) & (is_last | (items != items[-1]))  # the last item may go on
            begins = jnp.concatenate([jnp.ones(1, bool), items[1:] != items[:-1]])
            own = here & (items >= 0) & (items < n_items)
            place = jnp.where(own, jnp.cumsum(begins).astype(jnp.int32) - 1, size)
            distinct = (n_items + number).at[place].set(items, mode="drop")  # else out of range, each once
            found = Slice(distinct, place, at(self.rows, first), at(self.weights, first))
            return first + jnp.sum(here).astype(jnp.int32), body(found, inner)

        return jax.lax.while_loop(lambda carry: carry[0] < self.total, one, (jnp.zeros((), jnp.int32), start))[1]
