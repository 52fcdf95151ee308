"""The step-conditioned MLP that denoises rows.

    f(x, t) = W_out · g(W_in · x + e_t) + b_out                                            (1)
    e_t     = W_emb · Linear(sinusoid(t)) + b_in                                           (2)

where g is everything between the first and the last linear map. The paper's network concatenates the row and the step
embedding; here the first layer is kept as two matrices, one for the row and one for the embedding, which is the same
map and lets the catalogue-sized part be sharded, gathered (``collapsed``) and named.

Source: the DiffRec paper (arXiv 2304.04971, Section 3.4); sinusoids of Vaswani et al. (2017), cosines first.
Letters: B rows, I width of a row, H hidden widths, E width of the step embedding.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "leaky_relu": nn.leaky_relu,
    "gelu": nn.gelu,
    "swish": nn.swish,
}


def timestep_embedding(t: jax.Array, size: int, *, max_period: float = 10_000.0, rounded: bool = False) -> jax.Array:
    """Sinusoidal embedding ``[B, size]`` of steps ``t [B]``: cosines, then sines, then a zero if ``size`` is odd.

    ``rounded`` takes the exponents of the frequencies in float32, which angles of hundreds show.
    """
    half = size // 2
    exponents = -np.log(max_period) * np.arange(half) / max(half, 1)
    if rounded:
        exponents = np.float32(-np.log(max_period)) * np.arange(half, dtype=np.float32) / np.float32(max(half, 1))
    frequencies = jnp.asarray(np.exp(exponents.astype(np.float64)), jnp.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None, :]
    return jnp.pad(jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1), ((0, 0), (0, size % 2)))


def l2_normalise(x: jax.Array) -> jax.Array:
    """``x / max(‖x‖, 1e-12)``, row by row."""
    norm = jnp.linalg.norm(x.astype(jnp.promote_types(x.dtype, jnp.float32)), axis=-1, keepdims=True)
    return (x / jnp.maximum(norm, 1e-12)).astype(x.dtype)


def dropout(key: jax.Array, x: jax.Array, *, rate: float) -> jax.Array:
    """Inverted dropout of ``x [B, I]``. At rate ½ one random bit per entry decides, drawn 32 at a time."""
    if rate == 0.0:
        return x
    if rate == 0.5:
        words = -(-x.shape[1] // 32)
        bits = jax.random.bits(key, (x.shape[0], words), jnp.uint32)
        shifts = jnp.arange(32, dtype=jnp.uint32)
        keep = (bits[:, :, None] >> shifts[None, None, :]) & 1  # [B, words, 32]
        keep = keep.reshape(x.shape[0], words * 32)[:, : x.shape[1]] != 0
    else:
        keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0)


class Denoiser(nn.Module):
    """``(x_t [B, I], t [B]) -> [B, I]``.

    Attributes:
      size: I.
      dims: hidden widths as on the authors' command line, innermost first: (200, 600) is I → 600 → 200 → 600 → I.
      emb_size: E.
      activation: a name in ``ACTIVATIONS``.
      norm: divide x by its L2 norm first.
      dropout: rate of the dropout of the (normalised) input while training.
      bias_std: standard deviation of the initial biases.
    """

    size: int
    dims: tuple[int, ...]
    emb_size: int = 10
    activation: str = "tanh"
    norm: bool = False
    dropout: float = 0.5
    bias_std: float = 0.001

    def setup(self) -> None:
        """Declare the parameters; weights are N(0, 2 / (fan_in + fan_out))."""
        inward, outward = tuple(reversed(self.dims)), self.dims
        widths = inward + outward[1:]  # 600, 200, 600
        bias = nn.initializers.normal(self.bias_std) if self.bias_std else nn.initializers.zeros
        weight = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")  # Xavier normal

        def first(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
            std = (2.0 / (self.size + self.emb_size + widths[0])) ** 0.5  # fans of the concatenated layer
            drawn: jax.Array = std * jax.random.normal(key, shape)
            return drawn

        self.emb = nn.Dense(self.emb_size, kernel_init=weight, bias_init=bias)
        self.in_items = self.param("in_items", first, (self.size, widths[0]))
        self.in_emb = self.param("in_emb", first, (self.emb_size, widths[0]))
        self.in_bias = self.param("in_bias", bias, (widths[0],))
        self.hidden = [nn.Dense(width, kernel_init=weight, bias_init=bias) for width in widths[1:]]
        self.out_items = self.param("out_items", weight, (widths[-1], self.size))
        self.out_bias = self.param("out_bias", bias, (self.size,))

    def __call__(self, x: jax.Array, t: jax.Array, *, dropout_key: jax.Array | None = None) -> jax.Array:
        """Denoise; a ``dropout_key`` turns dropout on."""
        if self.norm:
            x = l2_normalise(x)
        if dropout_key is not None:
            x = dropout(dropout_key, x, rate=self.dropout)
        return jnp.matmul(self.inner(jnp.matmul(x, self.in_items), t), self.out_items) + self.out_bias[None, :]

    def inner(self, p: jax.Array, t: jax.Array) -> jax.Array:
        """``g(p + e_t)`` of Eq. 1: from ``p = W_in · x [B, H]`` to the last hidden layer ``[B, H]``."""
        act = ACTIVATIONS[self.activation]
        embedding = self.emb(timestep_embedding(t, self.emb_size).astype(p.dtype))
        h = act(p + jnp.matmul(embedding, self.in_emb) + self.in_bias[None, :])
        for layer in self.hidden:
            h = act(layer(h))
        return h
