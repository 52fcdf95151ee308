"""Recency kernels: how much an interaction weighs by its age (T-DiffRec and LT-DiffRec).

For a user with M interactions in time order, and the relative position ``u_m = (m - 1) / (M - 1)`` of interaction m
(0 for M = 1)::

    linear       w_m = w_min + (w_max - w_min) · u_m                                       (1)
    power        w_m = w_min + (w_max - w_min) · u_m^p                                     (2)
    exponential  w_m = w_min + (w_max - w_min) · 2^(-(days before the last one) / half_life)  (3)

Source: Eq. 1 is the DiffRec paper's (arXiv 2304.04971, Section 3.6); Eq. 2 and 3 are ours. The weighted row is both
input and target of the model; masks stay unweighted.
"""

import dataclasses

import jax
import jax.numpy as jnp

KERNELS = ("linear", "power", "exponential")


@dataclasses.dataclass(frozen=True)
class Recency:
    """A recency kernel; hashable, so that it can be a static part of a compiled program."""

    kernel: str = "linear"
    w_min: float = 0.1
    w_max: float = 1.0
    power: float = 2.0  # p of Eq. 2
    half_life: float = 180.0  # days, of Eq. 3

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(f"recency={self.kernel!r} is unknown: choose one of {', '.join(KERNELS)}")
        if not 0.0 <= self.w_min <= self.w_max or self.w_max == 0.0:
            raise ValueError(f"w_min={self.w_min}, w_max={self.w_max}: choose 0 <= w_min <= w_max and w_max > 0")
        if not (self.power > 0.0 and self.half_life > 0.0):
            raise ValueError(f"power={self.power} and half_life={self.half_life} must both be positive")

    def weights(self, lengths: jax.Array, max_length: int, days: jax.Array | None = None) -> jax.Array:
        """Weights ``[B, max_length]`` of histories of ``lengths [B]``; entries beyond a length mean nothing.

        Args:
          lengths: number of interactions of each row.
          max_length: L.
          days: ``[B, L]`` times in days, oldest first; only the exponential kernel needs them.

        Raises:
          ValueError: for the exponential kernel without times.
        """
        if self.kernel == "exponential":
            if days is None:
                raise ValueError("recency=exponential needs timestamps, which this data lacks: use linear or power")
            last = jnp.take_along_axis(days, jnp.maximum(lengths - 1, 0)[:, None], axis=1)
            share = jnp.exp2(-jnp.maximum(last - days, 0.0) / self.half_life)
        else:
            share = jnp.arange(max_length) / jnp.maximum(lengths - 1, 1)[:, None]
            share = share if self.kernel == "linear" else share**self.power
        return self.w_min + (self.w_max - self.w_min) * share
