"""ELSA: a linear autoencoder of low rank, for catalogues where EASE's inverse does not fit.

With A the item factors, every row of length 1, and x a row::

    x̂ = x · (A·Aᵀ - 1)                                                                     (1)
    L = mean_B ‖x̂ / ‖x̂‖ - x / ‖x‖‖² = mean_B (2 - 2 · x̂·x / (‖x̂‖ · ‖x‖))                   (2)
    x̂·x = ‖p‖² - ‖x‖²,   ‖x̂‖² = p·G·pᵀ - 2‖p‖² + ‖x‖²,   p = x·A,   G = Aᵀ·A               (3)

The rows of A have length 1, so that A·Aᵀ - 1 has a zero diagonal: the constraint of EASE, without a matrix of size
I × I. Eq. 3 is exact and ours: x̂ is never made, so that a step costs one product of the rows with A, and its gradient.
For items outside the history, which alone are recommended, Eq. 1 is the inner product p·A_i.

Source: Vančura et al., *Scalable Linear Shallow Autoencoder for Collaborative Filtering* (RecSys 2022). Ours, too: Adam
at a rate that is searched, and rows of A drawn as Gaussian directions.
Letters: B rows, I items, D factors.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from diffrec_jax.data.forecast import weighted_fit
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import Rows
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Model, Params, Prepared
from diffrec_jax.models.denoiser import l2_normalise
from diffrec_jax.options import check, option
from diffrec_jax.ranges import Real, Whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class ELSA(Model):
    """Hyper-parameters of ELSA and its functions; see ``models.contract.Model``. ``dim`` is D."""

    dim: int = option(256, "number of factors", at_least=1, search=Whole(32, 1024, log=True))
    recency: Recency | None = None
    fit_weighted: bool = weighted_fit(True)
    lr: float = option(0.01, "learning rate of Adam", above=0.0, search=Real(1e-3, 0.3, log=True))

    def __post_init__(self) -> None:
        check(self)

    @property
    def item_axes(self) -> Mapping[str, int]:
        """See ``models.contract.Scorer.item_axes``; the second is the table."""
        return {"items": 0, "factors": 0}

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """``{"items": [I, D]}``: factors of random directions."""
        return {"items": l2_normalise(jax.random.normal(key, (catalogue.n_items, self.dim)))}

    def optimizer(self) -> optax.GradientTransformation:
        """Adam."""
        return optax.adam(self.lr)

    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 2, averaged over the real rows of the batch."""
        del memory, key, step, epoch  # nothing is remembered, random or annealed
        factors = self.prepare(params)["factors"]
        p = jnp.matmul(rows.dense(), factors)
        gram = jnp.matmul(factors.T, factors, preferred_element_type=jnp.float32)
        p, rows = p.astype(jnp.float32), rows.replace(weights=rows.weights.astype(jnp.float32))  # the loss is precise
        p2, x2 = jnp.sum(jnp.square(p), axis=1), jnp.sum(jnp.square(rows.weights), axis=1)
        predicted2 = jnp.sum(jnp.matmul(p, gram) * p, axis=1) - 2.0 * p2 + x2
        cosine = (p2 - x2) * jax.lax.rsqrt(jnp.maximum(predicted2 * x2, 1e-12))
        return rows.mean(2.0 - 2.0 * cosine, where=rows.lengths > 0), LossAux()

    def prepare(self, params: Params) -> dict[str, jax.Array]:
        """``{"factors": A}``, ``[I, D]``: the factors, each of length 1."""
        return {"factors": l2_normalise(params["items"])}

    def scores(self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None) -> jax.Array:
        """``x · A · Aᵀ``, ``[B, I]``."""
        factors = (self.prepare(params) if tables is None else tables)["factors"]
        return jnp.matmul(rows.product(factors), factors.T)

    @property
    def factored(self) -> bool:
        """Always."""
        return True

    def user_vectors(
        self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None
    ) -> jax.Array:
        """``[x · A, 1]``, ``[B, D + 1]``."""
        factors = (self.prepare(params) if tables is None else tables)["factors"]
        return jnp.pad(rows.product(factors), ((0, 0), (0, 1)), constant_values=1.0)

    def item_vectors(self, params: Params) -> jax.Array:
        """``[A, 0]``, ``[I, D + 1]``: there are no biases."""
        return jnp.pad(self.prepare(params)["factors"], ((0, 0), (0, 1)))
