"""ACVAE: a variational autoencoder of sequences, with a critic for its prior and one for what latents say of items.

With s the last L events, E a table, G a gated recurrent unit, C convolutions (the second looks back five positions) and
F, V dense layers; everything at position j knows events up to s_j::

    g   = G(E[s]),    a(y) = y + tanh(W ε + w),  ε ~ N(0, I)                               (1)
    y   = softplus(C_3 softplus(C_2 a(softplus(C_1 a(g)))))                                (2)
    z   = F (g + y),       score_i = tanh(V z) · O_i + b_i                                 (3)
    L_1 = sum over real j of  -log softmax_i(score_ji)[s_{j + 1}]                          (4)
    L_2 = sum of the mean over z of  T(x_j, z_j)                                           (5)
    L_3 = sum of  softplus(S(x, z')_j) + softplus(-S(x, z)_j)                              (6)
    L_4 = sum of the mean over z of  softplus(-T(x_j, z_j)) + softplus(T(x_j, p_j)),   p ~ N(0, I)     (7)

x is E[s] and z' the z of the next history of the batch. All sums are divided by the histories. T, with z²/2 in it,
tells latents from the prior (its optimum makes Eq. 5 the divergence); S tells whose latents are whose. The autoencoder
descends L_1 + kl_weight · L_2 + contrast_weight · L_3, S descends L_3 and T descends L_4, all in the same step. When
ranking ε is 0.

Source: Xie et al., *Adversarial and Contrastive Variational Autoencoder for Sequential Recommendation* (WWW 2021), and
its released code, which noises when it ranks, has a class for padding, and moves the encoder by L_3 a second time.
Letters: B rows, L positions, I items, D width of item vectors, H of states, Z of latents.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import in_short_windows, user_keys
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Params
from diffrec_jax.models.gru import make_layer, read, scan, uniform
from diffrec_jax.models.sasrec import SASRec
from diffrec_jax.models.sequence import SequenceModel
from diffrec_jax.models.transformer import drop_bytes
from diffrec_jax.options import again, check, option
from diffrec_jax.ranges import Choice, Real

Dense: TypeAlias = Mapping[str, jax.Array]

REACH = 5  # positions that C_2 of Eq. 2 sees
CRITIC = 128  # width of T and S
CRITICS = ("adversary", "contrast")  # T and S among the parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class ACVAE(SequenceModel):
    """Hyper-parameters of ACVAE and its functions; see ``models.contract.Model``. ``length`` is L."""

    width: int = again(SASRec, "width", default=128, help="width of the item vectors")
    hidden: int = option(100, "width of the recurrent layer", at_least=1, search=Choice((50, 100, 200)))
    latent: int = option(64, "width of the latent vectors", at_least=1, search=Choice((16, 32, 64, 128)))
    length: int = again(SASRec, "length", default=100)
    dropout: float = again(SASRec, "dropout", default=0.5, help="dropout rate before the latent vectors in training")
    kl_weight: float = option(0.05, "weight of the divergence from the prior", at_least=0.0, search=Real(0.0, 0.5))
    contrast_weight: float = option(
        0.1, "weight of telling whose latents are whose", at_least=0.0, search=Real(0.0, 0.5)
    )
    adversary_lr: float = option(5e-4, "learning rate of the critic of the prior", above=0.0, rare=True)
    contrast_lr: float = option(3e-4, "learning rate of the critic of latents", above=0.0, rare=True)
    lr: float = again(SASRec, "lr", help="learning rate of AdamW")

    fit_options: ClassVar[FitOptions] = FitOptions(batch_size=64)

    def __post_init__(self) -> None:
        check(self)

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """``{"items": O [I, D], "item_bias": b [I], "read": E [I, D], "gru": G, …, "adversary": T, "contrast": S}``.

        E is N(0, I), O and V Xavier normal, the rest uniform to ±1/√n of n inputs.
        """
        n_items, D, H, Z = catalogue.n_items, self.width, self.hidden, self.latent
        keys = iter(jax.random.split(key, 20))

        def dense(n_in: int, n_out: int, *, taps: int = 1) -> dict[str, jax.Array]:
            shape = (n_in, n_out) if taps == 1 else (taps, n_in, n_out)
            n = taps * n_in
            return {"kernel": uniform(next(keys), shape, n), "bias": uniform(next(keys), (n_out,), n)}

        def xavier(n_in: int, n_out: int) -> jax.Array:
            return math.sqrt(2.0 / (n_in + n_out)) * jax.random.normal(next(keys), (n_in, n_out))

        return {
            "items": xavier(n_items, D),
            "item_bias": jnp.zeros(n_items),
            "read": jax.random.normal(next(keys), (n_items, D)),
            "gru": make_layer(next(keys), D, H),
            "noise": dense(H, H),
            "first": dense(H, H),
            "back": dense(H, 2 * H, taps=REACH),
            "last": dense(2 * H, H),
            "latent": dense(H, Z),
            "feature": {"kernel": xavier(Z, D), "bias": jnp.zeros(D)},
            **self._critics(next(keys)),
        }

    def _critics(self, key: jax.Array) -> Params:
        """The parameters of T and S."""
        keys = iter(jax.random.split(key, 16))

        def dense(n_in: int, n_out: int) -> dict[str, jax.Array]:
            return {"kernel": uniform(next(keys), (n_in, n_out), n_in), "bias": uniform(next(keys), (n_out,), n_in)}

        both = self.width + self.latent
        blocks = [{"narrow": dense(CRITIC, CRITIC), "wide": dense(CRITIC, CRITIC)} for _ in range(2)]
        return {
            "adversary": {"read": dense(both, CRITIC), "blocks": blocks, "out": dense(CRITIC, self.latent)},
            "contrast": {"gru": make_layer(next(keys), both, CRITIC), "out": dense(CRITIC, 1)},
        }

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW for the autoencoder, and decayed descent for each critic."""

        def descent(lr: float) -> optax.GradientTransformation:
            return optax.chain(optax.add_decayed_weights(0.1), optax.sgd(lr))

        of = {"adversary": descent(self.adversary_lr), "contrast": descent(self.contrast_lr)}
        return optax.multi_transform(
            {"network": optax.adamw(self.lr, weight_decay=0.01), **of},
            lambda params: {name: name if name in of else "network" for name in params},
        )

    # the networks

    def embed(self, params: Params, items: jax.Array) -> jax.Array:
        """The x of Eq. 5, ``[B, L, D]``; 0 for padding."""
        found: jax.Array = params["read"].at[items].get(mode="fill", fill_value=0)
        return found

    def latents(
        self,
        params: Params,
        x: jax.Array,
        real: jax.Array,
        noise: tuple[jax.Array, ...] | None = None,
        *,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """The z of Eq. 3 at each position, ``[B, L, Z]``.

        Args:
          params: the parameters.
          x: ``[B, L, D]``.
          real: ``[B, L]`` bool, what is no padding.
          noise: two ε of Eq. 1, ``[B, L, H]`` each; None: 0.
          key: of dropout.
        """
        g = scan(params["gru"], read(params["gru"], x), real, real)
        there = real[..., None].astype(x.dtype)

        def noised(y: jax.Array, n: int) -> jax.Array:
            layer = params["noise"]
            return y + jnp.tanh(layer["bias"][None, None] if noise is None else _dense(layer, noise[n]))

        y = jax.nn.softplus(_dense(params["first"], noised(g, 0)))
        y = noised(y, 1) * there
        before = (jnp.pad(y, ((0, 0), (age, 0), (0, 0)))[:, : y.shape[1]] for age in range(REACH))
        back = sum(jnp.matmul(y, kernel) for y, kernel in zip(before, params["back"]["kernel"]))
        y = jax.nn.softplus(back + params["back"]["bias"][None, None])
        y = g + jax.nn.softplus(_dense(params["last"], y))
        if key is not None:
            y = drop_bytes(key, y, rate=self.dropout)
        return _dense(params["latent"], y)

    def features(self, params: Params, z: jax.Array) -> jax.Array:
        """What ranks items in Eq. 3, ``[…, D]`` of ``z […, Z]``."""
        return jnp.tanh(_dense(params["feature"], z))

    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """L_1 + kl_weight · L_2, L_3 and L_4, so that what each network descends is what its gradient is of."""
        del memory, step, epoch
        dropout_key, noise_key = jax.random.split(key)
        _, inputs, targets, weights = self.examples(rows)
        x, real = self.embed(params, inputs), weights > 0
        L, H = inputs.shape[1], self.hidden

        def draw(key: jax.Array) -> jax.Array:
            return jnp.flip(jax.random.normal(key, (L, 2 * H + self.latent)), axis=0)

        drawn = jax.vmap(draw)(user_keys(noise_key, rows.users)).astype(x.dtype)
        one, other, prior = jnp.split(drawn, (H, 2 * H), axis=2)
        z = self.latents(params, x, real, (one, other), key=dropout_key)
        weights = weights / jnp.maximum(jnp.sum(rows.users >= 0), 1).astype(weights.dtype)

        def total(of: jax.Array, weights: jax.Array) -> jax.Array:
            return jnp.sum(weights * of.astype(weights.dtype))

        fixed = jax.lax.stop_gradient
        divergence = total(jnp.mean(adversary(fixed(params["adversary"]), x, z), axis=2), weights)
        told = [adversary(params["adversary"], fixed(x), a) for a in (fixed(z), prior)]
        of_prior = total(jnp.mean(jax.nn.softplus(-told[0]) + jax.nn.softplus(told[1]), axis=2), weights)
        gated_x, gated_z = (fixed(a) + self.contrast_weight * (a - fixed(a)) for a in (x, z))
        contrasted = self._contrast(params["contrast"], gated_x, gated_z, rows, weights)
        mean = self.mean_cross_entropy(params, self.features(params, z), targets, weights, rows)
        rebuilt = mean * jnp.maximum(jnp.sum(weights), 1.0)
        metrics = {"divergence": divergence, "contrast": contrasted, "adversary": of_prior}
        return rebuilt + self.kl_weight * divergence + contrasted + of_prior, LossAux(metrics=metrics)

    def _contrast(self, layers: Params, x: jax.Array, z: jax.Array, rows: Rows, weights: jax.Array) -> jax.Array:
        """L_3; what a history and the next of the batch do not both have is left out of both terms."""
        there = rows.users >= 0
        order = jnp.argsort(~there, stable=True)  # the histories, then the padding
        following = order.at[jnp.cumsum(there) % jnp.maximum(jnp.sum(there), 1)].get(mode="clip")
        real = (weights > 0) & (weights > 0)[following]
        weights = jnp.where(real, weights, 0.0)
        own, others = (contrast(layers, x, a, real) for a in (z, z[following]))
        return jnp.sum(weights * (jax.nn.softplus(others) + jax.nn.softplus(-own)).astype(weights.dtype))

    def now(self, params: Params, rows: Rows, *, key: jax.Array | None = None) -> jax.Array:
        """``tanh(V z)`` at the last event, ``[B, D]``."""

        def last(items: jax.Array, real: jax.Array) -> jax.Array:
            return self.latents(params, self.embed(params, items), real)[:, -1]

        return self.features(params, in_short_windows(last, rows, self.length))


def adversary(layers: Params, x: jax.Array, z: jax.Array) -> jax.Array:
    """The critic T of each latent of ``z [B, L, Z]``."""
    n = _dense(layers["read"], jnp.concatenate([x, z], axis=2))
    for block in layers["blocks"]:
        n = jax.nn.elu(n + _dense(block["wide"], _dense(block["narrow"], n)))
    return _dense(layers["out"], n) + 0.5 * jnp.square(z)


def contrast(layers: Params, x: jax.Array, z: jax.Array, real: jax.Array) -> jax.Array:
    """The critic S at each position, ``[B, L]``."""
    states = scan(layers["gru"], read(layers["gru"], jnp.concatenate([x, z], axis=2)), real, real)
    return _dense(layers["out"], jax.nn.gelu(states, approximate=False))[..., 0]


def _dense(layer: Dense, x: jax.Array) -> jax.Array:
    """``W x + b`` along the last axis."""
    return jnp.matmul(x, layer["kernel"]) + jnp.expand_dims(layer["bias"], range(x.ndim - 1))
