"""GRU4Rec: what comes next, told at every position of a history by a recurrent network.

With s the last L events, E the table of items, which serves both ends, and b its biases::

    r, z = σ(W x_j + U h_{j-1} + c),   n = tanh(W_n x_j + c_n + r ⊙ (U_n h_{j-1} + c'_n))  (1)
    h_j  = (1 - z) ⊙ n + z ⊙ h_{j-1},      h before the first event is 0                   (2)
    score_i = h_L · E_i + b_i                                                              (3)
    L    = mean over real j of  -log softmax_i(h_j · E_i + b_i)[s_{j + 1}]                 (4)

x_j is E[s_j]; a further layer reads the h of the one before. The gradient of Eq. 4 goes back through the whole window;
losses that sample are options (``next_item``). A new event costs one cell: ``step`` goes on from a state, and no
history is read again. Untied, the first layer reads a row V[s_j] for each item in place of W x_j + c, and its n is
tanh(W_n x_j + c_n + U_n (r ⊙ h_{j-1})), as in the first paper.

``session_parallel`` is the objective of the official trainer, see ``in_lanes``: gradients go back one event,
negatives are the targets of other lanes and popular items, and Adagrad moves what a step touches. There a step is one
column of lanes that run through all sessions; here it is a batch of users, whose sessions take the lanes in turn: the
mean of its columns, one draw of popular items, and no state that goes on into the next batch.

Source: Hidasi et al., *Session-based Recommendations with Recurrent Neural Networks* (ICLR 2016), with the tied table
of Hidasi & Karatzoglou, *Recurrent Neural Networks with Top-k Gains* (CIKM 2018). Ours by default: whole histories and
all items as negatives, and Adam.
Letters: B rows, L positions, I items, D width.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import in_short_windows
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Params
from diffrec_jax.models.gru import cell, make_layer, read, scan, uniform
from diffrec_jax.models.in_lanes import LOSSES as IN_LANES
from diffrec_jax.models.in_lanes import InLanes, row_adagrad
from diffrec_jax.models.next_item import LOSSES, NextItem
from diffrec_jax.models.sasrec import SASRec
from diffrec_jax.models.sequence import SequenceModel
from diffrec_jax.models.transformer import drop_bytes
from diffrec_jax.options import Needs, again, check, option
from diffrec_jax.ranges import Choice, Real, Whole

TABLES = ("items", "item_bias", "read")  # parameters with a row for each item
OFFICIAL = Needs("session_parallel", "--session_parallel", True)
BPR_MAX = Needs("loss", "--loss=bpr_max", "bpr_max")
BPR = "loss over items; softmax or bpr_max with --session_parallel"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRU4Rec(SequenceModel):
    """Hyper-parameters of GRU4Rec and its functions; see ``models.contract.Model``. ``width`` is D, ``length`` L."""

    width: int = option(64, "width of the recurrent layers", at_least=1, search=Choice((32, 64, 128, 256, 512)))
    layers: int = option(1, "recurrent layers; one is mostly best", at_least=1, search=Whole(1, 2))
    length: int = again(SASRec, "length")
    dropout: float = option(
        0.1, "dropout rate of embeddings and states in training", at_least=0.0, below=1.0, search=Real(0.0, 0.6)
    )
    tied: bool = option(True, "one table of items at both ends; untied, the first layer has another one")
    loss_name: str = again(SASRec, "loss_name", choices=(*LOSSES, "bpr_max"), help=BPR)
    negatives: int = again(SASRec, "negatives")
    t: float = again(SASRec, "t")
    packing: bool = again(SASRec, "packing")
    lr: float = again(SASRec, "lr", needs=Needs("session_parallel", "--nosession_parallel", False))
    session_parallel: bool = option(False, "train as the official trainer does: one event back, lanes, Adagrad")
    lanes: int = option(32, "sessions that are read at once", at_least=1, needs=OFFICIAL)
    n_sample: int = option(2048, "popular items drawn beside the targets of the lanes", at_least=1, needs=OFFICIAL)
    sample_alpha: float = option(
        0.5, "items are drawn by popularity to this power", at_least=0.0, search=Real(0.0, 1.0), needs=OFFICIAL
    )
    logq: float = option(
        1.0, "share of log-popularity that the softmax takes off scores", at_least=0.0, rare=True, needs=OFFICIAL
    )
    bpreg: float = option(1.0, "weight of squared scores in --loss=bpr_max", at_least=0.0, needs=BPR_MAX)
    elu_param: float = option(0.5, "ELU of scores in --loss=bpr_max; 0: none", at_least=0.0, needs=BPR_MAX)
    adagrad_lr: float = option(
        0.05, "learning rate of Adagrad", above=0.0, search=Real(0.01, 0.5, log=True), needs=OFFICIAL
    )
    momentum: float = option(0.2, "momentum of Adagrad", at_least=0.0, below=1.0, search=Real(0.0, 0.9), needs=OFFICIAL)

    def __post_init__(self) -> None:
        check(self)
        if self.session_parallel and self.loss_name not in IN_LANES:
            raise ValueError(f"loss={self.loss_name} is none of session_parallel: choose softmax or bpr_max")
        if self.loss_name == "bpr_max" and not self.session_parallel:
            raise ValueError("loss=bpr_max needs session_parallel: set it, or choose one of " + ", ".join(LOSSES))

    @property
    def objective(self) -> NextItem | InLanes:
        """What averages the loss over positions."""
        if not self.session_parallel:
            return NextItem(self.loss_name, self.negatives, self.t)
        return InLanes(
            self.loss_name, self.lanes, self.n_sample, self.sample_alpha, self.logq, self.elu_param, self.bpreg
        )

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """``{"items": E, "item_bias": b [I], "layers": […]}``, a layer of matrices ``[D, 3D]`` and vectors ``[3D]``.

        The table is N(0, .02²), the layers uniform to ±1/√D, biases of items 0. Untied, ``"read"`` is V, ``[I, 3D]``,
        as uniform, and the first layer has no ``"input"`` and no ``"state_bias"``.

        Raises:
          ValueError: for more negatives than items.
        """
        if isinstance(self.objective, NextItem):
            self.objective.check(catalogue.n_items)
        items, *layers = jax.random.split(key, 1 + self.layers)
        n_items = catalogue.n_items
        found = [make_layer(key, self.width, self.width) for key in layers]
        params: dict[str, Params] = {
            "items": 0.02 * jax.random.normal(items, (n_items, self.width)),
            "item_bias": jnp.zeros(n_items),
        }
        if not self.tied:
            params["read"] = uniform(jax.random.fold_in(items, 1), (n_items, 3 * self.width), self.width)
            found[0] = {name: found[0][name] for name in ("state", "input_bias")}
        return {**params, "layers": found}

    def optimizer(self) -> optax.GradientTransformation:
        """Adam, or that of the official trainer."""
        if self.session_parallel:
            return row_adagrad(self.adagrad_lr, momentum=self.momentum, tables=TABLES)
        return optax.adam(self.lr)

    def initial_state(self, params: Params, rows: int) -> jax.Array:
        """The states before any event, ``[layers, B, D]``."""
        return jnp.zeros((self.layers, rows, self.width), params["items"].dtype)

    def step(self, params: Params, state: jax.Array, items: jax.Array) -> jax.Array:
        """The states ``[layers, B, D]`` after one more event, ``items [B]``; the last of them ranks (Eq. 3)."""
        states: list[jax.Array] = []
        for layer, h in zip(params["layers"], state):
            told = _first_read(params, items) if not states else read(layer, states[-1])
            states.append(cell(layer, told, h))
        return jnp.stack(states)

    def features(
        self,
        params: Params,
        items: jax.Array,
        real: jax.Array,
        segments: jax.Array | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """H of Eq. 2 at each position of a window, ``[B, L, D]``; with a key, with dropout.

        Several histories in a row (``data.packing``) come with their ``segments``: each begins with nothing.
        """
        keys = iter(() if key is None else jax.random.split(key, 1 + self.layers))

        def drop(x: jax.Array) -> jax.Array:
            return x if key is None else drop_bytes(next(keys), x, rate=self.dropout)

        goes_on = real
        if segments is not None:
            goes_on = real & jnp.pad(segments[:, 1:] == segments[:, :-1], ((0, 0), (1, 0)))
        x, through_time = None, not self.session_parallel
        for layer in params["layers"]:
            told = _first_read(params, items, drop) if x is None else read(layer, x)
            x = drop(scan(layer, told, real, goes_on, through_time=through_time))
        assert x is not None
        return x

    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 4, or what ``loss_name`` and ``session_parallel`` say, averaged over positions with a next event."""
        del memory, step, epoch
        dropout_key, negative_key = jax.random.split(key)
        items, inputs, _, weights = self.examples(rows)

        f = self.in_few_rows(lambda *seen: self.features(params, *seen[:3], key=dropout_key), inputs, weights > 0)
        loss = self.objective.mean(f, params["items"], params["item_bias"], items, weights, rows, key=negative_key)
        return loss, LossAux()

    def now(self, params: Params, rows: Rows, *, key: jax.Array | None = None) -> jax.Array:
        """The last h, ``[B, D]``."""
        return in_short_windows(lambda *seen: self.features(params, *seen)[:, -1], rows, self.length)


def _first_read(params: Params, items: jax.Array, drop: Callable[[jax.Array], jax.Array] = lambda x: x) -> jax.Array:
    """What the first layer reads at ``items [...]``, ``[..., 3D]``; of a tied table, after dropout of E[s]."""
    layer = params["layers"][0]
    if "read" not in params:
        return read(layer, drop(params["items"].at[items].get(mode="fill", fill_value=0)))
    row: jax.Array = params["read"].at[items].get(mode="fill", fill_value=0)
    return row + jnp.expand_dims(layer["input_bias"], range(items.ndim))
