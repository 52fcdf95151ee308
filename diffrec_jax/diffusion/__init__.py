"""The mathematics of diffusion on arrays; it knows nothing of users or items."""

from diffrec_jax.diffusion.importance import LossHistory
from diffrec_jax.diffusion.objective import Denoised, denoising_loss, loss_weights
from diffrec_jax.diffusion.process import corrupt, posterior_mean, predict_x0, q_sample, reverse
from diffrec_jax.diffusion.schedule import NOISE_SCHEDULES, SCALED_SCHEDULES, Schedule, make_schedule, scaled_schedule

__all__ = [
    "NOISE_SCHEDULES",
    "SCALED_SCHEDULES",
    "Denoised",
    "LossHistory",
    "Schedule",
    "corrupt",
    "denoising_loss",
    "loss_weights",
    "make_schedule",
    "posterior_mean",
    "predict_x0",
    "q_sample",
    "reverse",
    "scaled_schedule",
]
