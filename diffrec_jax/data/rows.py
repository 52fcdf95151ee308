"""Rows on the device: CSR in, dense ``[B, I]`` batches only inside jit.

The interactions live on the device as int32 CSR (``DeviceCSR``). ``take_rows`` cuts the padded histories of a batch of
users out of it (``Rows``); ``Rows.dense`` scatters them into ``[B, I]``, and ``Rows.product`` multiplies them with a
matrix without ever being dense.

Letters: B rows, I items, U users, N interactions, L longest history, H columns of a matrix.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diffrec_jax.data.events import CSR
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.times import MICROSECONDS_PER_DAY
from diffrec_jax.mesh import replicated

_AT_ONCE = 2**22  # events


class DeviceCSR(struct.PyTreeNode):
    """Interactions of all users, one row after the other, each in time order."""

    indptr: jax.Array  # [U + 1] int32
    indices: jax.Array  # [N] int32 item ids
    days: jax.Array | None  # [N] float32, days since the first event of the data, or None without times
    n_items: int = struct.field(pytree_node=False)
    max_length: int = struct.field(pytree_node=False)  # L
    counts: jax.Array | None = None  # [I] float32, interactions of each item; None: nobody asks
    longest: tuple[int, ...] = struct.field(pytree_node=False, default=())  # events of the 1, 2, 4, 8, … longest rows
    weights: jax.Array | None = None  # [N] float32, what the log says an event counts; None: all 1

    @property
    def n_users(self) -> int:
        """U."""
        return self.indptr.shape[0] - 1

    def most_events(self, n_rows: int) -> int:
        """No ``n_rows`` different rows have more events."""
        n = max(n_rows - 1, 0).bit_length()
        most = self.longest[n] if n < len(self.longest) else n_rows * self.max_length
        return min(most, self.indices.shape[0])


class Rows(struct.PyTreeNode):
    """The histories of a batch of users, padded to L entries."""

    items: jax.Array  # [B, L] int32, oldest first; padding holds n_items
    weights: jax.Array  # [B, L] float32, by the log and by recency; padding holds 0
    lengths: jax.Array  # [B] int32
    users: jax.Array  # [B] int32 user ids; -1: padding, or a user never seen in training
    n_items: int = struct.field(pytree_node=False)
    mesh: Mesh | None = struct.field(pytree_node=False, default=None)
    days: jax.Array | None = None  # [B, L] float32 times in days, where there are any
    counts: jax.Array | None = None  # [I] float32, how often each item is in the data they are cut out of
    logged: jax.Array | None = None  # [B, L] float32, the weights by the log alone; None: all 1

    def dense(self) -> jax.Array:
        """The rows as ``[B, I]`` float32. Each shard scatters its own users, and only its own range of items."""
        return _by_shard(_scatter, self, out=P("users", "items"))

    def product(self, matrix: jax.Array) -> jax.Array:
        """``dense() @ matrix`` for ``matrix [I, H]``, as ``[B, H]``, by gathering the rows of the matrix.

        Its cost follows the longest history of the batch, so it pays to batch users of similar length. With the
        matrix sharded over items, every shard adds its own items and only ``[B, H]`` crosses between devices.
        """
        return _by_shard(_gather_product, self, matrix, out=P("users"))

    def cast(self, dtype: jax.typing.DTypeLike) -> "Rows":
        """The rows with weights of this precision."""
        return self.replace(weights=self.weights.astype(dtype))

    def mean(self, values: jax.Array, *, where: jax.Array | bool = True) -> jax.Array:
        """The mean of ``values [B]`` over the rows of users seen in training, and of these where it is asked for."""
        return mean_over(self.users, values, where)


def device_csr(csr: CSR, *, mesh: Mesh | None = None, timeless: bool = False) -> DeviceCSR:
    """Put a host ``CSR`` on the device(s), replicated over the mesh.

    Args:
      csr: ``indptr [U + 1]``, ``indices [N]``, ``n_items``, and ``times`` and ``weights [N]`` or None.
      mesh: the devices; None is the default device.
      timeless: leave out times and weights, which only weigh what a model reads.
    """
    sharding = None if mesh is None else replicated(mesh)
    lengths = np.diff(csr.indptr)
    indices, days = csr.indices, None
    times, weights = (None, None) if timeless else (csr.times, csr.weights)
    if not len(indices):  # something to gather from
        indices, times = np.zeros(1, np.int32), None if times is None else np.zeros(1, np.int64)
        weights = None if weights is None else np.ones(1, np.float32)
    if times is not None:
        days = jax.device_put(_days(times), sharding)
    return DeviceCSR(
        indptr=jax.device_put(np.asarray(csr.indptr, np.int32), sharding),
        indices=jax.device_put(np.asarray(indices, np.int32), sharding),
        days=days,
        n_items=csr.n_items,
        max_length=max(int(lengths.max(initial=0)), 1),
        longest=_events_of_longest(lengths),
        counts=jax.device_put(np.bincount(csr.indices, minlength=csr.n_items).astype(np.float32), sharding),
        weights=None if weights is None else jax.device_put(np.asarray(weights, np.float32), sharding),
    )


def _days(times: np.ndarray) -> np.ndarray:
    """Days since the first event, float32, without a copy of all times in more digits."""
    first, found = times.min(), np.empty(len(times), np.float32)
    for start in range(0, len(times), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found[part] = (times[part] - first) / MICROSECONDS_PER_DAY
    return found


def mean_over(users: jax.Array, values: jax.Array, where: jax.Array | bool) -> jax.Array:
    """The mean of ``values [B]`` over known ``users [B]``, those ``where`` it is asked for."""
    counted = (users >= 0) & where
    return jnp.sum(jnp.where(counted, values, 0.0)) / jnp.maximum(jnp.sum(counted), 1).astype(values.dtype)


def _events_of_longest(lengths: np.ndarray) -> tuple[int, ...]:
    """Events of the 1, 2, 4, … longest rows, up to all of them."""
    descending = np.cumsum(np.sort(lengths)[::-1], dtype=np.int64)
    powers = range(max(len(lengths) - 1, 0).bit_length() + 1)
    return tuple(int(descending[min(2**k, len(lengths)) - 1]) for k in powers) if len(lengths) else ()


def take_rows(csr: DeviceCSR, users: jax.Array, *, recency: Recency | None = None, mesh: Mesh | None = None) -> Rows:
    """Cut the histories of ``users [B]`` (int32; -1 gives an empty row) out of the CSR; call it inside jit."""
    if mesh is not None:
        users = jax.lax.with_sharding_constraint(users, NamedSharding(mesh, P("users")))
    start = csr.indptr.at[users].get(mode="clip")
    lengths = jnp.where(users >= 0, csr.indptr.at[users + 1].get(mode="clip") - start, 0)
    position = jnp.arange(csr.max_length, dtype=jnp.int32)[None, :]
    present = position < lengths[:, None]  # [B, L]
    place = start[:, None] + position
    items = jnp.where(present, csr.indices.at[place].get(mode="clip"), csr.n_items)
    days = None if csr.days is None else csr.days.at[place].get(mode="clip")
    logged = None if csr.weights is None else csr.weights.at[place].get(mode="clip")
    rows = make_rows(items, lengths, users, n_items=csr.n_items, days=days, logged=logged, recency=recency, mesh=mesh)
    return rows.replace(counts=csr.counts)


def make_rows(
    items: jax.Array,
    lengths: jax.Array,
    users: jax.Array | None = None,
    *,
    n_items: int,
    days: jax.Array | None = None,
    logged: jax.Array | None = None,
    recency: Recency | None = None,
    mesh: Mesh | None = None,
) -> Rows:
    """Rows from padded histories, for example of people never seen in training.

    Args:
      items: ``[B, L]`` int32 item ids, oldest first; entries beyond a row's length are ignored.
      lengths: ``[B]`` int32.
      users: ``[B]`` int32 or None (nobody known).
      n_items: I.
      days: ``[B, L]`` float32 times in days, for kernels of elapsed time.
      logged: ``[B, L]`` float32 weights by the log, which recency multiplies; None weighs all 1.
      recency: how an interaction's weight depends on its age; None weighs all 1.
      mesh: the devices the rows are spread over.
    """
    present = jnp.arange(items.shape[1])[None, :] < lengths[:, None]
    weights = present.astype(jnp.float32)
    if recency is not None:
        weights = jnp.where(present, recency.weights(lengths, items.shape[1], days), 0.0)
    if logged is not None:
        weights = jnp.where(present, weights * logged, 0.0)
    return Rows(
        items=jnp.where(present, items, n_items),
        weights=weights,
        lengths=lengths,
        users=jnp.full(lengths.shape, -1, jnp.int32) if users is None else users,
        n_items=n_items,
        mesh=mesh,
        days=days,
        logged=logged,
    )


def _by_shard(function: Callable[..., jax.Array], rows: Rows, *matrices: jax.Array, out: P) -> jax.Array:
    """Apply ``function(items, weights, lengths, *matrices, axis, first_item, width)`` on every shard of the mesh."""
    arrays = (rows.items, rows.weights, rows.lengths)
    mesh, n_items = rows.mesh, rows.n_items
    if mesh is None or mesh.size == 1:
        return function(*arrays, *matrices, axis=None, first_item=0, width=n_items)
    shards = mesh.shape["items"]
    width = -(-n_items // shards)

    def local(*arrays: jax.Array) -> jax.Array:
        first_item = jax.lax.axis_index("items") * width
        return function(*arrays, axis="items", first_item=first_item, width=width)

    padding = [(0, shards * width - n_items), (0, 0)]
    matrices = tuple(jnp.pad(matrix, padding) if shards * width > n_items else matrix for matrix in matrices)
    specs = (P("users"),) * len(arrays) + (P("items"),) * len(matrices)
    result = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)(*arrays, *matrices)
    return result[:, :n_items] if result.shape[1] == shards * width and len(out) > 1 else result


def _scatter(
    items: jax.Array,
    weights: jax.Array,
    lengths: jax.Array,
    *,
    axis: str | None,
    first_item: int | jax.Array,
    width: int,
) -> jax.Array:
    """Dense ``[B, width]`` of the items ``first_item … first_item + width - 1``."""
    del lengths, axis
    column = items - first_item
    column = jnp.where((column >= 0) & (column < width), column, width)  # padding, other shards: dropped
    row = jnp.arange(items.shape[0])[:, None]
    return jnp.zeros((items.shape[0], width), weights.dtype).at[row, column].set(weights, mode="drop")


def _gather_product(
    items: jax.Array,
    weights: jax.Array,
    lengths: jax.Array,
    matrix: jax.Array,
    *,
    axis: str | None,
    first_item: int | jax.Array,
    width: int,
) -> jax.Array:
    """``dense @ matrix`` as a sum of gathered rows, one position of all histories at a time."""
    column = items - first_item
    weights = jnp.where((column >= 0) & (column < width), weights, 0.0)

    def body(j: jax.Array, out: jax.Array) -> jax.Array:
        item = jax.lax.dynamic_index_in_dim(column, j, axis=1, keepdims=False)
        weight = jax.lax.dynamic_index_in_dim(weights, j, axis=1, keepdims=True)
        added: jax.Array = out + weight * matrix.at[item].get(mode="clip")
        return added

    zeros = jnp.zeros((items.shape[0], matrix.shape[1]), matrix.dtype)
    out = jax.lax.fori_loop(0, jnp.max(lengths, initial=0), body, zeros)
    product: jax.Array = out if axis is None else jax.lax.psum(out, axis)
    return product
