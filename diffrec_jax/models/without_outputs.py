"""Training DiffRec without its outputs: from Gram matrices (``gram``), or by a running regression (``ridge``).

What both need of the network is its hidden part, ``g`` of ``denoiser`` Eq. 1; of the tables as long as the catalogue,
only the rows that a batch touches. The equations are those of ``models.gram`` and ``models.ridge``.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import jax.typing
import optax
from flax import struct

from diffrec_jax.data import walks
from diffrec_jax.data.forecast import shown_and_asked
from diffrec_jax.data.packed import Dropout, PackedRows
from diffrec_jax.diffusion import importance
from diffrec_jax.diffusion.importance import LossHistory
from diffrec_jax.diffusion.objective import loss_weights
from diffrec_jax.diffusion.process import q_sample
from diffrec_jax.models import gram
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Params, Sizes, Stepped
from diffrec_jax.models.denoiser import ACTIVATIONS, Denoiser
from diffrec_jax.models.diffusion_settings import DiffusionSettings
from diffrec_jax.models.ridge import CHUNK, Ridge, adagrad_rows, regress
from diffrec_jax.options import Needs, option
from diffrec_jax.ranges import Choice, Real

OUTPUTS = ("auto", "dense", "gram", "ridge")
BY_RIDGE = Needs("output", "--output=ridge", "ridge")
TABLES = ("in_items", "out_items", "out_bias")  # as long as the catalogue


class GramMemory(struct.PyTreeNode):
    """What training without outputs remembers."""

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
    noise: jax.Array | None  # [B, H], behind the first layer
    dropout: Dropout | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithoutOutputs(DiffusionSettings):
    """The widths of the network, how its outputs are trained, and the steps that never make them; see ``DiffRec``."""

    dims: tuple[int, ...] = option(
        (200, 600),
        "widths of the hidden layers, innermost first",
        at_least=1,
        nonempty=True,
        hint="such as [200,600]",
        search=Choice(((200,), (600,), (1000,), (200, 600))),
    )
    activation: str = option("tanh", "activation of the hidden layers", choices=tuple(ACTIVATIONS))
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
        needs=Needs("output", "--output=gram", ("auto", "dense", "gram")),
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.w0 != 1.0 and self.mean_type == "eps":
            raise ValueError(f"w0={self.w0} weighs the error of predicted rows, and mean_type=eps predicts the noise")
        if self.output in ("gram", "ridge") and self._needs_outputs:
            raise ValueError(f"output={self.output} {self._needs_outputs}: use output=dense")
        if self.output == "ridge" and self.w0 != 1.0:
            raise ValueError(f"w0={self.w0} gives every item a regression of its own: use output=gram, or w0=1")

    @abc.abstractmethod
    def denoiser(self, n_items: int) -> Denoiser:
        """The network for a catalogue of ``n_items``."""

    def init_without_outputs(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """The parameters of ``denoiser``: its first layer drawn a chunk of items at a time, its last one zeros."""
        small = self.denoiser(1).init(key, jnp.zeros((1, 1)), jnp.zeros(1, jnp.int32))["params"]
        n_items, width = catalogue.n_items, self.dims[-1]
        chunk, std = min(CHUNK, n_items), (2.0 / (n_items + self.emb_size + width)) ** 0.5

        def body(n: jax.Array, table: jax.Array) -> jax.Array:
            drawn = std * jax.random.normal(jax.random.fold_in(key, n), (chunk, width))
            first = jnp.minimum(n * chunk, n_items - chunk)
            return jax.lax.dynamic_update_slice_in_dim(table, drawn, first, 0)

        in_items = jax.lax.fori_loop(0, -(-n_items // chunk), body, jnp.zeros((n_items, width)))
        outputs = {"out_items": jnp.zeros((width, n_items)), "out_bias": jnp.zeros(n_items)}
        return {"params": {**small, "in_items": in_items, **outputs}}

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
    def advice(self) -> str:
        """See ``contract.Model.advice``; a regression may also lose its positive definite matrix."""
        raised = f"raise ridge_l2={self.ridge_l2:g}, lower rows_lr={self.rows_lr:g}"
        return f"{raised}, or look at the data" if self.output == "ridge" else super().advice

    @property
    def reads_packed(self) -> bool:
        """Where no outputs are computed."""
        return self.output in ("gram", "ridge")

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

    def _draw(self, params: Params, memory: GramMemory, rows: PackedRows, *, key: jax.Array, step: jax.Array) -> Drawn:
        """What a step draws, its noise behind the first layer."""
        t_key, noise_key, dropout_key = jax.random.split(key, 3)
        rows, future = shown_and_asked(self, rows, jax.random.fold_in(key, 3))
        n_rows, w_in = rows.lengths.shape[0], params["params"]["in_items"]
        t, sampling_weight = importance.sample(memory.losses, t_key, n_rows)
        factor, noise = memory.factor, None
        if factor is not None:
            period = gram.REFOLD if memory.ridge is None else gram.REFOLD_WITHOUT_CATALOGUE
            fixed = jax.lax.stop_gradient(w_in)
            factor = jax.lax.cond(step % period == 0, lambda: gram.noise_factor(fixed), lambda: factor)
            noise = gram.noise_behind(w_in, factor, jax.random.normal(noise_key, (n_rows, w_in.shape[1])))
        dropout = Dropout.of(dropout_key, self.dropout) if self.dropout else None
        return Drawn(rows, rows if future is None else future, t, sampling_weight, factor, noise, dropout)

    def loss_without_outputs(
        self, params: Params, memory: GramMemory, rows: PackedRows, *, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """The loss of a batch from Gram matrices: that of all outputs in law; noise is drawn behind the first layer."""
        drawn = self._draw(params, memory, rows, key=key, step=step)
        losses = self.losses_behind(
            params, drawn.rows, drawn.t, drawn.noise, target=drawn.target, dropout=drawn.dropout
        )
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
        product = walks.product(rows, params["params"]["in_items"], dropout=dropout)
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
        weights = loss_weights(self.schedule, mean_type="x0", reweight=self.reweight)
        return jnp.asarray(weights, error.dtype).at[t].get(mode="clip") * error

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
        product = walks.product(drawn.rows, w_in, dropout=drawn.dropout)
        products = walks.product(drawn.target, sums.targets)
        inverse = sums.scale * sums.inverse(self.ridge_l2, n_rows)
        found, everywhere = products @ inverse, inverse @ sums.crossed @ inverse
        asked2 = walks.weight_sums(drawn.target, power=2)

        def loss(small: Params, product: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            low = jnp.float32 if dtype is None else dtype
            small, p, e = jax.tree.map(lambda a: a.astype(low), (small, product, drawn.noise))
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
