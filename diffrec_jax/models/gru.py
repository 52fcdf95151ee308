"""A gated recurrent unit: one event, or all of a window.

With x what is read, h the state, and weights W, U, c, c'::

    r, z = σ(W x_j + U h_{j-1} + c),   n = tanh(W_n x_j + c_n + r ⊙ (U_n h_{j-1} + c'_n))  (1)
    h_j  = (1 - z) ⊙ n + z ⊙ h_{j-1}                                                       (2)

A layer is ``{"input": W [n, 3D], "state": U [D, 3D], "input_bias": c [3D], "state_bias": c' [3D]}``, of r, z, n.

Source: Cho et al., *Learning Phrase Representations using RNN Encoder-Decoder* (EMNLP 2014), as deep learning libraries
have it. Letters: B rows, L positions, D width.
"""

import math
from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp

Layer: TypeAlias = Mapping[str, jax.Array]


def make_layer(key: jax.Array, n: int, width: int) -> dict[str, jax.Array]:
    """A layer that reads ``n`` numbers, uniform to ±1/√D."""
    wide = 3 * width
    shapes = {"input": (n, wide), "state": (width, wide), "input_bias": (wide,), "state_bias": (wide,)}
    return {name: uniform(each, shapes[name], width) for name, each in zip(shapes, jax.random.split(key, 4))}


def uniform(key: jax.Array, shape: tuple[int, ...], width: int) -> jax.Array:
    """Uniform to ±1/√D."""
    reach = 1.0 / math.sqrt(width)
    return jax.random.uniform(key, shape, minval=-reach, maxval=reach)


def read(layer: Layer, x: jax.Array) -> jax.Array:
    """What a layer reads of ``x [..., n]``: ``W x + c``, ``[..., 3D]``."""
    return jnp.matmul(x, layer["input"]) + jnp.expand_dims(layer["input_bias"], range(x.ndim - 1))


def scan(layer: Layer, told: jax.Array, real: jax.Array, goes_on: jax.Array, *, through_time: bool = True) -> jax.Array:
    """Every h, ``[B, L, D]``, of ``told [B, L, 3D]``.

    Padding, which is not ``real [B, L]``, leaves the state alone; it starts from 0 where nothing ``goes_on [B, L]``.
    Unless ``through_time``, gradients stop at the state before.
    """

    def event(h: jax.Array, now: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        told, is_real, continues = now
        h = h if through_time else jax.lax.stop_gradient(h)
        h = jnp.where(is_real[:, None], cell(layer, told, jnp.where(continues[:, None], h, 0)), h)
        return h, h

    by_event = (jnp.swapaxes(a, 0, 1) for a in (told, real, goes_on))
    start = jnp.zeros((told.shape[0], layer["state"].shape[0]), told.dtype)
    return jnp.swapaxes(jax.lax.scan(event, start, tuple(by_event))[1], 0, 1)


def cell(layer: Layer, told: jax.Array, h: jax.Array) -> jax.Array:
    """Eq. 1 and 2, ``[B, D]``: from what is read, ``[B, 3D]``, and the state before, ``[B, D]``.

    A layer without ``"state_bias"`` resets the state before U_n, not after it.
    """
    width = h.shape[1]
    resets_first = "state_bias" not in layer
    if resets_first:
        kept = jnp.matmul(h, layer["state"][:, : 2 * width])
    else:
        kept = jnp.matmul(h, layer["state"]) + layer["state_bias"][None]
    r, z = (jax.nn.sigmoid(told[:, part] + kept[:, part]) for part in (slice(0, width), slice(width, 2 * width)))
    n_h = jnp.matmul(r * h, layer["state"][:, 2 * width :]) if resets_first else r * kept[:, 2 * width :]
    return (1.0 - z) * jnp.tanh(told[:, 2 * width :] + n_h) + z * h
