"""What counts alone know of order: which item followed which, and how often.

With s a history, most recent event s_0, and pop_i how often item i was met in training::

    c[i → j] = Σ 1/d  over training pairs of events i, j that lie d ≤ distance apart       (1)
    score_j  = Σ_{k < last} decay^k · c[s_k → j] / √pop_{s_k}                              (2)

Popularity decides where nothing else does, by a change of scores in their last digits. ``distance=1, last=1`` is a
Markov chain of first order: what came right after the last item. Nothing is as large as items × items: the counts are
kept and added up sparse.

Letters: B rows, I items, N non-zero counts.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from diffrec_jax.data.events import CSR
from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import longest, window
from diffrec_jax.models.contract import ClosedForm, Params, Prepared
from diffrec_jax.options import again, check, internal, option
from diffrec_jax.ranges import Real, Whole

AT_ONCE = 32  # counts of one item that are added up together
TIE_BREAK = 2.0**-22  # of a score, for each step of popularity: the least that float32 is sure to keep
NO_VOTES = 1e-20  # the score of what nothing votes for, in steps as small: below any vote


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transitions(ClosedForm):
    """Hyper-parameters of decayed transitions and its functions; see ``models.contract.ClosedForm``."""

    distance: int = option(10, "how far apart two events of a pair may lie", at_least=1, search=Whole(1, 50, log=True))
    last: int = option(50, "how many of the last events vote", at_least=1, search=Whole(1, 200, log=True))
    decay: float = option(
        0.5,
        "decay of a vote for each event that came since; 1 forgets nothing",
        above=0.0,
        at_most=1.0,
        hint="1 forgets nothing",
        search=Real(0.1, 1.0),
    )

    needs_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self)

    def fit(self, train: CSR) -> Params:
        """``{"starts": [I + 1] int32, "next": [N] int32, "counts": [N], "popularity": [I]}``.

        Row i, from ``starts[i]`` on, holds ``c[i → j] / √pop_i``; popularity is a place among all that occur, 0 the
        least.
        """
        n, shape = len(train.indices), (train.n_items, train.n_items)
        users, counts = train.users(), scipy.sparse.csr_array(shape)
        for d in range(1, min(self.distance, n - 1) + 1):
            here = np.flatnonzero(users[d:] == users[:-d])
            pairs = (train.indices[here], train.indices[here + d])
            counts = counts + scipy.sparse.coo_array((np.full(len(here), 1.0 / d), pairs), shape=shape).tocsr()
        popularity = np.bincount(train.indices, minlength=train.n_items)
        values = counts.data / np.repeat(np.sqrt(np.maximum(popularity, 1)), np.diff(counts.indptr))
        nothing = (np.zeros(1, np.int32), np.zeros(1)) if not counts.nnz else (counts.indices, values)
        return {
            "starts": jnp.asarray(counts.indptr, jnp.int32),
            "next": jnp.asarray(nothing[0], jnp.int32),
            "counts": jnp.asarray(nothing[1], jnp.float32),
            "popularity": jnp.asarray(np.unique(popularity, return_inverse=True)[1], jnp.float32),
        }

    def scores(self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None) -> jax.Array:
        """Eq. 2, ``[B, I]``, the votes of one event of every history at a time."""
        last = longest(rows, self.last)
        items, real = window(rows, last)
        row, n_items = jnp.arange(items.shape[0])[:, None], rows.n_items

        def event(k: jax.Array, scores: jax.Array) -> jax.Array:
            place = last - 1 - k
            item, is_real = items[:, place], real[:, place]
            start = params["starts"].at[item].get(mode="clip")
            n = jnp.where(is_real, params["starts"].at[item + 1].get(mode="clip") - start, 0)

            def part(m: jax.Array, scores: jax.Array) -> jax.Array:
                column = m * AT_ONCE + jnp.arange(AT_ONCE)[None, :]
                where = start[:, None] + column
                votes = self.decay ** k.astype(jnp.float32) * params["counts"].at[where].get(mode="clip")
                j = jnp.where(column < n[:, None], params["next"].at[where].get(mode="clip"), n_items)
                return scores.at[row, j].add(votes, mode="drop")

            counted: jax.Array = jax.lax.fori_loop(0, -(-jnp.max(n) // AT_ONCE), part, scores)
            return counted

        votes: jax.Array = jax.lax.fori_loop(0, last, event, jnp.zeros((items.shape[0], n_items)))
        popular = TIE_BREAK * (1.0 + params["popularity"])[None, :]
        scores: jax.Array = votes * (1.0 + popular) + NO_VOTES * popular
        return scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Markov(Transitions):
    """What came right after the last item; see ``Transitions``."""

    distance: int = again(Transitions, "distance", default=1)
    last: int = again(Transitions, "last", default=1)
    decay: float = internal(1.0)  # one vote has nothing to fade against
