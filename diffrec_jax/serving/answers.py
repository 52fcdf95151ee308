"""What the service computes: many questions of different kinds in one call on the device.

Lists of all questions come from one call of ``Recommender.top_k``, explanations from one of ``explain.effects``; only
questions with candidates of their own are ranked one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffrec_jax.serving import explain
from diffrec_jax.serving.histories import Histories
from diffrec_jax.serving.recommender import Asked, Recommender

REASONS = 3


@dataclass(frozen=True, eq=False)
class Question:
    """One request for a list."""

    asked: Asked  # one person
    k: int
    exclude_seen: bool = True
    candidates: np.ndarray | None = None  # item numbers
    explain: bool = False


def answer(recommender: Recommender, questions: Sequence[Question]) -> list[dict[str, Any] | Exception]:
    """The answers as JSON values: ``items`` (with ``because`` if asked for), ``by`` and ``notes``."""
    lists: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(questions)
    together = [i for i, question in enumerate(questions) if question.candidates is None]
    if together:
        k = max(questions[i].k for i in together)
        histories = Histories.concatenate([questions[i].asked.histories for i in together])
        hidden = Histories.concatenate([_hidden(questions[i]) for i in together])
        scores, items = recommender.ranker.top_k(histories, k, hidden=hidden)
        for row, i in enumerate(together):
            lists[i] = scores[row, : questions[i].k], items[row, : questions[i].k]
    for i, question in enumerate(questions):
        if question.candidates is not None:
            allowed = np.zeros(recommender.n_items, bool)
            allowed[question.candidates] = True
            found = recommender.ranker.top_k(
                question.asked.histories, question.k, hidden=_hidden(question), allowed=allowed
            )
            lists[i] = found[0][0], found[1][0]
    reasons = _reasons(recommender, questions, lists)
    return [_document(recommender, q, found, reasons.get(i)) for i, (q, found) in enumerate(zip(questions, lists))]


def item_document(recommender: Recommender, item: int) -> dict[str, Any]:
    """An item as JSON: its raw id, and its title if there are titles."""
    vocabulary = recommender.vocabulary
    document: dict[str, Any] = {"item": vocabulary.item_ids[item : item + 1].tolist()[0]}
    if vocabulary.item_titles is not None:
        document["title"] = str(vocabulary.item_titles[item])
    return document


def _hidden(question: Question) -> Histories:
    seen = question.asked.seen
    return seen if question.exclude_seen else Histories(seen.items[:0], np.zeros(2, np.int64), seen.users)


def _reasons(
    recommender: Recommender, questions: Sequence[Question], lists: Sequence[Any]
) -> dict[int, dict[int, list[dict[str, Any]]]]:
    """For every question that asks why: item number -> the history items that carry it."""
    asking = [i for i, question in enumerate(questions) if question.explain]
    if not asking:
        return {}
    chosen = np.full((len(asking), max(questions[i].k for i in asking)), -1, np.int32)
    for row, i in enumerate(asking):
        chosen[row, : len(lists[i][1])] = lists[i][1]
    histories = Histories.concatenate([questions[i].asked.histories for i in asking])
    columns = explain.effects(recommender.ranker, histories, chosen)
    found: dict[int, dict[int, list[dict[str, Any]]]] = {i: {} for i in asking}
    for entry in np.flatnonzero(columns["rank"] <= REASONS):
        reason = item_document(recommender, int(columns["because"][entry]))
        reason["effect"] = float(columns["effect"][entry])
        found[asking[columns["row"][entry]]].setdefault(int(columns["item"][entry]), []).append(reason)
    return found


def _document(
    recommender: Recommender, question: Question, found: Any, reasons: dict[int, list[dict[str, Any]]] | None
) -> dict[str, Any]:
    scores, numbers = found
    items = []
    for rank, (item, score) in enumerate(zip(numbers.tolist(), scores.tolist()), 1):
        if item < 0:
            break
        document = {**item_document(recommender, item), "score": score, "rank": rank}
        if reasons is not None:
            document["because"] = reasons.get(item, [])
        items.append(document)
    cold = not len(question.asked.histories.items)
    notes = []
    if question.asked.unknown_items:
        shown = ", ".join(map(str, question.asked.unknown_items[:5]))
        notes.append(f"{len(question.asked.unknown_items)} items are not in the model and were left out: {shown[:200]}")
    if cold:
        notes.append("there is no history to go by, so these are the most popular items")
    return {"items": items, "by": "popularity" if cold else "model", "notes": notes}
