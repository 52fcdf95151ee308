"""What the service is asked: the bodies of requests, what one may ask for, and the questions they come to.

What is too much, unknown or contradictory is refused with 4xx and one sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from fastapi import HTTPException
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictFloat, StrictInt, StrictStr

from diffrec_jax.serving.histories import Asked
from diffrec_jax.serving.questions import Question
from diffrec_jax.serving.recommender import Recommender
from diffrec_jax.serving.vocabulary import EXACT_IN_JAVASCRIPT

LONGEST_ID = 512


def _whole(id_: object) -> object:
    """An id that came as a float, such as 12.0, as the whole number it is; refuses what is no id."""
    if isinstance(id_, float) and id_.is_integer() and abs(id_) <= EXACT_IN_JAVASCRIPT:
        return int(id_)
    if isinstance(id_, float | bool):
        raise ValueError(f"{shown(id_)} is no id: send text or a whole number (as text beyond 2^53)")
    return id_


Id = Annotated[Annotated[StrictStr, Field(max_length=LONGEST_ID)] | StrictInt, BeforeValidator(_whole)]
Moment = StrictStr | StrictInt | StrictFloat


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for, and how many may wait."""

    k: int = 200
    history: int = 1000
    candidates: int = 5000
    body_bytes: int = 256 * 1024
    waiting: int = 512
    batch: int = 64


class Person(BaseModel):
    """Either a known user or a history."""

    model_config = ConfigDict(extra="forbid")
    user: Id | None = Field(None, description="id of a user of the training data")
    history: list[Id] | None = Field(None, description="ids of the items a person already has, oldest first")
    history_times: list[Moment] | None = Field(None, description="the time of each: unix seconds, or ISO 8601")
    history_weights: list[StrictFloat | StrictInt] | None = Field(None, description="what each counts, as in the log")


class RecommendRequest(Person):
    """Who wants how many items. Give either a known user or a history."""

    k: StrictInt = Field(10, ge=1, description="how many items")
    exclude_seen: bool = Field(True, description="leave out what the person already has")
    candidates: list[Id] | None = Field(None, description="the only items to choose from")
    exclude: list[Id] | None = Field(None, description="items to leave out")
    explain: bool = Field(False, description="say which items of the history carry each recommendation")


class ScoreRequest(Person):
    """Whose scores of which items. Give either a known user or a history."""

    items: list[Id] = Field(description="ids of the items to score")


class SimilarRequest(BaseModel):
    """Which item to find the like of."""

    model_config = ConfigDict(extra="forbid")
    item: Id
    k: StrictInt = Field(10, ge=1, description="how many items")


def question(recommender: Recommender, request: RecommendRequest, limits: Limits) -> Question:
    """What a request asks; refuses what is too much or unknown."""
    at_most(request.k, limits.k, "k")
    unknown: dict[str, list[object]] = {}
    numbers: dict[str, np.ndarray | None] = {"candidates": None, "exclude": None}
    for name, what in (("candidates", "candidates"), ("exclude", "items to exclude")):
        ids = getattr(request, name)
        if ids is not None:
            at_most(len(ids), limits.candidates, f"the number of {what}")
            numbers[name], unknown[name] = _known(recommender, ids)
    asked = _asked(recommender, request, limits)
    return Question(
        asked,
        min(request.k, recommender.n_items),
        exclude_seen=request.exclude_seen,
        explain=request.explain and len(asked.histories.items) > 0,
        k_asked=request.k,
        unknown=unknown,
        **numbers,
    )


def scores_asked(recommender: Recommender, request: ScoreRequest, limits: Limits) -> Question:
    """The scores a request asks for; refuses what is too much or unknown."""
    at_most(len(request.items), limits.candidates, "the number of items")
    wanted, unknown = _known(recommender, request.items)
    return Question(_asked(recommender, request, limits), len(wanted), wanted=wanted, unknown={"items": unknown})


def _asked(recommender: Recommender, request: Person, limits: Limits) -> Asked:
    """The person a request is about."""
    at_most(len(request.history or ()), limits.history, "the length of history")
    if (request.user is None) == (request.history is None):
        raise HTTPException(422, "give either user (an id) or history (a list of item ids), not both and not none")
    times = None if request.history_times is None else [request.history_times]
    weights = None if request.history_weights is None else [request.history_weights]
    try:
        if request.user is None:
            asked = recommender.ask(None, [request.history or []], times, weights)
        else:
            asked = recommender.ask([request.user], None, times, weights)
    except ValueError as error:  # times that are none, for example
        raise HTTPException(422, str(error)) from None
    if asked.unknown_users:
        raise HTTPException(404, f"user {shown(request.user)} is not in the model: send a history instead")
    if request.user is None and recommender.needs_times and times is None:
        raise HTTPException(422, "this model weighs items by elapsed time: send history_times too")
    return asked


def _known(recommender: Recommender, ids: Sequence[object]) -> tuple[np.ndarray, list[object]]:
    """Numbers of the known items, and the unknown ids, each once."""
    numbers, unknown = recommender.vocabulary.items(ids)
    return numbers[numbers >= 0], list(dict.fromkeys(unknown))


def at_most(value: int, most: int, what: str) -> None:
    """Refuse what is more than one request may ask for."""
    if value > most:
        raise HTTPException(422, f"{what} is {shown(value)} and may be at most {most:,}")


def shown(value: object) -> str:
    """A value as an error quotes it: short, whatever was sent."""
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a very large number"
    return text if len(text) <= 80 else text[:77] + "..."
