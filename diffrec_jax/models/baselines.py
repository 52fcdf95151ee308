"""What a user would pick instead: popularity and EASE, ranked and evaluated like every other model.

Source of EASE: Steck, *Embarrassingly Shallow Autoencoders for Sparse Data* (WWW 2019, Eq. 8).
Letters: U users, I items, B rows.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse

from diffrec_jax.data.rows import Rows
from diffrec_jax.models.contract import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Popularity:
    """Everybody gets the items with the most training interactions."""

    def fit(self, train: Any) -> Params:
        """Counts ``[I]`` float32."""
        return jnp.asarray(np.bincount(train.indices, minlength=train.n_items), jnp.float32)

    def prepare(self, params: Params) -> None:
        """Nothing to prepare."""

    def scores(self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Any = None) -> jax.Array:
        """The counts, for every row: ``[B, I]``."""
        return jnp.broadcast_to(params, (rows.items.shape[0], params.shape[0]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EASE:
    """A linear autoencoder in closed form: ``B = -P / diag(P)``, ``P = (XᵀX + λ·1)⁻¹``, zero diagonal.

    Attributes:
      l2: λ.
      max_bytes: refuse a catalogue whose matrices would take more memory.
    """

    l2: float = 500.0
    max_bytes: int = 6 * 2**30

    def bytes_needed(self, n_items: int) -> int:
        """Peak host memory of ``fit``: the item-item products, at worst as many as a full matrix, and that matrix."""
        return (12 + 8 + 4) * n_items**2

    def fits(self, n_items: int) -> bool:
        """Whether the catalogue is small enough."""
        return self.bytes_needed(n_items) <= self.max_bytes

    def fit(self, train: Any) -> Params:
        """Item-item weights ``[I, I]`` float32.

        Raises:
          ValueError: if the catalogue is too large.
        """
        n_items = train.n_items
        if not self.fits(n_items):
            raise ValueError(
                f"EASE needs {self.bytes_needed(n_items) / 2**30:.1f} GiB for {n_items} items, and max_bytes allows "
                f"{self.max_bytes / 2**30:.1f}: leave it out for this catalogue"
            )
        shape = (len(train.indptr) - 1, n_items)
        rows = scipy.sparse.csr_array((np.ones(len(train.indices)), train.indices, train.indptr), shape=shape)
        gram = (rows.T @ rows).toarray()
        gram[np.diag_indices(n_items)] += self.l2
        factor, info = scipy.linalg.lapack.dpotrf(gram.T, lower=False, overwrite_a=True)
        inverse, info2 = scipy.linalg.lapack.dpotri(factor, lower=False, overwrite_c=True)
        if info or info2:
            raise ValueError(f"the item-item matrix is not positive definite with l2={self.l2}: choose a larger l2")
        for i in range(n_items):  # LAPACK leaves one triangle: mirror it in place
            inverse[i + 1 :, i] = inverse[i, i + 1 :]
        inverse /= -np.diag(inverse).copy()
        inverse[np.diag_indices(n_items)] = 0.0
        return jnp.asarray(inverse, jnp.float32)

    def prepare(self, params: Params) -> None:
        """Nothing to prepare."""

    def scores(self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Any = None) -> jax.Array:
        """``X · B``: ``[B, I]``, by gathering the rows of the history."""
        return rows.product(params)
