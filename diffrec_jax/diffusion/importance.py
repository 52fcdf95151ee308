"""Importance sampling of diffusion steps, with its memory as explicit state.

The last ten weighted losses of every step are kept. Until every step has ten, steps are drawn uniformly; afterwards

    p_t ∝ √(mean of the squared losses of t),   then   p ← 0.999 · p + 0.001 / T           (1)
    batch loss = mean(L_t / (p_t · T))                                                     (2)

Source: the DiffRec paper (arXiv 2304.04971, Eq. 13), after Improved DDPM (Nichol & Dhariwal, 2021, Eq. 18).
"""

import jax
import jax.numpy as jnp
from flax import struct

HISTORY_LENGTH = 10
UNIFORM_SHARE = 0.001


class LossHistory(struct.PyTreeNode):
    """The last losses of each step, oldest first; part of the training state."""

    history: jax.Array  # [T, 10] float, zeros beyond count
    count: jax.Array  # [T] int32, how many entries of a row are filled

    @classmethod
    def create(cls, steps: int) -> "LossHistory":
        """An empty history for T = ``steps``."""
        return cls(history=jnp.zeros((steps, HISTORY_LENGTH)), count=jnp.zeros(steps, jnp.int32))

    @property
    def steps(self) -> int:
        """T."""
        return self.count.shape[0]


def probabilities(state: LossHistory) -> jax.Array:
    """The probability of each step ``[T]`` (Eq. 1); 1/T until every step has ten losses."""
    full = jnp.all(state.count == HISTORY_LENGTH)
    p = jnp.sqrt(jnp.mean(jnp.square(state.history), axis=1))
    total = jnp.sum(p)
    usable = full & (total > 0)  # ten losses of exactly zero everywhere say nothing
    p = jnp.where(usable, p / jnp.where(usable, total, 1.0), 1.0 / state.steps)
    return jnp.where(usable, (1.0 - UNIFORM_SHARE) * p + UNIFORM_SHARE / state.steps, p)


def sample(state: LossHistory, key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
    """Draw a step for each example by ``probabilities``; see ``draw``."""
    return draw(probabilities(state), key, batch)


def draw(p: jax.Array, key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
    """Draw a step for each example by the probabilities ``p [T]``.

    Returns:
      ``t [batch]`` int32, and ``weight [batch] = 1 / (p_t · T)``, by which a loss is multiplied (Eq. 2).
    """
    t = jax.random.categorical(key, jnp.log(p), shape=(batch,)).astype(jnp.int32)
    return t, 1.0 / (p.at[t].get(mode="clip") * p.shape[0])


def record(state: LossHistory, t: jax.Array, losses: jax.Array, valid: jax.Array | None = None) -> LossHistory:
    """Append losses in batch order, pushing out the oldest; no loop over the batch.

    Args:
      state: the history before the batch.
      t: ``[B]`` the step of each example.
      losses: ``[B]`` their weighted losses.
      valid: ``[B]`` bool; examples marked False (padding) write nothing.

    Returns:
      The history after the batch.
    """
    T, slots = state.history.shape
    B = t.shape[0]
    losses = jax.lax.stop_gradient(losses)
    t = t if valid is None else jnp.where(valid, t, T)  # T: out of range, dropped below
    same = t[:, None] == t[None, :]
    earlier = jnp.arange(B)[None, :] < jnp.arange(B)[:, None]
    rank = jnp.sum(same & earlier, axis=1)  # how many examples before this one wrote to the same step
    arrived = jnp.zeros(T, jnp.int32).at[t].add(1, mode="drop")
    pushed_out = jnp.maximum(state.count + arrived - slots, 0)  # [T]

    source = jnp.arange(slots)[None, :] + pushed_out[:, None]
    kept = jnp.take_along_axis(state.history, jnp.minimum(source, slots - 1), axis=1)
    kept = jnp.where(source < state.count[:, None], kept, 0.0)
    slot = state.count.at[t].get(mode="clip") + rank - pushed_out.at[t].get(mode="clip")
    slot = jnp.where(slot < 0, slots, slot)  # pushed out by later examples of the same batch
    return LossHistory(
        history=kept.at[t, slot].set(losses.astype(kept.dtype), mode="drop"),
        count=jnp.minimum(state.count + arrived, slots),
    )
