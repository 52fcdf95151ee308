"""Recency kernels: how much an interaction weighs by its age (T-DiffRec and LT-DiffRec).

For a user with M interactions in time order, and the relative position ``u_m = (m - 1) / (M - 1)`` of interaction m
(0 for M = 1)::

    linear       w_m = w_min + (w_max - w_min) · u_m                                       (1)
    power        w_m = w_min + (w_max - w_min) · u_m^p                                     (2)
    exponential  w_m = w_min + (w_max - w_min) · 2^(-(days before the last one) / half_life)  (3)

Source: Eq. 1 is the DiffRec paper's (arXiv 2304.04971, Section 3.6); Eq. 2 and 3 are ours. The weighted row is both
input and target of the model; masks stay unweighted. A model with ``fit_weighted=False`` is
trained on rows without it, and weighs only the histories that it scores. What the log itself says that an event counts
(``CSR.weights``) multiplies all of these, in training, too.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.events import CSR
from diffrec_jax.data.times import MICROSECONDS_PER_DAY
from diffrec_jax.options import Needs, check, option
from diffrec_jax.ranges import Real

Array = jax.Array | np.ndarray
KERNELS = ("linear", "power", "exponential")
RECENCY = Needs("recency", "--recency=linear")  # of options that mean something with any kernel


@dataclasses.dataclass(frozen=True)
class Recency:
    """A recency kernel; hashable, so that it can be a static part of a compiled program.

    ``power`` is p of Eq. 2.
    """

    kernel: str = option("linear", "recency kernel that weighs interactions by age", choices=KERNELS, flag="recency")
    w_min: float = option(0.1, "weight of a user's oldest interaction", search=Real(0.0, 1.0), needs=RECENCY)
    w_max: float = option(1.0, "weight of a user's newest interaction", search=Real(1.0, 10.0, log=True), needs=RECENCY)
    power: float = option(
        2.0,
        "exponent of the power kernel",
        above=0.0,
        search=Real(0.5, 16.0, log=True),
        flag="recency_power",
        needs=Needs("recency", "--recency=power", "power"),
    )
    half_life: float = option(
        180.0,
        "days in which a weight halves in the exponential kernel",
        above=0.0,
        search=Real(1.0, 1000.0, log=True),
        needs=Needs("recency", "--recency=exponential", "exponential"),
    )

    def __post_init__(self) -> None:
        check(self)
        if not 0.0 <= self.w_min <= self.w_max or self.w_max == 0.0:
            raise ValueError(f"w_min={self.w_min}, w_max={self.w_max}: choose 0 <= w_min <= w_max and w_max > 0")

    def weights(self, lengths: jax.Array, max_length: int, days: jax.Array | None = None) -> jax.Array:
        """Weights ``[B, max_length]`` of histories of ``lengths [B]``; entries beyond a length mean nothing.

        Args:
          lengths: number of interactions of each row.
          max_length: L.
          days: ``[B, L]`` times in days, oldest first; only the exponential kernel needs them.

        Raises:
          ValueError: for the exponential kernel without times.
        """
        age = None
        if days is not None:
            age = jnp.take_along_axis(days, jnp.maximum(lengths - 1, 0)[:, None], axis=1) - days
        return self.at(jnp.arange(max_length)[None, :], lengths[:, None], age)

    def at(self, position: Array, lengths: Array, age: Array | None = None) -> jax.Array:
        """Weights of interactions at ``position`` (0 is the oldest) of histories of ``lengths``; shapes broadcast.

        Args:
          position: m - 1.
          lengths: M.
          age: days before the last interaction of the same history; only the exponential kernel needs it.

        Raises:
          ValueError: for the exponential kernel without ages.
        """
        if self.kernel == "exponential":
            if age is None:
                raise ValueError("recency=exponential needs timestamps, which this data lacks: use linear or power")
            share = jnp.exp2(-jnp.maximum(age, 0.0) / self.half_life)
        else:
            share = jnp.asarray(position / jnp.maximum(lengths - 1, 1))
            share = share if self.kernel == "linear" else share**self.power
        return self.w_min + (self.w_max - self.w_min) * share


def weights_of(csr: CSR, recency: Recency | None) -> np.ndarray:
    """The weight of every interaction of a host ``CSR``, ``[N]`` float32: by the log, times the kernel's.

    Raises:
      ValueError: for the exponential kernel without times.
    """
    if recency is None:
        return csr.event_weights()
    lengths = np.diff(csr.indptr)
    position = np.arange(len(csr.indices)) - np.repeat(csr.indptr[:-1], lengths)
    age = None
    if csr.times is not None:
        last = csr.times[np.maximum(csr.indptr[1:], 1) - 1] if len(csr.times) else csr.times
        micros = np.repeat(last, lengths if len(csr.times) else 0) - csr.times
        age = (micros / MICROSECONDS_PER_DAY).astype(np.float32)
    kernel = np.asarray(recency.at(position, np.repeat(lengths, lengths), age), np.float32)
    return kernel if csr.weights is None else kernel * csr.weights
