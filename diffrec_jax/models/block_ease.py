"""EASE a block of items at a time, for catalogues whose item-item matrix fits no memory.

EASE's weights for an item j are a ridge regression of column j on all others. Here items are parted into blocks of
alike ones, and every block is solved together with the ``head``, the most popular items, which most histories hold::

    S = head ∪ block,   P = (X_SᵀX_S + λ·1)⁻¹,   B_ij = -P_ij / P_jj   for i, j ∈ S, i ≠ j        (1)

which is EASE on the rows cut to S, exact for each block. An item of the block takes its weights from its own S; an item
of the head from the block whose items it goes with most. Of each item's weights, as a source, the K largest in size are
kept. With one block and K = I it is EASE.

Blocks are made of the items that go with the same item of the head most, neighbours in a sense that needs no embedding.

Source: Steck (WWW 2019, Eq. 8) for Eq. 1 on all items; the blocks are ours, in place of the sparse approximate inverse
of Spišák et al., *Scalable Approximate NonSymmetric Autoencoder* (RecSys 2023), whose library needs SuiteSparse.
Letters: U users, I items, S items of a block and the head, K weights kept of an item.
"""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
import scipy.sparse

from diffrec_jax.data.events import CSR
from diffrec_jax.data.forecast import weighted_fit
from diffrec_jax.data.recency import Recency
from diffrec_jax.models.baselines import check_fit_weighted, interaction_matrix, linear_weights
from diffrec_jax.models.contract import Params
from diffrec_jax.models.item_knn import Votes
from diffrec_jax.options import check, option
from diffrec_jax.ranges import Real, Whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockEASE(Votes):
    """Hyper-parameters of EASE in blocks; see ``models.contract.ClosedForm``. ``l2`` is λ, ``kept`` is K."""

    l2: float = option(
        500.0, "strength λ of the L2 regularisation", above=0.0, hint="500, say", search=Real(1.0, 10_000.0, log=True)
    )
    head: int = option(4096, "most popular items, which are solved together with every block", at_least=1)
    block: int = option(4096, "other items of a block", at_least=1)
    kept: int = option(
        256, "weights kept of each item, the largest in size", at_least=1, search=Whole(32, 1024, log=True)
    )
    recency: Recency | None = None
    fit_weighted: bool = weighted_fit(False)

    def __post_init__(self) -> None:
        check(self)
        check_fit_weighted(self.fit_weighted, self.recency)

    def bytes_needed(self, n_items: int) -> int:
        """Host memory of ``fit`` beside the interactions: the matrix of one block, and the weights that are kept."""
        together = min(self.head + self.block, n_items)
        return 3 * 4 * together**2 + 2 * 8 * n_items * min(self.kept, n_items)

    def fit(self, train: CSR) -> Params:
        """``{"items": [I, K] int32, "similarity": [I, K] float32}``: for each item what it speaks for, and how much.

        Raises:
          ValueError: if a block's matrix is not positive definite.
        """
        rows = interaction_matrix(train, self.recency if self.fit_weighted else None).astype(np.float32)
        columns = rows.tocsc()
        best = _Best(train.n_items, min(self.kept, max(train.n_items - 1, 1)))
        for members, own in self._blocks(train, columns):
            part = columns[:, members]
            weights = linear_weights((part.T @ part).toarray(order="F"), self.l2)
            best.add(members, members[own], weights[:, own])
        return {"items": jnp.asarray(best.items), "similarity": jnp.asarray(best.weights)}

    def _blocks(self, train: CSR, columns: scipy.sparse.csc_array) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The items S of each block, and which of them take their weights from it."""
        n_items = train.n_items
        order = np.lexsort((np.arange(n_items), -np.bincount(train.indices, minlength=n_items)))
        head, tail = order[: self.head], order[self.head :]
        if not len(tail):
            yield head, np.arange(len(head))
            return
        together = (columns[:, tail].T @ columns[:, head]).tocsr()  # [tail, head], sparse
        favourite = np.full(len(tail), len(head))
        for n in range(len(tail)):
            first, end = together.indptr[n : n + 2]
            if end > first:
                favourite[n] = together.indices[first:end][np.argmax(together.data[first:end])]
        alike = np.argsort(favourite, kind="stable")  # popular ones first among those of one favourite
        n_blocks = -(-len(tail) // self.block)
        parts = np.array_split(alike, n_blocks)
        block_of = np.empty(len(tail), np.int64)
        for n, part in enumerate(parts):
            block_of[part] = n
        shared = scipy.sparse.csr_array((np.ones(len(tail), np.float32), (block_of, np.arange(len(tail))))) @ together
        home = np.asarray(shared.todense()).argmax(axis=0)  # of each item of the head
        for n, part in enumerate(parts):
            members = np.concatenate([head, tail[part]])
            own = np.concatenate([np.flatnonzero(home == n), len(head) + np.arange(len(part))])
            yield members, own


class _Best:
    """The weights of each item, as a source, that are largest in size so far."""

    def __init__(self, n_items: int, kept: int) -> None:
        self.items = np.full((n_items, kept), n_items, np.int32)
        self.weights = np.zeros((n_items, kept), np.float32)

    def add(self, sources: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> None:
        """``weights [sources, targets]``; what is larger than what there is takes its place."""
        kept = self.items.shape[1]
        for source, row in zip(sources, weights):
            few = np.argpartition(-np.abs(row), kept - 1)[:kept] if len(row) > kept else np.arange(len(row))
            few = few[row[few] != 0.0]
            items = np.concatenate([self.items[source], targets[few].astype(np.int32)])
            values = np.concatenate([self.weights[source], row[few]])
            order = np.lexsort((items, -np.abs(values)))[:kept]
            self.items[source], self.weights[source] = items[order], values[order]
