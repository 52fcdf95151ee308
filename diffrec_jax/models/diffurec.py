"""DiffuRec: the next item as what a transformer denoises, given a history.

With s a history, y what came next, E the table of items, N layer normalisation, T_θ a transformer, and δ small::

    x_t  = √alphabar_t · E[y] + √(1 - alphabar_t) · ε                                      (1)
    d(t) = W_2 SiLU(W_1 [cos(τ ω), sin(τ ω)]),   τ = 1000 t / T                            (2)
    z_j  = N(E[s_j]) + λ_j ⊙ (x_t + d(t)),       λ_j ~ N(δ, δ²) for each entry             (3)
    x̂_0  = T_θ(z) at the last event,             score_i = x̂_0 · E_i                       (4)
    L    = mean over prefixes of  -log softmax_i(x̂_0 · E_i)[y],   t uniform                (5)
    x_T ~ N(0, I),   x_{t-1} = c1_t · x̂_0 + c2_t · x_t  [+ √β_t · ε, for t > 0]            (6)

Ranked is by one pass, at t = 0 with x_t = 0 and λ = δ: nothing is drawn. ``reverse_steps=T`` runs Eq. 6 from noise,
``draws`` times, and averages. Eq. 1, 3 and 6 draw by user: what a person gets depends neither on the batch nor on its
padding. T_θ sees no order but which event is the last, unless ``positions`` are on.

Source: Li, Sun & Li, *DiffuRec* (arXiv 2304.00686, Eq. 8-16 and Algorithms 1, 2), and its released code. Ours: padding
is neither seen nor a class, the table begins small, and prefixes are drawn (``data.windows.one_cut``), a random one of
each history a step. With ``reference`` it is as released: padding has a row of the table, which is seen, trained and a
class of Eq. 5; events that are padding look at all others alike; x̂_0 comes from noise. Ours even then: padding is not
ranked, dropout lies where ``transformer`` has it, and the learning rate does not fall.
Letters: B rows, L events, D width, I items, T steps.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import one_cut, user_keys, window
from diffrec_jax.diffusion.process import posterior_mean, q_sample
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Params
from diffrec_jax.models.diffused import Diffused
from diffrec_jax.models.item_losses import softmax_cross_entropy
from diffrec_jax.options import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffuRec(Diffused):
    """Hyper-parameters of DiffuRec and its functions; see ``models.contract.Model``.

    ``steps`` is T, ``delta`` δ.
    """

    reverse_steps: int = option(1, "network passes of a ranking: 1, or --steps from noise", at_least=1)
    draws: int = option(1, "rankings from noise that are averaged", at_least=1, rare=True)
    reference: bool = option(False, "as the authors' code computes it, padding included", rare=True)

    fit_options: ClassVar[FitOptions] = FitOptions(batch_size=512)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reverse_steps not in (1, self.steps):
            raise ValueError(
                f"reverse_steps={self.reverse_steps} must be 1, or {self.steps} as steps says: a reverse process runs "
                "through all of them"
            )
        if self.draws > 1 and not self.from_noise:
            raise ValueError(
                f"draws={self.draws} average over noise, and one pass draws none: say reverse_steps={self.steps}"
            )

    @property
    def from_noise(self) -> bool:
        """Whether a ranking begins with noise."""
        return self.reference or self.reverse_steps > 1

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """See ``Diffused.init``; with ``reference`` the table has a row I for padding, and entries N(0, 1)."""
        found = super().init(key, catalogue)
        if self.reference:
            found["items"] = jax.random.normal(jax.random.fold_in(key, 0), (catalogue.n_items + 1, self.width))
        return found

    def item_vectors(self, params: Params) -> jax.Array:
        """``[E, 0]``, ``[I, D + 1]``: there are no biases, and padding is no item."""
        return super().item_vectors({"items": params["items"][:-1] if self.reference else params["items"]})

    @property
    def item_axes(self) -> Mapping[str, int]:
        """The table, unless padding has a row of it."""
        return {} if self.reference else super().item_axes

    def approximate(
        self,
        params: Params,
        h: jax.Array,
        real: jax.Array,
        x: jax.Array,
        t: jax.Array,
        factor: jax.Array,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Eq. 2 to 4.

        Args:
          params: the parameters.
          h: ``[B, L, D]``, N(E[s]) (``history``).
          real: ``[B, L]`` bool.
          x: ``[B, D]``, x_t.
          t: ``[B]`` int32.
          factor: ``[B, L, D]``, λ, or what broadcasts to it.
          key: of dropout; None: no dropout.

        Returns:
          x̂_0 ``[B, D]``.
        """
        guide = factor * (x + self.apply(params, t, method="at_step"))[:, None, :]
        z = h + guide.astype(h.dtype)
        seen = jnp.ones_like(real) if self.reference else real
        return self.apply(params, z, seen, key=key, even=~real if self.reference else None)[:, -1]

    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 5 of one prefix of each history, which weighs as many as the history has."""
        del memory, step, epoch
        cut_key, own_key, embedding_key, dropout_key = jax.random.split(key, 4)
        items, real, targets, weights = one_cut(rows, self.length, cut_key)
        t, noise, spread = self._drawn(user_keys(own_key, rows.users))
        x = q_sample(self.schedule, params["items"].at[targets].get(mode="fill", fill_value=0), t, noise)
        h = self.history(params, items, key=embedding_key)
        found = self.approximate(params, h, real, x, t, self.delta + self.delta * spread, key=dropout_key)
        total = softmax_cross_entropy(found, params["items"], None, targets, weights, mesh=rows.mesh)
        return total / jnp.maximum(jnp.sum(weights), 1.0), LossAux()

    def _drawn(self, keys: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """``t [B]``, ``ε [B, D]`` and normal numbers ``[B, L, D]``, each by the key of its row."""

        def draw(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            of_t, of_noise, of_factor = jax.random.split(key, 3)
            t = jax.random.randint(of_t, (), 0, self.steps)
            noise = jax.random.normal(of_noise, (self.width,))
            return t, noise, jax.random.normal(of_factor, (self.length, self.width))

        return jax.vmap(draw)(keys)

    def now(self, params: Params, rows: Rows, key: jax.Array) -> jax.Array:
        """x̂_0 of what comes next, ``[B, D]``: by one pass, or the mean of Eq. 6 over ``draws``."""
        items, real = window(rows, self.length)
        h = self.history(params, items)
        nothing = jnp.zeros((items.shape[0], self.width), h.dtype)
        if not self.from_noise:
            t = jnp.zeros(items.shape[0], jnp.int32)
            return self.approximate(params, h, real, nothing, t, jnp.full((1, 1, 1), self.delta, h.dtype))

        def once(n: jax.Array, total: jax.Array) -> jax.Array:
            return total + self._from_noise(params, h, real, user_keys(jax.random.fold_in(key, n), rows.users))

        found: jax.Array = jax.lax.fori_loop(0, self.draws, once, nothing) / self.draws
        return found

    def _from_noise(self, params: Params, h: jax.Array, real: jax.Array, keys: jax.Array) -> jax.Array:
        """Eq. 6 with noise by the key of each row."""
        rows = real.shape[0]

        def step(x: jax.Array, t: jax.Array) -> tuple[jax.Array, None]:
            _, noise, spread = self._drawn(user_keys_at(keys, t))
            now = jnp.full(rows, t, jnp.int32)
            return self.reverse_step(params, h, real, x, now, spread, noise), None

        start = self._drawn(user_keys_at(keys, jnp.asarray(self.steps)))[1].astype(h.dtype)
        return jax.lax.scan(step, start, jnp.arange(self.steps - 1, -1, -1, dtype=jnp.int32))[0]

    def reverse_step(
        self,
        params: Params,
        h: jax.Array,
        real: jax.Array,
        x: jax.Array,
        t: jax.Array,
        spread: jax.Array,
        noise: jax.Array,
    ) -> jax.Array:
        """x_{t-1} of Eq. 6, ``[B, D]``; at t = 0, x̂_0.

        Args:
          params, h, real, x, t: see ``approximate``.
          spread: ``[B, L, D]`` normal numbers, for λ.
          noise: ``[B, D]`` normal numbers.
        """
        found = self.approximate(params, h, real, x, t, self.delta + self.delta * spread)
        schedule = self.schedule
        deviation = jnp.asarray([0.0, *(math.sqrt(beta) for beta in schedule.betas[1:])], x.dtype)[t][:, None]
        return (posterior_mean(schedule, found, x, t) + deviation * noise).astype(x.dtype)


def user_keys_at(keys: jax.Array, t: jax.Array) -> jax.Array:
    """The keys ``[B]`` of step t, of keys ``[B]`` by user."""
    return jax.vmap(lambda key: jax.random.fold_in(key, t))(keys)
