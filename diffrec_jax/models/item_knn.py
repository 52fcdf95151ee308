"""ItemKNN: every item of a history votes for the items most like it.

With x_i the column of item i (who met it, weighted if asked), S_i the K items most similar to i, and w a history::

    sim(i, j) = x_i·x_j / (‖x_i‖^(2a) · ‖x_j‖^(2(1 - a)) + shrink)       cosine for a = ½   (1)
    score_j   = Σ_i w_i · sim(i, j) · [j ∈ S_i]                                            (2)

The products ``XᵀX`` are sparse and made for a block of items at a time, so that the memory of ``fit`` does not grow
with the square of the catalogue; only ``[I, K]`` is kept, and scoring adds K votes for each item of a history (where
the catalogue is small and K large, a row of a matrix).

Source: Deshpande & Karypis, *Item-based top-N recommendation algorithms* (TOIS 2004); Eq. 1 with a ≠ ½ is Aiolli,
*Efficient top-N recommendation for very large scale binary rated datasets* (RecSys 2013).
Letters: U users, I items, K neighbours, B rows, L longest history.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from diffrec_jax.data.events import CSR
from diffrec_jax.data.forecast import weighted_fit
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import Rows
from diffrec_jax.models.baselines import check_fit_weighted, interaction_matrix
from diffrec_jax.models.contract import ClosedForm, Params, Prepared
from diffrec_jax.options import check, option
from diffrec_jax.ranges import Real, Whole

PRODUCTS_AT_ONCE = 2**24  # at most about so many entries of XᵀX in memory; 12 bytes each, and as many again to sort
DENSE_ENTRIES = 2**26  # 256 MiB
SCATTER_COST = 16  # of one vote, in additions of a gathered row


class Votes(ClosedForm):
    """A model whose parameters say for each item what it votes for: ``{"items": [I, K], "similarity": [I, K]}``."""

    def prepare(self, params: Params) -> jax.Array | None:
        """The votes as a matrix ``[I, I]``, where it is small and not much emptier than scattering is slow."""
        n_items, K = params["items"].shape
        if n_items**2 > DENSE_ENTRIES or n_items > SCATTER_COST * K:
            return None
        row = jnp.arange(n_items)[:, None]
        return jnp.zeros((n_items, n_items)).at[row, params["items"]].set(params["similarity"], mode="drop")

    def scores(self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None) -> jax.Array:
        """The votes of Eq. 2, ``[B, I]``, one position of all histories at a time."""
        if tables is not None:
            return rows.product(tables)
        n_rows, n_items = rows.items.shape[0], params["items"].shape[0]
        row = jnp.arange(n_rows)[:, None]

        def body(j: jax.Array, votes: jax.Array) -> jax.Array:
            item = jax.lax.dynamic_index_in_dim(rows.items, j, axis=1, keepdims=False)
            weight = jax.lax.dynamic_index_in_dim(rows.weights, j, axis=1, keepdims=True)
            liked = params["items"].at[item].get(mode="clip")
            similarity = params["similarity"].at[item].get(mode="clip")
            return votes.at[row, liked].add(weight * similarity, mode="drop")

        zeros = jnp.zeros((n_rows, n_items), params["similarity"].dtype)
        scores: jax.Array = jax.lax.fori_loop(0, jnp.max(rows.lengths, initial=0), body, zeros)
        return scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemKNN(Votes):
    """Hyper-parameters of ItemKNN and its functions; see ``models.contract.ClosedForm``.

    ``neighbours`` is K and ``asymmetry`` a of Eq. 1: below ½ it favours unpopular items j, above ½ popular ones.
    """

    neighbours: int = option(100, "neighbours kept per item", at_least=1, search=Whole(5, 1000, log=True))
    shrink: float = option(
        10.0, "how much similarities that rest on few users are distrusted", at_least=0.0, search=Real(0.0, 500.0)
    )
    asymmetry: float = option(
        0.5,
        "asymmetry of the similarity: 0.5 is the cosine, less favours rare items",
        at_least=0.0,
        at_most=1.0,
        hint="0.5 is the cosine",
        search=Real(0.0, 1.0),
    )
    recency: Recency | None = None
    fit_weighted: bool = weighted_fit(False)

    def __post_init__(self) -> None:
        check(self)
        check_fit_weighted(self.fit_weighted, self.recency)

    def bytes_needed(self, n_items: int) -> int:
        """Host memory of ``fit`` beside the interactions: the neighbours, and one block of products."""
        block = min(n_items**2, PRODUCTS_AT_ONCE + n_items)
        return 8 * n_items * min(self.neighbours, n_items) + 24 * block

    def fit(self, train: CSR) -> Params:
        """``{"items": [I, K] int32, "similarity": [I, K] float32}``, most similar first; padding holds I and 0."""
        n_items = train.n_items
        K = min(self.neighbours, max(n_items - 1, 1))
        rows = interaction_matrix(train, self.recency if self.fit_weighted else None)
        columns = rows.T.tocsr()  # [I, U]
        norm2 = columns.multiply(columns).sum(axis=1)
        left, right = norm2**self.asymmetry, norm2 ** (1.0 - self.asymmetry)
        items = np.full((n_items, K), n_items, np.int32)
        similarity = np.zeros((n_items, K), np.float32)
        for block in _blocks(rows, columns):
            products = columns[block] @ rows
            for i in range(block.start, block.stop):
                part = slice(*products.indptr[i - block.start : i - block.start + 2])
                others = products.indices[part]
                sim = (products.data[part] / (left[i] * right[others] + self.shrink)).astype(np.float32)
                sim[others == i] = 0.0
                best = _largest(sim, others, K)
                items[i, : len(best)], similarity[i, : len(best)] = others[best], sim[best]
        return {"items": jnp.asarray(items), "similarity": jnp.asarray(similarity)}


def _largest(similarity: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """Where the k largest positive similarities are, largest first; ties go to the lower item."""
    chosen = np.flatnonzero(similarity > 0.0)
    if len(chosen) > k:
        least = np.partition(similarity[chosen], -k)[-k]
        chosen = np.flatnonzero((similarity >= least) & (similarity > 0.0))
    return chosen[np.lexsort((items[chosen], -similarity[chosen]))][:k]


def _blocks(rows: scipy.sparse.csr_array, columns: scipy.sparse.csr_array) -> Iterator[slice]:
    """Ranges of items whose products with all others have at most ``PRODUCTS_AT_ONCE`` entries, or one item."""
    n_items = columns.shape[0]
    lengths = np.diff(rows.indptr)
    reach = np.add.reduceat(np.append(lengths[columns.indices], 0), np.minimum(columns.indptr[:-1], columns.nnz))
    reach = np.where(np.diff(columns.indptr) > 0, np.minimum(reach, n_items), 0)
    entries = np.cumsum(reach)
    start = 0
    while start < n_items:
        done = entries[start - 1] if start else 0
        stop = max(int(np.searchsorted(entries, done + PRODUCTS_AT_ONCE, side="right")), start + 1)
        yield slice(start, stop)
        start = stop
