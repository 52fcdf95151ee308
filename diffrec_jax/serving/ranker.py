"""One compiled program for any number of histories of any length.

Shapes are rounded up to a few sizes (``BATCHES`` rows, histories of ``_width``, lists of ``_list_length``), so that a
service compiles a handful of programs once and then never again. Histories are ranked in the order of their length,
because a batch costs what its longest history costs; a score does not depend on its batch. While one batch computes,
the next is dispatched and the one before is fetched.

A model is known by ``models.contract`` only. Letters: B rows, I items, L history length, K list length, V width of a
user vector.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffrec_jax.data.rows import Rows, make_rows
from diffrec_jax.evaluation.ranking import mask_seen, top_k
from diffrec_jax.evaluation.standing import Standing
from diffrec_jax.evaluation.streaming import streamed_top_k, streams
from diffrec_jax.finite import check_parameters, check_scores, rankable, unranked
from diffrec_jax.mesh import replicated
from diffrec_jax.models.contract import Params, Prepared, Scorer
from diffrec_jax.serving.histories import Histories
from diffrec_jax.types import PyTree

BATCHES = (1, 4, 16, 32, 64, 256, 512)
SCORES_PER_BATCH = 2**24  # at most about so many scores at once: 64 MiB


class Batch(NamedTuple):
    """Padded histories on the device."""

    items: jax.Array  # [B, L], padded with I
    lengths: jax.Array  # [B]
    users: jax.Array  # [B], -1 for padding rows
    days: jax.Array | None  # [B, L]
    weights: jax.Array | None  # [B, L], by the log


class Held(NamedTuple):
    """What stays on the device from batch to batch."""

    params: Params
    tables: Prepared
    standing: Standing
    key: jax.Array  # of noise at inference


class Ranker:
    """Scores, top-K and vectors of histories on the device.

    Attributes:
      model: what ranks.
      params: its parameters, on the device(s).
      standing: what decides between items where the model does not.
      n_items: I.
      needs_days: whether an interaction's weight depends on its time.
      weighed: whether the log says what an interaction counts.
    """

    def __init__(
        self,
        model: Scorer,
        params: Params,
        standing: Standing,
        *,
        weighed: bool = False,
        mesh: Mesh | None = None,
        seed: int = 0,
    ) -> None:
        """Put the parameters on the device(s) and prepare what every batch needs.

        Args:
          model: what ranks.
          params: its parameters.
          standing: of the items.
          weighed: whether histories come with weights by the log; those that do not weigh 1.
          mesh: the devices; None is the default device.
          seed: of noise at inference, where the model uses any.

        Raises:
          NonFiniteParametersError: if a parameter is no number.
        """
        n_items = len(standing.place)
        self.model, self.n_items, self.mesh, self.weighed = model, n_items, mesh, weighed
        self._sharding = None if mesh is None else replicated(mesh)
        self.params, self.standing = jax.device_put((params, standing), self._sharding)
        check_parameters(self.params, model)
        self.tables = jax.jit(model.prepare)(self.params)
        self.recency = model.recency
        self.needs_days = self.recency is not None and self.recency.kernel == "exponential"
        key = jax.device_put(jax.random.fold_in(jax.random.key(seed), 3), self._sharding)
        self._held = Held(self.params, self.tables, self.standing, key)
        self._everything = jax.device_put(np.ones(n_items, bool), self._sharding)
        self._top_k = jax.jit(self._ranked, static_argnames="k")
        self._chosen = jax.jit(self._scores_at, static_argnames="as_listed")
        self._vectors = jax.jit(self._user_vectors)
        users = 1 if mesh is None else mesh.shape["users"]
        self._streams = streams(model, n_items, mesh)
        most = BATCHES[-1] if self._streams else max(SCORES_PER_BATCH // n_items, 1)
        fitting = [size for size in BATCHES if size <= most] or [1]
        self.batches = tuple(sorted({-(-size // users) * users for size in fitting}))

    def programs(self) -> int:
        """How many programs have been compiled so far."""
        compiled: tuple[Any, ...] = (self._top_k, self._chosen, self._vectors)
        return sum(program._cache_size() for program in compiled)

    def top_k(
        self, histories: Histories, k: int, *, hidden: Histories | None = None, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The K best items of each history.

        Args:
          histories: n of them; an empty one gets the most popular items.
          k: list length, at most I.
          hidden: items that must not appear, one list for each history.
          allowed: ``[I]`` bool, the only items that may appear.

        Returns:
          ``(scores [n, K] float32, items [n, K] int32)``, best first; where fewer than K items remain, -inf and -1.

        Raises:
          NonFiniteScoresError: if the scores of a history are no numbers.
        """
        length = _list_length(k, self.n_items)
        mask = self._everything if allowed is None else self._put(np.asarray(allowed, bool))

        def dispatch(part: Histories, rows: np.ndarray, size: int) -> PyTree:
            unseen = Histories(np.zeros(0, np.int32), np.zeros(len(rows) + 1, np.int64), part.users)
            masked = unseen if hidden is None else hidden.take(rows)
            width = max(_width(part), _width(masked))  # one width for both, so that there are fewer programs
            blocked = masked.padded(masked.items, size, width, self.n_items)
            batch = self._on_device(part, size, width)
            vectors = self._item_vectors if self._streams else None
            return self._top_k(self._held, batch, self._put(blocked), mask, vectors, k=length)

        scores = np.empty((len(histories), k), np.float32)
        items = np.empty((len(histories), k), np.int32)
        for rows, (best, which) in self._batched(histories, dispatch):
            scores[rows], items[rows] = best[: len(rows), :k], which[: len(rows), :k]
        check_scores(unranked(scores), self.model)
        items[np.isneginf(scores)] = -1
        return scores, items

    def listed_scores_at(self, histories: Histories, at: np.ndarray) -> np.ndarray:
        """The scores ``[n, R]`` that lists show of chosen items ``at [n, R]``, by the rules of ``standing``."""
        return self.scores_at(histories, at, as_listed=True)

    def scores_at(self, histories: Histories, at: np.ndarray, *, as_listed: bool = False) -> np.ndarray:
        """Scores ``[n, R]`` of chosen items ``at [n, R]`` only: the model's own, or as lists show them."""
        width = _list_length(at.shape[1], None)
        out = np.empty(at.shape, np.float32)

        def dispatch(part: Histories, rows: np.ndarray, size: int) -> PyTree:
            chosen = np.zeros((size, width), np.int32)
            chosen[: len(rows), : at.shape[1]] = at[rows]
            batch = self._on_device(part, size)
            return self._chosen(self._held, batch, self._put(chosen), self._item_vectors, as_listed=as_listed)

        for rows, scores in self._batched(histories, dispatch):
            out[rows] = scores[: len(rows), : at.shape[1]]
        check_scores(np.any(np.isnan(out) | np.isposinf(out), axis=1), self.model)
        return out

    def user_vectors(self, histories: Histories) -> np.ndarray:
        """User vectors ``[n, V]``; their product with ``item_vectors`` gives the scores."""
        out: np.ndarray | None = None

        def dispatch(part: Histories, rows: np.ndarray, size: int) -> PyTree:
            return self._vectors(self._held, self._on_device(part, size))

        for rows, vectors in self._batched(histories, dispatch):
            out = np.empty((len(histories), vectors.shape[1]), np.float32) if out is None else out
            out[rows] = vectors[: len(rows)]
        return np.zeros((0, self.item_vectors().shape[1]), np.float32) if out is None else out

    def item_vectors(self) -> np.ndarray:
        """Item vectors ``[I, V]``; the last column is the bias of the item.

        Raises:
          ValueError: for a model whose scores are no product of vectors.
        """
        if self._item_vectors is None:
            raise ValueError(
                f"{type(self.model).__name__}, as configured, has no user and item vectors (its scores are no inner "
                "product): use recommend, or export the program instead"
            )
        return np.asarray(self._item_vectors)

    @functools.cached_property
    def _item_vectors(self) -> jax.Array | None:
        return jax.jit(self.model.item_vectors)(self.params) if self.model.factored else None

    def _batched(
        self, histories: Histories, dispatch: Callable[[Histories, np.ndarray, int], PyTree]
    ) -> Iterator[tuple[np.ndarray, PyTree]]:
        """Rows and fetched result of one batch after the other, one batch in flight."""
        order = np.argsort(histories.lengths, kind="stable")
        waiting: tuple[np.ndarray, Any] | None = None
        start = 0
        while start < len(order):
            left = len(order) - start
            size = next((size for size in self.batches if size >= left), self.batches[-1])
            rows = order[start : start + size]
            result = dispatch(histories.take(rows), rows, size)
            if waiting is not None:
                yield waiting[0], jax.device_get(waiting[1])
            waiting = (rows, result)
            start += size
        if waiting is not None:
            yield waiting[0], jax.device_get(waiting[1])

    def _on_device(self, part: Histories, size: int, width: int | None = None) -> Batch:
        """Histories padded to ``size`` rows of ``width`` items."""
        if self.needs_days and part.days is None and len(part.items):
            raise ValueError("this model weighs interactions by elapsed time: give the times of the histories too")
        width = _width(part) if width is None else width
        n = len(part.items)
        days = np.zeros(n, np.float32) if part.days is None else part.days
        weights = np.ones(n, np.float32) if part.weights is None else part.weights
        extra = size - len(part)
        lengths = np.pad(part.lengths.astype(np.int32), (0, extra))
        users = np.pad(part.users, (0, extra), constant_values=-1)
        return Batch(
            self._put(part.padded(part.items, size, width, self.n_items)),
            self._put(lengths),
            self._put(users),
            self._put(part.padded(days, size, width, 0.0)) if self.needs_days else None,
            self._put(part.padded(weights, size, width, 0.0)) if self.weighed else None,
        )

    def _put(self, array: np.ndarray) -> jax.Array:
        placed: jax.Array = jax.device_put(array, self._sharding)
        return placed

    def _rows(self, batch: Batch) -> Rows:
        items, lengths, users, days, weights = batch
        return make_rows(
            items,
            lengths,
            users,
            n_items=self.n_items,
            days=days,
            logged=weights,
            recency=self.recency,
            mesh=self.mesh,
        )

    def _scores(self, held: Held, batch: Batch) -> jax.Array:
        return self.model.scores(held.params, self._rows(batch), key=held.key, tables=held.tables)

    def _user_vectors(self, held: Held, batch: Batch) -> jax.Array:
        return self.model.user_vectors(held.params, self._rows(batch), key=held.key, tables=held.tables)

    def _ranked(
        self,
        held: Held,
        batch: Batch,
        blocked: jax.Array,
        allowed: jax.Array,
        item_vectors: jax.Array | None,
        *,
        k: int,
    ) -> tuple[jax.Array, jax.Array]:
        """Top-K of one batch; ``blocked [B, S]`` holds item numbers, padded with I. A large catalogue is streamed."""
        if item_vectors is not None:
            given = (self._user_vectors(held, batch), item_vectors, batch.lengths, held.standing)
            return streamed_top_k(*given, k, hidden={"": blocked}, allowed=allowed)[""]
        scores = rankable(jax.lax.optimization_barrier(self._scores(held, batch)))  # as in the evaluator
        scores = held.standing.settle(scores, batch.lengths)
        scores = jnp.where(allowed, scores, -jnp.inf)
        if self.mesh is None or self.mesh.size == 1:  # in place
            scores = scores.at[jnp.arange(scores.shape[0])[:, None], blocked].set(-jnp.inf, mode="drop")
        else:
            count = jnp.sum(blocked < self.n_items, axis=1)
            scores = mask_seen(scores, make_rows(blocked, count, n_items=self.n_items, mesh=self.mesh))
        return top_k(scores, k, place=held.standing.place, mesh=self.mesh)

    def _scores_at(
        self, held: Held, batch: Batch, at: jax.Array, item_vectors: jax.Array | None, *, as_listed: bool
    ) -> jax.Array:
        standing = held.standing

        def from_all() -> jax.Array:
            scores = self._scores(held, batch)
            scores = standing.settle(scores, batch.lengths) if as_listed else scores
            return jnp.take_along_axis(scores, at, axis=1)

        def from_vectors() -> jax.Array:
            assert item_vectors is not None
            scores = jnp.einsum("bv,brv->br", self._user_vectors(held, batch), item_vectors.at[at].get(mode="clip"))
            return jnp.where((batch.lengths == 0)[:, None], standing.share[at], scores) if as_listed else scores

        if item_vectors is None:
            return from_all()
        if not as_listed or standing.all_known:
            return from_vectors()
        scores: jax.Array = jax.lax.cond(jnp.all(standing.users[at] > 0), from_vectors, from_all)
        return scores


def _width(histories: Histories) -> int:
    """A padded length: a power of 4, at least 64. Padding is cheap: work follows the longest history of the batch."""
    longest = int(histories.lengths.max(initial=1))
    width = 64
    while width < longest:
        width *= 4
    return width


def _list_length(k: int, n_items: int | None) -> int:
    """A compiled list length: a power of 2, at least 32, at most I."""
    length = 32
    while length < k:
        length *= 2
    return length if n_items is None else min(length, n_items)
