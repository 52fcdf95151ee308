"""L-DiffRec, and with a recency kernel LT-DiffRec: diffusion on latents of clusters of items.

Autoencoder (``cluster_vae``) and denoiser are trained together. With x a row after dropout, z_0 its latent drawn from
the encoder, ẑ_0 what the denoiser predicts from z_t, and decoder logits of ẑ_0::

    L_vae = mean_B [-Σ x · log softmax(logits(ẑ_0))] + γ · mean_B KL                       (1)
    L     = λ · L_diffusion + L_vae              (``reweight``; otherwise L_diffusion + λ · L_vae)  (2)
    γ     = min(vae_anneal_cap, n / vae_anneal_steps),        n batches done before         (3)
    λ     = max(lamda · (1 - e / anneal_steps), anneal_cap),  e epochs completed            (4)

L_diffusion is ``diffusion.objective`` on z_0, importance-sampled. z_0 is not detached: L_diffusion trains the encoder
too, through the denoiser's input and through its target. Both annealings are functions of the step and the epoch, so
there is no state to resume. Ranking uses means only: μ, the reverse process in latent space, the decoder.

Source: the DiffRec paper (arXiv 2304.04971, Sections 3.5 and 3.6).
Letters: B rows, I items, C clusters, Z latent width, T diffusion steps.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffrec_jax.data.forecast import shown_and_asked
from diffrec_jax.data.rows import Rows
from diffrec_jax.diffusion import importance
from diffrec_jax.diffusion.importance import LossHistory
from diffrec_jax.diffusion.objective import denoising_loss
from diffrec_jax.diffusion.process import Denoise, corrupt, reverse
from diffrec_jax.models.cluster_vae import (
    Clusters,
    ClusterVAE,
    divide_width,
    kl_divergence,
    kl_steps,
    kl_weight,
    multinomial_nll,
    reparameterise,
    split,
)
from diffrec_jax.models.contract import Catalogue, LossAux, Params, Prepared
from diffrec_jax.models.denoiser import ACTIVATIONS, Denoiser, dropout
from diffrec_jax.models.diffusion_settings import DiffusionSettings
from diffrec_jax.models.user_noise import normal_per_user
from diffrec_jax.options import again, internal, option
from diffrec_jax.ranges import Choice, Real
from diffrec_jax.types import PyTree

WIDTHS: dict[str, Any] = {"at_least": 1, "nonempty": True, "hint": "such as [300]"}


class Terms(NamedTuple):
    """The loss of each example, term by term; each ``[B]``."""

    diffusion: jax.Array
    nll: jax.Array
    kl: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentDiffRec(DiffusionSettings):
    """Hyper-parameters of L-DiffRec and its functions; see ``models.contract`` for what the functions promise.

    ``mean_type``, ``norm``, ``dropout``, ``sampling_steps`` and ``sampling_noise`` are of the process in latent space;
    see also Eq. 2 for ``reweight``. ``forecast`` encodes pasts and decodes futures.

    ``lamda``, ``anneal_cap`` and ``anneal_steps`` are those of Eq. 4 (0 steps: ``max(lamda, anneal_cap)`` throughout),
    ``vae_anneal_cap`` and ``vae_anneal_steps`` of Eq. 3 (0 steps: the cap throughout).

    Attributes:
      clusters: the cluster of each item, ``[I]`` whole numbers or ``Clusters``. They shape the network and order its
        columns, but are not learned: they belong to the model, not to its parameters.
    """

    clusters: Clusters | np.ndarray | None = internal(None)
    in_dims: tuple[int, ...] = option(
        (300,),
        "width of the latent, then the hidden widths of the encoder, outermost last",
        search=Choice(((200,), (300,), (300, 600))),
        **WIDTHS,
    )
    out_dims: tuple[int, ...] = option((), "decoder: [] is one linear layer; the widths of --in_dims, one per cluster")
    act_func: str = option("tanh", "activation of the autoencoder", choices=tuple(ACTIVATIONS))
    vae_dropout: float = option(
        0.1, "dropout rate on the autoencoder's input in training", at_least=0.0, below=1.0, search=Real(0.0, 0.7)
    )
    reparam: bool = option(True, "train on latents drawn from the encoder instead of on its means")
    mlp_dims: tuple[int, ...] = option(
        (300,), "hidden widths of the denoiser, innermost first", search=Choice(((200,), (300,), (600,))), **WIDTHS
    )
    mlp_act_func: str = option("tanh", "activation of the denoiser", choices=tuple(ACTIVATIONS))
    beta_fixed: bool = again(DiffusionSettings, "beta_fixed", default=False)
    lamda: float = option(
        0.03, "weight of the diffusion loss at the start", at_least=0.0, search=Real(0.005, 0.2, log=True)
    )
    anneal_cap: float = option(0.005, "weight of the diffusion loss at the end", at_least=0.0)
    anneal_steps: int = option(
        500, "epochs in which that weight would fall to 0; --anneal_cap stops it earlier", at_least=0
    )
    vae_anneal_cap: float = kl_weight()
    vae_anneal_steps: int = kl_steps()
    lr1: float = option(1e-3, "learning rate of the autoencoder", above=0.0, search=Real(1e-4, 5e-3, log=True))
    lr2: float = option(5e-4, "learning rate of the denoiser", above=0.0, search=Real(1e-5, 3e-3, log=True))
    wd1: float = option(0.0, "weight decay of the autoencoder", at_least=0.0)
    wd2: float = option(0.0, "weight decay of the denoiser", at_least=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clusters is not None and not isinstance(self.clusters, Clusters):
            object.__setattr__(self, "clusters", Clusters(self.clusters))
        if self.out_dims not in ((), self.in_dims):
            raise ValueError(
                f"out_dims={list(self.out_dims)} does not fit in_dims={list(self.in_dims)}: choose [] (one linear "
                "layer) or the same widths (one mirrored decoder per cluster)"
            )
        if isinstance(self.clusters, Clusters):
            for width in self.in_dims:
                divide_width(width, self.clusters.sizes)

    @functools.cached_property
    def autoencoder(self) -> ClusterVAE:
        """The encoders and the decoder, in cluster order."""
        return ClusterVAE(self._clusters.sizes, self.in_dims, self.out_dims, self.act_func)

    @property
    def item_axes(self) -> Mapping[str, int]:
        """See ``models.contract.Scorer.item_axes``; the last three are tables."""
        return {**self.autoencoder.item_axes, "first_kernels": 0, "last_kernel": 1, "last_bias": 0}

    @functools.cached_property
    def denoiser(self) -> Denoiser:
        """The network on latents; its biases start at zero here."""
        return Denoiser(
            size=self.in_dims[0],
            dims=self.mlp_dims,
            emb_size=self.emb_size,
            activation=self.mlp_act_func,
            norm=self.norm,
            dropout=self.dropout,
            bias_std=0.0,
        )

    @property
    def needs_clusters(self) -> bool:
        """Always."""
        return True

    def with_clusters(self, clusters: Clusters | np.ndarray) -> "LatentDiffRec":
        """The model with these clusters, ``[I]`` whole numbers or ``Clusters``."""
        return dataclasses.replace(self, clusters=clusters)

    @property
    def _clusters(self) -> Clusters:
        if not isinstance(self.clusters, Clusters):
            raise ValueError("L-DiffRec needs the cluster of each item: pass clusters=, for example from k_means()")
        return self.clusters

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """Draw the parameters ``{"autoencoder": …, "denoiser": …}``: Xavier-normal weights, biases of zero."""
        clusters, n_items = self._clusters, catalogue.n_items
        if len(clusters.of_item) != n_items:
            raise ValueError(f"clusters are of {len(clusters.of_item)} items, and the catalogue has {n_items}")
        vae_key, denoiser_key = jax.random.split(key)
        z = jnp.zeros((1, self.in_dims[0]))
        return {
            "autoencoder": self.autoencoder.init(vae_key, jnp.zeros((1, n_items))),
            "denoiser": self.denoiser.init(denoiser_key, z, jnp.zeros(1, jnp.int32)),
        }

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW, with a learning rate and a weight decay for each part."""
        return optax.partition(
            {
                "autoencoder": optax.adamw(self.lr1, weight_decay=self.wd1),
                "denoiser": optax.adamw(self.lr2, weight_decay=self.wd2),
            },
            {"autoencoder": "autoencoder", "denoiser": "denoiser"},
        )

    def loss(
        self, params: Params, memory: LossHistory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """The joint loss (Eq. 2), averaged over the real rows of the batch."""
        t_key, latent_key, noise_key, vae_key, denoiser_key = jax.random.split(key, 5)
        rows, target = shown_and_asked(self, rows, jax.random.fold_in(key, 5))
        # What dropout does to a row is decided on its interactions: elsewhere there is nothing to drop.
        rows = rows.replace(weights=dropout(vae_key, rows.weights, rate=self.vae_dropout))
        latent = (rows.items.shape[0], self.in_dims[0])
        t, sampling_weight = importance.sample(memory, t_key, latent[0])
        terms = self.terms(
            params,
            self._clusters.in_order(rows),
            t,
            target=None if target is None else self._clusters.in_order(target),
            latent_noise=jax.random.normal(latent_key, latent) if self.reparam else None,
            noise=jax.random.normal(noise_key, latent),
            dropout_key=denoiser_key,
        )
        real = rows.users >= 0
        diffusion, nll, kl = (rows.mean(x) for x in (terms.diffusion * sampling_weight, terms.nll, terms.kl))
        lamda, gamma = self.lamda_at(epoch), self.gamma_at(step)
        vae = nll + gamma * kl
        total = lamda * diffusion + vae if self.reweight else diffusion + lamda * vae
        metrics = {"diffusion": diffusion, "nll": nll, "kl": kl, "lamda": lamda, "gamma": gamma}
        return total, LossAux(importance.record(memory, t, terms.diffusion, real), metrics)

    def terms(
        self,
        params: Params,
        x: Rows | jax.Array,
        t: jax.Array,
        *,
        target: Rows | None = None,
        latent_noise: jax.Array | None,
        noise: jax.Array,
        dropout_key: jax.Array | None = None,
    ) -> Terms:
        """The terms of Eq. 1 and 2 for rows in cluster order (dense ``[B, I]`` or not) after dropout, all draws given.

        ``t [B]``; ``target``: rows to decode, where not ``x`` itself; ``noise [B, Z]`` of the forward process;
        ``latent_noise [B, Z]`` of the reparameterisation, None takes the mean; ``dropout_key`` of the denoiser, None
        turns its dropout off.
        """
        encoded, decoded = self._blocks(x)
        decoded = decoded if target is None else self._blocks(target)[1]
        mean, log_variance = self._apply(params["autoencoder"], encoded, method="encode")
        z0 = mean if latent_noise is None else reparameterise(mean, log_variance, latent_noise)

        denoised = denoising_loss(
            self.schedule,
            self._denoise(params, dropout_key),
            z0,
            t,
            noise,
            mean_type=self.mean_type,
            reweight=self.reweight,
        )
        logits = self._apply(params["autoencoder"], denoised.x0, method="decode")
        return Terms(denoised.loss, multinomial_nll(logits, decoded), kl_divergence(mean, log_variance))

    def gamma_at(self, step: jax.Array) -> jax.Array:
        """γ of Eq. 3."""
        share = step / self.vae_anneal_steps if self.vae_anneal_steps else self.vae_anneal_cap
        return jnp.minimum(self.vae_anneal_cap, share)

    def lamda_at(self, epoch: jax.Array) -> jax.Array:
        """λ of Eq. 4."""
        share = 1.0 - epoch / self.anneal_steps if self.anneal_steps else 1.0
        return jnp.maximum(self.lamda * share, self.anneal_cap)

    def prepare(self, params: Params) -> Prepared:
        """The first matrices as far as the means need them; the last ones side by side, their columns in item order."""
        last = self.item_vectors(params).T
        return {
            "first_kernels": self._apply(params["autoencoder"], method="first_kernels"),
            "last_kernel": last[:-1],
            "last_bias": last[-1],
        }

    def scores(self, params: Params, rows: Rows, *, key: jax.Array, tables: Prepared = None) -> jax.Array:
        """Logits ``[B, I]`` of each user: encoder means, reverse process on latents, decoder.

        The rows are never dense: their products with the first matrices are gathered. Noise is drawn per user id.
        """
        tables = self.prepare(params) if tables is None else tables
        hidden = self.user_vectors(params, rows, key=key, tables=tables)[:, :-1]
        scores: jax.Array = jnp.matmul(hidden, tables["last_kernel"]) + tables["last_bias"][None, :]
        return scores

    @property
    def factored(self) -> bool:
        """Always: the last map of the decoder is linear."""
        return True

    def user_vectors(self, params: Params, rows: Rows, *, key: jax.Array, tables: Prepared = None) -> jax.Array:
        """``[h, 1]``, ``[B, H + 1]``: what the decoder's last matrices are multiplied with, cluster after cluster."""
        tables = self.prepare(params) if tables is None else tables
        z = self._latents(params, rows, key, tables)
        hidden = self._apply(params["autoencoder"], z, method="hidden")
        return jnp.concatenate([*hidden, jnp.ones((z.shape[0], 1), z.dtype)], axis=1)

    def item_vectors(self, params: Params) -> jax.Array:
        """The decoder's last columns and biases, ``[I, H + 1]``; zero at what belongs to other clusters."""
        vectors: jax.Array = self._apply(params["autoencoder"], method="output_vectors")[self._clusters.place[:-1]]
        return vectors

    def _latents(self, params: Params, rows: Rows, key: jax.Array, tables: Prepared) -> jax.Array:
        """ẑ_0 ``[B, Z]``: encoder means, then the reverse process."""
        rows = self._clusters.in_order(rows)
        products = [part.product(kernel) for part, kernel in zip(self._clusters.cut(rows), tables["first_kernels"])]
        return self._reverse(params, self._apply(params["autoencoder"], products, method="means"), rows.users, key)

    def _reverse(self, params: Params, z0: jax.Array, users: jax.Array, key: jax.Array) -> jax.Array:
        """Corrupt latents ``[B, Z]`` for T' steps and run all T steps back."""
        width, sampling_key = self.in_dims[0], jax.random.fold_in(key, 1)

        def draw(t: jax.Array) -> jax.Array:
            return normal_per_user(jax.random.fold_in(sampling_key, t), users, width)

        noise = normal_per_user(key, users, width) if self.sampling_steps else None
        return reverse(
            self.schedule,
            self._denoise(params),
            corrupt(self.schedule, z0, noise, sampling_steps=self.sampling_steps),
            mean_type=self.mean_type,
            sampling_noise=draw if self.sampling_noise else None,
        )

    def _blocks(self, x: Rows | jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        """Rows in cluster order in the blocks that the encoders take, and in those that ``decode`` gives.

        Blocks are scattered, not cut out of each other: on a mesh each is spread evenly, and nothing of it moves.
        """
        if isinstance(x, Rows):
            parts = [part.dense() for part in self._clusters.cut(x)]
        else:
            parts = split(x, self._clusters.sizes)
        return parts, parts if self.out_dims else [x.dense() if isinstance(x, Rows) else x]

    def _denoise(self, params: Params, dropout_key: jax.Array | None = None) -> Denoise:
        return cast(Denoise, functools.partial(self.denoiser.apply, params["denoiser"], dropout_key=dropout_key))

    def _apply(self, params: Params, *args: PyTree, method: str) -> PyTree:
        return self.autoencoder.apply(params, *args, method=method)
