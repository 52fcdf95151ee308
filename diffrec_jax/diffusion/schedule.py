"""Noise schedules: how much of a row is noise at step t.

With ``beta_t`` the variance added at step t (0-based, t = 0 … T-1)::

    alpha_t    = 1 - beta_t
    alphabar_t = alpha_0 · … · alpha_t,      alphabar_{-1} = 1                             (1)
    q(x_t | x_0)          = N(√alphabar_t · x_0, (1 - alphabar_t) I)                       (2)
    q(x_{t-1} | x_t, x_0) = N(c1_t · x_0 + c2_t · x_t, v_t I)                              (3)
        c1_t = beta_t · √alphabar_{t-1} / (1 - alphabar_t)
        c2_t = (1 - alphabar_{t-1}) · √alpha_t / (1 - alphabar_t)
        v_t  = beta_t · (1 - alphabar_{t-1}) / (1 - alphabar_t)

Source: DDPM (Ho et al., 2020, Eq. 4-7) and the DiffRec paper (arXiv 2304.04971, Eq. 1-6; Eq. 4 is ``linear-var``).
Every table is computed once in float64 and used in the precision of the arrays it meets.
"""

import dataclasses

import numpy as np

NOISE_SCHEDULES = ("linear-var", "linear", "cosine", "binomial")
FIXED_FIRST_BETA = 1e-5
MAX_BETA = 0.999


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """The tables of a diffusion process of T steps; each is a float64 NumPy array ``[T]``."""

    betas: np.ndarray
    alphas_cumprod: np.ndarray
    alphas_cumprod_prev: np.ndarray  # alphabar_{t-1}; 1 at t = 0
    posterior_mean_coef1: np.ndarray  # c1, the share of x_0; 1 at t = 0
    posterior_mean_coef2: np.ndarray  # c2, the share of x_t; 0 at t = 0
    posterior_variance: np.ndarray  # v; 0 at t = 0

    @property
    def steps(self) -> int:
        """T."""
        return len(self.betas)

    @property
    def has_noise(self) -> bool:
        """False for a noise scale of 0, where x_t = x_0 at every step."""
        return bool(self.betas.any())

    @property
    def sqrt_alphas_cumprod(self) -> np.ndarray:
        """``√alphabar_t``: the share of x_0 in x_t."""
        kept: np.ndarray = np.sqrt(self.alphas_cumprod)
        return kept

    @property
    def sqrt_one_minus_alphas_cumprod(self) -> np.ndarray:
        """``√(1 - alphabar_t)``: the standard deviation of the noise in x_t."""
        return np.sqrt(1.0 - self.alphas_cumprod)


def make_schedule(
    name: str = "linear-var",
    *,
    steps: int,
    noise_scale: float,
    noise_min: float,
    noise_max: float,
    beta_fixed: bool = True,
) -> Schedule:
    """Build the tables of a noise schedule.

    Args:
      name: ``linear-var`` (the variance of x_t grows linearly; the paper's Eq. 4), ``linear`` (beta grows linearly),
        ``cosine`` or ``binomial`` (both ignore ``noise_min`` and ``noise_max``).
      steps: T ≥ 1.
      noise_scale: s in [0, 1]. 0 means no diffusion: x_t = x_0, and the reverse loop is ``x ← f(x, t)``.
      noise_min: the variance (or beta) at t = 0 is ``s · noise_min``.
      noise_max: the variance (or beta) at t = T-1 is ``s · noise_max``.
      beta_fixed: overwrite ``beta_0`` with 1e-5, as DiffRec and T-DiffRec do and L- and LT-DiffRec do not. The paper
        does not mention it; for a tiny scale the fixed value exceeds the scheduled variance.

    Returns:
      The schedule.

    Raises:
      ValueError: for an unknown name, or values that give no valid schedule.
    """
    if name not in NOISE_SCHEDULES:
        raise ValueError(f"noise_schedule={name!r} is unknown: choose one of {', '.join(NOISE_SCHEDULES)}")
    if steps < 1:
        raise ValueError(f"steps={steps} leaves nothing to diffuse: choose steps >= 1")
    if not 0.0 <= noise_scale <= 1.0:
        raise ValueError(f"noise_scale={noise_scale} must lie in [0, 1], where 0 means no diffusion")
    if noise_scale == 0.0:
        return _no_diffusion(steps)
    if name in ("linear", "linear-var") and not noise_min < noise_max:
        raise ValueError(
            f"noise_min={noise_min} must be smaller than noise_max={noise_max} for {name}: raise noise_max"
        )

    betas = _betas(name, steps, noise_scale * noise_min, noise_scale * noise_max)
    if beta_fixed:
        betas[0] = FIXED_FIRST_BETA
    if not np.all((betas > 0.0) & (betas <= 1.0)):
        t = int(np.flatnonzero(~((betas > 0.0) & (betas <= 1.0)))[0])
        raise ValueError(
            f"beta at step {t} is {betas[t]:.6g}, outside (0, 1], for {name} with noise_scale={noise_scale}, "
            f"noise_min={noise_min}, noise_max={noise_max}: keep 0 < noise_min and noise_scale * noise_max <= 1"
        )
    return from_betas(betas)


def from_betas(betas: np.ndarray) -> Schedule:
    """The tables (Eq. 1 to 3) of ``betas [T]`` float64, each in (0, 1]."""
    alphas_cumprod = np.cumprod(1.0 - betas)
    alphas_cumprod_prev = np.append(1.0, alphas_cumprod[:-1])
    return Schedule(
        betas=betas,
        alphas_cumprod=alphas_cumprod,
        alphas_cumprod_prev=alphas_cumprod_prev,
        posterior_mean_coef1=betas * np.sqrt(alphas_cumprod_prev) / (1.0 - alphas_cumprod),
        posterior_mean_coef2=(1.0 - alphas_cumprod_prev) * np.sqrt(1.0 - betas) / (1.0 - alphas_cumprod),
        posterior_variance=betas * (1.0 - alphas_cumprod_prev) / (1.0 - alphas_cumprod),
    )


def _betas(name: str, steps: int, low: float, high: float) -> np.ndarray:
    """The betas ``[T]`` before the first one is fixed."""
    if name == "linear":
        return np.linspace(low, high, steps)
    if name == "linear-var":
        alphas_cumprod = 1.0 - np.linspace(low, high, steps)
        with np.errstate(divide="ignore", invalid="ignore"):
            betas = 1.0 - alphas_cumprod[1:] / alphas_cumprod[:-1]
        return np.append(1.0 - alphas_cumprod[0], np.minimum(betas, MAX_BETA))
    if name == "cosine":

        def signal(u: np.ndarray) -> np.ndarray:
            return np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2

        t = np.arange(steps)
        capped: np.ndarray = np.minimum(1.0 - signal((t + 1) / steps) / signal(t / steps), MAX_BETA)
        return capped
    return 1.0 / (steps - np.arange(steps) + 1.0)  # binomial


def _no_diffusion(steps: int) -> Schedule:
    """The limit of a noise scale of 0: x_t is x_0, and one reverse step returns the prediction itself."""
    zeros, ones = np.zeros(steps), np.ones(steps)
    return Schedule(
        betas=zeros,
        alphas_cumprod=ones,
        alphas_cumprod_prev=ones,
        posterior_mean_coef1=ones,
        posterior_mean_coef2=zeros,
        posterior_variance=zeros,
    )
