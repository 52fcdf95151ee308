"""One transformer for all sequential models: windows of vectors in, a vector at each position out.

With x the inputs, A attention, F two dense layers with an activation between them, N layer normalisation, and every
branch behind dropout::

    pre       x ← x + A(N x, N x),    x ← x + F(N x)                                       (1)
    post      x ← N(x + A(x, x)),     x ← N(x + F(x))                                      (2)
    original  q = N x,   x ← q + A(q, x),   x ← N x,   x ← x + F(x),   x ← 0 at padding    (3)

A(q, x) asks with q and answers from x. Padding is never attended to; in a causal encoder nothing later is, either, so
that an event never changes what stands before it. Positions count from the end of a window: the last row of their table
is "now", however long the window.

Source: Eq. 1 Xiong et al. (2020), Eq. 2 Vaswani et al. (2017), Eq. 3 Kang & McAuley, *SASRec* (ICDM 2018, released
code), which has no output projection, F as wide as x, and epsilon 1e-8. Ours: keys have no bias, which cancels in the
softmax, so that an optimizer would only follow rounding; dropout of branches and inputs, unless ``more_dropout``.
Letters: B rows, L positions, D width, H heads.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffrec_jax.models.denoiser import ACTIVATIONS

NORMS = ("pre", "post", "original")
DENSE = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


class Encoder(nn.Module):
    """``(x [B, L, D], real [B, L]) -> [B, L, D]``.

    Attributes:
      width: D.
      blocks: how many.
      heads: H, which divides D.
      inner: width within F.
      causal: positions see what stands before them only; False: everything.
      norm: one of ``NORMS``.
      activation: a name in ``ACTIVATIONS``, or ``gelu_exact``.
      projection: a dense layer behind attention.
      final_norm: a last normalisation.
      epsilon: of the normalisations.
      dropout: rate of inputs and branches.
      padding_seen: padding is seen by all, and itself sees all alike: what the released code of DiffuRec does.
      more_dropout: dropout of attention weights and behind each block too, but not of inputs; the same.
    """

    width: int
    blocks: int
    heads: int
    inner: int
    causal: bool = True
    norm: str = "pre"
    activation: str = "gelu"
    projection: bool = True
    final_norm: bool = True
    epsilon: float = 1e-6
    dropout: float = 0.0
    padding_seen: bool = False
    more_dropout: bool = False

    def setup(self) -> None:
        """Declare the parameters."""
        names = ("query", "key", "value", *(("out",) if self.projection else ()))
        self.attention = [
            [nn.Dense(self.width, use_bias=name != "key", kernel_init=DENSE) for name in names]
            for _ in range(self.blocks)
        ]
        self.dense = [
            [nn.Dense(width, kernel_init=DENSE) for width in (self.inner, self.width)] for _ in range(self.blocks)
        ]
        self.norms = [[nn.LayerNorm(epsilon=self.epsilon) for _ in range(2)] for _ in range(self.blocks)]
        self.last_norm = nn.LayerNorm(epsilon=self.epsilon) if self.final_norm else None

    def __call__(
        self, x: jax.Array, real: jax.Array, segments: jax.Array | None = None, *, key: jax.Array | None = None
    ) -> jax.Array:
        """Encode.

        Args:
          x: ``[B, L, D]``.
          real: ``[B, L]`` bool, what is no padding.
          segments: ``[B, L]`` int32, where several histories share a row: they do not see each other.
          key: of dropout; None: no dropout.
        """
        allowed = attention_mask(real, causal=self.causal, segments=segments, padding_seen=self.padding_seen)
        keys = iter(() if key is None else jax.random.split(key, 1 + (5 if self.more_dropout else 3) * self.blocks))

        def drop(x: jax.Array) -> jax.Array:
            return x if key is None else drop_bytes(next(keys), x, rate=self.dropout)

        def attend(layers: list[nn.Dense], asking: jax.Array, x: jax.Array) -> jax.Array:
            return drop(self._attend(layers, asking, x, allowed, drop if self.more_dropout else None))

        x = x if self.more_dropout else drop(x)
        x = x if self.padding_seen else x * real[..., None].astype(x.dtype)
        for layers, (up, down), (first, second) in zip(self.attention, self.dense, self.norms):

            def feed(x: jax.Array, up: nn.Dense = up, down: nn.Dense = down) -> jax.Array:
                return drop(down(drop(_activation(self.activation)(up(x)))))

            if self.norm == "pre":
                h = first(x)
                x = x + attend(layers, h, h)
                x = x + feed(second(x))
            elif self.norm == "post":
                x = first(x + attend(layers, x, x))
                x = second(x + feed(x))
            else:
                q = first(x)
                x = second(q + attend(layers, q, x))
                x = (x + feed(x)) * real[..., None].astype(x.dtype)
            x = drop(x) if self.more_dropout else x
        x = drop(x) if self.more_dropout else x
        return x if self.last_norm is None else self.last_norm(x)

    def _attend(
        self,
        layers: list[nn.Dense],
        asking: jax.Array,
        x: jax.Array,
        allowed: jax.Array,
        drop: Callable[[jax.Array], jax.Array] | None,
    ) -> jax.Array:
        """A of Eq. 1 to 3, ``[B, L, D]``; a position that may see nothing gets nothing, or the mean of everything."""
        query, key, value = layers[:3]
        q, k, v = (
            a.reshape(*a.shape[:2], self.heads, self.width // self.heads) for a in (query(asking), key(x), value(x))
        )
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(self.width // self.heads)
        logits = jnp.where(allowed, logits.astype(jnp.promote_types(logits.dtype, jnp.float32)), -1e30)
        shares = jax.nn.softmax(logits, axis=-1)
        shares = (shares if self.padding_seen else jnp.where(allowed, shares, 0.0)).astype(x.dtype)
        self.sow("intermediates", "shares", shares)
        shares = shares if drop is None else drop(shares)
        found = jnp.einsum("bhqk,bkhd->bqhd", shares, v).reshape(x.shape)
        return layers[3](found) if self.projection else found


def attention_mask(
    real: jax.Array, *, causal: bool, segments: jax.Array | None = None, padding_seen: bool = False
) -> jax.Array:
    """``[B, 1, L, L]`` bool: which positions (third axis) see which (fourth).

    With ``padding_seen`` it is padding that sees nothing, and is seen.
    """
    allowed = real[:, :, None] if padding_seen else real[:, None, :]
    if causal:
        allowed = allowed & jnp.tri(real.shape[1], dtype=bool)[None]
    if segments is not None:
        allowed = allowed & (segments[:, :, None] == segments[:, None, :])
    return jnp.broadcast_to(allowed, (*real.shape, real.shape[1]))[:, None]


def drop_bytes(key: jax.Array, x: jax.Array, *, rate: float) -> jax.Array:
    """Inverted dropout of ``x [..., D]``, a random byte per entry: the rate is a multiple of 1/256, and exact as such.

    A row's draws do not depend on how many rows come after it.
    """
    bar = round(256 * rate)
    if bar == 0:
        return x
    words = jax.random.bits(key, (*x.shape[:-1], -(-x.shape[-1] // 4)), jnp.uint32)
    drawn = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
    return jnp.where(drawn >= bar, x * (256 / (256 - bar)), 0).astype(x.dtype)


def check_sizes(*, width: int, heads: int, blocks: int, length: int, dropout: float) -> None:
    """Refuse sizes of which no encoder can be made."""
    for name, value in (("width", width), ("heads", heads), ("blocks", blocks)):
        if value < 1:
            raise ValueError(f"{name}={value} of a transformer must be at least 1")
    if width % heads:
        raise ValueError(
            f"width={width} does not divide by heads={heads}: choose a multiple of {heads}, or other heads"
        )
    if length < 2:
        raise ValueError(f"length={length} of a window must be at least 2: one event has no order")
    if not 0.0 <= dropout < 0.99:
        raise ValueError(f"dropout={dropout} must lie in [0, .99)")


def _activation(name: str) -> Callable[[jax.Array], jax.Array]:
    return (lambda x: nn.gelu(x, approximate=False)) if name == "gelu_exact" else ACTIVATIONS[name]
