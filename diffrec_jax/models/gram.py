"""Squared error over a catalogue without its outputs: exact, and a step costs I·H² instead of B·I·H.

Of scores that are a product, ``s = W·h`` with W ``[I, V]`` and h ``[V]`` (a bias is a column of W and a 1 in h), and a
row x that is zero nearly everywhere::

    Σ_i w_i (s_i - x_i)² = w0·hᵀG h + Σ_{i: x_i≠0} [(1 - w0) s_i² - 2 x_i s_i + x_i²],   G = WᵀW     (1)

with weight 1 on what the row has and w0 on what it lacks. Its gradient towards W is ``W·C`` for one small matrix C,
plus a sum over the events of the rows. Noise on a row enters the network through its first layer alone, where it is
Gaussian with a known covariance, so that it is drawn there::

    W_inᵀ ε ~ N(0, W_inᵀW_in) = L·z,   L·Lᵀ = W_inᵀW_in,   z ~ N(0, 1) in R^H                       (2)
    E[ε | L·z] = W_in·L⁻ᵀ·z                                                                           (3)

Eq. 3 gives the gradient towards W_in that noise drawn in the catalogue has on average.

Source of Eq. 1 with w0 = 1: Vincent, de Brébisson & Bouthillier, *Efficient Exact Gradient Update for Training Deep
Networks with Very Large Sparse Targets* (NIPS 2015, Section 3); w0 is the weight of implicit-feedback matrix
factorisation (Hu, Koren & Volinsky, ICDM 2008, Eq. 3). Eq. 2 and 3 are ours.
Letters: B rows, I items, H width of the hidden layer, V = H + 1.
"""

import functools

import jax
import jax.numpy as jnp

from diffrec_jax.data.packed import PackedRows
from diffrec_jax.data.walks import Term, event_sums
from diffrec_jax.models.contract import Sizes
from diffrec_jax.types import PyTree

REFOLD = 8  # steps between two factors of Eq. 2: the noise is small, and its covariance changes slowly
EVENT = 900.0  # products that an event of a row is worth in time, for every hidden unit
DRAW = 2000.0  # likewise a number of the batch of size B·I: its noise, its dropout, and what follows
REFOLD_WITHOUT_CATALOGUE = 64  # likewise where nothing else of a step grows with the catalogue
JITTER = 1e-6  # of the mean diagonal, for fewer items than hidden units


def costs(sizes: Sizes, *, width: int, noise: bool) -> tuple[float, float]:
    """FLOPs of a step with all outputs and of one by Gram matrices; what is no product counts by its time on a CPU.

    Args:
      sizes: of data and batch.
      width: H.
      noise: whether rows are noised.
    """
    entries = float(sizes.batch_size) * sizes.n_items
    dense = 10.0 * entries * width + DRAW * entries
    products = 2 + (1 + 1 / REFOLD if noise else 0)
    events = sizes.batch_size * sizes.n_interactions / max(sizes.n_users, 1)
    return dense, 2.0 * products * sizes.n_items * width**2 + EVENT * events * width


def squared_error(table: jax.Array, vectors: jax.Array, rows: PackedRows, *, w0: float = 1.0) -> jax.Array:
    """Eq. 1 divided by I, ``[B]``: the mean over the catalogue of the weighted squared error.

    Args:
      table: W, ``[I, V]``.
      vectors: h of each row, ``[B, V]``.
      rows: x.
      w0: weight of what a row lacks.
    """
    precise = vectors.astype(jnp.promote_types(vectors.dtype, jnp.float32))
    everywhere = jnp.sum(jnp.matmul(precise, _gram(table)) * precise, axis=1)
    return (w0 * everywhere + event_sums(rows, table, vectors, _beside_everything(w0))) / table.shape[0]


@functools.cache
def _beside_everything(w0: float) -> Term:
    """What an event contributes to Eq. 1; an event of weight 0 is as if it was not there."""

    def term(s: jax.Array, x: jax.Array, _: jax.Array) -> jax.Array:
        return jnp.where(x != 0, (1.0 - w0) * jnp.square(s), 0.0) - 2.0 * x * s + jnp.square(x)

    return term


@jax.custom_vjp
def _gram(table: jax.Array) -> jax.Array:
    """``tableᵀ table [V, V]``, in float32 at least; its gradient is one product, since it is symmetric."""
    return jnp.matmul(table.T, table, preferred_element_type=jnp.promote_types(table.dtype, jnp.float32))


def _gram_forward(table: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _gram(table), table


def _gram_backward(table: jax.Array, cotangent: jax.Array) -> tuple[jax.Array]:
    return (jnp.matmul(table, (cotangent + cotangent.T).astype(table.dtype)),)


_gram.defvjp(_gram_forward, _gram_backward)


def noise_factor(w_in: jax.Array) -> jax.Array:
    """L of Eq. 2 for ``w_in [I, H]``, ``[H, H]`` float32."""
    gram = _gram(w_in.astype(jnp.float32))
    room = JITTER * jnp.trace(gram) / gram.shape[0]
    factor: jax.Array = jnp.linalg.cholesky(gram + room * jnp.eye(gram.shape[0], dtype=gram.dtype))
    return factor


@jax.custom_vjp
def noise_behind(w_in: jax.Array, factor: jax.Array, z: jax.Array) -> jax.Array:
    """The image of noise under the first layer, ``[B, H]`` (Eq. 2), for ``z [B, H]``; its gradient is that of Eq. 3."""
    return jnp.matmul(z, factor.T).astype(w_in.dtype)


def _noise_forward(w_in: jax.Array, factor: jax.Array, z: jax.Array) -> tuple[jax.Array, PyTree]:
    return noise_behind(w_in, factor, z), (w_in, factor, z)


def _noise_backward(kept: PyTree, cotangent: jax.Array) -> tuple[PyTree, ...]:
    w_in, factor, z = kept
    crossed = jnp.matmul(z.T, cotangent.astype(z.dtype))
    small = jax.scipy.linalg.solve_triangular(factor.T, crossed, lower=False)
    return jnp.matmul(w_in, small.astype(w_in.dtype)), jnp.zeros_like(factor), jnp.zeros_like(z)


noise_behind.defvjp(_noise_forward, _noise_backward)
