"""GRU4Rec: what comes next, told at every position of a history by a recurrent network.

With s the last L events, E the table of items, which serves both ends, and b its biases::

    r, z = σ(W x_j + U h_{j-1} + c),   n = tanh(W_n x_j + c_n + r ⊙ (U_n h_{j-1} + c'_n))  (1)
    h_j  = (1 - z) ⊙ n + z ⊙ h_{j-1},      h before the first event is 0                   (2)
    score_i = h_L · E_i + b_i                                                              (3)
    L    = mean over real j of  -log softmax_i(h_j · E_i + b_i)[s_{j + 1}]                 (4)

x_1 is E[s_j]; a further layer reads the h of the one before. The gradient of Eq. 4 goes back through the whole window.
A new event costs one cell: ``step`` goes on from a state, and no history is read again.

Source: Hidasi et al., *Session-based Recommendations with Recurrent Neural Networks* (ICLR 2016), with the tied table
of Hidasi & Karatzoglou (CIKM 2018). Ours: whole histories, not session-parallel batches, and all items as negatives.
Letters: B rows, L positions, I items, D width.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.packing import in_few_rows
from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import next_items, window
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Model, Params, Prepared
from diffrec_jax.models.item_losses import softmax_cross_entropy
from diffrec_jax.models.sasrec import SASRec
from diffrec_jax.models.transformer import drop_bytes
from diffrec_jax.options import again, check, option
from diffrec_jax.ranges import Choice, Real, Whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRU4Rec(Model):
    """Hyper-parameters of GRU4Rec and its functions; see ``models.contract.Model``. ``width`` is D, ``length`` L."""

    width: int = option(64, "width of the recurrent layers", at_least=1, search=Choice((32, 64, 128, 256, 512)))
    layers: int = option(1, "recurrent layers; one is mostly best", at_least=1, search=Whole(1, 2))
    length: int = again(SASRec, "length")
    dropout: float = option(
        0.1, "dropout rate of embeddings and states in training", at_least=0.0, below=1.0, search=Real(0.0, 0.6)
    )
    packing: bool = again(SASRec, "packing")
    lr: float = again(SASRec, "lr")

    fit_options: ClassVar[FitOptions] = FitOptions(batch_size=128)
    needs_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self)

    @property
    def item_axes(self) -> Mapping[str, int]:
        """See ``models.contract.Scorer.item_axes``."""
        return {"items": 0, "bias": 0}

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """``{"items": E [I, D], "bias": b [I], "layers": […]}``, a layer of matrices ``[D, 3D]`` and vectors ``[3D]``.

        The table is N(0, .02²), the layers uniform to ±1/√D, biases of items 0.
        """
        items, *layers = jax.random.split(key, 1 + self.layers)
        reach, shapes = 1.0 / math.sqrt(self.width), {"input": 2, "state": 2, "input_bias": 1, "state_bias": 1}

        def layer(key: jax.Array) -> dict[str, jax.Array]:
            keys = jax.random.split(key, len(shapes))
            sizes = ((self.width, 3 * self.width)[2 - rank :] for rank in shapes.values())
            return {
                name: jax.random.uniform(each, size, minval=-reach, maxval=reach)
                for name, each, size in zip(shapes, keys, sizes)
            }

        return {
            "items": 0.02 * jax.random.normal(items, (catalogue.n_items, self.width)),
            "bias": jnp.zeros(catalogue.n_items),
            "layers": [layer(key) for key in layers],
        }

    def optimizer(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.lr)

    def initial_state(self, params: Params, rows: int) -> jax.Array:
        """The states before any event, ``[layers, B, D]``."""
        return jnp.zeros((self.layers, rows, self.width), params["items"].dtype)

    def step(self, params: Params, state: jax.Array, items: jax.Array) -> jax.Array:
        """The states ``[layers, B, D]`` after one more event, ``items [B]``; the last of them ranks (Eq. 3)."""
        x, states = params["items"].at[items].get(mode="fill", fill_value=0), []
        for layer, h in zip(params["layers"], state):
            x = _cell(layer, jnp.matmul(x, layer["input"]) + layer["input_bias"][None], h)
            states.append(x)
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
        x = drop(params["items"].at[items].get(mode="fill", fill_value=0))
        for layer in params["layers"]:
            x = drop(_scan(layer, x, real, goes_on))
        return x

    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 4."""
        del memory, step, epoch
        items, real = window(rows, min(self.length, rows.items.shape[1] - 1 or 1) + 1)
        inputs, targets, weights = next_items(items, real & (rows.users >= 0)[:, None])

        def packed(inputs: jax.Array, segments: jax.Array, columns: jax.Array) -> jax.Array:
            return self.features(params, inputs, segments >= 0, segments, key=key)

        is_input = weights > 0
        f = in_few_rows(packed, inputs, is_input) if self.packing else self.features(params, inputs, is_input, key=key)
        flat = (f.reshape(-1, self.width), params["items"], params["bias"], targets.reshape(-1), weights.reshape(-1))
        total = softmax_cross_entropy(*flat, mesh=rows.mesh)
        return total / jnp.maximum(jnp.sum(weights), 1.0), LossAux()

    def scores(self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None) -> jax.Array:
        """Eq. 3, ``[B, I]``."""
        scores: jax.Array = jnp.matmul(self._now(params, rows), params["items"].T) + params["bias"][None, :]
        return scores

    @property
    def factored(self) -> bool:
        """Always."""
        return True

    def user_vectors(
        self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None
    ) -> jax.Array:
        """``[h_L, 1]``, ``[B, D + 1]``."""
        return jnp.pad(self._now(params, rows), ((0, 0), (0, 1)), constant_values=1.0)

    def item_vectors(self, params: Params) -> jax.Array:
        """``[E, b]``, ``[I, D + 1]``."""
        return jnp.concatenate([params["items"], params["bias"][:, None]], axis=1)

    def _now(self, params: Params, rows: Rows) -> jax.Array:
        """``[B, D]``: h at the last event."""
        return self.features(params, *window(rows, min(self.length, rows.items.shape[1])))[:, -1]


def _scan(layer: Mapping[str, jax.Array], x: jax.Array, real: jax.Array, goes_on: jax.Array) -> jax.Array:
    """Eq. 1 and 2 along ``x [B, L, D]``; padding leaves the state alone, and where a history begins it is 0."""
    read = jnp.matmul(x, layer["input"]) + layer["input_bias"][None, None]

    def event(h: jax.Array, now: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        read, is_real, continues = now
        h = jnp.where(is_real[:, None], _cell(layer, read, jnp.where(continues[:, None], h, 0)), h)
        return h, h

    by_event = (jnp.swapaxes(a, 0, 1) for a in (read, real, goes_on))
    start = jnp.zeros((x.shape[0], layer["state"].shape[0]), x.dtype)
    return jnp.swapaxes(jax.lax.scan(event, start, tuple(by_event))[1], 0, 1)


def _cell(layer: Mapping[str, jax.Array], read: jax.Array, h: jax.Array) -> jax.Array:
    """Eq. 1 and 2, ``[B, D]``: from ``W x + c [B, 3D]`` and the state before, ``[B, D]``."""
    kept = jnp.matmul(h, layer["state"]) + layer["state_bias"][None]
    (r, z, n), (r_h, z_h, n_h) = (jnp.split(a, 3, axis=1) for a in (read, kept))
    r, z = jax.nn.sigmoid(r + r_h), jax.nn.sigmoid(z + z_h)
    return (1.0 - z) * jnp.tanh(n + r * n_h) + z * h
