"""A history that carries its next item, noised: the network, the ranking and the options of DiffuRec and its kin.

With s the last L events, E the table of items, P of positions (from the end, optional), t a step of T, d a small
network of the sinusoids of 1000 t / T, N layer normalisation, and f a transformer::

    h_j = N(E[s_j] (+ P_j)),       x_t = √alphabar_t · E[s_next] + √(1 - alphabar_t) · ε     (1)
    z_j = h_j + λ_j ⊙ (x_t + d(t)),     λ_j ~ N(δ, δ²) by element                            (2)
    x̂_0 = f(z),      score_i = x̂_0 · E_i                                                     (3)

When ranking there is no next item: x̂_0 is what k steps of the reverse process, from t = k - 1 down to 0, arrive at.
Without ``draws`` everything random is at its mean: λ = δ, x = 0 at the start, and nothing is added on the way. Each of
``draws`` starts from N(0, I), and they are averaged; noise belongs to the user. At t = 0 the reverse returns x̂_0
itself, so that one step (k = 1) is a plain forward pass.

Source: Li, Sun & Li, *DiffuRec* (ACM TOIS 2023, arXiv 2304.00686; released code). Ours: the pass without noise, masked
and packed padding, positions, and a table that starts small.
Letters: B rows, L positions, I items, D width, T steps.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, TypeAlias, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.packing import in_few_rows
from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import in_short_windows, window
from diffrec_jax.diffusion.process import reverse
from diffrec_jax.diffusion.schedule import SCALED_SCHEDULES, Schedule, scaled_schedule
from diffrec_jax.models.contract import Catalogue, Params
from diffrec_jax.models.denoiser import timestep_embedding
from diffrec_jax.models.sequence import SequenceModel
from diffrec_jax.models.transformer import Encoder, check_sizes, drop_bytes
from diffrec_jax.models.user_noise import mean_of_draws, normal_per_user
from diffrec_jax.options import check, option
from diffrec_jax.ranges import Choice, Real, Whole

# (rows [R, L] of the batch, columns [R, L] of the window, key) -> x_t [R, L, D] and t [R, L]
Noised: TypeAlias = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisedTarget(SequenceModel):
    """What both models share; ``width`` is D, ``length`` L, ``steps`` T and ``delta`` δ."""

    width: int = option(128, "width of the transformer", at_least=1, search=Choice((32, 64, 128, 256)))
    blocks: int = option(4, "transformer blocks", at_least=1, search=Whole(1, 4))
    heads: int = option(4, "attention heads, a divisor of --width", at_least=1, search=Choice((1, 2, 4)))
    length: int = option(
        50, "most recent events of a history that are seen", at_least=2, hint="one event has no order; 50 or 200, say"
    )
    steps: int = option(32, "number of diffusion steps T", at_least=1)
    noise_schedule: str = option("trunc_lin", "how the noise grows with the step", choices=SCALED_SCHEDULES)
    delta: float = option(0.001, "mean and spread of the share λ of the noised target; 0: none", at_least=0.0)
    carries_target: bool = option(True, "add the noised target to the history; otherwise its step alone")
    positions: bool = option(False, "add a vector of the position, counted from the last event")
    dropout: float = option(
        0.1, "dropout rate of inputs and branches in training", at_least=0.0, below=1.0, search=Real(0.0, 0.6)
    )
    history_dropout: float = option(
        0.3, "dropout rate of the vectors of a history in training", at_least=0.0, below=1.0, search=Real(0.0, 0.6)
    )
    init_std: float | None = option(
        None, "standard deviation of the table at first; None: 0.02, or 1 with --reference", above=0.0, rare=True
    )
    reverse_steps: int | None = option(
        None, "passes of the reverse process when ranking, of T; None: one, or T with --reference", at_least=1
    )
    draws: int | None = option(
        None, "draws of noise averaged when ranking; 0: no noise. None: 0, or 1 with --reference", at_least=0
    )
    packing: bool = option(True, "train with several short histories in a row; only draws differ by it", rare=True)
    lr: float = option(1e-3, "learning rate of Adam", above=0.0, search=Real(1e-4, 1e-2, log=True))

    causal: ClassVar[bool]

    def __post_init__(self) -> None:
        check(self)
        check_sizes(width=self.width, heads=self.heads, blocks=self.blocks, length=self.length, dropout=self.dropout)
        if self.passes > self.schedule.steps:
            raise ValueError(f"reverse_steps={self.reverse_steps} must be at most steps={self.steps}, all of them")

    @property
    def released(self) -> bool:
        """Whether it does what the released code does: see ``DiffuRec``."""
        return False

    @property
    def passes(self) -> int:
        """Reverse steps when ranking."""
        return self.reverse_steps or (self.steps if self.released else 1)

    @property
    def samples(self) -> int:
        """Draws of noise when ranking; 0: none."""
        return int(self.released) if self.draws is None else self.draws

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The diffusion tables."""
        return scaled_schedule(self.noise_schedule, steps=self.steps)

    @property
    def encoder(self) -> Encoder:
        """The transformer f of Eq. 3."""
        return Encoder(
            self.width,
            self.blocks,
            self.heads,
            inner=4 * self.width,
            causal=self.causal,
            epsilon=1e-12 if self.released else 1e-6,
            dropout=self.dropout,
            padding_seen=self.released,
            more_dropout=self.released,
        )

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """``{"items": E [I, D], "norm": N, "time": d, "encoder": …}``, and ``"positions": P [L, D]`` where there are.

        Tables are N(0, ``init_std``²), dense layers Glorot.
        """
        items, positions, up, down, encoder = jax.random.split(key, 5)
        D, std, glorot = self.width, self.init_std or (1.0 if self.released else 0.02), nn.initializers.glorot_uniform()
        nothing = jnp.zeros((1, 2, D))
        params = {
            "items": std * jax.random.normal(items, (catalogue.n_items + self.released, D)),
            "norm": {"scale": jnp.ones(D), "bias": jnp.zeros(D)},
            "time": {
                "up": {"kernel": glorot(up, (D, 4 * D)), "bias": jnp.zeros(4 * D)},
                "down": {"kernel": glorot(down, (4 * D, D)), "bias": jnp.zeros(D)},
            },
            "encoder": self.encoder.init(encoder, nothing, jnp.ones((1, 2), bool))["params"],
        }
        return params | ({"positions": std * jax.random.normal(positions, (self.length, D))} if self.positions else {})

    def optimizer(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.lr)

    # the network

    def history(
        self, params: Params, items: jax.Array, columns: jax.Array | None = None, *, key: jax.Array | None = None
    ) -> jax.Array:
        """The vectors h of Eq. 1, ``[B, L, D]``, of a window of at most L events; with a key, after dropout.

        Packed windows come with their ``columns [B, L]`` (``data.packing``).
        """
        x = params["items"].at[items].get(mode="fill", fill_value=0)
        if self.positions:
            positions = params["positions"][self.length - items.shape[1] :]
            x = x + (positions[None] if columns is None else positions[columns])
        if key is not None:
            x = drop_bytes(key, x, rate=self.history_dropout)
        norm = nn.LayerNorm(epsilon=self.encoder.epsilon)
        return cast(jax.Array, norm.apply({"params": params["norm"]}, x))

    def step_vectors(self, params: Params) -> jax.Array:
        """The vectors d of Eq. 2 at each step, ``[T, D]``."""
        up, down = params["time"]["up"], params["time"]["down"]
        t = jnp.arange(float(self.steps)) * (1000.0 / self.steps)
        sinusoids = timestep_embedding(t, self.width, rounded=True).astype(up["kernel"].dtype)
        hidden = nn.silu(sinusoids @ up["kernel"] + up["bias"][None])
        return cast(jax.Array, hidden @ down["kernel"] + down["bias"][None])

    def denoise(
        self,
        params: Params,
        history: jax.Array,
        real: jax.Array,
        x: jax.Array,
        t: jax.Array,
        share: jax.Array | float,
        segments: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """x̂_0 of Eq. 2 and 3 at every position, ``[B, L, D]``; with a key, after dropout.

        Args:
          params: the parameters.
          history: h, ``[B, L, D]``.
          real: ``[B, L]`` bool, what is no padding.
          x: x_t, ``[B, L, D]`` or ``[B, 1, D]``.
          t: ``[B, L]`` or ``[B, 1]``.
          share: λ, ``[B, L, D]`` or a number.
          segments: ``[B, L]``, of packed windows (``data.packing``).
          key: of dropout.
        """
        added = self.step_vectors(params).at[t].get(mode="clip")
        added = added + x if self.carries_target else added
        z = history + share * added if self.delta else history
        encoder = self.encoder
        return cast(jax.Array, encoder.apply({"params": params["encoder"]}, z, real, segments, key=key))

    def trained_on(
        self, params: Params, items: jax.Array, real: jax.Array, noised: Noised, key: jax.Array
    ) -> jax.Array:
        """x̂_0 at every position after dropout, ``[B, L, D]``, of windows with ``noised`` targets."""
        history_key, noise_key, share_key, dropout_key = jax.random.split(key, 4)

        def of(items: jax.Array, segments: jax.Array, columns: jax.Array, real: jax.Array, apart: bool) -> jax.Array:
            h = self.history(params, items, columns, key=history_key)
            share = self.delta * (1.0 + jax.random.normal(share_key, h.shape).astype(h.dtype))
            x, t = noised(segments, columns, noise_key)
            return self.denoise(params, h, real, x, t, share, segments if apart else None, key=dropout_key)

        def packed(items: jax.Array, segments: jax.Array, columns: jax.Array) -> jax.Array:
            return of(items, segments, columns, segments >= 0, True)

        if self.packing and not self.released:
            return in_few_rows(packed, items, real)
        rows, columns = jnp.indices(items.shape)
        return of(items, rows, columns, real, False)

    # ranking

    @abc.abstractmethod
    def placed(self, params: Params, items: jax.Array, x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What ``denoise`` takes as x and t, with ``x [B, D]`` at ``t [B]`` for what comes after ``items [B, L]``."""

    def now(self, params: Params, rows: Rows, *, key: jax.Array | None = None) -> jax.Array:
        """x̂_0 at the last event, ``[B, D]``.

        Raises:
          ValueError: for noise without a key.
        """
        if self.released:  # padding counts
            return self._told(params, rows.users, key, *window(rows, self.length))
        return in_short_windows(lambda *seen: self._told(params, rows.users, key, *seen), rows, self.length)

    def _told(
        self, params: Params, users: jax.Array, key: jax.Array | None, items: jax.Array, real: jax.Array
    ) -> jax.Array:
        """The same of the last events of ``users [B]``, ``items [B, L]``."""
        h = self.history(params, items)
        schedule = self.schedule.first(self.passes)

        def reversed_from(x: jax.Array, noise: Callable[[jax.Array, int], jax.Array] | None) -> jax.Array:
            def denoise(x: jax.Array, t: jax.Array) -> jax.Array:
                share: jax.Array | float = self.delta
                if noise is not None:  # the draws of a user count back from the last event
                    drawn = noise(2 * t[0] + 1, items.shape[1]).reshape(h.shape)[:, ::-1]
                    share = self.delta * (1.0 + drawn)
                return self.denoise(params, h, real, *self.placed(params, items, x, t), share)[:, -1]

            added = None if noise is None else (lambda t: noise(2 * t, 1))
            return reverse(schedule, denoise, x, sampling_noise=added, variance=schedule.large_variance)

        zeros = jnp.zeros((items.shape[0], self.width), h.dtype)
        if not self.samples:
            return reversed_from(zeros, None)

        def drawn(own: jax.Array) -> jax.Array:
            def noise(n: jax.Array | int, vectors: int) -> jax.Array:
                values = normal_per_user(jax.random.fold_in(own, n), users, vectors * self.width)
                return values.astype(h.dtype)

            return reversed_from(noise(2 * self.steps, 1), noise)

        return mean_of_draws(drawn, key, self.samples)

    def table(self, params: Params) -> jax.Array:
        """E, ``[I, D]``; padding, which has the last row of it in the released code, is not ranked."""
        items: jax.Array = params["items"]
        return items[: items.shape[0] - self.released]
