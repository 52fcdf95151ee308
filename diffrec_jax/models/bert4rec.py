"""BERT4Rec: events hidden from a transformer that sees both ways, which tells them from the rest.

With s the last events, some of them hidden behind a vector m, E the table of items, P of positions (from the end), T a
transformer without a causal mask, N layer normalisation, and b biases of items::

    x_j = E[s_j] + P_j, or m + P_j where s_j is hidden,    f = N gelu(W T(x) + c)          (1)
    score_i(j) = f_j · E_i + b_i                                                           (2)
    L = mean over hidden j of  -log softmax_i(score_i(j))[s_j]                             (3)

Ranked is by f at one more event, hidden, behind the last L - 1. In training each event is hidden with probability
``mask_share``; of a share ``force_last`` of histories only the last is, as it is when ranking. m is no class.

Source: Sun et al., *BERT4Rec* (CIKM 2019, Eq. 1-7). Ours: the last event alone is hidden at random instead of in a
window of its own, Adam without warm-up, and the block of ``transformer`` (post).
Letters: B rows, L positions, I items, D width.
"""

import dataclasses
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import in_short_windows, masked
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Params
from diffrec_jax.models.sasrec import SASRec
from diffrec_jax.models.sequence import SequenceModel
from diffrec_jax.models.transformer import DENSE, Encoder, check_sizes
from diffrec_jax.options import again, check, option
from diffrec_jax.ranges import Choice, Real


class Reader(nn.Module):
    """``(x [B, L, D], real [B, L]) -> f [B, L, D]`` of Eq. 1.

    Attributes:
      width: D.
      blocks, heads, dropout: of the transformer.
    """

    width: int
    blocks: int
    heads: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, real: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """Read both ways; a key turns dropout on."""
        encoder = Encoder(
            self.width, self.blocks, self.heads, 4 * self.width, causal=False, norm="post", final_norm=False,
            dropout=self.dropout, name="encoder",
        )  # fmt: skip
        h = nn.gelu(nn.Dense(self.width, kernel_init=DENSE, name="head")(encoder(x, real, key=key)))
        return cast(jax.Array, nn.LayerNorm(name="norm")(h))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BERT4Rec(SequenceModel):
    """Hyper-parameters of BERT4Rec and its functions; see ``models.contract.Model``. ``width`` is D, ``length`` L."""

    width: int = again(SASRec, "width")
    blocks: int = again(SASRec, "blocks")
    heads: int = again(SASRec, "heads")
    length: int = again(SASRec, "length")
    dropout: float = again(SASRec, "dropout")
    mask_share: float = option(
        0.2, "share of events that are hidden in training", above=0.0, at_most=1.0, search=Choice((0.1, 0.2, 0.4, 0.6))
    )
    force_last: float = option(
        0.1, "share of histories of which only the last event is hidden", at_least=0.0, at_most=1.0,
        search=Real(0.0, 0.5),
    )  # fmt: skip
    lr: float = again(SASRec, "lr")

    def __post_init__(self) -> None:
        check(self)
        check_sizes(width=self.width, heads=self.heads, blocks=self.blocks, length=self.length, dropout=self.dropout)

    @property
    def reader(self) -> Reader:
        """What Eq. 1 does with x."""
        return Reader(self.width, self.blocks, self.heads, self.dropout)

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """``{"items": E, "item_bias": b [I], "positions": P, "hidden": m, "reader": …}``; vectors are N(0, .02²)."""
        reader, *others = jax.random.split(key, 4)
        shapes = {
            "items": (catalogue.n_items, self.width),
            "positions": (self.length, self.width),
            "hidden": (self.width,),
        }
        return {
            **{name: 0.02 * jax.random.normal(each, shape) for each, (name, shape) in zip(others, shapes.items())},
            "item_bias": jnp.zeros(catalogue.n_items),
            "reader": self.reader.init(reader, jnp.zeros((1, 2, self.width)), jnp.ones((1, 2), bool))["params"],
        }

    def optimizer(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.lr)

    def features(self, params: Params, items: jax.Array, real: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """F of Eq. 1 at each event of a window ``[B, L]``, ``[B, L, D]``; I + 1 is a hidden event, ``real`` too."""
        table, length = params["items"], items.shape[1]
        x = table.at[items].get(mode="fill", fill_value=0)
        x = jnp.where((items > table.shape[0])[..., None], params["hidden"][None, None], x)
        x = x + params["positions"][None, self.length - length :]
        return cast(jax.Array, self.reader.apply({"params": params["reader"]}, x, real, key=key))

    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 3."""
        del memory, step, epoch
        hidden_key, dropout_key = jax.random.split(key)
        length = min(self.length, rows.items.shape[1])
        inputs, targets, weights = masked(rows, length, hidden_key, p=self.mask_share, force_last=self.force_last)
        f = self.features(params, inputs, inputs != rows.n_items, key=dropout_key)
        return self.mean_cross_entropy(params, f, targets, weights, rows), LossAux()

    def now(self, params: Params, rows: Rows, *, key: jax.Array | None = None) -> jax.Array:
        """The f of a hidden event behind the last, ``[B, D]``."""
        behind = ((0, 0), (0, 1))

        def last(items: jax.Array, real: jax.Array) -> jax.Array:
            items = jnp.pad(items, behind, constant_values=rows.n_items + 1)
            return self.features(params, items, jnp.pad(real, behind, constant_values=True))[:, -1]

        return in_short_windows(last, rows, self.length - 1)
