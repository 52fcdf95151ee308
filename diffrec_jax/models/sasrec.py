"""SASRec: what comes next, told at every position of a history by causal self-attention.

With s the last L events, E the table of items, P of positions (from the end), and T a causal transformer::

    x_j = √D · E[s_j] + P_j,    f = T(x),    score_i = f_L · E_i                           (1)
    L   = mean over real j of  -log softmax_i(f_j · E_i)[s_{j + 1}]                        (2)

Eq. 2 is the default; the original loss (``bce``: one negative at each position) and two others that sample are options,
see ``next_item``. No class stands for padding, and the table serves both ends.

Source: Kang & McAuley, *Self-Attentive Sequential Recommendation* (ICDM 2018); Eq. 2 and the block with an output
projection Klenitskiy & Vasilev, *Turning Dross Into Gold Loss* (RecSys 2023); ``gbce`` Petrov & Macdonald, *gSASRec*
(RecSys 2023).
Letters: B rows, L positions, I items, D width.
"""

import dataclasses
import math
from typing import cast

import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import in_short_windows
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Params
from diffrec_jax.models.next_item import LOSSES, SAMPLED, NextItem
from diffrec_jax.models.sequence import SequenceModel
from diffrec_jax.models.transformer import NORMS, Encoder, check_sizes
from diffrec_jax.options import Needs, check, option
from diffrec_jax.ranges import Choice, Real, Whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class SASRec(SequenceModel):
    """Hyper-parameters of SASRec and its functions; see ``models.contract.Model``.

    ``width`` is D and ``length`` L. The ``original`` block is that of the paper, ReLU and D wide; ``pre`` and ``post``
    have GELU and are 4 D wide within. With ``loss_name="gbce"``, ``t`` = 0 is binary cross entropy and 1 calibrated.
    """

    width: int = option(64, "width of the transformer", at_least=1, search=Choice((32, 64, 128, 256)))
    blocks: int = option(2, "transformer blocks", at_least=1, search=Whole(1, 4))
    heads: int = option(2, "attention heads, a divisor of --width", at_least=1, search=Choice((1, 2, 4)))
    length: int = option(
        128, "most recent events of a history that are seen", at_least=2, hint="one event has no order; 50 or 200, say"
    )
    dropout: float = option(
        0.1, "dropout rate of inputs and branches in training", at_least=0.0, below=1.0, search=Real(0.0, 0.6)
    )
    norm: str = option("original", "where the block normalises", choices=NORMS, search=Choice(NORMS))
    loss_name: str = option("softmax", "loss over items", choices=LOSSES, flag="loss")
    negatives: int = option(
        256, "negatives of the sampled losses", at_least=1, needs=Needs("loss", "--loss=sampled or gbce", SAMPLED)
    )
    t: float = option(
        0.75,
        "calibration of --loss=gbce: 0 is binary cross entropy",
        at_least=0.0,
        at_most=1.0,
        flag="gbce_t",
        needs=Needs("loss", "--loss=gbce", ("gbce",)),
    )
    packing: bool = option(True, "train with several short histories in a row; only dropout differs by it", rare=True)
    lr: float = option(1e-3, "learning rate of Adam", above=0.0, search=Real(1e-4, 1e-2, log=True))

    def __post_init__(self) -> None:
        check(self)
        check_sizes(width=self.width, heads=self.heads, blocks=self.blocks, length=self.length, dropout=self.dropout)

    @property
    def next_item(self) -> NextItem:
        """Its loss over items."""
        return NextItem(self.loss_name, self.negatives, self.t)

    @property
    def encoder(self) -> Encoder:
        """T of Eq. 1."""
        original = self.norm == "original"
        return Encoder(
            self.width,
            self.blocks,
            self.heads,
            inner=self.width if original else 4 * self.width,
            norm=self.norm,
            activation="relu" if original else "gelu",
            dropout=self.dropout,
        )

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """``{"items": E [I, D], "positions": P [L, D], "encoder": …}``; tables N(0, .02²), dense layers Glorot.

        Raises:
          ValueError: for more negatives than items.
        """
        self.next_item.check(catalogue.n_items)
        items, positions, encoder = jax.random.split(key, 3)
        nothing = jnp.zeros((1, 2, self.width))
        return {
            "items": 0.02 * jax.random.normal(items, (catalogue.n_items, self.width)),
            "positions": 0.02 * jax.random.normal(positions, (self.length, self.width)),
            "encoder": self.encoder.init(encoder, nothing, jnp.ones((1, 2), bool))["params"],
        }

    def optimizer(self) -> optax.GradientTransformation:
        """Adam with the paper's second decay."""
        return optax.adam(self.lr, b2=0.98)

    def features(
        self,
        params: Params,
        items: jax.Array,
        real: jax.Array,
        segments: jax.Array | None = None,
        columns: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """F of Eq. 1 at each position of a window of at most L events, ``[B, L, D]``; with a key, after dropout.

        Packed windows come with their ``segments`` and ``columns``, both ``[B, L]`` (``data.packing``).
        """
        n = items.shape[1]
        x = params["items"].at[items].get(mode="fill", fill_value=0) * math.sqrt(self.width)
        positions = params["positions"][self.length - n :]
        x = x + (positions[None] if columns is None else positions[columns])
        return cast(jax.Array, self.encoder.apply({"params": params["encoder"]}, x, real, segments, key=key))

    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 2, or what ``loss_name`` says, averaged over the positions with a next event."""
        del memory, step, epoch
        dropout_key, negative_key = jax.random.split(key)
        items, inputs, _, weights = self.examples(rows)
        f = self.in_few_rows(lambda *seen: self.features(params, *seen, key=dropout_key), inputs, weights > 0)
        loss = self.next_item.mean(f, params["items"], None, items, weights, rows, key=negative_key)
        return loss, LossAux()

    def now(self, params: Params, rows: Rows, *, key: jax.Array | None = None) -> jax.Array:
        """The last f, ``[B, D]``."""
        return in_short_windows(lambda *seen: self.features(params, *seen)[:, -1], rows, self.length)
