"""What the official trainer of GRU4Rec computes: losses against other lanes and popular items, and its optimizer.

Of the M states h of a step (``data.lanes``), with targets y_1 … y_M and K items drawn in proportion to pop^α behind
them, E the table of items and b their biases::

    R_ij  = h_i · E[y_j] + b[y_j],    j = 1 … M + K                                        (1)
    xe    = -log softmax_j(R_ij - q · log P_j)[i],    P = (pop[y_1 … y_M], pop^α of those drawn)   (2)
    bpr   = -log Σ_j s_j σ(R'_ii - R'_ij) + λ Σ_j s_j R'_ij²,    s = softmax_{j ≠ i}(R'_ij)  (3)
    R'    = R, or ELU_e(R) for e > 0

and of a gradient g, for each parameter, and for each row of a table that the step has touched::

    a ← a + g²,    v ← m · v - lr · g / √(a + 1e-6),    p ← p + v                          (4)

An item that is drawn and somebody's target counts as a negative all the same, as do equal targets of two lanes.

Source: Hidasi & Karatzoglou, *Recurrent Neural Networks with Top-k Gains* (CIKM 2018, Eq. 3 is their BPR-max), and the
official implementation, which adds q. Ours: rows of a table are touched where their gradient is not 0.
Letters: M lanes, K drawn items, T columns, I items, D width.
"""

import dataclasses
from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.lanes import columns
from diffrec_jax.data.rows import Rows

LOSSES = ("softmax", "bpr_max")  # Eq. 2 and 3
EPSILON = 1e-6  # of Eq. 4


def probabilities(counts: jax.Array, alpha: float) -> jax.Array:
    """The probability with which each item is drawn, ``[I]``: in proportion to ``counts ** alpha``."""
    powers = counts**alpha
    return powers / jnp.sum(powers)


def draw(key: jax.Array, counts: jax.Array, *, alpha: float, number: int) -> jax.Array:
    """``[number]`` int32 items, with replacement; one that was never counted is not drawn."""
    ends = jnp.cumsum(jnp.where(counts > 0, probabilities(counts, alpha), 0.0))
    found = jnp.searchsorted(ends, ends[-1] * jax.random.uniform(key, (number,)), side="right")
    return jnp.minimum(found, jnp.max(jnp.where(counts > 0, jnp.arange(counts.shape[0]), 0))).astype(jnp.int32)


def scores(states: jax.Array, vectors: jax.Array, biases: jax.Array) -> jax.Array:
    """R of Eq. 1, ``[M, M + K]``, of ``states [M, D]``, and vectors and biases of the items that are asked for."""
    precise = jnp.promote_types(states.dtype, jnp.float32)
    found: jax.Array = jnp.matmul(states, vectors.T, preferred_element_type=precise)
    return found + biases[None, :].astype(precise)


def cross_entropy(r: jax.Array, log_p: jax.Array, *, logq: float, there: jax.Array | None = None) -> jax.Array:
    """Eq. 2 of each lane, ``[M]``.

    Args:
      r: R, ``[M, M + K]``.
      log_p: ``[M + K]`` log P.
      logq: q.
      there: ``[M + K]`` bool, which columns count; None: all. A lane that does not has no loss.
    """
    there = jnp.ones(log_p.shape, bool) if there is None else there
    r = jnp.where(there[None, :], r - logq * log_p[None, :].astype(r.dtype), -jnp.inf)
    lanes = there[: r.shape[0]]
    own = jnp.where(lanes, jnp.diagonal(r), 0.0)
    total = jax.nn.logsumexp(jnp.where(lanes[:, None], r, 0.0), axis=1)
    return jnp.where(lanes, total - own, 0.0)


def bpr_max(r: jax.Array, *, elu_param: float, bpreg: float, there: jax.Array | None = None) -> jax.Array:
    """Eq. 3 of each lane, ``[M]``; ``elu_param`` is e (0: none) and ``bpreg`` λ. See ``cross_entropy``."""
    there = jnp.ones(r.shape[1], bool) if there is None else there
    r = jax.nn.elu(r, alpha=elu_param) if elu_param > 0.0 else r
    lanes, own = there[: r.shape[0]], jnp.diagonal(r)
    others = there[None, :] & ~jnp.eye(r.shape[0], r.shape[1], dtype=bool)
    s = jnp.where(others, jax.nn.softmax(jnp.where(others, r, -1e30), axis=1), 0.0)
    better = jnp.sum(s * jax.nn.sigmoid(own[:, None] - r), axis=1)
    losses = -jnp.log(better + 1e-24) + bpreg * jnp.sum(s * jnp.square(r), axis=1)
    return jnp.where(lanes & jnp.any(others, axis=1), losses, 0.0)


@dataclasses.dataclass(frozen=True)
class InLanes:
    """Eq. 1 to 3 for all columns of a batch of windows.

    Attributes:
      name: one of ``LOSSES``.
      lanes: M.
      drawn: K, drawn once for all columns.
      alpha, logq, elu_param, bpreg: α, q, e and λ.
    """

    name: str
    lanes: int
    drawn: int
    alpha: float
    logq: float
    elu_param: float
    bpreg: float

    def mean(
        self,
        f: jax.Array,
        table: jax.Array,
        bias: jax.Array,
        items: jax.Array,
        weights: jax.Array,
        rows: Rows,
        *,
        key: jax.Array,
    ) -> jax.Array:
        """The mean over positions; see ``next_item.NextItem.mean``. Columns are met one at a time.

        Raises:
          ValueError: for rows that do not say how often items occur.
        """
        if rows.counts is None:
            raise ValueError(
                "session_parallel draws items as often as they occur, which these rows do not say: cut them out of the "
                "training interactions by data.rows.take_rows"
            )
        place = columns(weights > 0, self.lanes)
        there = place < weights.size
        states = f.reshape(weights.size, -1).at[place].get(mode="fill", fill_value=0)
        targets = items[:, 1:].reshape(-1).at[place].get(mode="fill", fill_value=0)
        drawn = draw(key, rows.counts, alpha=self.alpha, number=self.drawn)
        log_pop = jnp.log(jnp.maximum(rows.counts, 1.0))
        others, their_bias, their_p = table[drawn], bias[drawn], self.alpha * log_pop[drawn]

        def losses(there: jax.Array, states: jax.Array, own: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            vectors, biases, log_p = (
                jnp.concatenate(both) for both in zip(own, (others, their_bias, their_p), strict=True)
            )
            every = jnp.concatenate([there, jnp.ones(self.drawn, bool)])
            r = scores(states, vectors, biases)
            if self.name == "softmax":
                return jnp.sum(cross_entropy(r, log_p, logq=self.logq, there=every))
            return jnp.sum(bpr_max(r, elu_param=self.elu_param, bpreg=self.bpreg, there=every))

        @jax.checkpoint
        def column(total: jax.Array, now: tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]) -> tuple[jax.Array, None]:
            found = jax.lax.cond(jnp.any(now[0]), losses, lambda *_: jnp.zeros_like(total), *now)
            return total + found, None

        zero = jnp.zeros((), jnp.promote_types(f.dtype, jnp.float32))
        own = table[targets], bias[targets], log_pop[targets]
        total: jax.Array = jax.lax.scan(column, zero, (there, states, own))[0]
        return total / jnp.maximum(jnp.sum(weights), 1.0)


class AdagradState(NamedTuple):
    """What Eq. 4 remembers; ``mu`` is v."""

    squares: optax.Updates
    mu: optax.Updates


def row_adagrad(lr: float, *, momentum: float, tables: Collection[str]) -> optax.GradientTransformation:
    """Eq. 4: Adagrad with momentum that leaves alone what a step does not touch.

    Args:
      lr: the learning rate.
      momentum: m.
      tables: the names of parameters with an item in each row. A row whose gradient is 0 stays as it is, and its
        momentum waits.
    """

    def init(params: optax.Params) -> AdagradState:
        return AdagradState(*(jax.tree.map(jnp.zeros_like, params) for _ in range(2)))

    def update(
        gradient: optax.Updates, state: AdagradState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AdagradState]:
        del params
        squares = jax.tree.map(lambda a, g: a + jnp.square(g), state.squares, gradient)
        steps = jax.tree.map(lambda v, g, a: momentum * v - lr * g / jnp.sqrt(a + EPSILON), state.mu, gradient, squares)

        def where_touched(path: tuple[object, ...], step: jax.Array, g: jax.Array, other: jax.Array) -> jax.Array:
            if jax.tree_util.keystr(path[-1:], simple=True) not in tables:
                return step
            return jnp.where(jnp.any(g != 0, axis=tuple(range(1, g.ndim)), keepdims=True), step, other)

        nothing = jax.tree.map(jnp.zeros_like, gradient)
        updates, mu = (
            jax.tree_util.tree_map_with_path(where_touched, steps, gradient, other) for other in (nothing, state.mu)
        )
        return updates, AdagradState(squares, mu)

    return optax.GradientTransformation(init, update)
