"""Recommendations from a trained model, for the ids people use, for known users and for anybody with a history.

::

    recommender = diffrec_jax.load("runs/a")
    recommender.recommend(users=["u17"], k=10)
    recommender.recommend(histories=[["sku12", "sku99"]], k=10)     # somebody never seen
    recommender.explain(histories=[["sku12", "sku99"]], k=3)

The histories of known users are their *training* interactions by default, the ones that the published numbers are
computed from; ``load(..., history="train+valid")`` uses everything that is known. What is excluded as seen is always
both.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from diffrec_jax.data.interactions import merge
from diffrec_jax.evaluation.standing import Standing
from diffrec_jax.models.contract import is_factored
from diffrec_jax.serving import explain
from diffrec_jax.serving import histories as histories_lib
from diffrec_jax.serving.histories import Histories
from diffrec_jax.serving.model_folder import ModelFolder
from diffrec_jax.serving.ranker import Ranker
from diffrec_jax.serving.results import Table
from diffrec_jax.serving.vocabulary import Vocabulary

HISTORIES = ("train", "train+valid")
MAX_K = 10_000
Ids = Sequence[Any] | np.ndarray


class Recommender:
    """Top-K lists, similar items, explanations and vectors of one model.

    Attributes:
      content: the model, its vocabularies, its interactions.
      ranker: the compiled programs.
    """

    def __init__(
        self, content: ModelFolder, params: Any, *, history: str = "train", mesh: Mesh | None = None, seed: int = 0
    ) -> None:
        """See ``load`` for the arguments.

        Raises:
          ValueError: for an unknown ``history``.
        """
        if history not in HISTORIES:
            raise ValueError(f"history={history!r} is unknown: choose one of {', '.join(HISTORIES)}")
        self.content, self.history = content, history
        seen = content.train if content.valid is None else merge(content.train, content.valid)
        self._seen = histories_lib.of_csr(seen)
        self._history = histories_lib.of_csr(content.train) if history == "train" else self._seen
        standing = Standing.of(content.vocabulary.item_ids, content.train)
        self.ranker = Ranker(content.model, params, standing, mesh=mesh, seed=seed)

    @property
    def vocabulary(self) -> Vocabulary:
        """Raw ids and titles."""
        return self.content.vocabulary

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self.vocabulary.n_items

    @property
    def needs_times(self) -> bool:
        """Whether the histories of people never seen need times."""
        return self.ranker.needs_days

    def recommend(
        self,
        users: Ids | None = None,
        histories: Sequence[Ids] | None = None,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        candidates: Ids | None = None,
        history_times: Sequence[Ids] | None = None,
    ) -> Table:
        """The K best items for known users, or for anybody with a history.

        Args:
          users: raw user ids; unknown ones are reported and skipped.
          histories: raw item ids of each person, instead of users; unknown ones are reported and left out.
          k: list length, at most the size of the catalogue.
          exclude_seen: leave out what a person already has.
          candidates: raw item ids, the only ones to choose from.
          history_times: the time of each item of ``histories``, oldest or newest first alike; without them, the given
            order is the time order.

        Returns:
          Columns ``user`` (raw id, or the number of the history), ``item``, ``score`` and ``rank`` (from 1), list
          after list. A list is shorter than K where fewer items are left. Who has no history gets the most popular
          items: see ``by_popularity`` and ``notes``.

        Raises:
          ValueError: for a bad ``k``, for both or none of users and histories, for malformed histories or times.
        """
        asked = self.ask(users, histories, history_times)
        return self._recommend(asked, k, exclude_seen, candidates)

    def stream(self, users: Ids, k: int = 10, *, chunk: int = 4096, **options: Any) -> Iterator[Table]:
        """``recommend`` for any number of users in constant memory: one table for each ``chunk`` of them."""
        for start in range(0, len(users), chunk):
            yield self.recommend(users=users[start : start + chunk], k=k, **options)

    def similar_items(self, items: Ids, k: int = 10) -> Table:
        """Items like these: by the cosine of item vectors, or, for a model without, by what it recommends to somebody
        who has just the one item.

        Returns:
          Columns ``item``, ``similar``, ``score`` and ``rank``.
        """
        k = self._checked_k(k)
        numbers, unknown = self.vocabulary.items(items)
        numbers = numbers[numbers >= 0]
        if is_factored(self.content.model):
            scores, found = self._by_cosine(numbers, k)
        else:
            n = len(numbers)
            alone = Histories(numbers, np.arange(n + 1), np.full(n, -1, np.int32), np.zeros(n, np.float32))
            scores, found = self.ranker.top_k(alone, k, hidden=alone)
        columns = self._columns(self.vocabulary.item_ids[numbers], scores, found, ("item", "similar"))
        return Table(columns, unknown_items=tuple(unknown))

    def explain(
        self,
        users: Ids | None = None,
        histories: Sequence[Ids] | None = None,
        k: int = 10,
        *,
        items: Ids | None = None,
        history_times: Sequence[Ids] | None = None,
    ) -> Table:
        """Which items of the history carry each recommendation: how much its score falls when one is left out.

        The effect is exact: the model is run again on every history with one item less.

        Args:
          users, histories, history_times: as in ``recommend``.
          k: how many recommendations to explain.
          items: raw item ids to explain, instead of the K best.

        Returns:
          Columns ``user``, ``item``, ``because`` (an item of the history), ``effect`` and ``rank`` of the effect
          (from 1, largest first). People without a history have nothing to explain and are in ``by_popularity``.
        """
        asked = self.ask(users, histories, history_times)
        unknown: list[Any] = []
        if items is None:
            chosen = self.ranker.top_k(asked.histories, self._checked_k(k), hidden=asked.seen)[1]
        else:
            numbers, unknown = self.vocabulary.items(items)
            chosen = np.tile(numbers[numbers >= 0], (len(asked.histories), 1))
        columns = explain.effects(self.ranker, asked.histories, chosen)
        ids = self.vocabulary.item_ids
        columns = {
            "user": asked.names[columns["row"]],
            "item": ids[columns["item"]],
            "because": ids[columns["because"]],
            "effect": columns["effect"],
            "rank": columns["rank"],
        }
        nothing = asked.names[asked.histories.lengths == 0]
        return Table(columns, asked.unknown_users, (*asked.unknown_items, *unknown), tuple(nothing.tolist()))

    def user_vectors(
        self, histories: Sequence[Ids] | None = None, *, users: Ids | None = None, history_times: Any = None
    ) -> np.ndarray:
        """``[n, V]`` float32: with ``item_vectors``, the scores are ``user_vectors @ item_vectors.T``.

        Raises:
          ValueError: for a model without vectors, or an unknown user.
        """
        self.ranker.item_vectors()  # refuses a model without
        asked = self.ask(users, histories, history_times)
        if asked.unknown_users:
            raise ValueError(f"user {asked.unknown_users[0]!r} is not in the model: leave it out, or pass its history")
        return self.ranker.user_vectors(asked.histories)

    def item_vectors(self) -> np.ndarray:
        """``[I, V]`` float32 in the order of ``vocabulary.item_ids``; the last column is the bias.

        Raises:
          ValueError: for a model without vectors.
        """
        return self.ranker.item_vectors()

    # How it is done --------------------------------------------------------------------------------------------------

    def ask(self, users: Ids | None, histories: Sequence[Ids] | None, times: Sequence[Ids] | None) -> "Asked":
        """The people a question is about: their histories and what they have seen; errors as in ``recommend``."""
        if (users is None) == (histories is None):
            raise ValueError("give either users=[…] or histories=[[…], …]")
        if users is None:
            assert histories is not None
            found, unknown = histories_lib.of_lists(self.vocabulary, histories, times)
            return Asked(found, found, np.arange(len(found)), unknown_items=tuple(unknown))
        if times is not None:
            raise ValueError("history_times belong to histories=: the times of known users are known")
        if isinstance(users, str | bytes):
            raise ValueError(f"users={users!r} must be a list of user ids, such as [{users!r}]")
        numbers, missing = self.vocabulary.users(users)
        numbers = numbers[numbers >= 0]
        return Asked(
            self._history.take(numbers), self._seen.take(numbers), self.vocabulary.user_ids[numbers], tuple(missing)
        )

    def _recommend(self, asked: "Asked", k: int, exclude_seen: bool, candidates: Ids | None) -> Table:
        k = self._checked_k(k)
        unknown = list(asked.unknown_items)
        allowed = None
        if candidates is not None:
            numbers, missing = self.vocabulary.items(candidates)
            unknown += missing
            allowed = np.zeros(self.n_items, bool)
            allowed[numbers[numbers >= 0]] = True
        hidden = asked.seen if exclude_seen else None
        scores, items = self.ranker.top_k(asked.histories, k, hidden=hidden, allowed=allowed)
        cold = np.flatnonzero(asked.histories.lengths == 0)
        columns = self._columns(asked.names, scores, items)
        return Table(columns, asked.unknown_users, tuple(unknown), tuple(asked.names[cold].tolist()))

    @functools.cached_property
    def _unit_vectors(self) -> np.ndarray:
        """Item vectors without their bias, of length 1."""
        vectors = self.ranker.item_vectors()[:, :-1]
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    @functools.cached_property
    def _place(self) -> np.ndarray:
        return np.asarray(self.ranker.standing.place)

    @functools.cached_property
    def _known(self) -> np.ndarray:
        return np.asarray(self.ranker.standing.users) > 0

    def _by_cosine(self, numbers: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines ``[n, K]`` and items ``[n, K]``, best first; the item itself is not among them."""
        found = np.full((len(numbers), k), -1, np.int32)
        scores = np.full((len(numbers), k), -np.inf, np.float32)
        for i, number in enumerate(numbers):
            cosine = self._unit_vectors @ self._unit_vectors[number]
            cosine[~self._known] = cosine[self._known].min(initial=0.0)  # nothing is known of them
            cosine[number] = -np.inf
            best = np.flatnonzero(cosine >= np.partition(cosine, -k)[-k])  # all that tie with the last, too
            best = best[np.lexsort((self._place[best], -cosine[best]))][:k]
            best = best[np.isfinite(cosine[best])]
            found[i, : len(best)], scores[i, : len(best)] = best, cosine[best]
        return scores, found

    def _columns(
        self, names: np.ndarray, scores: np.ndarray, items: np.ndarray, named: tuple[str, str] = ("user", "item")
    ) -> dict[str, np.ndarray]:
        """The columns of lists ``[n, K]``, without what is missing (-1)."""
        there = items >= 0
        rank = np.broadcast_to(np.arange(1, items.shape[1] + 1, dtype=np.int32), items.shape)
        return {
            named[0]: np.repeat(names, there.sum(axis=1)),
            named[1]: self.vocabulary.item_ids[items[there]],
            "score": scores[there],
            "rank": rank[there],
        }

    def _checked_k(self, k: int) -> int:
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= MAX_K:
            raise ValueError(f"k={k!r} must be a whole number between 1 and {MAX_K:,}")
        return min(int(k), self.n_items)


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
    """The people a question is about."""

    histories: Histories  # what is scored
    seen: Histories  # what they already have
    names: np.ndarray  # [n] raw user ids, or numbers of histories
    unknown_users: tuple[Any, ...] = ()
    unknown_items: tuple[Any, ...] = ()
