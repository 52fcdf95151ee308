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
from typing import cast

import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.forecast import shown_and_asked
from diffrec_jax.data.packed import AnyRows, PackedRows
from diffrec_jax.data.rows import Rows
from diffrec_jax.diffusion import importance
from diffrec_jax.diffusion.objective import denoising_loss
from diffrec_jax.diffusion.process import corrupt, reverse
from diffrec_jax.models import collapsed
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Params, Prepared
from diffrec_jax.models.denoiser import Denoiser
from diffrec_jax.models.diffusion_settings import DiffusionSettings
from diffrec_jax.models.user_noise import normal_per_user
from diffrec_jax.models.without_outputs import WithoutOutputs
from diffrec_jax.options import Needs, again, option
from diffrec_jax.ranges import Choice, Real


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffRec(WithoutOutputs):
    """Hyper-parameters of DiffRec and its functions; see ``models.contract`` for what the functions promise.

    ``guidance`` is that of Eq. 1; ``dims=(200, 600)`` is I → 600 → 200 → 600 → I.
    """

    norm: bool = again(
        DiffusionSettings,
        "norm",
        search=Choice((False, True)),
        needs=Needs("output", "--output=dense", ("auto", "dense")),
    )
    reweight: bool = again(DiffusionSettings, "reweight", search=Choice((False, True)))
    guidance: float = option(
        0.0,
        "share of the prediction for an empty history that is taken from the scores; 1 takes all popularity out",
        at_least=0.0,
        hint="1 takes all popularity out, 0 is none",
        search=Real(0.0, 1.5),
    )
    lr: float = option(5e-4, "learning rate of AdamW", above=0.0, search=Real(1e-5, 3e-3, log=True))
    weight_decay: float = option(0.0, "decoupled weight decay of AdamW", at_least=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.forecast and self.mean_type == "eps":
            raise ValueError("mean_type=eps predicts the noise, and forecast the future: use mean_type=x0")

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
        if self.output == "ridge":
            return self.init_without_outputs(key, catalogue)
        row = jnp.zeros((1, catalogue.n_items))
        return self.denoiser(catalogue.n_items).init(key, row, jnp.zeros(1, jnp.int32))

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW, decoupled weight decay."""
        return optax.adamw(self.lr, weight_decay=self.weight_decay)

    def loss(
        self, params: Params, memory: Memory, rows: AnyRows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Importance-sampled, weighted denoising loss, averaged over the real rows of the batch (paper, Eq. 8-13)."""
        del epoch  # nothing is annealed
        if isinstance(rows, PackedRows):
            return self.loss_without_outputs(params, memory, rows, key=key, step=step)
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
