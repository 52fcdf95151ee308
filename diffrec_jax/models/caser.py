"""Caser: the last few events as an image, read by convolutions along it and across it, beside a vector of the user.

With E a table, e_1 … e_K the rows of the last K events (0 where there are fewer), and u the vector of the user::

    o  = [Σ_k a_vk · e_k + a_v  for each vertical filter v,
          max over starts s of  relu(Σ_{k < h} e_{s+k} · A_hk + a_h)  for each height h ≤ K]          (1)
    z  = relu(W o + w),      score_i = O_i · [z, u] + b_i                                             (2)
    L  = mean over real j, and the next ``targets`` items y of it, of
         softplus(-score_y) + mean over ``negatives`` items drawn uniformly of  softplus(score)       (3)

Eq. 1 is made at every position of a history at once. An item that is drawn and that the history holds counts as none.

Source: Tang & Wang, *Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding* (WSDM 2018, Eq.
3-11), and its released code. Ours: vectors of users start from 0, and somebody who was not trained on has the mean.
Letters: B rows, L positions, I items, U users, D width.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import user_keys, window
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Params
from diffrec_jax.models.gru import uniform
from diffrec_jax.models.sasrec import SASRec
from diffrec_jax.models.sequence import SequenceModel
from diffrec_jax.models.transformer import drop_bytes
from diffrec_jax.options import again, check, option
from diffrec_jax.ranges import Choice, Whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caser(SequenceModel):
    """Hyper-parameters of Caser and its functions; see ``models.contract.Model``. ``width`` is D, ``length`` L."""

    width: int = again(SASRec, "width", default=50, help="width of the vectors", search=Choice((20, 50, 100)))
    order: int = option(5, "most recent events that are read", at_least=1, search=Whole(1, 10))
    targets: int = option(3, "items after each position that are predicted", at_least=1, search=Whole(1, 3))
    vertical: int = option(4, "filters along the events", at_least=1)
    horizontal: int = option(16, "filters of each height across them", at_least=1)
    length: int = again(SASRec, "length", help="most recent events of a history that are trained on")
    dropout: float = again(SASRec, "dropout", default=0.5, help="dropout rate behind the filters in training")
    negatives: int = option(3, "negatives of each target", at_least=1)
    l2: float = option(1e-6, "weight decay", at_least=0.0)
    lr: float = again(SASRec, "lr")

    fit_options: ClassVar[FitOptions] = FitOptions(batch_size=128)
    user_axes: ClassVar[Mapping[str, int]] = {"users": 0}

    def __post_init__(self) -> None:
        check(self)

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """``{"items": O [I, 2D], "item_bias": b [I], "read": E [I, D], "users": u [U, D], filters, "dense": W}``.

        Tables of items are N(0, 1/D²) and N(0, 1/(2D)²), filters and W uniform to ±1/√n of n inputs.
        """
        n_items, D, K = catalogue.n_items, self.width, self.order
        items, read, along, dense, *across = jax.random.split(key, 4 + K)

        def layer(key: jax.Array, shape: tuple[int, ...], n: int) -> dict[str, jax.Array]:
            kernel, bias = jax.random.split(key)
            return {"kernel": uniform(kernel, shape, n), "bias": uniform(bias, shape[-1:], n)}

        n_filtered = self.vertical * D + self.horizontal * K
        return {
            "items": jax.random.normal(items, (n_items, 2 * D)) / (2 * D),
            "item_bias": jnp.zeros(n_items),
            "read": jax.random.normal(read, (n_items, D)) / D,
            "users": jnp.zeros((catalogue.n_users, D)),
            "along": layer(along, (K, self.vertical), K),
            "across": [layer(k, (h, D, self.horizontal), h * D) for h, k in enumerate(across, start=1)],
            "dense": layer(dense, (n_filtered, D), n_filtered),
        }

    def optimizer(self) -> optax.GradientTransformation:
        """Adam, with decay in the gradient."""
        return optax.chain(optax.add_decayed_weights(self.l2), optax.adam(self.lr))

    def features(self, params: Params, events: jax.Array, *, key: jax.Array | None = None) -> jax.Array:
        """The z of Eq. 2, ``[B, L, D]``, of the last K ``events [B, L, K, D]`` of each position."""
        along = jnp.einsum("blkd,kv->blvd", events, params["along"]["kernel"])
        along = along + params["along"]["bias"][None, None, :, None]
        found = [along.reshape(*events.shape[:2], -1)]
        for h, layer in enumerate(params["across"], start=1):
            starts = range(self.order - h + 1)
            read = [jnp.einsum("blkd,kdf->blf", events[:, :, s : s + h], layer["kernel"]) for s in starts]
            found.append(jax.nn.relu(jnp.max(jnp.stack(read), axis=0) + layer["bias"][None, None]))
        o = jnp.concatenate(found, axis=2)
        if key is not None:
            o = drop_bytes(key, o, rate=self.dropout)
        return jax.nn.relu(jnp.matmul(o, params["dense"]["kernel"]) + params["dense"]["bias"][None, None])

    def users(self, params: Params, users: jax.Array) -> jax.Array:
        """The u of Eq. 2 of ``users [B]``, ``[B, D]``."""
        table = params["users"]
        was_trained = jnp.any(table != 0.0, axis=1)
        mean = jnp.sum(table, axis=0) / jnp.maximum(jnp.sum(was_trained), 1).astype(table.dtype)
        known = (users >= 0) & was_trained.at[users].get(mode="clip")
        return jnp.where(known[:, None], table.at[users].get(mode="clip"), mean[None])

    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 3 over the positions with a next event, and the targets that there are."""
        del memory, step, epoch
        dropout_key, other_key = jax.random.split(key)
        items, inputs, _, weights = self.examples(rows)
        L, K = inputs.shape[1], self.order
        read = params["read"].at[jnp.pad(inputs, ((0, 0), (K - 1, 0)), constant_values=rows.n_items)]
        embedded = read.get(mode="fill", fill_value=0)
        events = jnp.stack([embedded[:, k : k + L] for k in range(K)], axis=2)
        z = self.features(params, events, key=dropout_key)
        own = params["users"].at[rows.users].get(mode="clip")
        x = jnp.concatenate([z, jnp.broadcast_to(own[:, None], z.shape)], axis=2)
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))

        def draw(key: jax.Array) -> jax.Array:
            return jnp.flip(jax.random.randint(key, (L, self.targets, self.negatives), 0, rows.n_items), axis=0)

        def score(asked: jax.Array) -> jax.Array:
            vectors, bias = (params[name].at[asked].get(mode="clip").astype(x.dtype) for name in ("items", "item_bias"))
            found: jax.Array = jnp.einsum("bld,bl...d->bl...", x, vectors) + bias
            return found

        others = jax.vmap(draw)(user_keys(other_key, rows.users))
        is_other = jnp.all(others[..., None] != items[:, None, None, None, :], axis=4).astype(x.dtype)
        others_lost = jnp.mean(jax.nn.softplus(score(others)) * is_other, axis=3)  # [B, L, targets]
        behind = jnp.pad(items[:, 1:], ((0, 0), (0, self.targets - 1)), constant_values=rows.n_items)
        targets = jnp.stack([behind[:, k : k + L] for k in range(self.targets)], axis=2)
        weights = weights[..., None] * (targets < rows.n_items).astype(weights.dtype)
        lost = jax.nn.softplus(-score(targets)) + others_lost
        return jnp.sum(weights * lost) / jnp.maximum(jnp.sum(weights), 1.0), LossAux()

    def now(self, params: Params, rows: Rows, *, key: jax.Array | None = None) -> jax.Array:
        """``[z, u]`` behind the last event, ``[B, 2D]``."""
        items, _ = window(rows, self.order)
        events = params["read"].at[items].get(mode="fill", fill_value=0)
        z = self.features(params, events[:, None])[:, 0]
        return jnp.concatenate([z, self.users(params, rows.users)], axis=1)
