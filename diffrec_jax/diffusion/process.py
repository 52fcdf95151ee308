"""Forward and reverse diffusion of rows ``x [B, …]``, as pure functions.

    x_t      = √alphabar_t · x_0 + √(1 - alphabar_t) · ε                                   (1)  forward, q_sample
    μ_t      = c1_t · x_0 + c2_t · x_t                                                     (2)  posterior mean
    x̂_0      = √(1/alphabar_t) · x_t - √(1/alphabar_t - 1) · ε̂                             (3)  from predicted noise
    x_{t-1}  = μ_t(x̂_0(x_t), x_t)  [+ √v_t · z, for t > 0]                                 (4)  one reverse step
             = k1_t · f(x_t, t) + k2_t · x_t                                               (5)  the same, f = network

The coefficients are tables of a ``Schedule``. Inference corrupts a row for T' steps and then runs all T reverse steps
(the paper's Section 3.4; T' = ``sampling_steps``, usually far below T, often 0).
Sources: DDPM (Ho et al., 2020, Eq. 4, 7, 11, 15); the DiffRec paper (arXiv 2304.04971, Eq. 2, 6, 10, Algorithm 2).

Letters: B rows, T steps. Shapes of ``t`` are ``[B]`` or scalar.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.diffusion.schedule import Schedule

MeanType = Literal["x0", "eps"]
Denoise = Callable[[jax.Array, jax.Array], jax.Array]  # (x_t [B, I], t [B]) -> output [B, I]


def q_sample(schedule: Schedule, x0: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """Sample x_t given x_0 and standard normal ``noise`` of its shape (Eq. 1). ``t`` is ``[B]`` or scalar."""
    signal, spread = (
        _at(table, t, x0) for table in (schedule.sqrt_alphas_cumprod, schedule.sqrt_one_minus_alphas_cumprod)
    )
    return (signal * x0 + spread * noise).astype(x0.dtype)


def posterior_mean(schedule: Schedule, x0: jax.Array, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """Mean of ``q(x_{t-1} | x_t, x_0)`` (Eq. 2). At t = 0 it is x_0 itself."""
    return _at(schedule.posterior_mean_coef1, t, x_t) * x0 + _at(schedule.posterior_mean_coef2, t, x_t) * x_t


def predict_x0(
    schedule: Schedule, output: jax.Array, x_t: jax.Array, t: jax.Array, *, mean_type: MeanType
) -> jax.Array:
    """What the network's output says of x_0: the output itself (``x0``), or Eq. 3 (``eps``)."""
    if mean_type == "x0":
        return output
    a, b = _x0_from_eps(schedule)
    return (_at(a, t, x_t) * x_t - _at(b, t, x_t) * output).astype(x_t.dtype)


def reverse_coefficients(schedule: Schedule, mean_type: MeanType) -> tuple[np.ndarray, np.ndarray]:
    """``(k1, k2)`` of Eq. 5, float64 ``[T]`` each: a reverse step is linear in the network's output and in x_t."""
    c1, c2 = schedule.posterior_mean_coef1, schedule.posterior_mean_coef2
    if mean_type == "x0":
        return c1, c2
    a, b = _x0_from_eps(schedule)
    return -c1 * b, c1 * a + c2


def corrupt(schedule: Schedule, x0: jax.Array, noise: jax.Array | None, *, sampling_steps: int) -> jax.Array:
    """Diffuse x_0 for T' = ``sampling_steps`` steps, the start of inference; T' = 0 returns x_0 and needs no noise."""
    if sampling_steps == 0:
        return x0
    if noise is None:
        raise ValueError(f"sampling_steps={sampling_steps} corrupts the row first, which needs noise: pass a key")
    return q_sample(schedule, x0, jnp.asarray(sampling_steps - 1), noise)


def reverse(
    schedule: Schedule,
    denoise: Denoise,
    x_T: jax.Array,
    *,
    mean_type: MeanType = "x0",
    sampling_noise: Callable[[jax.Array], jax.Array] | None = None,
    variance: np.ndarray | None = None,
) -> jax.Array:
    """Run all T reverse steps from ``x_T [B, I]`` to ``x_0 [B, I]`` (Eq. 4), as one ``lax.scan``.

    Args:
      schedule: the tables.
      denoise: ``(x_t [B, I], t [B]) -> [B, I]``, any function of that shape.
      x_T: where to start.
      mean_type: what ``denoise`` predicts.
      sampling_noise: ``t [] -> z`` of the shape of x, standard normal; None runs the mean alone. Not used at t = 0.
      variance: ``[T]`` of that noise; None is v of Eq. 4.

    Returns:
      The reconstructed rows. At t = 0 this is the network's own prediction of x_0.
    """
    k1, k2 = reverse_coefficients(schedule, mean_type)
    variance = schedule.posterior_variance if variance is None else variance
    deviation = np.append(0.0, np.sqrt(variance[1:]))  # no noise is added to the result
    coefficients = jax.tree.map(
        lambda table: jnp.asarray(table[::-1], x_T.dtype), {"k1": k1, "k2": k2, "deviation": deviation}
    )
    ts = jnp.arange(schedule.steps - 1, -1, -1, dtype=jnp.int32)

    def step(x: jax.Array, now: tuple[jax.Array, dict[str, jax.Array]]) -> tuple[jax.Array, None]:
        t, c = now
        x = c["k1"] * denoise(x, jnp.broadcast_to(t, x.shape[:1])) + c["k2"] * x
        if sampling_noise is not None:
            x = x + c["deviation"] * sampling_noise(t)
        return x, None

    x_0, _ = jax.lax.scan(step, x_T, (ts, coefficients))
    return x_0


def _x0_from_eps(schedule: Schedule) -> tuple[np.ndarray, np.ndarray]:
    """``(√(1/alphabar), √(1/alphabar - 1))`` of Eq. 3, float64 ``[T]`` each."""
    return np.sqrt(1.0 / schedule.alphas_cumprod), np.sqrt(1.0 / schedule.alphas_cumprod - 1.0)


def _at(table: np.ndarray, t: jax.Array, like: jax.Array) -> jax.Array:
    """``table[t]`` in the precision of ``like``, at least float32, with trailing axes to multiply it row by row."""
    values = jnp.asarray(table, jnp.promote_types(like.dtype, jnp.float32)).at[t].get(mode="clip")
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim)) if values.ndim else values
