"""What the service computes: many questions of different kinds in one call on the device.

Lists of all questions come from one call of ``Ranker.top_k``, explanations from one of ``explain.effects``, scores
of given items from one of ``pairs.scores_of_pairs``; only questions with candidates of their own are ranked one by one.
"""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypeAlias, TypedDict

import numpy as np

from diffrec_jax.serving import explain, pairs
from diffrec_jax.serving.histories import Histories
from diffrec_jax.serving.questions import Question
from diffrec_jax.serving.recommender import Recommender
from diffrec_jax.types import RawId

REASONS = 3
Found: TypeAlias = tuple[np.ndarray, np.ndarray]  # scores [k] and item numbers [k] of one list; -1 ends it


class Item(TypedDict):
    """An item of an answer, as JSON."""

    item: RawId
    title: NotRequired[str]  # where there are titles
    score: NotRequired[float]
    rank: NotRequired[int]  # from 1
    effect: NotRequired[float]  # on the score of what it explains
    because: NotRequired["list[Item]"]  # the items that explain it, if that was asked


class Answer(TypedDict):
    """What one question is told, as JSON."""

    items: list[Item]
    by: str  # "model", or "popularity" for want of a history
    notes: list[str]  # what a person should read


def answer(recommender: Recommender, questions: Sequence[Question]) -> list[Answer | Exception]:
    """The answers as JSON values: ``items`` (with ``because`` if asked for), ``by`` and ``notes``."""
    scored = [i for i, question in enumerate(questions) if question.wanted is not None]
    listed = [i for i, question in enumerate(questions) if question.wanted is None]
    answers: dict[int, Answer | Exception] = {}
    answers |= zip(scored, _scores(recommender, [questions[i] for i in scored]))
    answers |= zip(listed, _lists(recommender, [questions[i] for i in listed]))
    return [answers[i] for i in range(len(questions))]


def _lists(recommender: Recommender, questions: Sequence[Question]) -> list[Answer]:
    lists: dict[int, Found] = {}
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
    return [_document(recommender, question, lists[i], reasons.get(i)) for i, question in enumerate(questions)]


def item_document(recommender: Recommender, item: int) -> Item:
    """An item as JSON: its raw id, and its title if there are titles."""
    vocabulary = recommender.vocabulary
    document: Item = {"item": vocabulary.in_json(item)}
    if vocabulary.item_titles is not None:
        document["title"] = str(vocabulary.item_titles[item])
    return document


def _scores(recommender: Recommender, questions: Sequence[Question]) -> list[Answer]:
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
        named_scores = []
        for item, score in zip(items.tolist(), found.tolist()):
            named_scores.append(item_document(recommender, item))
            named_scores[-1]["score"] = score
        documents.append(_answer(recommender, question, named_scores))
    return documents


def _reasons(
    recommender: Recommender, questions: Sequence[Question], lists: Mapping[int, Found]
) -> dict[int, dict[int, list[Item]]]:
    """For every question that asks why: item number -> the history items that carry it."""
    asking = [i for i, question in enumerate(questions) if question.explain]
    if not asking:
        return {}
    chosen = np.full((len(asking), max(questions[i].k for i in asking)), -1, np.int32)
    for row, i in enumerate(asking):
        chosen[row, : len(lists[i][1])] = lists[i][1]
    histories = Histories.concatenate([questions[i].asked.histories for i in asking])
    columns = explain.effects(recommender.ranker, histories, chosen)
    found: dict[int, dict[int, list[Item]]] = {i: {} for i in asking}
    for entry in np.flatnonzero(columns["rank"] <= REASONS):
        reason = item_document(recommender, int(columns["because"][entry]))
        reason["effect"] = float(columns["effect"][entry])
        found[asking[columns["row"][entry]]].setdefault(int(columns["item"][entry]), []).append(reason)
    return found


def _document(
    recommender: Recommender, question: Question, found: Found, reasons: dict[int, list[Item]] | None
) -> Answer:
    scores, numbers = found
    items = []
    for rank, (item, score) in enumerate(zip(numbers.tolist(), scores.tolist()), 1):
        if item < 0:
            break
        document = item_document(recommender, item)
        document["score"], document["rank"] = score, rank
        if reasons is not None:
            document["because"] = reasons.get(item, [])
        items.append(document)
    return _answer(recommender, question, items)


def _answer(recommender: Recommender, question: Question, items: list[Item]) -> Answer:
    notes = question.notes(recommender.vocabulary, len(items))
    return {"items": items, "by": "popularity" if question.cold else "model", "notes": notes}
