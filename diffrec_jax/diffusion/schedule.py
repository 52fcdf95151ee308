"""Noise schedules: how much of a row is noise at step t.

With ``beta_t`` the variance added at step t (0-based, t = 0 … T-1)::

    alpha_t    = 1 - beta_t
    alphabar_t = alpha_0 · … · alpha_t,      alphabar_{-1} = 1                             (1)
    q(x_t | x_0)          = N(√alphabar_t · x_0, (1 - alphabar_t) I)                       (2)
    q(x_{t-1} | x_t, x_0) = N(c1_t · x_0 + c2_t · x_t, v_t I)                              (3)
        c1_t = beta_t · √alphabar_{t-1} / (1 - alphabar_t)
        c2_t = (1 - alphabar_{t-1}) · √alpha_t / (1 - alphabar_t)
        v_t  = beta_t · (1 - alphabar_{t-1}) / (1 - alphabar_t)

Schedules that are scaled to T know no other number: with s = 1000 / T, ``[a … b]`` a straight line of betas, and
alphabar a function of (t + 1) / T otherwise, from which beta_t = min(1 - alphabar_t / alphabar_{t-1}, 0.999)::

    linear     [0.0001 s … 0.02 s]
    trunc_lin  [0.0001 s + 0.01 … 0.02 s + 0.01], up to 0.001 s + 0.01 where that exceeds 1 (T of 20 or fewer)
    pw_lin     ten steps [0.0001 s + 0.01 … 0.0001 s], then [0.0001 s … 0.02 s]
    cosine     alphabar(u) = cos²((u + 0.008) / 1.008 · π/2)
    sqrt       alphabar(u) = 1 - √(u + 0.0001)
    trunc_cos  alphabar(u) = cos²((u + 0.1) / 1.1 · π/2), a step late: beta_0 = 1 - alphabar(0)

Source: DDPM (Ho et al., 2020, Eq. 4-7) and the DiffRec paper (arXiv 2304.04971, Eq. 1-6; Eq. 4 is ``linear-var``);
those scaled to T are of *DiffuRec* (Li et al., arXiv 2304.00686, released code).
Every table is computed once in float64 and used in the precision of the arrays it meets.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

NOISE_SCHEDULES = ("linear-var", "linear", "cosine", "binomial")
SCALED_SCHEDULES = ("trunc_lin", "linear", "cosine", "sqrt", "trunc_cos", "pw_lin")
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

    @property
    def large_variance(self) -> np.ndarray:
        """beta, and v_1 in place of the first: a larger variance of the reverse ("fixed large", DDPM Section 3.2)."""
        first = self.posterior_variance[1:2] if self.steps > 1 else self.betas[:1]
        return np.append(first, self.betas[1:])

    def first(self, steps: int) -> "Schedule":
        """The tables of the first ``steps`` steps, which are those of a process that ends there."""
        return Schedule(**{field.name: getattr(self, field.name)[:steps] for field in dataclasses.fields(self)})


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
    return _of_betas(betas)


def scaled_schedule(name: str, *, steps: int) -> Schedule:
    """Build the tables of a schedule that is scaled to T = ``steps``, one of ``SCALED_SCHEDULES``.

    Raises:
      ValueError: for an unknown name, or too few steps for it.
    """
    if name not in SCALED_SCHEDULES:
        raise ValueError(f"noise_schedule={name!r} is unknown: choose one of {', '.join(SCALED_SCHEDULES)}")
    least = {"linear": 20, "pw_lin": 20}.get(name, 1)
    if steps < least:
        raise ValueError(f"steps={steps} is too few for noise_schedule={name}: choose {least} or more")
    return _of_betas(_scaled_betas(name, steps))


def _of_betas(betas: np.ndarray) -> Schedule:
    """Eq. 1 to 3."""
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
        return _betas_of(_cosine(0.008), steps)
    return 1.0 / (steps - np.arange(steps) + 1.0)  # binomial


def _scaled_betas(name: str, steps: int) -> np.ndarray:
    s = 1000.0 / steps
    low, high = 0.0001 * s, 0.02 * s
    if name == "linear":
        return np.linspace(low, high, steps)
    if name == "trunc_lin":
        end = high + 0.01
        return np.linspace(low + 0.01, end if end <= 1.0 else 0.001 * s + 0.01, steps)
    if name == "pw_lin":
        return np.append(np.linspace(low + 0.01, low, 10), np.linspace(low, high, steps - 10))
    if name == "trunc_cos":
        signal = _cosine(0.1)
        return np.append(1.0 - signal(np.zeros(1)), _betas_of(signal, steps)[:-1])
    return _betas_of(_cosine(0.008) if name == "cosine" else lambda u: 1.0 - np.sqrt(u + 0.0001), steps)


def _betas_of(signal: Callable[[np.ndarray], np.ndarray], steps: int) -> np.ndarray:
    """The betas ``[T]`` that make ``signal(u)``, u from 0 to 1, of alphabar."""
    t = np.arange(steps)
    capped: np.ndarray = np.minimum(1.0 - signal((t + 1) / steps) / signal(t / steps), MAX_BETA)
    return capped


def _cosine(offset: float) -> Callable[[np.ndarray], np.ndarray]:
    """cos² from ``offset`` on."""
    return lambda u: np.cos((u + offset) / (1.0 + offset) * np.pi / 2) ** 2


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
