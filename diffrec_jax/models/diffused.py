"""What DiffuRec and its causal form share: the network, hyper-parameters and vectors.

Equations are those of ``models.diffurec``. Letters: B rows, L events, D width, I items, T steps.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.rows import Rows
from diffrec_jax.diffusion.rescaled import RESCALED_SCHEDULES, rescaled_schedule
from diffrec_jax.diffusion.schedule import Schedule
from diffrec_jax.models.contract import Catalogue, Model, Params, Prepared
from diffrec_jax.models.denoiser import timestep_embedding
from diffrec_jax.models.transformer import Encoder, check_sizes, drop_bytes
from diffrec_jax.options import check, option
from diffrec_jax.ranges import Choice, Real, Whole

EPSILON = 1e-12


class Approximator(nn.Module):
    """Eq. 2 to 4 but for the table: ``(history, x, t, λ) -> x̂_0`` at every position.

    Attributes:
      width: D.
      blocks, heads, causal, dropout: of the transformer.
      steps: T.
    """

    width: int
    blocks: int
    heads: int
    causal: bool
    dropout: float
    steps: int

    def setup(self) -> None:
        """Declare the parameters."""
        self.history_norm = nn.LayerNorm(epsilon=EPSILON)
        self.time_in, self.time_out = nn.Dense(4 * self.width), nn.Dense(self.width)
        self.encoder = Encoder(
            self.width, self.blocks, self.heads, 4 * self.width, causal=self.causal, epsilon=EPSILON,
            dropout=self.dropout,
        )  # fmt: skip

    def embed(self, x: jax.Array) -> jax.Array:
        """N of Eq. 3 of events ``[B, L, D]``."""
        return cast(jax.Array, self.history_norm(x))

    def at_step(self, t: jax.Array) -> jax.Array:
        """The vectors of steps, d of Eq. 2, ``[N, D]``: of ``t [N]``."""
        embedded = timestep_embedding(t.astype(jnp.float32) * (1000.0 / self.steps), self.width)
        return self.time_out(nn.silu(self.time_in(embedded)))

    def __call__(
        self,
        x: jax.Array,
        real: jax.Array,
        segments: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
        even: jax.Array | None = None,
    ) -> jax.Array:
        """T_θ of Eq. 4 at every position of ``x [B, L, D]``; see ``Encoder``."""
        return self.encoder(x, real, segments, key=key, even=even)

    def everything(self, x: jax.Array) -> jax.Array:
        """Calls all that has parameters, to draw them."""
        guide = self.at_step(jnp.zeros(1, jnp.int32))
        return self(self.embed(x) + guide[:, None], jnp.ones(x.shape[:2], bool))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diffused(Model):
    """What DiffuRec and its causal form share: hyper-parameters, parameters and vectors."""

    width: int = option(128, "width of the transformer", at_least=1, search=Choice((32, 64, 128, 256)))
    blocks: int = option(4, "transformer blocks", at_least=1, search=Whole(1, 4))
    heads: int = option(4, "attention heads, a divisor of --width", at_least=1, search=Choice((1, 2, 4)))
    length: int = option(
        50, "most recent events of a history that are seen", at_least=2, hint="one event has no order; 50 or 200, say"
    )
    steps: int = option(32, "diffusion steps T", at_least=1, search=Choice((8, 32, 100)))
    noise_schedule: str = option("trunc_lin", "how noise grows with the step", choices=RESCALED_SCHEDULES)
    delta: float = option(
        0.001, "mean and spread of the factor of the noised item; 0: no diffusion", at_least=0.0, search=Real(0.0, 0.1)
    )
    positions: bool = option(False, "tell the network where an event stands")
    dropout: float = option(0.1, "dropout rate in the transformer", at_least=0.0, below=0.99, search=Real(0.0, 0.5))
    embedding_dropout: float = option(
        0.3, "dropout rate of the history's embeddings", at_least=0.0, below=0.99, search=Real(0.0, 0.5)
    )
    lr: float = option(1e-3, "learning rate of Adam", above=0.0, search=Real(1e-4, 1e-2, log=True))

    causal: ClassVar[bool] = False
    needs_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self)
        check_sizes(width=self.width, heads=self.heads, blocks=self.blocks, length=self.length, dropout=self.dropout)
        _ = self.schedule

    @property
    def schedule(self) -> Schedule:
        """The tables of Eq. 1 and 6."""
        return rescaled_schedule(self.noise_schedule, steps=self.steps)

    @property
    def network(self) -> Approximator:
        """Eq. 2 to 4."""
        return Approximator(self.width, self.blocks, self.heads, self.causal, self.dropout, self.steps)

    @property
    def item_axes(self) -> Mapping[str, int]:
        """See ``models.contract.Scorer.item_axes``."""
        return {"items": 0}

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """``{"items": E [I, D], "network": …}``, and ``"positions" [L, D]``; tables N(0, .02²), dense layers Glorot."""
        items, positions, network = jax.random.split(key, 3)
        nothing, module = jnp.zeros((1, 2, self.width)), self.network
        found = {
            "items": 0.02 * jax.random.normal(items, (catalogue.n_items, self.width)),
            "network": module.init(network, nothing, method="everything")["params"],
        }
        if self.positions:
            found["positions"] = 0.02 * jax.random.normal(positions, (self.length, self.width))
        return found

    def optimizer(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.lr)

    def apply(self, params: Params, *args: Any, **how: Any) -> jax.Array:
        """The network of ``params``."""
        return cast(jax.Array, self.network.apply({"params": params["network"]}, *args, **how))

    def history(
        self, params: Params, items: jax.Array, columns: jax.Array | None = None, *, key: jax.Array | None = None
    ) -> jax.Array:
        """N of Eq. 3 of events ``[B, L]`` at ``columns [B, L]`` of their window, ``[B, L, D]``; a key: with dropout."""
        x = params["items"].at[items].get(mode="fill", fill_value=0)
        if self.positions:
            positions = params["positions"][self.length - items.shape[1] :]
            x = x + (positions[None] if columns is None else positions[columns])
        return self.apply(params, x if key is None else drop_bytes(key, x, rate=self.embedding_dropout), method="embed")

    @abc.abstractmethod
    def now(self, params: Params, rows: Rows, key: jax.Array) -> jax.Array:
        """x̂_0 of what comes next, ``[B, D]``."""

    def scores(self, params: Params, rows: Rows, *, key: jax.Array, tables: Prepared = None) -> jax.Array:
        """Eq. 4, ``[B, I]``."""
        return jnp.matmul(self.now(params, rows, key), params["items"][: rows.n_items].T)

    @property
    def factored(self) -> bool:
        """Always, unless a ranking begins with noise: then a person's vector is not the same each time."""
        return not self.from_noise

    @property
    def from_noise(self) -> bool:
        """Whether a ranking begins with noise."""
        return False

    def user_vectors(self, params: Params, rows: Rows, *, key: jax.Array, tables: Prepared = None) -> jax.Array:
        """``[x̂_0, 1]``, ``[B, D + 1]``."""
        return jnp.pad(self.now(params, rows, key), ((0, 0), (0, 1)), constant_values=1.0)

    def item_vectors(self, params: Params) -> jax.Array:
        """``[E, 0]``, ``[I, D + 1]``: there are no biases."""
        return jnp.pad(params["items"], ((0, 0), (0, 1)))
