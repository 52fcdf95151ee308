"""The hyper-parameters that DiffRec and L-DiffRec share: what is diffused how, and what rows are asked for."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import jax

from diffrec_jax.data.forecast import check_forecast
from diffrec_jax.data.recency import Recency
from diffrec_jax.diffusion import importance
from diffrec_jax.diffusion.importance import LossHistory
from diffrec_jax.diffusion.process import MeanType
from diffrec_jax.diffusion.schedule import DIFFUSION_SPACE, Schedule, make_schedule
from diffrec_jax.models.contract import Model
from diffrec_jax.space import Choice, Range, Real


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionSettings(Model):
    """Fields of both models; a model gives those its own value that it wants otherwise.

    Attributes:
      emb_size: width of the step embedding.
      norm: L2-normalise the denoiser's input.
      dropout: rate on the denoiser's input while training.
      steps: T.
      noise_schedule, noise_scale, noise_min, noise_max, beta_fixed: see ``diffusion.make_schedule``.
      mean_type: the denoiser predicts what was clean (``x0``) or the noise (``eps``).
      reweight: weigh the loss of each step as the evidence bound does.
      sampling_steps: T', how far a row is corrupted before inference.
      sampling_noise: draw from the posterior at inference instead of taking its mean.
      recency: a recency kernel makes it T-DiffRec, or LT-DiffRec.
      fit_weighted: train on the weighted rows, as the paper does; False weighs only the histories that are scored.
      forecast: train on pasts to predict futures of this half-life, in interactions; 0 reconstructs rows, as the paper.
    """

    emb_size: int = 10
    norm: bool = False
    dropout: float = 0.5
    steps: int = 40
    noise_schedule: str = "linear-var"
    noise_scale: float = 0.005
    noise_min: float = 0.005
    noise_max: float = 0.01
    beta_fixed: bool = True
    mean_type: MeanType = "x0"
    reweight: bool = True
    sampling_steps: int = 0
    sampling_noise: bool = False
    recency: Recency | None = None
    fit_weighted: bool = True
    forecast: float = 0.0

    SHARED_SPACE: ClassVar[Mapping[str, Range]] = {
        "dropout": Real(0.1, 0.8),
        **DIFFUSION_SPACE,
        "fit_weighted": Choice((False, True)),
        "forecast": Choice((0.0, 3.0, 10.0, 30.0)),
    }

    def __post_init__(self) -> None:
        schedule = self.schedule  # refuses what makes no schedule
        if self.emb_size < 1:
            raise ValueError(f"emb_size={self.emb_size} must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} must lie in [0, 1)")
        if self.mean_type not in ("x0", "eps"):
            raise ValueError(f"mean_type={self.mean_type!r} is unknown: choose x0 or eps")
        if self.mean_type == "eps" and not schedule.has_noise:
            raise ValueError("mean_type=eps predicts the noise, and noise_scale=0 leaves none: use mean_type=x0")
        if self.mean_type == "eps" and schedule.alphas_cumprod[-1] <= 0.0:
            raise ValueError("mean_type=eps cannot restore a row from pure noise: lower noise_scale or noise_max")
        if not 0 <= self.sampling_steps <= self.steps:
            raise ValueError(f"sampling_steps={self.sampling_steps} must lie between 0 and steps={self.steps}")
        check_forecast(self.forecast, self.recency)

    def init_memory(self) -> LossHistory:
        """The last losses of each diffusion step, none yet."""
        return LossHistory.create(self.steps)

    def watched(self, memory: LossHistory) -> Mapping[str, jax.Array]:
        """``importance``: how likely each diffusion step is drawn, ``[T]``."""
        return {"importance": importance.probabilities(memory)}

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The diffusion tables."""
        return make_schedule(
            self.noise_schedule,
            steps=self.steps,
            noise_scale=self.noise_scale,
            noise_min=self.noise_min,
            noise_max=self.noise_max,
            beta_fixed=self.beta_fixed,
        )
