"""The reverse process without the catalogue: exact, and T steps cost T·H² instead of 2·T·I·H per user.

With the network ``f(x, t) = W_out · g(W_in · x + e_t) + b_out`` and the step ``x_{t-1} = k1_t · f + k2_t · x_t``, every
x_t is a combination of three things, and only its image ``p_t = W_in · x_t ∈ R^H`` enters the next step::

    x_t = a_t · x_T + W_out · u_t + s_t · b_out                                            (1)
    u ← k1 · h + k2 · u,    s ← k1 + k2 · s,    a ← k2 · a,      h = g(p + e_t)             (2)
    p ← k1 · (A · h + c) + k2 · p,     A = W_in · W_out ∈ R^{H×H},   c = W_in · b_out        (3)

A and c are computed once per set of parameters (``prepare``). The start ``W_in · x_T`` is a sparse gather over the
history, or one dense product where x_T was corrupted. At the end of an x0-predicting process k1 = 1 and k2 = 0, so
that the scores are ``W_out · h_0 + b_out``: a *user vector* h_0 times *item vectors*, the columns of W_out.

An L2-normalised input needs ‖x_t‖, which Eq. 1 gives from the Gram matrix W_outᵀ·W_out and a few products with b_out.

Source: ours. The dense loop (``diffusion.process.reverse``) is the reference it is tested against.
Letters: B users, I items, H width of the last hidden layer, T steps.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from diffrec_jax.diffusion.process import MeanType, reverse_coefficients
from diffrec_jax.diffusion.schedule import Schedule
from diffrec_jax.models.contract import Params
from diffrec_jax.models.denoiser import Denoiser


class Tables(struct.PyTreeNode):
    """What one set of parameters contributes; computed once, used for every batch."""

    A: jax.Array  # [H, H'] W_out · W_in, so that ``h @ A`` is the image of W_out · h
    c: jax.Array  # [H'] the image of b_out
    gram: jax.Array | None  # [H, H] W_out · W_outᵀ, for a normalised input only
    gram_bias: jax.Array | None  # [H] W_out · b_out
    bias_norm2: jax.Array | None  # [] ‖b_out‖²
    empty: jax.Array | None = None  # [H] what the loop gives for an empty history, for guidance only


class Start(NamedTuple):
    """x_T, as far as the loop needs it."""

    p: jax.Array  # [B, H'] W_in · x_T
    out: jax.Array | None = None  # [B, H] W_outᵀ · x_T, for a normalised input
    bias: jax.Array | None = None  # [B] b_out · x_T, likewise
    norm2: jax.Array | None = None  # [B] ‖x_T‖², likewise


class UserVectors(NamedTuple):
    """The result of the loop: ``x_0 = W_out · u + s · b_out + a · x_T``."""

    u: jax.Array  # [B, H]
    s: float
    a: float


def prepare(params: Params, *, norm: bool) -> Tables:
    """The products of Eq. 3, and for a normalised input those of its norm. ``params`` are a ``Denoiser``'s."""
    w_in, w_out, b_out = (params["params"][name] for name in ("in_items", "out_items", "out_bias"))
    return Tables(
        A=jnp.matmul(w_out, w_in),
        c=jnp.matmul(b_out, w_in),
        gram=jnp.matmul(w_out, w_out.T) if norm else None,
        gram_bias=jnp.matmul(w_out, b_out) if norm else None,
        bias_norm2=jnp.dot(b_out, b_out) if norm else None,
    )


def reverse_collapsed(
    schedule: Schedule, denoiser: Denoiser, params: Params, tables: Tables, start: Start, *, mean_type: MeanType
) -> UserVectors:
    """Run all T reverse steps in R^H (Eq. 2 and 3); equals the dense loop within float32 rounding."""
    k1, k2 = reverse_coefficients(schedule, mean_type)
    s_after, a_after = [0.0], [1.0]
    for t in range(schedule.steps - 1, -1, -1):
        s_after.append(float(k1[t] + k2[t] * s_after[-1]))
        a_after.append(float(k2[t] * a_after[-1]))

    def table(values: np.ndarray | list[float]) -> jax.Array:
        return jnp.asarray(values, start.p.dtype)

    scan_over = {
        "t": jnp.arange(schedule.steps - 1, -1, -1, dtype=jnp.int32),
        "k1": table(k1[::-1]),
        "k2": table(k2[::-1]),
        "s": table(s_after[:-1]),
        "a": table(a_after[:-1]),
    }

    def step(carry: tuple[jax.Array, jax.Array], now: dict[str, jax.Array]) -> tuple[tuple[jax.Array, jax.Array], None]:
        p, u = carry
        scaled = p / _norm(tables, start, u, now["s"], now["a"])[:, None] if denoiser.norm else p
        h: Any = denoiser.apply(params, scaled, now["t"][None], method="inner")  # one embedding serves all rows
        p = now["k1"] * (jnp.matmul(h, tables.A) + tables.c[None, :]) + now["k2"] * p
        return (p, now["k1"] * h + now["k2"] * u), None

    width = tables.A.shape[0]
    (_, u), _ = jax.lax.scan(step, (start.p, jnp.zeros((start.p.shape[0], width), start.p.dtype)), scan_over)
    return UserVectors(u=u, s=s_after[-1], a=a_after[-1])


def _norm(tables: Tables, start: Start, u: jax.Array, s: jax.Array, a: jax.Array) -> jax.Array:
    """``max(‖x_t‖, 1e-12) [B]`` of Eq. 1."""
    assert start.out is not None and start.bias is not None and start.norm2 is not None
    assert tables.gram is not None and tables.gram_bias is not None and tables.bias_norm2 is not None
    norm2 = a**2 * start.norm2 + jnp.sum(jnp.matmul(u, tables.gram) * u, axis=1) + s**2 * tables.bias_norm2
    crossed = a * jnp.sum(start.out * u, axis=1) + a * s * start.bias + s * jnp.matmul(u, tables.gram_bias)
    norm2 = norm2 + 2.0 * crossed
    return jnp.maximum(jnp.sqrt(jnp.maximum(norm2, 0.0)), 1e-12)
