"""The logits of a catalogue, a chunk of items at a time: sums over all of them in bounded memory.

Letters: P positions, D width, I items.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as Spec

from diffrec_jax.types import PyTree

CHUNK = 8192  # items


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def log_sum_exp(
    vectors: jax.Array, table: jax.Array, bias: jax.Array, chunk: int = CHUNK, mesh: Mesh | None = None
) -> jax.Array:
    """``log Σ_i exp s_i`` at each position, ``[P]``, a chunk of items at a time, forwards and backwards.

    Where ``softmax_cross_entropy`` sums over positions with one target each, this leaves both to the caller; see there.
    """
    found: jax.Array = _lse_on_devices(vectors, table, bias, None, chunk, mesh)
    return found


def _lse_forward(
    vectors: jax.Array, table: jax.Array, bias: jax.Array, chunk: int, mesh: Mesh | None
) -> tuple[jax.Array, PyTree]:
    found: jax.Array = log_sum_exp(vectors, table, bias, chunk, mesh)
    return found, (vectors, table, bias, found)


def _lse_backward(chunk: int, mesh: Mesh | None, kept: PyTree, cotangent: jax.Array) -> tuple[PyTree, ...]:
    vectors, table, bias, lse = kept
    found = _lse_on_devices(vectors, table, bias, (lse, cotangent), chunk, mesh)
    return tuple(gradient.astype(array.dtype) for gradient, array in zip(found, (vectors, table, bias)))


log_sum_exp.defvjp(_lse_forward, _lse_backward)


def _lse_on_devices(
    vectors: jax.Array, table: jax.Array, bias: jax.Array, back: PyTree, chunk: int, mesh: Mesh | None
) -> PyTree:
    """The sums ``[P]``, or, given these and a cotangent as ``back``, the gradients, on every device of the mesh."""

    def local(v: jax.Array, e: jax.Array, b: jax.Array, back: PyTree, axis: str | None) -> PyTree:
        of_items = Items(e, b, min(chunk, e.shape[0]), 0, axis)
        if back is None:
            return of_items.log_sum_exp(v)[0]
        zeros = (jnp.zeros(e.shape, precise(v)), jnp.zeros(b.shape, precise(v)))
        return of_items.gradients(v, back[0], None, back[1], *zeros)

    if mesh is None or mesh.size == 1:
        return local(vectors, table, bias, back, None)
    n_items, shards = table.shape[0], mesh.shape["items"]
    missing = -n_items % shards
    table = jnp.pad(table, ((0, missing), (0, 0)))
    bias = jnp.pad(bias, (0, missing), constant_values=-jnp.inf)

    def on_device(v: jax.Array, e: jax.Array, b: jax.Array, back: PyTree) -> PyTree:
        found = local(v, e, b, back, "items")
        if back is None:
            return found
        return jax.lax.psum(found[0], "items"), *(jax.lax.psum(each, "users") for each in found[1:])

    into = (Spec("users"), Spec("items"), Spec("items"), Spec("users"))
    out = Spec("users") if back is None else (Spec("users"), Spec("items"), Spec("items"))
    found = jax.shard_map(on_device, mesh=mesh, in_specs=into, out_specs=out, check_vma=False)(
        vectors, table, bias, back
    )
    return found if back is None else (found[0], found[1][:n_items], found[2][:n_items])


class Items:
    """The items of one device, a chunk at a time; the last overlaps with the one before, so that all are whole."""

    def __init__(self, table: jax.Array, bias: jax.Array, chunk: int, first_item: jax.Array | int, axis: str | None):
        self.table, self.bias, self.chunk, self.first_item, self.axis = table, bias, chunk, first_item, axis
        self.n_items = table.shape[0]
        self.n_chunks = -(-self.n_items // chunk)

    def logits(self, v: jax.Array, n: Any) -> tuple[jax.Array, jax.Array, Any]:
        """Of chunk ``n``: ``[block, chunk]``, -inf where the one before had them; its part of the table; its place."""
        if self.n_chunks == 1:
            return dot(v, self.table.T) + self.bias[None, :], self.table, 0
        place = jnp.minimum(n * self.chunk, self.n_items - self.chunk)
        part = jax.lax.dynamic_slice_in_dim(self.table, place, self.chunk)
        bias = jax.lax.dynamic_slice_in_dim(self.bias, place, self.chunk)
        bias = jnp.where(place + jnp.arange(self.chunk) >= n * self.chunk, bias, -jnp.inf)
        return dot(v, part.T) + bias[None, :], part, place

    def log_sum_exp(self, v: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """``[block]`` over the items of all devices, and the logits where there is one chunk of them."""
        if self.n_chunks == 1:
            logits = self.logits(v, 0)[0]
            top = jnp.maximum(jnp.max(logits, axis=1), least(logits))
            total = jnp.sum(jnp.exp(logits - top[:, None]), axis=1)
        else:

            def body(n: jax.Array, carry: Any) -> PyTree:
                top, total = carry
                found = self.logits(v, n)[0]
                higher = jnp.maximum(top, jnp.max(found, axis=1))
                return higher, total * jnp.exp(top - higher) + jnp.sum(jnp.exp(found - higher[:, None]), axis=1)

            zeros = jnp.zeros(v.shape[0], precise(v))
            top, total = jax.lax.fori_loop(0, self.n_chunks, body, (zeros + least(zeros), zeros))
            logits = None
        if self.axis is not None:
            highest = jax.lax.pmax(top, self.axis)
            total, top = jax.lax.psum(total * jnp.exp(top - highest), self.axis), highest
        return top + jnp.log(total), logits

    def logits_of(self, v: jax.Array, target: jax.Array) -> jax.Array:
        """``[block]``: the logit of each target, wherever it lies."""
        column, here = self._columns(target)
        dtype = precise(v)
        found = jnp.sum(v.astype(dtype) * self.table[column].astype(dtype), axis=1) + self.bias[column]
        return found if self.axis is None else jax.lax.psum(jnp.where(here, found, 0.0), self.axis)

    def gradients(
        self, v: jax.Array, lse: jax.Array, logits: jax.Array | None, w: jax.Array, of_table: Any, of_bias: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Those of ``w · lse``; what is of table and bias is added to what there is."""
        if logits is not None:
            p = w[:, None] * jnp.exp(logits - lse[:, None])
            low = p.astype(v.dtype)
            return dot(low, self.table), of_table + dot(low.T, v), of_bias + jnp.sum(p, axis=0)

        def body(n: jax.Array, carry: Any) -> PyTree:
            of_v, of_table, of_bias = carry
            found, part, place = self.logits(v, n)
            p = w[:, None] * jnp.exp(found - lse[:, None])
            low = p.astype(v.dtype)
            rows = jax.lax.dynamic_slice_in_dim(of_table, place, self.chunk) + dot(low.T, v)
            biases = jax.lax.dynamic_slice_in_dim(of_bias, place, self.chunk) + jnp.sum(p, axis=0)
            return (
                of_v + dot(low, part),
                jax.lax.dynamic_update_slice_in_dim(of_table, rows, place, 0),
                jax.lax.dynamic_update_slice_in_dim(of_bias, biases, place, 0),
            )

        nothing = (jnp.zeros(v.shape, precise(v)), of_table, of_bias)
        found: tuple[jax.Array, jax.Array, jax.Array] = jax.lax.fori_loop(0, self.n_chunks, body, nothing)
        return found

    def less_target(
        self, v: jax.Array, target: jax.Array, w: jax.Array, of_v: Any, of_table: Any, of_bias: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The gradients with that of ``-w · s_y`` added."""
        column, here = self._columns(target)
        w = jnp.where(here, w, 0.0)
        of_v = of_v - w[:, None] * self.table[column]
        return of_v, of_table.at[column].add(-w[:, None] * v), of_bias.at[column].add(-w)

    def _columns(self, target: jax.Array) -> tuple[jax.Array, jax.Array]:
        column = target - self.first_item
        return jnp.clip(column, 0, self.n_items - 1), (column >= 0) & (column < self.n_items)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a @ b``, summed in float32 at least."""
    return jnp.matmul(a, b, preferred_element_type=precise(a))


def precise(a: jax.Array) -> PyTree:
    """The precision of what is computed with ``a``: float32 at least."""
    return jnp.promote_types(a.dtype, jnp.float32)


def least(a: jax.Array) -> float:
    """A finite number below all logits, in place of -inf: the difference of two of them is one."""
    return float(jnp.finfo(a.dtype).min) / 4  # type: ignore[no-untyped-call]
