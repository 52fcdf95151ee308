"""The last layer as a running ridge regression, the first by its touched rows: a step that never meets the catalogue.

The last layer under squared error is a linear regression of rows x on hidden vectors h (with a 1 for the bias), and all
items share its normal matrix. Kept as running sums, with forgetting γ per step and c the weight of a row::

    C ← γ·C + Σ c h hᵀ,    A ← γ·A + Σ c x hᵀ,    W = A·K,   K = (C + λ·m)⁻¹,   m ← γ·m + Σ c      (1)

A step needs of W only what its rows touch, and a Gram matrix (``models.gram`` Eq. 1)::

    Σ_i x_i w_i = (Σ_i x_i A_i)·K,      WᵀW = K·(AᵀA)·K,                                           (2)
    AᵀA ← γ²·AᵀA + FᵀH + HᵀF + DᵀD,     F = γ·X·A,   H = c·h,   D = Xᵀ·H                           (3)

so that W itself is made once an epoch (``outputs``). A is stored without its scale s, which is all that γ changes. The
first layer moves on the rows of the batch alone, by Adagrad with one sum of squares for each row.

Sources: Eq. 1 is recursive least squares; with a network before it, variable projection (Newman, Ruthotto, Hart & van
Bloemen Waanders, *Train Like a (Var)Pro*, SIMODS 2021). Row-wise Adagrad is what embedding libraries of industry use.
Eq. 2, 3 and their use in a recommender are ours.
Letters: B rows, I items, H width of the hidden layer next to the items, V = H + 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from diffrec_jax.data.packed import Dropout, PackedRows
from diffrec_jax.data.touched import Slice, Touched

CHUNK = 4096  # items at a time
EPSILON = 1e-8  # of Adagrad


class Ridge(struct.PyTreeNode):
    """The running sums of Eq. 1 to 3, and of Adagrad; ``targets`` and ``squares`` have an entry for every item."""

    targets: jax.Array  # [I, V] A / s
    squares: jax.Array  # [I] sums of the mean squares of gradients, of each row of the first layer
    scale: jax.Array  # [] s
    crossed: jax.Array  # [V, V] AᵀA / s²
    moments: jax.Array  # [V, V] C
    mass: jax.Array  # [] m

    @classmethod
    def create(cls, n_items: int, width: int) -> "Ridge":
        """Before the first batch; ``width`` is H."""
        square = jnp.zeros((width + 1, width + 1))
        return cls(jnp.zeros((n_items, width + 1)), jnp.zeros(n_items), jnp.ones(()), square, square, jnp.zeros(()))

    def inverse(self, l2: float, first: float) -> jax.Array:
        """K, ``[V, V]``, with λ = ``l2`` times m and ``first`` more rows, as many as the first batch has."""
        unit = jnp.eye(self.moments.shape[0], dtype=self.moments.dtype)
        factor = jax.scipy.linalg.cho_factor(self.moments + l2 * (self.mass + first) * unit)
        found: jax.Array = jax.scipy.linalg.cho_solve(factor, unit)
        return found

    def settled(self, outputs: jax.Array, bias: jax.Array, l2: float) -> tuple["Ridge", jax.Array, jax.Array]:
        """W after an epoch, written over ``outputs [H, I]`` and ``bias [I]``, a chunk of items at a time.

        The scale is multiplied into the sums, and AᵀA is made anew, so that rounding does not add up over epochs.
        """
        inverse, n_items = self.inverse(l2, 0.0), self.targets.shape[0]
        chunk = min(CHUNK, n_items)

        def body(n: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            targets, crossed, outputs, bias = carry
            first = n * chunk
            place = jnp.minimum(first, n_items - chunk)  # the last chunk overlaps with the one before
            fresh = (place + jnp.arange(chunk) >= first)[:, None]
            rows = jax.lax.dynamic_slice_in_dim(targets, place, chunk)
            rows = jnp.where(fresh, self.scale * rows, rows)
            new = jnp.where(fresh, rows, 0.0)
            table = rows @ inverse
            return (
                jax.lax.dynamic_update_slice_in_dim(targets, rows, place, 0),
                crossed + new.T @ new,
                jax.lax.dynamic_update_slice_in_dim(outputs, table[:, :-1].T.astype(outputs.dtype), place, 1),
                jax.lax.dynamic_update_slice_in_dim(bias, table[:, -1].astype(bias.dtype), place, 0),
            )

        start = (self.targets, jnp.zeros_like(self.crossed), outputs, bias)
        targets, crossed, outputs, bias = jax.lax.fori_loop(0, -(-n_items // chunk), body, start)
        return self.replace(targets=targets, scale=jnp.ones(()), crossed=crossed), outputs, bias


def regress(
    ridge: Ridge, rows: PackedRows, products: jax.Array, vectors: jax.Array, weights: jax.Array, *, decay: float
) -> Ridge:
    """Eq. 1 and 3 for one batch.

    Args:
      ridge: the sums before it.
      rows: x.
      products: ``walks.product(rows, ridge.targets)``, ``[B, V]``.
      vectors: h, ``[B, V]``.
      weights: c, ``[B]``.
      decay: γ.
    """
    weighed = weights[:, None] * vectors
    scale = decay * ridge.scale
    added = weighed / scale  # as A is stored without its scale
    crossing = products.T @ added
    # what a walk over A begins with depends on what was read of A, without which XLA would copy A before it is written
    crossed = ridge.crossed + crossing + crossing.T

    def update(
        local: Touched, tables: tuple[jax.Array, ...], added: jax.Array, start: jax.Array
    ) -> tuple[Any, jax.Array]:
        def body(now: Slice, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            targets, square = carry
            changes = now.sums(added)
            return targets.at[now.items].add(changes, mode="drop", unique_indices=True), square + changes.T @ changes

        targets, square = local.walk(body, (tables[0], start), n_items=tables[0].shape[0])
        return (targets,), square

    (targets,), crossed = _over_items(rows, None, update, (ridge.targets,), added, crossed)
    return ridge.replace(
        targets=targets,
        scale=scale,
        crossed=crossed,
        moments=decay * ridge.moments + weighed.T @ vectors,
        mass=decay * ridge.mass + jnp.sum(weights),
    )


def adagrad_rows(
    table: jax.Array, squares: jax.Array, rows: PackedRows, slopes: jax.Array, *, lr: float, dropout: Dropout | None
) -> tuple[jax.Array, jax.Array]:
    """One step of row-wise Adagrad on the rows of ``table [I, H]`` that a batch touches.

    Args:
      table: the first layer.
      squares: ``[I]``, its sums of mean squares.
      rows: what was multiplied with it.
      slopes: the gradient towards ``walks.product(rows, table, dropout=dropout)``, ``[B, H]``.
      lr: the learning rate.
      dropout: of the rows.
    """

    def update(
        local: Touched, tables: tuple[jax.Array, ...], slopes: jax.Array, start: jax.Array
    ) -> tuple[Any, jax.Array]:
        def body(now: Slice, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            table, squares = carry
            gradient = now.sums(slopes)
            total = squares.at[now.items].get(mode="fill", fill_value=0) + jnp.mean(jnp.square(gradient), axis=1)
            step = -lr * gradient / (jnp.sqrt(total)[:, None] + EPSILON)
            table = table.at[now.items].add(step, mode="drop", unique_indices=True)
            return table, squares.at[now.items].set(total, mode="drop", unique_indices=True)

        return local.walk(body, (tables[0], tables[1]), n_items=tables[0].shape[0]), start

    (table, squares), _ = _over_items(rows, dropout, update, (table, squares), slopes, jnp.zeros(()))
    return table, squares


def _over_items(
    rows: PackedRows,
    dropout: Dropout | None,
    update: Callable[[Touched, tuple[jax.Array, ...], jax.Array, jax.Array], tuple[Any, jax.Array]],
    tables: tuple[jax.Array, ...],
    values: jax.Array,
    start: jax.Array,
) -> tuple[Any, jax.Array]:
    """``update(events, tables, values, start)`` on every device, with its items and all rows; what is added to
    ``start``, the second result, is summed.
    """
    mesh: Mesh | None = rows.mesh
    if mesh is None or mesh.size == 1:
        return update(Touched.of(rows, dropout=dropout), tables, values, start)

    def local(
        rows: PackedRows, dropout: Any, values: jax.Array, start: jax.Array, *tables: jax.Array
    ) -> tuple[Any, jax.Array]:
        first_item = jax.lax.axis_index("items") * tables[0].shape[0]
        events = Touched.of(rows, dropout=dropout, first_item=first_item)
        found, total = update(events, tables, values, start / mesh.shape["items"])
        return found, jax.lax.psum(total, "items")

    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(P(), P(), P(), P(), *(P("items") for _ in tables)),
        out_specs=(tuple(P("items") for _ in tables), P()),
        check_vma=False,
    )(rows, dropout, values, start, *tables)
