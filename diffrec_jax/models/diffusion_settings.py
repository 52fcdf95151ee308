"""The hyper-parameters that DiffRec and L-DiffRec share: what is diffused how, and what rows are asked for."""

import dataclasses
import functools
from collections.abc import Mapping

import jax

from diffrec_jax.data.forecast import check_forecast, future, weighted_fit
from diffrec_jax.data.recency import Recency
from diffrec_jax.diffusion import importance
from diffrec_jax.diffusion.importance import LossHistory
from diffrec_jax.diffusion.process import MeanType
from diffrec_jax.diffusion.schedule import NOISE_SCHEDULES, Schedule, make_schedule
from diffrec_jax.models.contract import Model, Params
from diffrec_jax.options import check, option
from diffrec_jax.ranges import Choice, Real


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionSettings(Model):
    """The options of both models; a model gives those its own value that it wants otherwise (``options.again``).

    A recency kernel makes DiffRec T-DiffRec, and L-DiffRec LT-DiffRec. ``noise_schedule``, ``noise_scale``,
    ``noise_min``, ``noise_max`` and ``beta_fixed`` are those of ``diffusion.make_schedule``.
    """

    steps: int = option(40, "number of diffusion steps T", at_least=1, search=Choice((2, 5, 10, 20, 40, 100)))
    noise_schedule: str = option("linear-var", "how the noise grows with the step", choices=NOISE_SCHEDULES)
    noise_scale: float = option(
        0.005,
        "factor s of all noise; 0 means no diffusion",
        at_least=0.0,
        at_most=1.0,
        hint="0 means no diffusion",
        search=Real(1e-4, 1.0, log=True),
    )
    noise_min: float = option(0.005, "noise of the first step, times s", search=Real(1e-4, 5e-3, log=True))
    noise_max: float = option(0.01, "noise of the last step, times s", search=Real(5e-3, 5e-2, log=True))
    beta_fixed: bool = option(True, "set the noise of the first step to 1e-5")
    mean_type: MeanType = option("x0", "what the network predicts: the clean row (x0) or the noise (eps)")
    reweight: bool = option(True, "weigh the loss of each step as the evidence bound does")
    sampling_steps: int = option(0, "steps T' by which a history is corrupted before inference")
    sampling_noise: bool = option(False, "draw from the posterior at inference instead of taking its mean")
    emb_size: int = option(10, "width of the step embedding", at_least=1)
    norm: bool = option(False, "L2-normalise the network's input")
    dropout: float = option(
        0.5, "dropout rate on the network's input in training", at_least=0.0, below=1.0, search=Real(0.1, 0.8)
    )
    recency: Recency | None = None
    fit_weighted: bool = weighted_fit(True)
    forecast: float = future()

    def __post_init__(self) -> None:
        check(self)
        schedule = self.schedule  # refuses what makes no schedule
        if self.mean_type == "eps" and not schedule.has_noise:
            raise ValueError("mean_type=eps predicts the noise, and noise_scale=0 leaves none: use mean_type=x0")
        if self.mean_type == "eps" and schedule.alphas_cumprod[-1] <= 0.0:
            raise ValueError("mean_type=eps cannot restore a row from pure noise: lower noise_scale or noise_max")
        if not 0 <= self.sampling_steps <= self.steps:
            raise ValueError(f"sampling_steps={self.sampling_steps} must lie between 0 and steps={self.steps}")
        check_forecast(self.forecast, self.recency)

    def init_memory(self, params: Params) -> LossHistory:
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
