"""One variational encoder per cluster of items, and the decoder back to the catalogue.

The items are put into cluster order, so that cluster c is one block of columns x_c of a row x::

    [m_c, l_c] = a(… a(x_c · W_c1 + b_c1) …)       one encoder per cluster                 (1)
    μ = [m_1 … m_C],   log σ² = [l_1 … l_C]        the latent of a row, Z wide             (2)
    z = μ + ε · exp(½ log σ²)                      reparameterisation                      (3)
    logits = z · W + b                             ``out_dims`` = ()                       (4)
    logits_c = a(… a(z_c · V_c1) …) · V_cn + b_cn  ``out_dims`` = ``in_dims``              (5)

Cluster c has ``int(|c| / I · Z)`` of the latent width, at least 1, and the last cluster what is left; every hidden
width is divided likewise. As in the authors' code the activation a follows the last layer of the encoder too, so that
under tanh both μ and log σ² lie in (-1, 1); the last layer of a decoder has none. Every cluster has matrices of its
own shapes: no column is padding.

Source: the DiffRec paper (arXiv 2304.04971, Section 3.5); Multi-VAE (Liang et al., WWW 2018).
Letters: B rows, I items, C clusters, Z latent width.
"""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from diffrec_jax.data.rows import Rows
from diffrec_jax.models.denoiser import ACTIVATIONS
from diffrec_jax.options import option
from diffrec_jax.ranges import Range, Real


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
    """Which cluster every item belongs to, and the order that puts clusters side by side; equal if its items are.

    Attributes:
      of_item: ``[I]`` int32, numbers 0 … C-1; every cluster holds at least two items (one is enough if C = 1).
    """

    of_item: np.ndarray

    def __post_init__(self) -> None:
        of_item = np.asarray(self.of_item)
        if of_item.ndim != 1 or not len(of_item) or of_item.dtype.kind not in "iu" or of_item.min() < 0:
            raise ValueError(
                f"clusters must be one whole number >= 0 per item, and this is an array of {of_item.dtype} of shape "
                f"{of_item.shape}"
            )
        object.__setattr__(self, "of_item", of_item.astype(np.int32))
        sizes = np.bincount(of_item)
        for size, what in ((0, "is empty"), (1, "holds one item")):
            if len(sizes) > 1 and np.any(sizes == size):
                c = int(np.flatnonzero(sizes == size)[0])
                raise ValueError(f"cluster {c} of {len(sizes)} {what}: use fewer clusters, or other item embeddings")

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Items of each cluster."""
        return tuple(np.bincount(self.of_item).tolist())

    @functools.cached_property
    def order(self) -> np.ndarray:
        """``[I]``: the item at each place of the cluster order; ascending within a cluster."""
        return np.argsort(self.of_item, kind="stable").astype(np.int32)

    @functools.cached_property
    def place(self) -> np.ndarray:
        """``[I + 1]``: the place of each item in the cluster order; I, which marks padding, stays I."""
        place = np.empty(len(self.order) + 1, np.int32)
        place[self.order] = np.arange(len(self.order))
        place[-1] = len(self.order)
        return place

    @property
    def starts(self) -> tuple[int, ...]:
        """The first place of each cluster."""
        return tuple(np.cumsum((0, *self.sizes[:-1])).tolist())

    def in_order(self, rows: Rows) -> Rows:
        """The same rows, their items numbered by their place in the cluster order."""
        return rows.replace(items=jnp.asarray(self.place).at[rows.items].get(mode="promise_in_bounds"))

    def cut(self, rows: Rows) -> list[Rows]:
        """Rows in cluster order, cut into those of each cluster."""
        return [rows.replace(items=rows.items - start, n_items=n) for start, n in zip(self.starts, self.sizes)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Clusters) and np.array_equal(self.of_item, other.of_item)

    def __hash__(self) -> int:
        return hash(self.of_item.tobytes())

    def __repr__(self) -> str:
        """Sizes, and a checksum over all items: what an array prints leaves its middle out."""
        return f"Clusters({', '.join(map(str, self.sizes))} items, crc32 {zlib.crc32(self.of_item.tobytes()):08x})"


def divide_width(width: int, sizes: Sequence[int]) -> tuple[int, ...]:
    """Divide a layer's width among clusters in proportion to their sizes: at least 1 each, the rest to the last.

    Raises:
      ValueError: if nothing is left for the last one.
    """
    n_items = sum(sizes)
    widths = [max(int(size / n_items * width), 1) for size in sizes[:-1]]
    rest = width - sum(widths)
    if rest < 1:
        raise ValueError(
            f"in_dims: a width of {width} leaves nothing for the last of {len(sizes)} clusters (of "
            f"{', '.join(map(str, sizes))} items): widen in_dims, or use fewer clusters"
        )
    return (*widths, rest)


class ClusterVAE(nn.Module):
    """Encoders and decoder over rows in cluster order.

    Attributes:
      sizes: items of each cluster.
      in_dims: Z, then the hidden widths, outermost last: (300, 600) is I → 600 → 300.
      out_dims: () is Eq. 4; equal to ``in_dims`` is Eq. 5, the encoders mirrored.
      activation: a name in ``ACTIVATIONS``.
    """

    sizes: tuple[int, ...]
    in_dims: tuple[int, ...]
    out_dims: tuple[int, ...] = ()
    activation: str = "tanh"

    def setup(self) -> None:
        """Declare the parameters: Xavier-normal weights, biases of zero."""
        widths = [divide_width(width, self.sizes) for width in self.in_dims]
        per_cluster = list(zip(*widths))  # Z_c, then the hidden widths of cluster c
        self.latent_widths = widths[0]
        self.encoders = [
            self._stack(f"encoder_{c}", (size, *reversed(hidden[1:]), 2 * hidden[0]))
            for c, (size, hidden) in enumerate(zip(self.sizes, per_cluster))
        ]
        if self.out_dims:
            self.decoders = [
                self._stack(f"decoder_{c}", (*hidden, size))
                for c, (size, hidden) in enumerate(zip(self.sizes, per_cluster))
            ]
        else:
            self.decoders = [self._stack("decoder", (self.in_dims[0], sum(self.sizes)))]

    @property
    def item_axes(self) -> dict[str, int]:
        """The matrices and biases as long as a cluster or all of them, and which axis is; ``Scorer.item_axes``."""
        clusters, last = range(len(self.sizes)), max(len(self.out_dims) - 1, 0)
        last_layers = [f"decoder_{c}_{last}" for c in clusters] if self.out_dims else ["decoder_0"]
        axes = {f"encoder_{c}_0_kernel": 0 for c in clusters}
        return axes | {f"{name}_kernel": 1 for name in last_layers} | {f"{name}_bias": 0 for name in last_layers}

    def _stack(self, name: str, widths: Sequence[int]) -> list[tuple[jax.Array, jax.Array]]:
        """Weights and biases of an MLP through ``widths``."""
        xavier = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")
        return [
            (
                self.param(f"{name}_{layer}_kernel", xavier, shape),
                self.param(f"{name}_{layer}_bias", nn.initializers.zeros, shape[1:]),
            )
            for layer, shape in enumerate(itertools.pairwise(widths))
        ]

    def __call__(self, x: jax.Array) -> jax.Array:
        """Reconstruct rows in cluster order through their mean latents: ``[B, I] -> [B, I]`` logits."""
        return jnp.concatenate(self.decode(self.encode(split(x, self.sizes))[0]), axis=1)

    def encode(self, parts: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        """``(μ, log σ²)``, both ``[B, Z]``, of rows given cluster by cluster, ``[B, |c|]`` each (Eq. 1 and 2)."""
        act = ACTIVATIONS[self.activation]
        means, log_variances = [], []
        for h, width, layers in zip(parts, self.latent_widths, self.encoders):
            for kernel, bias in layers:
                h = act(jnp.matmul(h, kernel) + bias[None, :])
            means.append(h[:, :width])
            log_variances.append(h[:, width:])
        return jnp.concatenate(means, axis=1), jnp.concatenate(log_variances, axis=1)

    def first_kernels(self) -> list[jax.Array]:
        """The part of each encoder's first matrix that the mean depends on: ``[|c|, its width]``."""
        return [
            layers[0][0][:, : self._needed(layers, width)] for width, layers in zip(self.latent_widths, self.encoders)
        ]

    def means(self, products: Sequence[jax.Array]) -> jax.Array:
        """μ ``[B, Z]`` from ``x_c @ first_kernels()[c]`` of each cluster, however these were computed."""
        act = ACTIVATIONS[self.activation]
        means = []
        for product, width, layers in zip(products, self.latent_widths, self.encoders):
            h = act(product + layers[0][1][None, : self._needed(layers, width)])
            for kernel, bias in layers[1:]:
                h = act(jnp.matmul(h, kernel) + bias[None, :])
            means.append(h[:, :width])
        return jnp.concatenate(means, axis=1)

    def decode(self, z: jax.Array) -> list[jax.Array]:
        """Logits from ``z [B, Z]``: one ``[B, I]`` in cluster order (Eq. 4), or one ``[B, |c|]`` each (Eq. 5)."""
        last = (layers[-1] for layers in self.decoders)
        return [jnp.matmul(h, kernel) + bias[None, :] for h, (kernel, bias) in zip(self.hidden(z), last)]

    def hidden(self, z: jax.Array) -> list[jax.Array]:
        """What the last matrix of each decoder is multiplied with."""
        act = ACTIVATIONS[self.activation]
        parts = jnp.split(z, np.cumsum(self.latent_widths)[:-1], axis=1) if self.out_dims else [z]
        out = []
        for h, layers in zip(parts, self.decoders):
            for kernel, bias in layers[:-1]:
                h = act(jnp.matmul(h, kernel) + bias[None, :])
            out.append(h)
        return out

    def output_vectors(self) -> jax.Array:
        """``[I, H + 1]`` in cluster order: what ``hidden``, side by side and followed by 1, is multiplied with."""
        last = [layers[-1] for layers in self.decoders]
        kernels = jax.scipy.linalg.block_diag(*(kernel for kernel, _ in last))
        return jnp.concatenate([kernels, jnp.concatenate([bias for _, bias in last])[None, :]]).T

    def _needed(self, layers: Sequence[tuple[jax.Array, jax.Array]], width: int) -> int:
        """How many columns of the first layer the mean depends on: half of them if it is the only layer."""
        return width if len(layers) == 1 else layers[0][0].shape[1]


def reparameterise(mean: jax.Array, log_variance: jax.Array, noise: jax.Array) -> jax.Array:
    """A latent from N(μ, σ²), given standard normal ``noise`` (Eq. 3)."""
    return (mean + noise * jnp.exp(0.5 * log_variance)).astype(mean.dtype)


def kl_weight() -> float:
    """The option ``vae_anneal_cap`` of a model whose loss holds a KL term."""
    return option(0.3, "final weight of the KL term", at_least=0.0, search=Real(0.0, 1.0))


def kl_steps(search: Range | None = None) -> int:
    """The option ``vae_anneal_steps`` of a model whose loss holds a KL term."""
    return option(
        200, "steps in which that weight would rise to 1; --vae_anneal_cap stops it earlier", at_least=0, search=search
    )


def kl_divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """``KL(N(μ, σ²) ‖ N(0, 1)) [B] = -½ Σ (1 + log σ² - μ² - σ²)``."""
    mean, log_variance = _precise(mean), _precise(log_variance)
    return -0.5 * jnp.sum(1.0 + log_variance - jnp.square(mean) - jnp.exp(log_variance), axis=1)


def multinomial_nll(logits: Sequence[jax.Array], x: Sequence[jax.Array]) -> jax.Array:
    """``-Σ x · log softmax(logits)``, ``[B]``, of rows that come in blocks, ``[B, n]`` each."""
    logits, x = ([_precise(block) for block in blocks] for blocks in (logits, x))
    normaliser = jax.nn.logsumexp(jnp.stack([jax.nn.logsumexp(block, axis=1) for block in logits]), axis=0)
    mass = sum(jnp.sum(block, axis=1) for block in x)
    return normaliser * mass - sum(jnp.sum(a * b, axis=1) for a, b in zip(logits, x))


def split(x: jax.Array, sizes: Sequence[int]) -> list[jax.Array]:
    """Rows ``[B, I]`` in cluster order as one ``[B, |c|]`` per cluster."""
    return jnp.split(x, np.cumsum(sizes)[:-1], axis=1)


def _precise(x: jax.Array) -> jax.Array:
    """In float32 at least: losses are sums over many items."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
