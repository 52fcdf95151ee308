"""STOSA: items are Gaussians, attention is their distance, and the nearest Gaussian comes next.

Every item, position and state is a mean μ and a variance c (a diagonal), and the distance of two is W = ‖μ - μ'‖² +
‖√c - √c'‖². With E and P two tables each (of means, of variances), p the activation ELU + 1, N layer normalisation::

    μ_j = ELU(N(E_μ[s_j] + P_μj)),    c_j = p(N(E_c[s_j] + P_cj))                          (1)
    a   = softmax over k ≤ j of  -W(query_j, key_k) / √(D / H)                             (2)
    μ_j ← N(μ_j + Σ_k a_k μ'_k),      c_j ← N(c_j + Σ_k a_k² c'_k)                         (3)
    μ_j ← N(μ_j + F_μ(μ_j)),          c_j ← p(N(c_j + F_c(c_j)))                           (4)
    score_i = -W((μ_L, c_L), (E_μi, p(E_ci)))                                              (5)
    L   = mean over real j of  -log σ(W_j(other) - W_j(next)) + pvn · max(0, W_j(next) - W(next, other))    (6)

``other`` is one item drawn uniformly at each position; one that the window holds counts as none. But for a number of
the user, Eq. 5 is an inner product with a bias: any vector index serves it, and ``loss=softmax`` (ours) is the cross
entropy of it over all items. Positions count from the end of a window.

The released code never updates the means: each block starts from those of Eq. 1 again. ``reference`` keeps that.

Source: Fan et al., *Sequential Recommendation via Stochastic Self-Attention* (WWW 2022, Eq. 6-17), and its released
code. Not kept: a number for each user, which is never used.
Letters: B rows, L positions, I items, D width, H heads.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import in_short_windows, user_keys
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Params
from diffrec_jax.models.sasrec import SASRec
from diffrec_jax.models.sequence import SequenceModel
from diffrec_jax.models.transformer import attention_mask, check_sizes, drop_bytes
from diffrec_jax.options import Needs, again, check, option

LOSSES = ("bpr", "softmax")
EPSILON = 1e-12  # of normalisations
LEAST_VARIANCE = 1e-24  # under a root
TABLES = ("items", "item_variances")


class Gaussians(NamedTuple):
    """Means and variances, ``[…, D]`` each."""

    mean: jax.Array
    variance: jax.Array

    @property
    def vectors(self) -> jax.Array:
        """``[μ, √c]``, ``[…, 2D]``, whose squared Euclidean distance is W."""
        deviation = jnp.sqrt(jnp.maximum(self.variance, LEAST_VARIANCE))
        return jnp.concatenate([self.mean, deviation], axis=-1)


def positive(x: jax.Array) -> jax.Array:
    """The activation p: ELU + 1."""
    return nn.elu(x) + 1.0


def distance(one: jax.Array, other: jax.Array) -> jax.Array:
    """W of two ``Gaussians.vectors``, along the last axis."""
    return jnp.sum(jnp.square(one - other), axis=-1)


class Encoder(nn.Module):
    """Eq. 1 to 4: sums of item and position, ``Gaussians`` of ``[B, L, D]``, to those of what comes next.

    Attributes:
      width: D.
      blocks: how many.
      heads: H, which divides D.
      dropout: rate of inputs, attention and branches.
      means_kept: whether each block starts from the means of Eq. 1.
    """

    width: int
    blocks: int
    heads: int
    dropout: float
    means_kept: bool = False

    def setup(self) -> None:
        """Declare the parameters: of each block six layers that ask, answer and tell, and twice what follows."""
        around = nn.initializers.normal(0.02)

        def dense(width: int) -> nn.Dense:
            return nn.Dense(width, kernel_init=lambda *args: 0.01 + around(*args))

        self.first_norm = nn.LayerNorm(epsilon=EPSILON)
        self.read = [[dense(self.width) for _ in range(6)] for _ in range(self.blocks)]
        self.out = [[dense(self.width) for _ in range(2)] for _ in range(self.blocks)]
        self.up = [[dense(4 * self.width) for _ in range(2)] for _ in range(self.blocks)]
        self.down = [[dense(self.width) for _ in range(2)] for _ in range(self.blocks)]
        self.norms = [[nn.LayerNorm(epsilon=EPSILON) for _ in range(3)] for _ in range(self.blocks)]

    def __call__(
        self, x: Gaussians, real: jax.Array, segments: jax.Array | None = None, *, key: jax.Array | None = None
    ) -> Gaussians:
        """Encode; see ``transformer.Encoder`` for what is given."""
        allowed = attention_mask(real, causal=True, segments=segments)
        keys = iter(() if key is None else jax.random.split(key, 2 + 5 * self.blocks))

        def drop(x: jax.Array) -> jax.Array:
            return x if key is None else drop_bytes(next(keys), x, rate=self.dropout)

        x = Gaussians(nn.elu(drop(self.first_norm(x.mean))), positive(drop(self.first_norm(x.variance))))
        first_mean = x.mean
        for read, out, up, down, (shared, *own) in zip(self.read, self.out, self.up, self.down, self.norms):
            answers = self._attend(read, x, allowed, drop)
            x = Gaussians(*(shared(drop(layer(answer)) + old) for layer, answer, old in zip(out, answers, x)))
            fed = (drop(back(nn.elu(wide(each)))) for wide, back, each in zip(up, down, x))
            mean, variance = (norm(new + old) for norm, new, old in zip(own, fed, x))
            x = Gaussians(first_mean if self.means_kept else mean, positive(variance))
        return x

    def _attend(
        self, read: list[nn.Dense], x: Gaussians, allowed: jax.Array, drop: Callable[[jax.Array], jax.Array]
    ) -> Gaussians:
        """The sums of Eq. 3 over all heads."""
        means, variances = ([layer(x.mean) for layer in read[:3]], [positive(layer(x.variance)) for layer in read[3:]])

        def heads(x: jax.Array) -> jax.Array:
            return x.reshape(*x.shape[:2], self.heads, self.width // self.heads)

        asked, answering = (Gaussians(heads(means[n]), heads(variances[n])).vectors for n in (0, 1))
        own, theirs = (jnp.sum(jnp.square(a), axis=-1).swapaxes(1, 2) for a in (asked, answering))  # [B, H, L]
        apart = own[..., None] + theirs[:, :, None, :] - 2.0 * jnp.einsum("bqhd,bkhd->bhqk", asked, answering)
        logits = -apart.astype(jnp.promote_types(apart.dtype, jnp.float32)) / math.sqrt(self.width // self.heads)
        shares = jnp.where(allowed, jax.nn.softmax(jnp.where(allowed, logits, -1e30), axis=-1), 0.0)
        self.sow("intermediates", "shares", shares)
        shares = drop(shares.astype(x.mean.dtype))
        mean = jnp.einsum("bhqk,bkhd->bqhd", shares, heads(means[2])).reshape(x.mean.shape)
        variance = jnp.einsum("bhqk,bkhd->bqhd", jnp.square(shares), heads(variances[2])).reshape(x.mean.shape)
        return Gaussians(mean, variance)


@dataclasses.dataclass(frozen=True, kw_only=True)
class STOSA(SequenceModel):
    """Hyper-parameters of STOSA and its functions; see ``models.contract.Model``. ``width`` is D, ``length`` L."""

    width: int = again(SASRec, "width")
    blocks: int = again(SASRec, "blocks", default=1)
    heads: int = again(SASRec, "heads", default=4)
    length: int = again(SASRec, "length", default=100)
    dropout: float = again(SASRec, "dropout", default=0.3)
    loss_name: str = option("bpr", "loss over items", choices=LOSSES, flag="loss")
    pvn: float = option(
        0.005,
        "weight of what keeps an item nearer than another that is drawn",
        at_least=0.0,
        needs=Needs("loss", "--loss=bpr", "bpr"),
    )
    packing: bool = again(SASRec, "packing")
    reference: bool = option(False, "never update the means, as the released code")
    lr: float = again(SASRec, "lr")

    fit_options: ClassVar[FitOptions] = FitOptions(batch_size=256)

    def __post_init__(self) -> None:
        check(self)
        check_sizes(width=self.width, heads=self.heads, blocks=self.blocks, length=self.length, dropout=self.dropout)

    @property
    def item_axes(self) -> Mapping[str, int]:
        """See ``models.contract.Scorer.item_axes``."""
        return dict.fromkeys(TABLES, 0)

    @property
    def encoder(self) -> Encoder:
        """Eq. 1 to 4."""
        return Encoder(self.width, self.blocks, self.heads, self.dropout, self.reference)

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """``{"items": E_μ, "item_variances": E_c, "positions": P_μ, "position_variances": P_c, "encoder": …}``.

        Tables and dense layers are N(.01, .02²).
        """
        *keys, encoder = jax.random.split(key, 5)
        rows = dict.fromkeys(TABLES, catalogue.n_items) | dict.fromkeys(
            ("positions", "position_variances"), self.length
        )
        nothing = jnp.zeros((1, 2, self.width))
        encoded = self.encoder.init(encoder, Gaussians(nothing, nothing), jnp.ones((1, 2), bool))
        return {
            **{name: 0.01 + 0.02 * jax.random.normal(k, (n, self.width)) for k, (name, n) in zip(keys, rows.items())},
            "encoder": encoded["params"],
        }

    def optimizer(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.lr)

    def features(
        self,
        params: Params,
        items: jax.Array,
        real: jax.Array,
        segments: jax.Array | None = None,
        columns: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> Gaussians:
        """The states of Eq. 4 at each position of a window of at most L events; with a key, after dropout.

        Packed windows come with their ``segments`` and ``columns``, both ``[B, L]`` (``data.packing``).
        """
        x = self.sums(params, items, columns)
        return cast(Gaussians, self.encoder.apply({"params": params["encoder"]}, x, real, segments, key=key))

    def sums(self, params: Params, items: jax.Array, columns: jax.Array | None = None) -> Gaussians:
        """What Eq. 1 normalises, of ``items [B, L]``."""

        def of(table: str, positions: str) -> jax.Array:
            rows: jax.Array = params[table].at[items].get(mode="fill", fill_value=0)
            places: jax.Array = params[positions][self.length - items.shape[1] :]
            return rows + (places[None] if columns is None else places[columns])

        return Gaussians(of("items", "positions"), of("item_variances", "position_variances"))

    def vectors(self, params: Params) -> jax.Array:
        """``[E_μ, √p(E_c)]``, ``[I, 2D]``."""
        return Gaussians(params["items"], positive(params["item_variances"])).vectors

    def terms(
        self, vectors: jax.Array, states: jax.Array, targets: jax.Array, others: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Both terms of Eq. 6 at each position, ``[B, L]``, the second without ``pvn``.

        Args:
          vectors: of the items, ``[I, 2D]``.
          states: ``[B, L, 2D]``.
          targets: ``[B, L]``.
          others: ``[B, L]``.
        """
        precise = jnp.promote_types(states.dtype, jnp.float32)
        u, v, w = (a.astype(precise) for a in (states, *(vectors.at[n].get(mode="clip") for n in (targets, others))))
        near, far = distance(u, v), distance(u, w)
        return jax.nn.softplus(near - far), jnp.maximum(near - distance(v, w), 0.0)

    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 6, or the cross entropy of Eq. 5, averaged over the positions with a next event."""
        del memory, step, epoch
        dropout_key, other_key = jax.random.split(key)
        items, inputs, targets, weights = self.examples(rows)

        states = self.in_few_rows(
            lambda *seen: self.features(params, *seen, key=dropout_key).vectors, inputs, weights > 0
        )
        if self.loss_name == "softmax":
            return self.mean_cross_entropy(params, states, targets, weights, rows), LossAux()

        def draw(key: jax.Array) -> jax.Array:
            return jnp.flip(jax.random.randint(key, targets.shape[1:], 0, rows.n_items))

        others = jax.vmap(draw)(user_keys(other_key, rows.users))
        weights = weights * jnp.all(others[:, :, None] != items[:, None, :], axis=2).astype(weights.dtype)
        order, spread = self.terms(self.vectors(params), states, targets, others)
        return jnp.sum(weights * (order + self.pvn * spread)) / jnp.maximum(jnp.sum(weights), 1.0), LossAux()

    # ranking: -W is 2 u · v - |v|², and a number of the user

    def now(self, params: Params, rows: Rows, *, key: jax.Array | None = None) -> jax.Array:
        """The last state, ``[μ, √c]``, ``[B, 2D]``."""
        return in_short_windows(lambda *seen: self.features(params, *seen).vectors[:, -1], rows, self.length)

    def table(self, params: Params) -> jax.Array:
        """``2 [E_μ, √p(E_c)]``, ``[I, 2D]``."""
        found: jax.Array = 2.0 * self.vectors(params)
        return found

    def item_bias(self, params: Params) -> jax.Array:
        """``-|v|²`` of the items, ``[I]``."""
        return -jnp.sum(jnp.square(self.vectors(params)), axis=1)
