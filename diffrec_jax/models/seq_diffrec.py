"""SeqDiffRec, the diffusion recommender of Du et al.: the next item is the last token of its history, and is noise.

With v_1 … v_m the last events before v_{m + 1}, E a table, P vectors of positions (from the end), z the sinusoids of a
step, T a transformer that sees both ways and is read at its last position, and every ε drawn from N(0, I)::

    h_j = E[v_j] + √β_0 · ε_j,        x_n = √alphabar_n · h_{m + 1} + √(1 - alphabar_n) · ε          (1)
    f(x, n) = T(h_1 + P_1 + z_n, …, h_m + P_m + z_n, x + P_{m + 1} + z_n)                            (2)
    p(v | h) = softmax_v(W h + b)                                                                    (3)
    L = mean over n of ‖h_{m + 1} - f(x_n, n)‖² / D  -  log p(v_{m + 1} | h_{m + 1})                 (4)

in which E[v_{m + 1}] takes the place of h_{m + 1} in the first step's square. One step is drawn of each history in a
batch, more often where the square has been large (``diffusion.importance``), and divided by how likely it is; one
prefix is cut of it, which weighs as many as it has. Eq. 4 ties f to the rest by its square alone, and rewards a table
that shrinks: ``ce_on_denoised`` adds - log p(v_{m + 1} | f(x_n, n)).

When ranking, what comes next starts as noise at ``from_step``, and is f of it, or what all steps from there down to the
first make of it by their means (``whole_reverse``); each of ``draws`` starts from N(0, I), and they are averaged. Noise
belongs to the user. Without draws it starts from 0, the mean.

Source: Du et al., *Sequential Recommendation with Diffusion Models* (arXiv 2304.04541). No code was released, and the
article leaves β_0, sizes, schedule and the scale of the square open: the square is a mean, as is usual in code, β_0 is
10⁻⁴, and blocks, heads, length and dropout are those of their *CBiT*, half as wide. The schedule is one that is noisy
from the first step on: where x_n tells the next item, f copies it and does not learn to read the history. Ours:
``ce_on_denoised``, ``tied``, the start from the mean.
Letters: B rows, L positions, I items, D width, N steps.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import ClassVar, cast

import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import in_short_windows, one_cut, user_keys
from diffrec_jax.diffusion import importance
from diffrec_jax.diffusion.importance import LossHistory
from diffrec_jax.diffusion.process import q_sample, reverse
from diffrec_jax.diffusion.schedule import Schedule, scaled_schedule
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Params
from diffrec_jax.models.denoiser import timestep_embedding
from diffrec_jax.models.diffurec import DiffuRec
from diffrec_jax.models.item_losses import softmax_cross_entropy
from diffrec_jax.models.sequence import SequenceModel
from diffrec_jax.models.transformer import Encoder, check_sizes
from diffrec_jax.models.user_noise import mean_of_draws, normal_per_user
from diffrec_jax.options import again, check, option

T_SAMPLING = ("lossaware", "uniform")
FIRST_VARIANCE = 1e-4  # β_0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeqDiffRec(SequenceModel):
    """Hyper-parameters of SeqDiffRec and its functions; see ``models.contract.Model``.

    ``width`` is D, ``steps`` N, and ``length`` L counts the token of what comes next.
    """

    width: int = again(DiffuRec, "width")
    blocks: int = again(DiffuRec, "blocks", default=2)
    heads: int = again(DiffuRec, "heads", default=2)
    length: int = again(DiffuRec, "length", default=20)
    steps: int = again(DiffuRec, "steps")
    noise_schedule: str = again(DiffuRec, "noise_schedule", default="sqrt")
    t_sampling: str = again(DiffuRec, "t_sampling", default="lossaware", choices=T_SAMPLING)
    dropout: float = again(DiffuRec, "dropout", default=0.3)
    ce_on_denoised: bool = option(True, "train the prediction from the denoised token, too; the paper does not")
    tied: bool = option(False, "one table reads items and ranks them; the paper has two")
    init_std: float = option(0.1, "standard deviation of the table that reads items at first", above=0.0, rare=True)
    from_step: int | None = option(None, "step that ranking starts from; None: the last", at_least=1)
    whole_reverse: bool = option(False, "rank by all steps from there to the first; otherwise by one pass")
    draws: int = option(0, "draws of noise averaged when ranking; 0: no noise", at_least=0)
    lr: float = again(DiffuRec, "lr")

    fit_options: ClassVar[FitOptions] = FitOptions(batch_size=256)

    def __post_init__(self) -> None:
        check(self)
        check_sizes(width=self.width, heads=self.heads, blocks=self.blocks, length=self.length, dropout=self.dropout)
        if self.first_step > self.schedule.steps:
            raise ValueError(f"from_step={self.from_step} must be at most steps={self.steps}, the last")

    @property
    def first_step(self) -> int:
        """The step that ranking starts from, of N."""
        return self.from_step or self.steps

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The diffusion tables."""
        return scaled_schedule(self.noise_schedule, steps=self.steps)

    @property
    def encoder(self) -> Encoder:
        """T of Eq. 2."""
        return Encoder(self.width, self.blocks, self.heads, inner=4 * self.width, causal=False, dropout=self.dropout)

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """``{"items": W [I, D], "item_bias": b [I], "read": E [I, D], "positions": P [L, D], "encoder": …}``.

        E is N(0, ``init_std``²) and W N(0, .02²); tied, W is E and there is no ``read``. Dense layers are Glorot.
        """
        items, read, positions, encoder = jax.random.split(key, 4)
        table = catalogue.n_items, self.width
        params = {
            "items": (self.init_std if self.tied else 0.02) * jax.random.normal(items, table),
            "item_bias": jnp.zeros(catalogue.n_items),
            "positions": self.init_std * jax.random.normal(positions, (self.length, self.width)),
            "encoder": self.encoder.init(encoder, jnp.zeros((1, 2, self.width)), jnp.ones((1, 2), bool))["params"],
        }
        return params if self.tied else params | {"read": self.init_std * jax.random.normal(read, table)}

    def init_memory(self, params: Params) -> LossHistory | None:
        """The last squares of each step, none yet, where they decide which are drawn."""
        return LossHistory.create(self.steps) if self.t_sampling == "lossaware" else None

    def watched(self, memory: Memory) -> Mapping[str, jax.Array]:
        """``importance``: how likely each diffusion step is drawn, ``[N]``, where that changes."""
        return {} if memory is None else {"importance": importance.probabilities(memory)}

    def optimizer(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.lr)

    # the network

    def embed(self, params: Params, items: jax.Array) -> jax.Array:
        """The rows of E, ``[…, D]``; 0 for padding."""
        table: jax.Array = params["items" if self.tied else "read"]
        return table.at[items].get(mode="fill", fill_value=0)

    def denoise(
        self,
        params: Params,
        history: jax.Array,
        real: jax.Array,
        x: jax.Array,
        t: jax.Array,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """The f of Eq. 2, ``[B, D]``; with a key, after dropout.

        Args:
          params: the parameters.
          history: h, ``[B, L - 1, D]`` or less.
          real: ``[B, L - 1]`` bool, what is no padding.
          x: ``[B, D]``.
          t: ``[B]`` steps, 0-based: n - 1.
          key: of dropout.
        """
        tokens = jnp.concatenate([history, x[:, None]], axis=1)
        tokens = tokens + params["positions"][None, self.length - tokens.shape[1] :]
        z = timestep_embedding(jnp.arange(1.0, self.steps + 1.0), self.width)
        tokens = tokens + z.astype(tokens.dtype).at[t].get(mode="clip")[:, None]
        there = jnp.pad(real, ((0, 0), (0, 1)), constant_values=True)
        return cast(jax.Array, self.encoder.apply({"params": params["encoder"]}, tokens, there, key=key))[:, -1]

    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 4 over one prefix of each history with two events or more."""
        del step, epoch
        cut_key, t_key, noise_key, dropout_key = jax.random.split(key, 4)
        length = min(self.length - 1, max(rows.items.shape[1] - 1, 1))
        items, real, targets, weights = one_cut(rows, length, cut_key)
        p = jnp.full(self.steps, 1.0 / self.steps) if memory is None else importance.probabilities(memory)
        t, unlikely = importance.draw(p, t_key, targets.shape[0])
        known = self.embed(params, jnp.concatenate([items, targets[:, None]], axis=1))

        def draw(key: jax.Array) -> jax.Array:  # counted back from what comes next, which has two
            return jnp.flip(jax.random.normal(key, (length + 2, self.width)), axis=0)

        noise = jax.vmap(draw)(user_keys(noise_key, rows.users)).astype(known.dtype)
        h = known + math.sqrt(FIRST_VARIANCE) * noise[:, 1:]
        x = q_sample(self.schedule, h[:, -1], t, noise[:, 0])
        f = self.denoise(params, h[:, :-1], real, x, t, key=dropout_key)
        aim = jnp.where((t == 0)[:, None], known[:, -1], h[:, -1])
        squares = jnp.mean(jnp.square((aim - f).astype(jnp.promote_types(f.dtype, jnp.float32))), axis=1)

        def cross_entropy(vectors: jax.Array) -> jax.Array:
            return softmax_cross_entropy(
                vectors, params["items"], params["item_bias"], targets, weights, mesh=rows.mesh
            )

        total = jnp.sum(weights * unlikely * squares) + cross_entropy(h[:, -1])
        if self.ce_on_denoised:
            total = total + cross_entropy(f)
        if memory is not None:
            memory = importance.record(memory, t, squares, weights > 0)
        return total / jnp.maximum(jnp.sum(weights), 1.0), LossAux(memory)

    # ranking

    def now(self, params: Params, rows: Rows, *, key: jax.Array | None = None) -> jax.Array:
        """What is told of the next item, ``[B, D]``.

        Raises:
          ValueError: for noise without a key.
        """
        return in_short_windows(lambda *seen: self._told(params, rows.users, key, *seen), rows, self.length - 1)

    def _told(
        self, params: Params, users: jax.Array, key: jax.Array | None, items: jax.Array, real: jax.Array
    ) -> jax.Array:
        """The same of the last events of ``users [B]``, ``items [B, L - 1]``."""
        h = self.embed(params, items)
        t = jnp.full(items.shape[0], self.first_step - 1, jnp.int32)

        def denoise(x: jax.Array, t: jax.Array) -> jax.Array:
            return self.denoise(params, h, real, x, t)

        def told(x: jax.Array) -> jax.Array:
            x = x.astype(h.dtype)
            return reverse(self.schedule.first(self.first_step), denoise, x) if self.whole_reverse else denoise(x, t)

        def drawn(own: jax.Array) -> jax.Array:
            return told(normal_per_user(own, users, self.width))

        if not self.draws:
            return told(jnp.zeros((items.shape[0], self.width)))
        return mean_of_draws(drawn, key, self.draws)
