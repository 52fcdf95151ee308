"""Losses over the items of a catalogue, one target at each position: full, sampled, and binary.

With v a vector, E the table of items, b their biases, and s_i = v · E_i + b_i::

    softmax   L = log Σ_i exp s_i - s_y                                                    (1)
    sampled   L = log (exp s_y + Σ_j exp (s_j - log(K q_j))) - s_y,  j ≠ y drawn from q    (2)
    gBCE      L = [β · softplus(-s_y) + Σ_j softplus(s_j)] / (K + 1)                       (3)
              α = K / (I - 1),   β = α · (t · (1 - 1/α) + 1/α)

Eq. 1 never holds more than a block of positions by a chunk of items: the sum runs online over chunks, and the gradient
is made in the same walk over the blocks, so that a step costs three products with the table where one chunk holds the
catalogue, and four where it does not. Positions that weigh nothing cost nothing. On a mesh every device has its
positions and its items, and only sums cross.

Source: Eq. 2 is Bengio & Senécal (2008), the correction on negatives only; Eq. 3 Petrov & Macdonald, *gSASRec* (RecSys
2023, Section 5), which states it as a transform of the logits.
Letters: P positions, D width, I items, K negatives.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as Spec

from diffrec_jax.models.item_chunks import CHUNK, Items, dot, precise

BLOCK = 512  # positions
MOST_LOGITS = 2**23  # of one block; few items allow larger blocks, many positions at a time read the table less often


def softmax_cross_entropy(
    vectors: jax.Array,
    table: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    chunk: int = CHUNK,
    *,
    mesh: Mesh | None = None,
) -> jax.Array:
    """The weighted sum of Eq. 1 over positions, in bounded memory.

    Args:
      vectors: ``[P, D]``.
      table: ``[I, D]``.
      bias: ``[I]``, or None for none.
      targets: ``[P]`` item ids; those of positions that weigh nothing mean nothing.
      weights: ``[P]``, not negative; they have no gradient.
      chunk: items at a time.
      mesh: the devices, where positions are spread over ``users`` and the table over ``items``.

    Returns:
      A number: float32, or float64 of float64 vectors.
    """
    if chunk < 1:
        raise ValueError(f"chunk={chunk} items at a time must be at least 1: {CHUNK}, say")
    dtype = precise(vectors)
    bias = jnp.zeros(table.shape[0], dtype) if bias is None else bias
    real = weights > 0
    targets = jnp.where(real, targets, 0)
    return _cross_entropy(vectors, table, bias, targets, weights.astype(dtype), chunk, mesh)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _cross_entropy(
    vectors: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    chunk: int,
    mesh: Mesh | None,
) -> jax.Array:
    return _by_shard(vectors, table, bias, targets, weights, chunk, mesh, gradients=False)[0]


def _forward(*args: Any) -> tuple[jax.Array, Any]:
    loss, *gradients = _by_shard(*args, gradients=True)
    return loss, (gradients, args[:3])


def _backward(chunk: int, mesh: Mesh | None, kept: Any, cotangent: jax.Array) -> tuple[Any, ...]:
    gradients, of = kept
    return (*((cotangent * g).astype(a.dtype) for g, a in zip(gradients, of)), None, None)


_cross_entropy.defvjp(_forward, _backward)


def _by_shard(
    vectors: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    chunk: int,
    mesh: Mesh | None,
    *,
    gradients: bool,
) -> tuple[jax.Array, ...]:
    """``_walk`` on every device of the mesh: the loss, and the gradients of vectors, table and bias if asked."""
    if mesh is None or mesh.size == 1:
        loss, found = _walk(vectors, table, bias, targets, weights, chunk, None, 0, gradients)
        return (loss, *found)
    (n_positions, n_items), shards = (vectors.shape[0], table.shape[0]), mesh.shape["items"]
    width, missing = -(-n_items // shards), -n_positions % mesh.shape["users"]
    table, bias = (
        jnp.pad(table, ((0, shards * width - n_items), (0, 0))),
        jnp.pad(bias, (0, shards * width - n_items), constant_values=-jnp.inf),
    )
    vectors = jnp.pad(vectors, ((0, missing), (0, 0)))
    targets, weights = (jnp.pad(array, (0, missing)) for array in (targets, weights))

    def local(v: jax.Array, e: jax.Array, b: jax.Array, y: jax.Array, w: jax.Array) -> tuple[jax.Array, ...]:
        first_item = jax.lax.axis_index("items") * width
        loss, found = _walk(v, e, b, y, w, chunk, "items", first_item, gradients)
        loss = jax.lax.psum(loss, "users")
        if not gradients:
            return (loss,)
        of_vectors, of_table, of_bias = found
        return loss, jax.lax.psum(of_vectors, "items"), *(jax.lax.psum(g, "users") for g in (of_table, of_bias))

    out = (Spec(), Spec("users"), Spec("items"), Spec("items")) if gradients else (Spec(),)
    into = (Spec("users"), Spec("items"), Spec("items"), Spec("users"), Spec("users"))
    found = jax.shard_map(local, mesh=mesh, in_specs=into, out_specs=out, check_vma=False)(
        vectors, table, bias, targets, weights
    )
    if not gradients:
        return tuple(found)
    return found[0], found[1][:n_positions], found[2][:n_items], found[3][:n_items]


def _walk(
    vectors: jax.Array,
    table: jax.Array,
    bias: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    chunk: int,
    axis: str | None,
    first_item: jax.Array | int,
    gradients: bool,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """The loss, and gradients, of the positions that weigh something, a block at a time; ``axis`` splits the items."""
    (n_positions, width), n_items, dtype = vectors.shape, table.shape[0], precise(vectors)
    chunk = min(chunk, n_items)
    block = min(max(BLOCK, 256 * (MOST_LOGITS // chunk // 256)) if chunk > CHUNK // 2 else BLOCK, n_positions)
    order = jnp.argsort(~(weights > 0), stable=True)  # what weighs nothing comes last, and is never met
    n_blocks = -(-jnp.sum(weights > 0) // block)
    order = jnp.pad(order, (0, -n_positions % block), constant_values=n_positions)
    of_items = Items(table, bias, chunk, first_item, axis)

    def body(n: jax.Array, carry: Any) -> Any:
        place = jax.lax.dynamic_slice_in_dim(order, n * block, block)
        v = vectors.at[place].get(mode="fill", fill_value=0)
        target = targets.at[place].get(mode="fill", fill_value=0)
        w = weights.at[place].get(mode="fill", fill_value=0)
        lse, logits = of_items.log_sum_exp(v)
        loss = carry[0] + jnp.sum(w * (lse - of_items.logits_of(v, target)))
        if not gradients:
            return (loss,)
        of_v, of_table, of_bias = of_items.gradients(v, lse, logits, w, carry[2], carry[3])
        of_v, of_table, of_bias = of_items.less_target(v, target, w, of_v, of_table, of_bias)
        return loss, carry[1].at[place].set(of_v, mode="drop"), of_table, of_bias

    zero = jnp.zeros((), dtype)
    start: Any = (zero,)
    if gradients:
        shapes = ((n_positions, width), (n_items, width), (n_items,))
        start = (zero, *(jnp.zeros(shape, dtype) for shape in shapes))
    loss, *found = jax.lax.fori_loop(0, n_blocks, body, start)
    return loss, tuple(found)


def softmax_losses(
    vectors: jax.Array, table: jax.Array, bias: jax.Array | None, targets: jax.Array, chunk: int = CHUNK
) -> jax.Array:
    """Eq. 1 at each position, ``[P]``, for those who want to know it: it has no gradient."""
    vectors, table = jax.lax.stop_gradient((vectors, table))
    bias = jnp.zeros(table.shape[0], precise(vectors)) if bias is None else jax.lax.stop_gradient(bias)
    of_items = Items(table, bias, min(chunk, table.shape[0]), 0, None)
    return of_items.log_sum_exp(vectors)[0] - of_items.logits_of(vectors, targets)


def sampled_softmax(
    vectors: jax.Array,
    table: jax.Array,
    bias: jax.Array | None,
    targets: jax.Array,
    weights: jax.Array,
    negatives: jax.Array,
    log_q: jax.Array,
) -> jax.Array:
    """The weighted sum of Eq. 2 over positions.

    Args:
      vectors, table, bias, targets, weights: see ``softmax_cross_entropy``.
      negatives: ``[K]`` item ids that all positions share; one that is a position's target is none to it.
      log_q: ``[K]`` the logarithm of the probability with which each was drawn.
    """
    check_negatives(negatives.shape[0], table.shape[0])
    dtype = precise(vectors)
    targets = jnp.where(weights > 0, targets, 0)
    logits = dot(vectors, table[negatives].T) - (log_q + math.log(negatives.shape[0])).astype(dtype)[None, :]
    positive = jnp.sum(vectors.astype(dtype) * table[targets].astype(dtype), axis=1)
    if bias is not None:
        logits, positive = logits + bias[negatives][None, :], positive + bias[targets]
    logits = jnp.where(negatives[None, :] == targets[:, None], -jnp.inf, logits)
    everything = jnp.concatenate([positive[:, None], logits], axis=1)
    return jnp.sum(jnp.where(weights > 0, weights * (jax.nn.logsumexp(everything, axis=1) - positive), 0.0))


def gbce(positive: jax.Array, negative: jax.Array, *, n_items: int, t: float) -> jax.Array:
    """Eq. 3 at each position, of the scores of its target and of its negatives.

    Args:
      positive: ``[...]``.
      negative: ``[..., K]``.
      n_items: I.
      t: how far it is corrected for the sampling: 0 is binary cross entropy, 1 calibrated.
    """
    k = negative.shape[-1]
    check_negatives(k, n_items)
    total = gbce_beta(k, n_items, t) * jax.nn.softplus(-positive) + jnp.sum(jax.nn.softplus(negative), axis=-1)
    return total / (k + 1)


def gbce_beta(negatives: int, n_items: int, t: float) -> float:
    """β of Eq. 3."""
    alpha = negatives / max(n_items - 1, 1)
    return alpha * (t * (1.0 - 1.0 / alpha) + 1.0 / alpha)


def check_negatives(negatives: int, n_items: int) -> None:
    """Refuse none, and more than there are items."""
    if not 1 <= negatives <= n_items:
        raise ValueError(
            f"negatives={negatives} must lie between 1 and the {n_items:,} items of the catalogue: choose fewer, or "
            "loss=softmax, which needs none"
        )
