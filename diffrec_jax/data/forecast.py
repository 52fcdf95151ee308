"""Forecasting: training on what a history was at some moment, and on what came next.

A history of n interactions is cut after a place M drawn uniformly from 1 … n - 1. What lies before is what the model
sees, weighted by recency as seen from that moment; what lies after is what it is to predict, the next interaction with
weight 1 and every later one with less, each times what the log says that it counts::

    past    w_m = recency at position m of M,   m ≤ M                                      (1)
    future  w_m = 2^(-(m - M - 1) / half_life), m > M                                      (2)

At inference the whole history is the past; of a diffusion model, whose reverse process hands its prediction back to
the network, later steps see a mixture of the history and of its forecast. What is fitted in closed form cuts every
history at several places that lie evenly, instead of random ones. Source: ours; the paper trains every row to
reconstruct itself.
"""

import dataclasses
from typing import Protocol, overload

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.events import CSR, taken
from diffrec_jax.data.packed import AnyRows, PackedRows
from diffrec_jax.data.recency import RECENCY, Recency
from diffrec_jax.data.rows import Rows, make_rows
from diffrec_jax.options import option
from diffrec_jax.ranges import Choice


def weighted_fit(default: bool) -> bool:
    """The option ``fit_weighted`` of a model with a recency kernel."""
    return option(
        default,
        "fit recency-weighted rows, too, instead of only weighing the histories that are scored",
        search=Choice((False, True)),
        needs=RECENCY,
    )


def future() -> float:
    """The option ``forecast`` of a model with a recency kernel."""
    return option(
        0.0,
        "learn to predict futures of this half-life (in interactions) from pasts; 0 reconstructs rows, as the paper",
        search=Choice((0.0, 3.0, 10.0, 30.0)),
        needs=RECENCY,
    )


class Forecasts(Protocol):
    """A model that may be trained on futures."""

    @property
    def forecast(self) -> float:
        """The half-life of the futures, in interactions; 0 reconstructs rows."""

    @property
    def training_recency(self) -> Recency | None:
        """The kernel of the rows it is trained on."""


def check_forecast(forecast: float, recency: Recency | None) -> None:
    """Refuse a half-life that is none, and one without the time that it needs."""
    if not forecast >= 0.0:
        raise ValueError(
            f"forecast={forecast} is the half-life of the future in interactions: choose 10, or 0 for none"
        )
    if forecast and recency is None:
        raise ValueError(
            f"forecast={forecast:g} looks at the order of a history, and no recency is given: name a kernel"
        )


@dataclasses.dataclass(frozen=True)
class Fading:
    """The weights of Eq. 2, as a kernel of packed rows."""

    half_life: float

    def at(self, position: jax.Array, lengths: jax.Array, age: jax.Array | None = None) -> jax.Array:
        """See ``data.packed.Kernel``; the first event of a future is at position 0."""
        return jnp.exp2(position.astype(jnp.float32) / -self.half_life)


@overload
def shown_and_asked(model: Forecasts, rows: Rows, key: jax.Array) -> tuple[Rows, Rows | None]: ...
@overload
def shown_and_asked(model: Forecasts, rows: PackedRows, key: jax.Array) -> tuple[PackedRows, PackedRows | None]: ...
def shown_and_asked(model: Forecasts, rows: AnyRows, key: jax.Array) -> tuple[AnyRows, AnyRows | None]:
    """What a training batch shows a model, and what it is to predict: None where that is the same, without forecast.

    ``model`` has ``forecast`` and ``training_recency``; see ``past_and_future`` for the rest.
    """
    if not model.forecast:
        return rows, None
    if isinstance(rows, PackedRows):
        place, users = _cuts(rows.lengths, rows.users, key)
        place = jnp.where(users >= 0, place, 0)
        ahead = jnp.where(users >= 0, rows.lengths - place, 0)
        past = rows.replace(lengths=place, users=users, kernel=model.training_recency)
        return past, past.replace(start=rows.start + place, lengths=ahead, kernel=Fading(model.forecast))
    return past_and_future(rows, key, half_life=model.forecast, recency=model.training_recency)


def past_and_future(rows: Rows, key: jax.Array, *, half_life: float, recency: Recency | None) -> tuple[Rows, Rows]:
    """Cut every row at a place of its own (Eq. 1 and 2); call it inside jit.

    Args:
      rows: whole histories.
      key: of the places.
      half_life: of the weights of the future, in interactions.
      recency: weighs the past; None weighs all 1.

    Returns:
      Past and future; a history too short to be cut becomes padding (``users == -1``) in both.
    """
    place, users = _cuts(rows.lengths, rows.users, key)
    past = make_rows(
        rows.items,
        place,
        users,
        n_items=rows.n_items,
        days=rows.days,
        logged=rows.logged,
        recency=recency,
        mesh=rows.mesh,
    )
    ahead = jnp.arange(rows.items.shape[1])[None, :] - place[:, None]
    fading = jnp.exp2(ahead.astype(jnp.float32) / -half_life)
    fading = fading if rows.logged is None else fading * rows.logged
    weights = jnp.where((ahead >= 0) & (rows.items < rows.n_items), fading, 0.0)
    dtype = rows.weights.dtype
    return past.replace(weights=past.weights.astype(dtype)), rows.replace(users=users, weights=weights.astype(dtype))


def _cuts(n: jax.Array, users: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A place in every history of n events, and the users of those that can be cut; -1 in place of the others."""
    return jax.random.randint(key, n.shape, 1, jnp.maximum(n, 2)), jnp.where(n >= 2, users, -1)


def cut(csr: CSR, share: float) -> tuple[CSR, CSR]:
    """The same on the host, every history at the same ``share`` in (0, 1] of its n - 1 places; one of 1 is all past."""
    n = csr.lengths()
    place = np.clip(np.ceil(share * (n - 1)).astype(np.int64), 1, np.maximum(n - 1, 1))
    position = np.arange(len(csr.indices)) - np.repeat(csr.indptr[:-1], n)
    is_past = position < np.repeat(place, n)

    def part(mask: np.ndarray) -> CSR:
        indptr = np.append(0, np.cumsum(mask, dtype=np.int64))[csr.indptr].astype(csr.indptr.dtype)
        return CSR(indptr, csr.indices[mask], csr.n_items, taken(csr.times, mask), taken(csr.weights, mask))

    return part(is_past), part(~is_past)


def future_weights(future: CSR, half_life: float) -> np.ndarray:
    """Eq. 2 for the futures that ``cut`` gives, times the weights by the log: ``[N]`` float32."""
    ahead = np.arange(len(future.indices)) - np.repeat(future.indptr[:-1], future.lengths())
    weights: np.ndarray = np.exp2(-ahead / half_life).astype(np.float32) * future.event_weights()
    return weights
