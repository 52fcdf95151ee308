"""What the service computes: many questions of different kinds in one call on the device.

Lists of all questions come from one call of ``Ranker.top_k``, explanations from one of ``explain.effects``, scores
of given items from one of ``pairs.scores_of_pairs``; only questions with candidates of their own are ranked one by one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from diffrec_jax.serving import explain, pairs
from diffrec_jax.serving.histories import Histories
from diffrec_jax.serving.questions import Question
from diffrec_jax.serving.recommender import Recommender

REASONS = 3


def answer(recommender: Recommender, questions: Sequence[Question]) -> list[dict[str, Any] | Exception]:
    """The answers as JSON values: ``items`` (with ``because`` if asked for), ``by`` and ``notes``."""
    scored = [i for i, question in enumerate(questions) if question.wanted is not None]
    listed = [i for i, question in enumerate(questions) if question.wanted is None]
    answers: dict[int, dict[str, Any] | Exception] = {}
    answers |= zip(scored, _scores(recommender, [questions[i] for i in scored]))
    answers |= zip(listed, _lists(recommender, [questions[i] for i in listed]))
    return [answers[i] for i in range(len(questions))]


def _lists(recommender: Recommender, questions: Sequence[Question]) -> list[dict[str, Any]]:
    lists: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(questions)
    together = [i for i, question in enumerate(questions) if question.candidates is None]
    if together:
        k = max(questions[i].k for i in together)
        histories = Histories.concatenate([questions[i].asked.histories for i in together])
        hidden = Histories.concatenate([questions[i].hidden(recommender.n_items) for i in together])
        scores, items = recommender.ranker.top_k(histories, k, hidden=hidden)
        for row, i in enumerate(together):
            lists[i] = scores[row, : questions[i].k], items[row, : questions[i].k]
    for i, question in enumerate(questions):
        if question.candidates is not None:
            allowed = np.zeros(recommender.n_items, bool)
            allowed[question.candidates] = True
            hidden = question.hidden(recommender.n_items)
            found = recommender.ranker.top_k(question.asked.histories, question.k, hidden=hidden, allowed=allowed)
            lists[i] = found[0][0], found[1][0]
    reasons = _reasons(recommender, questions, lists)
    return [_document(recommender, q, found, reasons.get(i)) for i, (q, found) in enumerate(zip(questions, lists))]


def item_document(recommender: Recommender, item: int) -> dict[str, Any]:
    """An item as JSON: its raw id, and its title if there are titles."""
    vocabulary = recommender.vocabulary
    document: dict[str, Any] = {"item": vocabulary.in_json(item)}
    if vocabulary.item_titles is not None:
        document["title"] = str(vocabulary.item_titles[item])
    return document


def _scores(recommender: Recommender, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Scores of the items that each question names, in its order."""
    if not questions:
        return []
    histories = Histories.concatenate([question.asked.histories for question in questions])
    wanted = [np.asarray(question.wanted, np.int32) for question in questions]
    lengths = [len(items) for items in wanted]
    rows = np.repeat(np.arange(len(questions)), lengths)
    scores = pairs.scores_of_pairs(recommender.ranker.listed_scores_at, histories, rows, np.concatenate(wanted))
    documents = []
    for question, items, found in zip(questions, wanted, np.split(scores, np.cumsum(lengths)[:-1])):
        named = zip(items.tolist(), found.tolist())
        named_scores = [{**item_document(recommender, item), "score": score} for item, score in named]
        documents.append(_answer(recommender, question, named_scores))
    return documents


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
    return _answer(recommender, question, items)


def _answer(recommender: Recommender, question: Question, items: list[dict[str, Any]]) -> dict[str, Any]:
    notes = question.notes(recommender.vocabulary, len(items))
    return {"items": items, "by": "popularity" if question.cold else "model", "notes": notes}
