"""What a user would pick instead, in closed form: popularity, recent popularity and EASE.

Each is ranked and evaluated like every other model, and all but recent popularity, which looks at ages itself, take a
recency kernel like every other model: the history that is scored is weighted; with ``fit_weighted`` the rows that are
fitted are too.

Source of EASE: Steck, *Embarrassingly Shallow Autoencoders for Sparse Data* (WWW 2019, Eq. 8).
Letters: U users, I items, N interactions, B rows.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse

from diffrec_jax.data.events import CSR
from diffrec_jax.data.forecast import check_forecast, cut, future, future_weights, weighted_fit
from diffrec_jax.data.recency import Recency, weights_of
from diffrec_jax.data.rows import Rows
from diffrec_jax.data.times import MICROSECONDS_PER_DAY
from diffrec_jax.models.contract import ClosedForm, Params, Prepared
from diffrec_jax.options import check, option
from diffrec_jax.ranges import Real

CUTS = 10  # places at which EASE cuts every history
COLUMNS = 512  # of an item-item matrix at a time
LAPACK_ITEMS = 26_000  # beyond, its libraries end the process (OpenBLAS 0.3, at 38,048 items)
ALIGNMENT = 64  # bytes, of what JAX takes over
PIVOT = 1024  # items eliminated at a time, where LAPACK does not serve
NO_TIMES = "recent_popularity needs timestamps, which this data lacks: use popularity with recency=power instead"


def interaction_matrix(train: CSR, recency: Recency | None = None) -> scipy.sparse.csr_array:
    """The interactions as a sparse host matrix ``[U, I]`` float64, weighted if there is a kernel."""
    weights = weights_of(train, recency).astype(np.float64)
    return scipy.sparse.csr_array((weights, train.indices, train.indptr), shape=(train.n_users, train.n_items))


def check_fit_weighted(fit_weighted: bool, recency: Recency | None) -> None:
    """Refuse ``fit_weighted`` where there is nothing to weigh with."""
    if fit_weighted and recency is None:
        raise ValueError("fit_weighted=True fits rows weighted by recency, and no recency is given: name a kernel")


class SameForAll(ClosedForm):
    """A model whose parameters ``[I]`` are everybody's scores."""

    def scores(self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None) -> jax.Array:
        """The counts, for every row: ``[B, I]``."""
        return jnp.broadcast_to(params, (rows.items.shape[0], params.shape[0]))

    @property
    def factored(self) -> bool:
        """Always: the scores are the biases of the items."""
        return True

    def user_vectors(
        self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None
    ) -> jax.Array:
        """Ones, ``[B, 1]``."""
        return jnp.ones((rows.items.shape[0], 1), params.dtype)

    def item_vectors(self, params: Params) -> jax.Array:
        """The counts, ``[I, 1]``."""
        counts: jax.Array = params[:, None]
        return counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Popularity(SameForAll):
    """Everybody gets the items with the most training interactions.

    Attributes:
      recency: counts each interaction by its weight in its own user's history.
    """

    recency: Recency | None = None

    def fit(self, train: CSR) -> Params:
        """Weighted counts ``[I]`` float32."""
        counts = np.bincount(train.indices, weights_of(train, self.recency), minlength=train.n_items)
        return jnp.asarray(counts, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecentPopularity(SameForAll):
    """Everybody gets what was popular of late: an interaction counts half after each half-life.

    ``score_i = Σ 2^(-(days before the last interaction of anybody) / half_life)``. It needs timestamps; ``Popularity``
    with a recency kernel looks at the time of each user instead, and needs none.
    """

    half_life: float = option(
        180.0, "days in which an interaction loses half of its weight", above=0.0, search=Real(1.0, 1000.0, log=True)
    )

    def __post_init__(self) -> None:
        check(self)

    def fit(self, train: CSR) -> Params:
        """Discounted counts ``[I]`` float32.

        Raises:
          ValueError: without timestamps.
        """
        if train.times is None:
            raise ValueError(NO_TIMES)
        age = (train.times.max(initial=np.iinfo(np.int64).min) - train.times) / MICROSECONDS_PER_DAY
        counts = train.event_weights() * np.exp2(-age / self.half_life)
        return jnp.asarray(np.bincount(train.indices, counts, train.n_items), jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EASE(ClosedForm):
    """A linear autoencoder in closed form: ``B = -P / diag(P)``, ``P = (XᵀX + λ·1)⁻¹``, zero diagonal.

    With ``forecast`` it maps pasts X to futures Y: ``B = (XᵀX + λ·1)⁻¹ XᵀY``, products averaged over ``CUTS`` places.

    ``l2`` is λ; ``forecast`` is a half-life in interactions (``data.forecast``).
    """

    l2: float = option(
        500.0, "strength λ of the L2 regularisation", above=0.0, hint="500, say", search=Real(1.0, 10_000.0, log=True)
    )
    recency: Recency | None = None
    fit_weighted: bool = weighted_fit(False)
    forecast: float = future()
    max_bytes: int = option(6 * 2**30, "refuse a catalogue whose matrices would take more memory, in bytes", rare=True)

    def __post_init__(self) -> None:
        check(self)
        check_fit_weighted(self.fit_weighted, self.recency)
        check_forecast(self.forecast, self.recency)

    def precision(self, n_items: int) -> np.dtype[Any]:
        """What ``fit`` computes in: float64 where ``max_bytes`` allows it, else float32."""
        return np.dtype(np.float64 if self._bytes(n_items, 8) <= self.max_bytes else np.float32)

    def _bytes(self, n_items: int, size: int) -> int:
        """Peak of ``fit`` with numbers of ``size`` bytes: the item-item matrix, or two to forecast, which the inverse
        takes the place of, a block of its columns as it comes, and of float64 the float32 copy that ranks.
        """
        matrices = (2 if self.forecast else 1) * size + (4 if size == 8 else 0)
        return matrices * n_items**2 + 20 * n_items * min(n_items, COLUMNS)

    def bytes_needed(self, n_items: int) -> int:
        """Peak host memory of ``fit``."""
        return self._bytes(n_items, self.precision(n_items).itemsize)

    def fits(self, n_items: int) -> bool:
        """Whether the catalogue is small enough."""
        return self.bytes_needed(n_items) <= self.max_bytes

    def check_size(self, n_items: int) -> None:
        """Refuse a catalogue that is too large.

        Raises:
          ValueError: with what it would take.
        """
        if not self.fits(n_items):
            raise ValueError(
                f"EASE needs {self.bytes_needed(n_items) / 2**30:.1f} GiB for {n_items:,} items, and max_bytes allows "
                f"{self.max_bytes / 2**30:.1f}: use BlockEASE or ELSA for this catalogue"
            )

    def fit(self, train: CSR) -> Params:
        """Item-item weights ``[I, I]`` float32.

        Raises:
          ValueError: if the catalogue is too large.
        """
        n_items = train.n_items
        self.check_size(n_items)
        if self.forecast:
            return self._fit_forecast(train)
        gram = _zeros(n_items, self.precision(n_items))
        rows = interaction_matrix(train, self.recency if self.fit_weighted else None)
        _add_product(gram, rows, rows)
        return _on_device(linear_weights(gram, self.l2))

    def _fit_forecast(self, train: CSR) -> Params:
        gram, products = (_zeros(train.n_items, self.precision(train.n_items)) for _ in range(2))
        recency = self.recency if self.fit_weighted else None
        for n in range(CUTS):
            past, future = cut(train, (n + 0.5) / CUTS)
            X = interaction_matrix(past, recency)
            weights = future_weights(future, self.forecast).astype(np.float64)
            Y = scipy.sparse.csr_array((weights, future.indices, future.indptr), shape=X.shape)
            _add_product(gram, X, X)
            _add_product(products, X, Y)
        if train.n_items > LAPACK_ITEMS:
            inverse, found = inverted(gram, CUTS * self.l2), products
            for first in range(0, train.n_items, COLUMNS):
                found[:, first : first + COLUMNS] = inverse @ found[:, first : first + COLUMNS]
        else:
            gram[np.diag_indices(train.n_items)] += CUTS * self.l2
            factor = scipy.linalg.cho_factor(gram, overwrite_a=True, check_finite=False)
            found = scipy.linalg.cho_solve(factor, products, overwrite_b=True, check_finite=False)
        found[np.diag_indices(train.n_items)] = 0.0
        return _on_device(found)

    def scores(self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None) -> jax.Array:
        """``X · B``: ``[B, I]``, by gathering the rows of the history."""
        return rows.product(params)


def linear_weights(gram: np.ndarray, l2: float) -> np.ndarray:
    """``-P / diag(P)`` with a zero diagonal, ``P = (gram + l2·1)⁻¹``, row by row; see ``inverted``."""
    weights = inverted(gram, l2)
    weights /= -np.diag(weights).copy()[None, :]
    np.fill_diagonal(weights, 0.0)
    return weights


def inverted(gram: np.ndarray, l2: float) -> np.ndarray:
    """``(gram + l2·1)⁻¹``, row by row, in the place of ``gram [n, n]``, which is symmetric, in Fortran's layout.

    Raises:
      ValueError: if the sum is not positive definite.
    """
    gram[np.diag_indices(len(gram))] += gram.dtype.type(l2)
    try:
        return _swept(gram.T) if len(gram) > LAPACK_ITEMS else _by_lapack(gram)
    except np.linalg.LinAlgError:
        refusal = f"the item-item matrix is not positive definite with l2={l2:g}: choose a larger l2"
        raise ValueError(refusal) from None


def _by_lapack(matrix: np.ndarray) -> np.ndarray:
    """The inverse by Cholesky's factor."""
    factorise, invert = scipy.linalg.lapack.get_lapack_funcs(("potrf", "potri"), (matrix,))
    factor, info = factorise(matrix, lower=False, overwrite_a=True)
    inverse, info2 = invert(factor, lower=False, overwrite_c=True)
    if info or info2:
        raise np.linalg.LinAlgError
    for i in range(len(matrix)):  # LAPACK leaves one triangle: mirror it in place
        inverse[i + 1 :, i] = inverse[i, i + 1 :]
    mirrored: np.ndarray = inverse.T  # the same numbers, where JAX wants them
    return mirrored


def _swept(matrix: np.ndarray) -> np.ndarray:
    """The same by Gauss-Jordan elimination of ``PIVOT`` rows and columns at a time: products alone, of any size."""
    blocks = [slice(first, first + PIVOT) for first in range(0, len(matrix), PIVOT)]
    for pivot in blocks:
        own = matrix[pivot, pivot].astype(np.float64)
        np.linalg.cholesky(own)
        inverse = np.linalg.inv(own).astype(matrix.dtype)
        across = inverse @ matrix[pivot]
        for rows in blocks:
            if rows != pivot:
                down = matrix[rows, pivot].copy()
                matrix[rows] -= down @ across
                matrix[rows, pivot] = -down @ inverse
        matrix[pivot] = across
        matrix[pivot, pivot] = inverse
    return matrix


def _zeros(n: int, dtype: np.dtype[Any]) -> np.ndarray:
    """``[n, n]`` in Fortran's layout, since LAPACK copies any other, beginning where JAX takes it without a copy."""
    flat = np.zeros(n * n + ALIGNMENT // dtype.itemsize, dtype)
    first = -flat.ctypes.data % ALIGNMENT // dtype.itemsize
    return flat[first : first + n * n].reshape(n, n, order="F")


def _add_product(total: np.ndarray, left: scipy.sparse.csr_array, right: scipy.sparse.csr_array) -> None:
    """``total += leftᵀ right``, a block of columns at a time: no sparse product of full size is made."""
    left, right = left.T.tocsr(), right.tocsc()
    for first in range(0, total.shape[1], COLUMNS):
        columns = slice(first, first + COLUMNS)
        total[:, columns] += (left @ right[:, columns]).toarray()


def _on_device(weights: np.ndarray) -> jax.Array:
    """``[I, I]`` float32, without a copy where it is float32 and lies row by row already."""
    if weights.dtype == np.float32 and weights.flags.c_contiguous and jax.default_backend() == "cpu":
        return jnp.from_dlpack(weights)
    return jnp.asarray(weights.astype(np.float32))
