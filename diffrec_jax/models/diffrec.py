"""DiffRec, and with a recency kernel T-DiffRec: diffusion on whole interaction rows.

Source: the DiffRec paper (arXiv 2304.04971, Sections 3.1-3.4 and 3.6). Ours, and off unless asked for: ``forecast``
(see ``data.forecast``), and ``guidance``, which takes the popularity of items out of the scores::

    scores = x̂_0(history) - guidance · x̂_0(nothing)                                        (1)

Up to 1 this ranks as classifier-free guidance does (Ho and Salimans, arXiv 2207.12598, Eq. 6) with the empty history as
the absent condition, ``guidance = w / (1 + w)``; nothing is trained for it. More than 1 also makes up for the
popularity in what is added to the scores, such as a linear path.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Self, cast

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np
import optax
from flax import struct

from diffrec_jax.data.forecast import shown_and_asked
from diffrec_jax.data.packed import Dropout, PackedRows
from diffrec_jax.data.rows import Rows
from diffrec_jax.diffusion import importance
from diffrec_jax.diffusion.importance import LossHistory
from diffrec_jax.diffusion.objective import denoising_loss, loss_weights
from diffrec_jax.diffusion.process import corrupt, q_sample, reverse
from diffrec_jax.models import collapsed, gram
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Params, Prepared, Sizes, Stepped
from diffrec_jax.models.denoiser import ACTIVATIONS, Denoiser
from diffrec_jax.models.diffusion_settings import DiffusionSettings
from diffrec_jax.models.ridge import Ridge, adagrad_rows, regress
from diffrec_jax.models.user_noise import normal_per_user
from diffrec_jax.options import Needs, again, option
from diffrec_jax.ranges import Choice, Real

OUTPUTS = ("auto", "dense", "gram", "ridge")
BY_RIDGE = Needs("output", "--output=ridge", ("auto", "ridge"))
TABLES = ("in_items", "out_items", "out_bias")  # as long as the catalogue


class GramMemory(struct.PyTreeNode):
    """What training by Gram matrices remembers."""

    losses: LossHistory
    factor: jax.Array | None  # [H, H] float32, see ``gram.noise_factor``; None without noise
    ridge: Ridge | None = None  # where the last layer is a ridge regression

    @property
    def sums(self) -> Ridge:
        """The sums of the regression, where it is one."""
        assert self.ridge is not None
        return self.ridge


class Drawn(NamedTuple):
    """What a step without outputs draws."""

    rows: PackedRows
    target: PackedRows
    t: jax.Array  # [B]
    sampling_weight: jax.Array  # [B]
    factor: jax.Array | None  # see ``GramMemory``
    z: jax.Array | None  # [B, H] standard normal, the noise before ``factor``
    dropout: Dropout | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffRec(DiffusionSettings):
    """Hyper-parameters of DiffRec and its functions; see ``models.contract`` for what the functions promise.

    ``guidance`` is that of Eq. 1; ``dims=(200, 600)`` is I → 600 → 200 → 600 → I.
    """

    dims: tuple[int, ...] = option(
        (200, 600),
        "widths of the hidden layers, innermost first",
        at_least=1,
        nonempty=True,
        hint="such as [200,600]",
        search=Choice(((200,), (600,), (1000,), (200, 600))),
    )
    activation: str = option("tanh", "activation of the hidden layers", choices=tuple(ACTIVATIONS))
    norm: bool = again(DiffusionSettings, "norm", search=Choice((False, True)))
    reweight: bool = again(DiffusionSettings, "reweight", search=Choice((False, True)))
    guidance: float = option(
        0.0,
        "share of the prediction for an empty history that is taken from the scores; 1 takes all popularity out",
        at_least=0.0,
        hint="1 takes all popularity out, 0 is none",
        search=Real(0.0, 1.5),
    )
    output: str = option(
        "auto",
        "how the first and last layer are trained: with all outputs (dense), the same from Gram matrices (gram), or "
        "without the catalogue, the last one as a running ridge regression (ridge); auto takes what costs least",
        choices=OUTPUTS,
        before="dense",
    )
    w0: float = option(
        1.0,
        "weight in the squared error of the items that a history lacks; 1 is the paper",
        at_least=0.0,
        hint="1 is the paper, 0.3 is worth a try on large catalogues",
        search=Real(0.05, 1.0, log=True),
    )
    ridge_l2: float = option(
        0.002,
        "strength of the regularisation of the last layer, as a share of the rows it remembers",
        above=0.0,
        hint="0.002, say",
        search=Real(1e-4, 0.1, log=True),
        needs=BY_RIDGE,
    )
    ridge_half_life: float = option(
        1.0,
        "epochs after which the last layer has forgotten half of a row",
        above=0.0,
        hint="1, say",
        search=Real(0.1, 10.0, log=True),
        needs=BY_RIDGE,
    )
    rows_lr: float = option(
        0.05,
        "learning rate of the first layer, by Adagrad with one sum of squares for each item",
        above=0.0,
        hint="0.05, say",
        search=Real(0.005, 0.5, log=True),
        needs=BY_RIDGE,
    )
    lr: float = option(5e-4, "learning rate of AdamW", above=0.0, search=Real(1e-5, 3e-3, log=True))
    weight_decay: float = option(0.0, "decoupled weight decay of AdamW", at_least=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.forecast and self.mean_type == "eps":
            raise ValueError("mean_type=eps predicts the noise, and forecast the future: use mean_type=x0")
        if self.w0 != 1.0 and self.mean_type == "eps":
            raise ValueError(f"w0={self.w0} weighs the error of predicted rows, and mean_type=eps predicts the noise")
        if self.output in ("gram", "ridge") and self._needs_outputs:
            raise ValueError(f"output={self.output} {self._needs_outputs}: use output=dense")
        if self.output == "ridge" and self.w0 != 1.0:
            raise ValueError(f"w0={self.w0} gives every item a regression of its own: use output=gram, or w0=1")

    @property
    def _needs_outputs(self) -> str:
        """Why the loss is not to be had without the outputs; empty if it is."""
        if self.mean_type == "eps":
            return "never makes the noise that mean_type=eps predicts"
        return "does not know the length of a noisy row, by which norm=true divides" if self.norm else ""

    def suited(self, sizes: Sizes) -> tuple[Self, str]:
        """Whether the outputs are computed, decided by what a step takes."""
        if self.output != "auto":
            return self, ""
        if self._needs_outputs:
            return dataclasses.replace(self, output="dense"), ""
        dense, by_gram = gram.costs(sizes, width=self.dims[-1], noise=self.schedule.has_noise)
        output = "gram" if by_gram < dense else "dense"
        said = f"output={output}: a step takes {dense / 1e9:.3g} GFLOP with all outputs, {by_gram / 1e9:.3g} from Gram"
        return dataclasses.replace(self, output=output), f"{said} matrices (what is no product counts as its time)"

    @property
    def reads_packed(self) -> bool:
        """Where no outputs are computed."""
        return self.output in ("gram", "ridge")

    @property
    def item_axes(self) -> Mapping[str, int]:
        """See ``models.contract.Scorer.item_axes``."""
        return {"in_items": 0, "out_items": 1, "out_bias": 0, "targets": 0, "squares": 0}

    def denoiser(self, n_items: int) -> Denoiser:
        """The network for a catalogue of ``n_items``."""
        return Denoiser(
            size=n_items,
            dims=self.dims,
            emb_size=self.emb_size,
            activation=self.activation,
            norm=self.norm,
            dropout=self.dropout,
        )

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """Draw the network's parameters."""
        row = jnp.zeros((1, catalogue.n_items))
        return self.denoiser(catalogue.n_items).init(key, row, jnp.zeros(1, jnp.int32))

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW, decoupled weight decay."""
        return optax.adamw(self.lr, weight_decay=self.weight_decay)

    def init_memory(self, params: Params) -> Memory:
        """The losses of each diffusion step; without outputs also the factor of the noise (``gram`` Eq. 2), and the
        sums of the regression.
        """
        losses = super().init_memory(params)
        if not self.reads_packed:
            return losses
        factor = jnp.zeros((self.dims[-1],) * 2) if self.schedule.has_noise else None
        ridge = None
        if self.output == "ridge":
            ridge = Ridge.create(params["params"]["in_items"].shape[0], self.dims[-1])
        return GramMemory(losses, factor, ridge)

    def watched(self, memory: Memory) -> Mapping[str, jax.Array]:
        """See ``DiffusionSettings.watched``."""
        return super().watched(memory.losses if isinstance(memory, GramMemory) else memory)

    def loss(
        self,
        params: Params,
        memory: Memory,
        rows: Rows | PackedRows,
        *,
        key: jax.Array,
        step: jax.Array,
        epoch: jax.Array,
    ) -> tuple[jax.Array, LossAux]:
        """Importance-sampled, weighted denoising loss, averaged over the real rows of the batch (paper, Eq. 8-13)."""
        del epoch  # nothing is annealed
        if isinstance(rows, PackedRows):
            return self._loss_by_gram(params, memory, rows, key=key, step=step)
        t_key, noise_key, dropout_key = jax.random.split(key, 3)
        rows, future = shown_and_asked(self, rows, jax.random.fold_in(key, 3))
        x0, target = rows.dense(), None if future is None else future.dense()
        t, sampling_weight = importance.sample(memory, t_key, x0.shape[0])
        noise = jax.random.normal(noise_key, x0.shape).astype(x0.dtype)  # the same draws in any precision
        denoiser = self.denoiser(rows.n_items)

        def denoise(x_t: jax.Array, t: jax.Array) -> jax.Array:
            return cast(jax.Array, denoiser.apply(params, x_t, t, dropout_key=dropout_key))

        losses = denoising_loss(
            self.schedule,
            denoise,
            x0,
            t,
            noise,
            mean_type=self.mean_type,
            reweight=self.reweight,
            target=target,
            w0=self.w0,
        ).loss
        real = rows.users >= 0
        return rows.mean(losses * sampling_weight), LossAux(importance.record(memory, t, losses, real))

    def _draw(self, params: Params, memory: GramMemory, rows: PackedRows, *, key: jax.Array, step: jax.Array) -> Drawn:
        """What a step draws, its noise behind the first layer."""
        t_key, noise_key, dropout_key = jax.random.split(key, 3)
        rows, future = shown_and_asked(self, rows, jax.random.fold_in(key, 3))
        n_rows, w_in = rows.lengths.shape[0], jax.lax.stop_gradient(params["params"]["in_items"])
        t, sampling_weight = importance.sample(memory.losses, t_key, n_rows)
        factor, z = memory.factor, None
        if factor is not None:
            period = gram.REFOLD if memory.ridge is None else gram.REFOLD_WITHOUT_CATALOGUE
            factor = jax.lax.cond(step % period == 0, lambda: gram.noise_factor(w_in), lambda: factor)
            z = jax.random.normal(noise_key, (n_rows, w_in.shape[1]))
        dropout = Dropout.of(dropout_key, self.dropout) if self.dropout else None
        return Drawn(rows, rows if future is None else future, t, sampling_weight, factor, z, dropout)

    def _loss_by_gram(
        self, params: Params, memory: GramMemory, rows: PackedRows, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """The same in law, its noise drawn behind the first layer."""
        drawn = self._draw(params, memory, rows, key=key, step=step)
        noise = None
        if drawn.factor is not None and drawn.z is not None:
            noise = gram.noise_behind(params["params"]["in_items"], drawn.factor, drawn.z)
        losses = self.losses_behind(params, drawn.rows, drawn.t, noise, target=drawn.target, dropout=drawn.dropout)
        memory = memory.replace(
            losses=importance.record(memory.losses, drawn.t, losses, drawn.rows.users >= 0), factor=drawn.factor
        )
        return drawn.rows.mean(losses * drawn.sampling_weight), LossAux(memory)

    def losses_behind(
        self,
        params: Params,
        rows: PackedRows,
        t: jax.Array,
        noise: jax.Array | None,
        *,
        target: PackedRows | None = None,
        dropout: Dropout | None = None,
    ) -> jax.Array:
        """The weighted loss of each row at step ``t [B]``, ``[B]``, without outputs (``models.gram``).

        Args:
          params: the parameters.
          rows: the clean rows.
          t: ``[B]`` int32.
          noise: ``[B, H]``, the image of ε under the first layer without dropout; None for none.
          target: what is predicted, where that is not ``rows``.
          dropout: of the input.
        """
        product = rows.product(params["params"]["in_items"], dropout=dropout)
        vectors = self._behind(params, product, t, noise, dropout)
        error = gram.squared_error(self.item_vectors(params), vectors, rows if target is None else target, w0=self.w0)
        return self._weighed(error, t)

    def _behind(
        self, params: Params, product: jax.Array, t: jax.Array, noise: jax.Array | None, dropout: Dropout | None
    ) -> jax.Array:
        """The last hidden layer and a 1, ``[B, H + 1]``, of the image ``product [B, H]`` of clean rows."""
        p = product
        if noise is not None:  # dropout of ε leaves fewer items, each larger: its variance is divided by what stays
            spread = 1.0 if dropout is None else (1.0 - dropout.rate) ** -0.5
            p = q_sample(self.schedule, p, t, spread * noise)
        width = self.dims[-1]
        none = {"in_items": jnp.zeros((1, width)), "out_items": jnp.zeros((width, 1)), "out_bias": jnp.zeros(1)}
        between = {"params": {**params["params"], **none}}  # the tables are not asked
        h: Any = self.denoiser(1).apply(between, p, t, method="inner")
        return jnp.pad(h, ((0, 0), (0, 1)), constant_values=1.0)

    def _weighed(self, error: jax.Array, t: jax.Array) -> jax.Array:
        """The error of each row, weighed by its step."""
        return jnp.asarray(self._step_weights, error.dtype).at[t].get(mode="clip") * error

    @property
    def _step_weights(self) -> np.ndarray:
        return loss_weights(self.schedule, mean_type="x0", reweight=self.reweight)

    @property
    def steps_itself(self) -> bool:
        """With ``output=ridge``."""
        return self.output == "ridge"

    def optimized(self, params: Params) -> Params:
        """All parameters, or those between the tables."""
        if not self.steps_itself:
            return params
        return {"params": {name: value for name, value in params["params"].items() if name not in TABLES}}

    def own_step(
        self,
        params: Params,
        opt_state: optax.OptState,
        memory: GramMemory,
        rows: Any,
        *,
        optimizer: optax.GradientTransformation,
        key: jax.Array,
        step: jax.Array,
        epoch: jax.Array,
        dtype: jax.typing.DTypeLike | None = None,
    ) -> Stepped:
        """A step of ``models.ridge``: the loss of the last layer as it was, then both tables and the network move."""
        del epoch  # nothing is annealed
        drawn, n_items = self._draw(params, memory, rows, key=key, step=step), rows.n_items
        w_in, sums = params["params"]["in_items"], memory.sums
        n_rows = float(drawn.rows.lengths.shape[0])
        product = drawn.rows.product(w_in, dropout=drawn.dropout)
        products = drawn.target.product(sums.targets)
        inverse = sums.scale * sums.inverse(self.ridge_l2, n_rows)
        found, everywhere = products @ inverse, inverse @ sums.crossed @ inverse
        asked2 = drawn.target.square_sums()
        noise = None if drawn.z is None or drawn.factor is None else drawn.z @ drawn.factor.T

        def loss(small: Params, product: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            low = jnp.float32 if dtype is None else dtype
            small, p, e = jax.tree.map(lambda a: a.astype(low), (small, product, noise))
            vectors = self._behind(small, p, drawn.t, e, drawn.dropout).astype(jnp.float32)
            scores2 = jnp.sum((vectors @ everywhere) * vectors, axis=1)
            error = (scores2 - 2.0 * jnp.sum(found * vectors, axis=1) + asked2) / n_items
            losses = self._weighed(error, drawn.t)
            return drawn.rows.mean(losses * drawn.sampling_weight), (losses, vectors)

        small = self.optimized(params)
        ((mean, (losses, vectors)), (slopes, slopes_in)) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
            small, product
        )
        updates, opt_state = optimizer.update(slopes, opt_state, small)
        small = optax.apply_updates(small, updates)
        real = drawn.rows.users >= 0
        weights = jnp.where(real, self._weighed(drawn.sampling_weight, drawn.t), 0.0)
        decay = 0.5 ** (1.0 / (self.ridge_half_life * -(-rows.csr.n_users // n_rows)))
        moved = regress(sums, drawn.target, products, vectors, weights, decay=decay)
        w_in, squares = adagrad_rows(w_in, sums.squares, drawn.rows, slopes_in, lr=self.rows_lr, dropout=drawn.dropout)
        memory = GramMemory(
            importance.record(memory.losses, drawn.t, losses, real), drawn.factor, moved.replace(squares=squares)
        )
        return Stepped({"params": {**params["params"], **small["params"], "in_items": w_in}}, opt_state, mean, memory)

    def settled(self, params: Params, memory: GramMemory) -> tuple[Params, GramMemory]:
        """The last layer as the regression has it after an epoch."""
        p = params["params"]
        sums, outputs, bias = memory.sums.settled(p["out_items"], p["out_bias"], self.ridge_l2)
        return {"params": {**p, "out_items": outputs, "out_bias": bias}}, memory.replace(ridge=sums)

    def prepare(self, params: Params) -> Prepared:
        """The H×H products of the collapsed reverse process; None where the dense loop is needed."""
        if self.sampling_noise:
            return None
        tables = collapsed.prepare(params, norm=self.norm)
        if not self.guidance:
            return tables
        w_in, w_out = params["params"]["in_items"], params["params"]["out_items"]
        nothing = collapsed.Start(jnp.zeros((1, w_in.shape[1]), w_in.dtype))
        if self.norm:
            nothing = nothing._replace(out=jnp.zeros((1, w_out.shape[0])), bias=jnp.zeros(1), norm2=jnp.zeros(1))
        return tables.replace(empty=self._run_back(params, tables, nothing, n_items=w_in.shape[0]).u[0])

    def scores(self, params: Params, rows: Rows, *, key: jax.Array, tables: Prepared = None) -> jax.Array:
        """Scores ``[B, I]``: the reconstructed row of each user (paper, Algorithm 2).

        Noise, where asked for, is drawn per user id, so that it depends neither on the batch nor on its padding.
        """
        if self.sampling_noise:
            return self.scores_by_dense_loop(params, rows, key)
        found, x_T = self._user_vectors(params, rows, key, tables)
        p = params["params"]
        scores: jax.Array = jnp.matmul(found.u, p["out_items"]) + found.s * p["out_bias"][None, :]
        if found.a != 0.0:
            scores += found.a * (rows.dense() if x_T is None else x_T)
        return scores

    @property
    def factored(self) -> bool:
        """True where the reverse process ends in the network's x0 prediction: then nothing of x_T is left in it."""
        return self.mean_type == "x0" and not self.sampling_noise

    def user_vectors(self, params: Params, rows: Rows, *, key: jax.Array, tables: Prepared = None) -> jax.Array:
        """``[h_0, 1]``, ``[B, H + 1]``: the last hidden layer of the last step, less its guidance."""
        u, s, _ = self._user_vectors(params, rows, key, tables)[0]
        return jnp.concatenate([u, jnp.full((u.shape[0], 1), s, u.dtype)], axis=1)

    def item_vectors(self, params: Params) -> jax.Array:
        """``[W_out; b_out]`` transposed, ``[I, H + 1]``."""
        p = params["params"]
        return jnp.concatenate([p["out_items"], p["out_bias"][None, :]]).T

    def _user_vectors(
        self, params: Params, rows: Rows, key: jax.Array, tables: Prepared
    ) -> tuple[collapsed.UserVectors, jax.Array | None]:
        """The collapsed loop; also the corrupted rows ``[B, I]`` where there was corruption."""
        p = params["params"]
        tables = self.prepare(params) if tables is None else tables
        x_T = None
        if self.sampling_steps == 0:
            product, bias = rows.product, rows.product(p["out_bias"][:, None])[:, 0] if self.norm else None
            norm2 = jnp.sum(jnp.square(rows.weights), axis=1)
        else:
            x_T = self._corrupted(rows, key)
            product, bias = functools.partial(jnp.matmul, x_T), jnp.matmul(x_T, p["out_bias"])
            norm2 = jnp.sum(jnp.square(x_T), axis=1)
        start = collapsed.Start(p=product(p["in_items"]))
        if self.norm:
            start = start._replace(out=product(p["out_items"].T), bias=bias, norm2=norm2)
        found = self._run_back(params, tables, start, n_items=rows.n_items)
        if self.guidance:
            found = found._replace(u=found.u - self.guidance * tables.empty[None, :], s=found.s * (1.0 - self.guidance))
        return found, x_T

    def _run_back(
        self, params: Params, tables: collapsed.Tables, start: collapsed.Start, *, n_items: int
    ) -> collapsed.UserVectors:
        return collapsed.reverse_collapsed(
            self.schedule, self.denoiser(n_items), params, tables, start, mean_type=self.mean_type
        )

    def scores_by_dense_loop(self, params: Params, rows: Rows, key: jax.Array) -> jax.Array:
        """The dense loop: the reference of the collapsed one, and the way of sampling noise."""
        denoiser = self.denoiser(rows.n_items)
        noise_key = jax.random.fold_in(key, 1)

        def denoise(x_t: jax.Array, t: jax.Array) -> jax.Array:
            return cast(jax.Array, denoiser.apply(params, x_t, t))

        def sampling_noise(t: jax.Array) -> jax.Array:
            return normal_per_user(jax.random.fold_in(noise_key, t), rows.users, rows.n_items)

        scores = reverse(
            self.schedule,
            denoise,
            self._corrupted(rows, key),
            mean_type=self.mean_type,
            sampling_noise=sampling_noise if self.sampling_noise else None,
        )
        if not self.guidance:
            return scores
        nothing = jnp.zeros((1, rows.n_items), scores.dtype)
        return scores - self.guidance * reverse(self.schedule, denoise, nothing, mean_type=self.mean_type)

    def _corrupted(self, rows: Rows, key: jax.Array) -> jax.Array:
        """x_T ``[B, I]``."""
        noise = normal_per_user(key, rows.users, rows.n_items) if self.sampling_steps else None
        return corrupt(self.schedule, rows.dense(), noise, sampling_steps=self.sampling_steps)
