"""Recommendations from a trained model, for the ids people use, for known users and for anybody with a history.

::

    recommender = diffrec_jax.load("runs/a")
    recommender.recommend(users=["u17"], k=10)
    recommender.recommend(histories=[["sku12", "sku99"]], k=10)     # somebody never seen
    recommender.explain(histories=[["sku12", "sku99"]], k=3)
    recommender.score(["u17", "u17"], ["sku12", "sku99"])           # of given pairs

The histories of known users are their *training* interactions by default, the ones that the published numbers are
computed from; ``load(..., history="train+valid")`` uses everything that is known. What is excluded as seen is always
both.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from diffrec_jax.data.events import merge
from diffrec_jax.evaluation.standing import Standing
from diffrec_jax.models.contract import Params
from diffrec_jax.serving import asked_ids, choices, explain, pairs, shown
from diffrec_jax.serving import histories as histories_lib
from diffrec_jax.serving.asked_ids import Ids
from diffrec_jax.serving.histories import Asked, Histories
from diffrec_jax.serving.model_folder import ModelFolder
from diffrec_jax.serving.ranker import Ranker
from diffrec_jax.serving.table import Table
from diffrec_jax.serving.vocabulary import Vocabulary

HISTORIES = ("train", "train+valid")
MAX_K = 10_000


class Recommender:
    """Top-K lists, similar items, explanations and vectors of one model.

    Attributes:
      content: the model, its vocabularies, its interactions.
      ranker: the compiled programs.
    """

    def __init__(
        self, content: ModelFolder, params: Params, *, history: str = "train", mesh: Mesh | None = None, seed: int = 0
    ) -> None:
        """See ``load`` for the arguments.

        Raises:
          ValueError: for an unknown ``history``.
        """
        if history not in HISTORIES:
            raise ValueError(f"history={history!r} is unknown: choose one of {', '.join(HISTORIES)}")
        self.content, self.history = content, history
        seen = content.known if content.valid is None else merge(content.known, content.valid)
        self._seen = histories_lib.of_csr(seen)
        self._history = histories_lib.of_csr(content.known) if history == "train" else self._seen
        standing = Standing.of(content.vocabulary.item_ids, content.train)
        weighed = content.train.weights is not None
        self.ranker = Ranker(content.model, params, standing, weighed=weighed, mesh=mesh, seed=seed)

    def __repr__(self) -> str:
        return shown.recommender_text(self.content, self.history)

    def _repr_html_(self) -> str:
        return shown.recommender_html(self.content, self.history)

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
        candidates: Ids | Sequence[Ids] | None = None,
        exclude: Ids | Sequence[Ids] | None = None,
        history_times: Sequence[Ids] | None = None,
        history_weights: Sequence[Ids] | None = None,
    ) -> Table:
        """The K best items for known users, or for anybody with a history.

        Args:
          users: raw user ids, as a list, an array or a column; unknown ones are reported and skipped.
          histories: raw item ids of each person, instead of users; unknown ones are reported and left out.
          k: list length, at most the size of the catalogue.
          exclude_seen: leave out what a person already has.
          candidates: raw item ids, the only ones to choose from; or a list of such lists, one for each user or history.
          exclude: raw item ids to leave out; likewise.
          history_times: the time of each item of ``histories``, oldest or newest first alike; without them, the given
            order is the time order.
          history_weights: what each item of ``histories`` counts, for a model of a log with weights; without them, 1.

        Returns:
          Columns ``user`` (raw id, or the number of the history), ``item``, ``score`` and ``rank`` (from 1), list
          after list. A list is shorter than K where fewer items are left. Who has no history gets the most popular
          items: see ``by_popularity`` and ``notes``.

        Raises:
          ValueError: for a bad ``k``, for both or none of users and histories, for malformed histories or times, for
            what is no list of ids.
        """
        k_asked, k = k, self._checked_k(k)
        asked = self.ask(users, histories, history_times, history_weights)
        options: dict[str, Any] = {"exclude_seen": exclude_seen, "candidates": candidates, "exclude": exclude}
        choice = choices.choose(self.vocabulary, asked, **options)
        if choice.own is None:
            scores, items = self.ranker.top_k(asked.histories, k, hidden=choice.hidden, allowed=choice.allowed)
        else:
            people = (self.ranker.listed_scores_at, asked.histories, choice.own)
            scores, items = pairs.best_of(*people, k, place=self._place)
        short = asked.names[(items >= 0).sum(axis=1) < k_asked]
        return self._table(self._columns(asked.names, scores, items), asked, choice.unknown, short=short)

    def stream(self, users: Ids, k: int = 10, *, chunk: int = 4096, **options: Any) -> Iterator[Table]:
        """``recommend`` for any number of users in constant memory: one table for each ``chunk`` of them."""
        column = asked_ids.opened(users, "users")
        for part, own in choices.chunks(len(column), chunk, options):
            yield self.recommend(users=column[part], k=k, **own)

    def similar_items(self, items: Ids, k: int = 10) -> Table:
        """Items like these: by the cosine of item vectors, or, for a model without, by what it recommends to somebody
        who has just the one item.

        Returns:
          Columns ``item``, ``similar``, ``score`` and ``rank``.
        """
        k = self._checked_k(k)
        numbers, unknown = asked_ids.look_up(self.vocabulary.items, items, "items")
        numbers = numbers[numbers >= 0]
        if self.content.model.factored:
            scores, found = self._by_cosine(numbers, k)
        else:
            n = len(numbers)
            alone = Histories(numbers, np.arange(n + 1), np.full(n, -1, np.int32), np.zeros(n, np.float32))
            scores, found = self.ranker.top_k(alone, k, hidden=alone)
        columns = self._columns(self.vocabulary.item_ids[numbers], scores, found, ("item", "similar"))
        return Table(columns, unknown_items=tuple(unknown), vocabulary=self.vocabulary)

    def explain(
        self,
        users: Ids | None = None,
        histories: Sequence[Ids] | None = None,
        k: int = 10,
        *,
        items: Ids | None = None,
        history_times: Sequence[Ids] | None = None,
        history_weights: Sequence[Ids] | None = None,
    ) -> Table:
        """Which items of the history carry each recommendation: how much its score falls when one is left out.

        The effect is exact: the model is run again on every history with one item less.

        Args:
          users, histories, history_times, history_weights: as in ``recommend``.
          k: how many recommendations to explain.
          items: raw item ids to explain, instead of the K best.

        Returns:
          Columns ``user``, ``item``, ``because`` (an item of the history), ``effect`` and ``rank`` of the effect
          (from 1, largest first). People without a history have nothing to explain and are in ``by_popularity``.
        """
        k, unknown = self._checked_k(k), list[object]()
        asked = self.ask(users, histories, history_times, history_weights)
        if items is None:
            chosen = self.ranker.top_k(asked.histories, k, hidden=asked.seen)[1]
        else:
            numbers, unknown = asked_ids.look_up(self.vocabulary.items, items, "items")
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
        return self._table(columns, asked, unknown)

    def score(
        self,
        users: Ids | None = None,
        items: Ids | Sequence[Ids] | None = None,
        *,
        histories: Sequence[Ids] | None = None,
        history_times: Sequence[Ids] | None = None,
        history_weights: Sequence[Ids] | None = None,
    ) -> Table:
        """Scores of given pairs, seen or not; scores of different people are not on one scale.

        Args:
          users: raw user ids, repeated as often as needed.
          items: raw item ids, one for each user or history; or a list of such lists, one for each.
          histories, history_times, history_weights: as in ``recommend``, instead of users.

        Returns:
          Columns ``user``, ``item`` and ``score``, in the order given; pairs of an unknown user or item are reported
          and left out. For people without a history the score is popularity: see ``by_popularity`` and ``notes``.

        Raises:
          ValueError: for lists of different lengths, and as ``recommend``.
        """
        given = (users, items, histories, history_times, history_weights)
        asked, rows, numbers, unknown = choices.known_pairs(self.vocabulary, self.ask, *given)
        scores = pairs.scores_of_pairs(self.ranker.listed_scores_at, asked.histories, rows, numbers)
        columns = {"user": asked.names[rows], "item": self.vocabulary.item_ids[numbers], "score": scores}
        return self._table(columns, asked, unknown)

    def user_vectors(
        self,
        histories: Sequence[Ids] | None = None,
        *,
        users: Ids | None = None,
        history_times: Sequence[Ids] | None = None,
        history_weights: Sequence[Ids] | None = None,
    ) -> np.ndarray:
        """``[n, V]`` float32: with ``item_vectors``, the scores are ``user_vectors @ item_vectors.T``.

        Raises:
          ValueError: for a model without vectors, or an unknown user.
        """
        self.ranker.item_vectors()  # refuses a model without
        asked = self.ask(users, histories, history_times, history_weights)
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

    def ask(
        self,
        users: Ids | None,
        histories: Sequence[Ids] | None,
        times: Sequence[Ids] | None = None,
        weights: Sequence[Ids] | None = None,
    ) -> Asked:
        """The people a question is about: their histories and what they have seen; errors as in ``recommend``."""
        if (users is None) == (histories is None):
            raise ValueError("give either users=[…] or histories=[[…], …]")
        if weights is not None and not self.ranker.weighed:
            raise ValueError("history_weights mean nothing to this model, whose log had no weights: leave them out")
        if users is None:
            assert histories is not None
            repeats = self.content.train.repeats
            found, unknown = histories_lib.of_lists(self.vocabulary, histories, times, weights, repeats=repeats)
            return Asked(found, found, np.arange(len(found)), unknown_items=tuple(unknown), n_asked=len(found))
        if times is not None:
            raise ValueError("history_times belong to histories=: the times of known users are known")
        if weights is not None:
            raise ValueError("history_weights belong to histories=: the weights of known users are known")
        numbers, missing = asked_ids.look_up(self.vocabulary.users, users, "users")
        rows = np.flatnonzero(numbers >= 0)
        known, n_asked, ids = numbers[rows], len(numbers), self.vocabulary.user_ids
        people = self._history.take(known), self._seen.take(known), ids[known]
        return Asked(*people, unknown_users=tuple(missing), rows=rows, n_asked=n_asked)

    @functools.cached_property
    def _unit_vectors(self) -> np.ndarray:
        """Item vectors without their bias, of length 1."""
        vectors = self.ranker.item_vectors()[:, :-1]
        directions: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return directions

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

    def _table(
        self,
        columns: dict[str, np.ndarray],
        asked: Asked,
        unknown: Sequence[object],
        *,
        short: np.ndarray | None = None,
    ) -> Table:
        """Columns with what a person should read about the people they are of."""
        cold = asked.names[asked.histories.lengths == 0]
        return Table(
            columns,
            unknown_users=asked.unknown_users,
            unknown_items=(*asked.unknown_items, *unknown),
            by_popularity=tuple(cold.tolist()),
            short=() if short is None else tuple(short.tolist()),
            vocabulary=self.vocabulary,
        )

    def _checked_k(self, k: int) -> int:
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= MAX_K:
            raise ValueError(f"k={k!r} must be a whole number between 1 and {MAX_K:,}")
        return min(int(k), self.n_items)
