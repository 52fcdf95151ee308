"""MultVAE and MultiDAE: autoencoders of whole rows with a multinomial likelihood, the paper's nearest relatives.

With x a row, x̃ its direction x / ‖x‖ after dropout, and an MLP on either side of the latent::

    MultVAE   [μ, log σ²] = encoder(x̃),   z = μ + ε · exp(½ log σ²)                         (1)
              L = mean_B [-Σ x · log softmax(decoder(z))] + γ · mean_B KL(N(μ, σ²) ‖ N(0, 1))  (2)
              γ = min(vae_anneal_cap, n / vae_anneal_steps),      n batches done before     (3)
    MultiDAE  z = a(encoder(x̃)),   L = mean_B [-Σ x · log softmax(decoder(z))]              (4)

Without all logits at once, the sum of a softmax is made over chunks of items, or, with K items j drawn from q in
proportion to their popularity, estimated beside the logit s_i of each item of the row::

    -x_i · log softmax_i ≈ x_i · [log (exp s_i + Σ_j exp (s_j - log(K q_j))) - s_i]         (5)

Ranking uses the mean, without dropout: the product of the row with the first matrix is gathered, never dense. With
``forecast`` x̃ is of the past and x, in the sums, the future (``data.forecast``).

Source: Liang et al., *Variational Autoencoders for Collaborative Filtering* (WWW 2018, Eq. 2-5 and Section 2.4). Ours:
dropout is drawn on the entries of the history, where alone there is something to drop; AdamW, whose ``weight_decay``
stands in place of the L2 penalty of MultiDAE; γ rises to a share of 1 within hundreds of steps, as in L-DiffRec, since
runs here are that short (searches try up to 20,000).
Letters: B rows, I items, Z latent width, H width of the last hidden layer.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.forecast import check_forecast, future, shown_and_asked, weighted_fit
from diffrec_jax.data.packed import AnyRows, Dropout, PackedRows
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import Rows
from diffrec_jax.data.walks import event_sums, product, weight_sums
from diffrec_jax.models.cluster_vae import kl_divergence, kl_steps, kl_weight, multinomial_nll, reparameterise
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Model, Params, Prepared, Sizes
from diffrec_jax.models.denoiser import ACTIVATIONS, dropout, l2_normalise
from diffrec_jax.models.in_lanes import draw, probabilities
from diffrec_jax.models.item_chunks import log_sum_exp
from diffrec_jax.models.item_losses import check_negatives
from diffrec_jax.options import Needs, again, check, option
from diffrec_jax.ranges import Choice, Real, Whole
from diffrec_jax.types import PyTree

OUTPUTS = ("auto", "dense", "chunked", "sampled")
MOST_LOGITS = 2**25  # that are made at once unless somebody says otherwise: 128 MiB, and as much for their gradient
ALPHA = 1.0  # items are drawn as often as they are met


class Autoencoder(nn.Module):
    """The network of both: Xavier-normal weights, biases of zero.

    Attributes:
      size: I.
      dims: widths, innermost first: (200, 600) is I → 600 → 200 → 600 → I.
      activation: a name in ``ACTIVATIONS``.
      variational: the encoder gives a mean and a log-variance (Eq. 1), not an activation (Eq. 4).
    """

    size: int
    dims: tuple[int, ...]
    activation: str
    variational: bool

    def setup(self) -> None:
        """Declare the parameters."""
        inward = [*reversed(self.dims[1:]), (2 if self.variational else 1) * self.dims[0]]
        weight, zeros = nn.initializers.variance_scaling(1.0, "fan_avg", "normal"), nn.initializers.zeros
        self.in_items = self.param("in_items", weight, (self.size, inward[0]))
        self.in_bias = self.param("in_bias", zeros, (inward[0],))
        self.encoder = [nn.Dense(width, kernel_init=weight) for width in inward[1:]]
        self.decoder = [nn.Dense(width, kernel_init=weight) for width in self.dims[1:]]
        self.out_items = self.param("out_items", weight, (self.dims[-1], self.size))
        self.out_bias = self.param("out_bias", zeros, (self.size,))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits ``[B, I]`` of rows ``x [B, I]`` through their mean latents."""
        return self.decode(self.encode(jnp.matmul(x, self.in_items))[:, : self.dims[0]])

    def encode(self, product: jax.Array) -> jax.Array:
        """``[μ, log σ²] [B, 2Z]``, or ``z [B, Z]`` of MultiDAE, from ``x · in_items``."""
        act = ACTIVATIONS[self.activation]
        h = product + self.in_bias[None, :]
        for layer in self.encoder:
            h = layer(act(h))
        return h if self.variational else act(h)

    def hidden(self, z: jax.Array) -> jax.Array:
        """``[B, H]``: what the last matrix is multiplied with."""
        act = ACTIVATIONS[self.activation]
        for layer in self.decoder:
            z = act(layer(z))
        return z

    def decode(self, z: jax.Array) -> jax.Array:
        """Logits ``[B, I]``."""
        return jnp.matmul(self.hidden(z), self.out_items) + self.out_bias[None, :]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multinomial(Model):
    """What MultVAE and MultiDAE have in common: everything but the latent of the training loss.

    The first of ``dims`` is Z; ``activation`` is also that of the latent of MultiDAE.
    """

    dims: tuple[int, ...] = option(
        (200, 600),
        "widths of the layers, innermost first",
        at_least=1,
        nonempty=True,
        hint="such as [200,600]",
        search=Choice(((200,), (600,), (200, 600), (600, 1200))),
    )
    activation: str = option("tanh", "activation of the hidden layers", choices=tuple(ACTIVATIONS))
    dropout: float = option(
        0.5, "dropout rate on the history in training", at_least=0.0, below=1.0, search=Real(0.0, 0.8)
    )
    output: str = option(
        "auto",
        "how the softmax over the catalogue is computed in training: with all logits at once (dense), the same a part "
        "of the items at a time (chunked), or over drawn items (sampled); auto takes dense as long as logits are few",
        choices=OUTPUTS,
        before="dense",
    )
    negatives: int = option(
        4096,
        "items drawn at each step, the same for all users",
        at_least=1,
        search=Whole(512, 16_384, log=True),
        needs=Needs("output", "--output=sampled", "sampled"),
    )
    recency: Recency | None = None
    fit_weighted: bool = weighted_fit(True)
    forecast: float = future()
    lr: float = option(1e-3, "learning rate of AdamW", above=0.0, search=Real(1e-4, 1e-2, log=True))
    weight_decay: float = option(0.0, "decoupled weight decay of AdamW", at_least=0.0)

    variational: ClassVar[bool]

    def __post_init__(self) -> None:
        check(self)
        check_forecast(self.forecast, self.recency)

    @property
    def item_axes(self) -> Mapping[str, int]:
        """See ``models.contract.Scorer.item_axes``."""
        return {"in_items": 0, "out_items": 1, "out_bias": 0}

    def network(self, n_items: int) -> Autoencoder:
        """The network for a catalogue of ``n_items``."""
        return Autoencoder(n_items, self.dims, self.activation, self.variational)

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """Draw the parameters."""
        return self.network(catalogue.n_items).init(key, jnp.zeros((1, catalogue.n_items)))

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW."""
        return optax.adamw(self.lr, weight_decay=self.weight_decay)

    def suited(self, sizes: Sizes) -> tuple[Self, str]:
        """Whether all logits are made at once, decided by how many there are."""
        if self.output != "auto":
            return self, ""
        logits = sizes.batch_size * sizes.n_items
        output = "dense" if logits <= MOST_LOGITS else "chunked"
        why = f"output={output}: a step has {logits:,} logits, of which {MOST_LOGITS:,} are made at once"
        return dataclasses.replace(self, output=output), why

    @property
    def reads_packed(self) -> bool:
        """Where not all logits are made at once."""
        return self.output in ("chunked", "sampled")

    def encoded(self, params: Params, rows: AnyRows, *, dropout_key: jax.Array) -> jax.Array:
        """The encoder's output of training rows: their direction, after dropout."""
        p = params["params"]
        if isinstance(rows, PackedRows):
            dropped = Dropout.of(dropout_key, self.dropout) if self.dropout else None
            length = jnp.sqrt(jnp.maximum(weight_sums(rows, power=2), 1e-24))[:, None].astype(p["in_items"].dtype)
            image = product(rows, p["in_items"], dropout=dropped) / length
            of_packed: jax.Array = self._apply(params, rows.n_items, image, method="encode")
            return of_packed
        rows = _directions(rows)
        x = rows.replace(weights=dropout(dropout_key, rows.weights, rate=self.dropout)).dense()
        encoded: jax.Array = self._apply(params, rows.n_items, jnp.matmul(x, p["in_items"]), method="encode")
        return encoded

    def nll(self, params: Params, z: jax.Array, rows: AnyRows, *, key: jax.Array) -> jax.Array:
        """``-Σ x · log softmax(decoder(z))``, ``[B]``; ``key`` draws the items of a sampled softmax (Eq. 5)."""
        if isinstance(rows, PackedRows):
            return self._nll_without_logits(params, z, rows, key)
        return multinomial_nll([self._apply(params, rows.n_items, z, method="decode")], [rows.dense()])

    def _nll_without_logits(self, params: Params, z: jax.Array, rows: PackedRows, key: jax.Array) -> jax.Array:
        table = self.item_vectors(params)
        hidden: jax.Array = self._apply(params, rows.n_items, z, method="hidden")
        vectors = jnp.pad(hidden, ((0, 0), (0, 1)), constant_values=1.0)
        if self.output == "chunked":
            of_events = event_sums(rows, table, vectors, _less_score)
            lse = log_sum_exp(vectors, table, jnp.zeros(rows.n_items), mesh=rows.mesh)
            return weight_sums(rows) * lse + of_events
        check_negatives(self.negatives, rows.n_items)
        assert rows.csr.counts is not None
        q = probabilities(rows.csr.counts, ALPHA)
        drawn = draw(key, rows.csr.counts, alpha=ALPHA, number=self.negatives)
        log_q = jnp.log(q.at[drawn].get(mode="clip")) + math.log(self.negatives)
        logits = jnp.matmul(vectors, table[drawn].T, preferred_element_type=jnp.float32) - log_q[None, :]
        return event_sums(rows, table, vectors, _beside_others, jax.nn.logsumexp(logits, axis=1))

    def scores(self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None) -> jax.Array:
        """Logits ``[B, I]`` of each user."""
        p = params["params"]
        scores: jax.Array = jnp.matmul(self._hidden(params, rows), p["out_items"]) + p["out_bias"][None, :]
        return scores

    @property
    def factored(self) -> bool:
        """Always: the last map is linear."""
        return True

    def user_vectors(
        self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None
    ) -> jax.Array:
        """``[h, 1]``, ``[B, H + 1]``: the last hidden layer."""
        return jnp.pad(self._hidden(params, rows), ((0, 0), (0, 1)), constant_values=1.0)

    def item_vectors(self, params: Params) -> jax.Array:
        """``[W_out; b_out]`` transposed, ``[I, H + 1]``."""
        p = params["params"]
        return jnp.concatenate([p["out_items"], p["out_bias"][None, :]]).T

    def _hidden(self, params: Params, rows: Rows) -> jax.Array:
        Z, kernel = self.dims[0], params["params"]["in_items"]
        product = _directions(rows).product(kernel if len(self.dims) > 1 else kernel[:, :Z])
        if len(self.dims) == 1:  # the first matrix is the last of the encoder: the log-variance is not needed
            z = product + params["params"]["in_bias"][None, :Z]
            z = z if self.variational else ACTIVATIONS[self.activation](z)
        else:
            z = self._apply(params, rows.n_items, product, method="encode")[:, :Z]
        hidden: jax.Array = self._apply(params, rows.n_items, z, method="hidden")
        return hidden

    def _apply(self, params: Params, n_items: int, *args: PyTree, method: str) -> PyTree:
        return self.network(n_items).apply(params, *args, method=method)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultVAE(Multinomial):
    """Hyper-parameters of MultVAE and its functions; see ``Multinomial`` and ``models.contract.Model``.

    ``vae_anneal_cap`` and ``vae_anneal_steps`` are those of Eq. 3; 0 steps means the cap throughout.
    """

    vae_anneal_cap: float = kl_weight()
    vae_anneal_steps: int = kl_steps(search=Whole(100, 20_000, log=True))

    variational: ClassVar[bool] = True

    def loss(
        self, params: Params, memory: Memory, rows: AnyRows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 2, averaged over the real rows of the batch."""
        del memory, epoch
        dropout_key, latent_key = jax.random.split(key)
        rows, future = shown_and_asked(self, rows, jax.random.fold_in(key, 2))
        mean, log_variance = jnp.split(self.encoded(params, rows, dropout_key=dropout_key), 2, axis=1)
        z = reparameterise(mean, log_variance, jax.random.normal(latent_key, mean.shape))
        nll = self.nll(params, z, rows if future is None else future, key=jax.random.fold_in(key, 3))
        nll, kl = rows.mean(nll), rows.mean(kl_divergence(mean, log_variance))
        share = step / self.vae_anneal_steps if self.vae_anneal_steps else self.vae_anneal_cap
        gamma = jnp.minimum(self.vae_anneal_cap, share)
        return nll + gamma * kl, LossAux(metrics={"nll": nll, "kl": kl, "gamma": gamma})


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiDAE(Multinomial):
    """Hyper-parameters of MultiDAE and its functions; see ``Multinomial`` and ``models.contract.Model``."""

    weight_decay: float = again(
        Multinomial, "weight_decay", search=Choice((0.0, 0.01, 0.1, 1.0))
    )  # times the learning rate, per step

    variational: ClassVar[bool] = False

    def loss(
        self, params: Params, memory: Memory, rows: AnyRows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 4, averaged over the real rows of the batch."""
        del memory, step, epoch
        rows, future = shown_and_asked(self, rows, jax.random.fold_in(key, 2))
        z = self.encoded(params, rows, dropout_key=key)
        nll = self.nll(params, z, rows if future is None else future, key=jax.random.fold_in(key, 3))
        return rows.mean(nll), LossAux()


def _less_score(s: jax.Array, x: jax.Array, _: jax.Array) -> jax.Array:
    return -x * s


def _beside_others(s: jax.Array, x: jax.Array, others: jax.Array) -> jax.Array:
    """Eq. 5 of one event, given the logarithm of the sum over the drawn items."""
    return x * (jnp.logaddexp(s, others) - s)


def _directions(rows: Rows) -> Rows:
    """The rows, each divided by its length."""
    return rows.replace(weights=l2_normalise(rows.weights))
