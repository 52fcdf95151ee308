"""Noise schedules written for 1,000 steps and stretched to T: those of DiffuRec.

With s = 1000 / T, and u = t / T::

    linear      β from 1e-4 s to .02 s                                                     (1)
    trunc_lin   β from 1e-4 s + .01 to .02 s + .01, or to 1e-3 s + .01 where that is above 1   (2)
    pw_lin      ten β from 1e-4 s + .01 down to 1e-4 s, the others up to .02 s             (3)
    cosine      alphabar(u) = cos²((u + .008) / 1.008 · π/2)                               (4)
    sqrt        alphabar(u) = 1 - √(u + 1e-4)                                              (5)
    trunc_cos   alphabar(u) = cos²((u + .1) / 1.1 · π/2), which begins with alphabar(0)    (6)

Eq. 4 to 6 give β_t = min(1 - alphabar((t + 1) / T) / alphabar(t / T), .999).
Source: Li et al., *DiffuRec* (arXiv 2304.00686, Section 5.3) and its released tables.
"""

from collections.abc import Callable

import numpy as np

from diffrec_jax.diffusion.schedule import MAX_BETA, Schedule, from_betas

RESCALED_SCHEDULES = ("trunc_lin", "linear", "cosine", "sqrt", "trunc_cos", "pw_lin")
FALLING = 10  # steps of the first part of Eq. 3


def rescaled_schedule(name: str, *, steps: int) -> Schedule:
    """The tables of a schedule of ``steps`` steps.

    Raises:
      ValueError: for an unknown name, or fewer steps than the schedule has a meaning for.
    """
    if name not in RESCALED_SCHEDULES:
        raise ValueError(f"noise_schedule={name!r} is unknown: choose one of {', '.join(RESCALED_SCHEDULES)}")
    if steps < 1:
        raise ValueError(f"steps={steps} leaves nothing to diffuse: choose steps >= 1")
    if name == "pw_lin" and steps <= FALLING:
        raise ValueError(f"steps={steps} are too few for noise_schedule=pw_lin: choose more than {FALLING}")
    betas = _betas(name, steps)
    if not np.all((betas > 0.0) & (betas <= 1.0)):
        raise ValueError(
            f"steps={steps} are too few for noise_schedule={name}, whose beta reaches {betas.max():.3g}: choose 20 or "
            "more, or another schedule"
        )
    return from_betas(betas)


def _betas(name: str, steps: int) -> np.ndarray:
    s = 1000.0 / steps
    if name == "linear":
        return np.linspace(1e-4 * s, 0.02 * s, steps)
    if name == "trunc_lin":
        end = 0.02 * s + 0.01
        return np.linspace(1e-4 * s + 0.01, end if end <= 1.0 else 1e-3 * s + 0.01, steps)
    if name == "pw_lin":
        falling = np.linspace(1e-4 * s + 0.01, 1e-4 * s, FALLING)
        return np.append(falling, np.linspace(1e-4 * s, 0.02 * s, steps - FALLING))
    if name == "cosine":
        return _of_signal(_squared_cosine(0.008), steps)
    if name == "sqrt":
        return _of_signal(lambda u: 1.0 - np.sqrt(u + 1e-4), steps)
    signal = _squared_cosine(0.1)
    return np.append(min(1.0 - float(signal(np.zeros(1))[0]), MAX_BETA), _of_signal(signal, steps)[:-1])


def _squared_cosine(shift: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda u: np.cos((u + shift) / (1.0 + shift) * np.pi / 2) ** 2


def _of_signal(signal: Callable[[np.ndarray], np.ndarray], steps: int) -> np.ndarray:
    t = np.arange(steps)
    betas: np.ndarray = np.minimum(1.0 - signal((t + 1) / steps) / signal(t / steps), MAX_BETA)
    return betas
