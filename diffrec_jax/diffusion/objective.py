"""The training objective: a weighted squared error per example.

    L_t = w_t · mean_i (target_i - output_i)²                                              (1)
    x0:   w_t = SNR(t-1) - SNR(t),  SNR = alphabar / (1 - alphabar),  w_0 = 1              (2)
    eps:  w_t = (1 - alphabar_t) / ((1 - alphabar_{t-1})² (1 - beta_t)),  w_0 = 1          (3)
          where at t = 0 the error is mean_i (x_0 - x̂_0)² / 2 instead

Source: the DiffRec paper (arXiv 2304.04971, Eq. 8-12). As in the authors' code, the factor ½ of Eq. 2 is left out.
``reweight=False`` means weight 1 and the plain error of Eq. 1 at every t, for eps at t = 0 too.

The weights are tables made in float64: differences of SNR taken in float32 are off by 7 % on the schedule for ML-1M.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.diffusion.process import Denoise, MeanType, predict_x0, q_sample
from diffrec_jax.diffusion.schedule import Schedule


class Denoised(NamedTuple):
    """What one denoising of a batch gives."""

    loss: jax.Array  # [B] weighted loss per example
    x0: jax.Array  # [B, I] predicted x_0


def loss_weights(schedule: Schedule, *, mean_type: MeanType, reweight: bool) -> np.ndarray:
    """The weights w ``[T]`` of Eq. 2 or 3, float64; ones where ``reweight`` is off or the schedule adds no noise."""
    weights = np.ones(schedule.steps)
    if not reweight or not schedule.has_noise:
        return weights
    alphabar, before = schedule.alphas_cumprod[1:], schedule.alphas_cumprod_prev[1:]
    if mean_type == "x0":
        weights[1:] = before / (1.0 - before) - alphabar / (1.0 - alphabar)
    else:
        weights[1:] = (1.0 - alphabar) / ((1.0 - before) ** 2 * (1.0 - schedule.betas[1:]))
    return weights


def denoising_loss(
    schedule: Schedule,
    denoise: Denoise,
    x0: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    *,
    mean_type: MeanType = "x0",
    reweight: bool = True,
    target: jax.Array | None = None,
    w0: float = 1.0,
) -> Denoised:
    """Corrupt ``x0 [B, I]`` to step ``t [B]`` with ``noise [B, I]``, denoise it, and weigh the error (Eq. 1-3).

    ``target [B, I]`` is what a predicted x_0 is compared with, where that is not ``x0`` itself; ``w0`` is the weight of
    the error where the target is zero.

    Returns:
      The loss of each example, not divided by the probability with which its t was drawn, and the predicted rows.
    """
    x_t = q_sample(schedule, x0, t, noise) if schedule.has_noise else x0
    output = denoise(x_t, t)
    x0_hat = predict_x0(schedule, output, x_t, t, mean_type=mean_type)
    wanted = x0 if target is None else target
    error = _mean_square(output, wanted if mean_type == "x0" else noise, None if w0 == 1.0 else (w0, wanted))
    if mean_type == "eps" and reweight:
        error = jnp.where(t == 0, _mean_square(x0, x0_hat) / 2.0, error)
    weights = jnp.asarray(loss_weights(schedule, mean_type=mean_type, reweight=reweight), error.dtype)
    return Denoised(loss=weights.at[t].get(mode="clip") * error, x0=x0_hat)


def _mean_square(a: jax.Array, b: jax.Array, weighed: tuple[float, jax.Array] | None = None) -> jax.Array:
    """``mean (a - b)² [B]``, in float32 at least: the loss and its history stay precise where the network is not.

    ``weighed`` is a weight, and where it holds: where the array is zero.
    """
    precise = jnp.promote_types(a.dtype, jnp.float32)
    squares = jnp.square(a.astype(precise) - b.astype(precise))
    if weighed is not None:
        squares = jnp.where(weighed[1] == 0, weighed[0] * squares, squares)
    return jnp.mean(squares, axis=-1)
