"""A web service around a ``Recommender`` (FastAPI): lists, similar items, search by title, health, measures, a page.

Malformed requests are answered with 4xx and one sentence, too many at once with 503 and ``Retry-After``. It trusts
nobody: bodies, histories, lists and queues have limits, and no request can make it compile without bound.
"""

import json
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictFloat, StrictInt, StrictStr
from starlette.exceptions import HTTPException as StarletteHTTPException

from diffrec_jax._version import __version__
from diffrec_jax.serving.answers import answer, item_document
from diffrec_jax.serving.batcher import MicroBatcher, OverloadedError
from diffrec_jax.serving.edge import Edge
from diffrec_jax.serving.histories import Asked
from diffrec_jax.serving.measures import Measures
from diffrec_jax.serving.questions import Question
from diffrec_jax.serving.recommender import Recommender
from diffrec_jax.serving.vocabulary import EXACT_IN_JAVASCRIPT

PATHS = ("/", "/recommend", "/score", "/similar", "/search", "/health", "/metrics", "/docs", "/openapi.json")
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
LONGEST_ID = 512


def _whole(id_: Any) -> Any:
    """An id that came as a float, such as 12.0, as the whole number it is; refuses what is no id."""
    if isinstance(id_, float) and id_.is_integer() and abs(id_) <= EXACT_IN_JAVASCRIPT:
        return int(id_)
    if isinstance(id_, float | bool):
        raise ValueError(f"{_shown(id_)} is no id: send text or a whole number (as text beyond 2^53)")
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


class Json(Response):
    """JSON in plain ASCII, which any text survives, lone surrogates included."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


class Person(BaseModel):
    """Either a known user or a history."""

    model_config = ConfigDict(extra="forbid")
    user: Id | None = Field(None, description="id of a user of the training data")
    history: list[Id] | None = Field(None, description="ids of the items a person already has, oldest first")
    history_times: list[Moment] | None = Field(None, description="the time of each: unix seconds, or ISO 8601")


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


def create_app(recommender: Recommender, limits: Limits | None = None) -> FastAPI:
    """The service as an ASGI application, for any server.

    Args:
      recommender: of the model.
      limits: see ``Limits``.
    """
    limits = Limits() if limits is None else limits
    app = FastAPI(title="diffrec_jax", version=__version__, description="Recommendations from a trained model.")
    measures = Measures()
    batcher = MicroBatcher[Question, dict[str, Any]](
        lambda questions: answer(recommender, questions),
        max_batch=limits.batch,
        max_waiting=limits.waiting,
        observe=measures.batch,
    )
    app.state.batcher, app.state.measures = batcher, measures

    @app.post("/recommend", response_class=Json)
    async def recommend(request: RecommendRequest) -> Response:
        """The best items for a user or a history."""
        return Json(await batcher.ask(_question(recommender, request, limits)))

    @app.post("/score", response_class=Json)
    async def score(request: ScoreRequest) -> Response:
        """The scores of given items for a user or a history, in the order given."""
        return Json(await batcher.ask(_scores_asked(recommender, request, limits)))

    @app.post("/similar", response_class=Json)
    async def similar(request: SimilarRequest) -> Response:
        """Items like one."""
        _at_most(request.k, limits.k, "k")
        number = int(recommender.vocabulary.items([request.item])[0][0])
        if number < 0:
            raise HTTPException(404, f"item {_shown(request.item)} is not in the model")
        found = await batcher.run(lambda: recommender.similar_items([request.item], request.k))
        numbers = recommender.vocabulary.items(found["similar"])[0].tolist()
        items = [
            {**item_document(recommender, n), "score": score, "rank": rank}
            for rank, (n, score) in enumerate(zip(numbers, found["score"].tolist()), 1)
        ]
        return Json({"items": items})

    @app.get("/search", response_class=Json)
    async def search(
        q: Annotated[str, Query(max_length=200, description="words of a title, or an id")],
        limit: Annotated[int, Query(ge=1, le=50)] = 10,
    ) -> Response:
        """Items by title."""
        return Json({"items": [item_document(recommender, n) for n in recommender.vocabulary.search(q, limit=limit)]})

    @app.get("/health", response_class=Json)
    async def health() -> Response:
        """Whether it works, and what it serves."""
        about = recommender.content.about
        return Json(
            {
                "status": "ok",
                "model": type(recommender.content.model).__name__,
                "dataset": about.get("dataset"),
                "users": recommender.vocabulary.n_users,
                "items": recommender.n_items,
                "waiting": batcher.waiting,
                "version": __version__,
            }
        )

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Measures for Prometheus."""
        text = measures.text(waiting=batcher.waiting, programs=recommender.ranker.programs())
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    page = resources.files("diffrec_jax.serving").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def home() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": PAGE_POLICY, "X-Frame-Options": "DENY"})

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return _error(422, _sentence(error))

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        known = {404: f"there is no {_shown(request.url.path)} here; see /docs", 405: "this path takes another method"}
        plain = error.detail in ("Not Found", "Method Not Allowed")
        return _error(error.status_code, known.get(error.status_code, error.detail) if plain else error.detail)

    @app.exception_handler(OverloadedError)
    async def overloaded(request: Request, error: OverloadedError) -> Response:
        return _error(503, f"{error}: try again in a second", {"Retry-After": "1"})

    def record(path: str, status: int, seconds: float) -> None:
        measures.record(path if path in PATHS else "other", status, seconds)

    app.add_middleware(Edge, most=limits.body_bytes, refuse=_error, record=record)
    return app


def warm_up(recommender: Recommender, limits: Limits | None = None) -> int:
    """Compile what requests of the usual sizes need, before the first one comes; how many programs there are."""
    limits = Limits() if limits is None else limits
    rng = np.random.default_rng(0)
    days = [0.0]
    for length in (8, 65, 257):
        length = min(length, recommender.n_items - 1, limits.history)
        ids = recommender.vocabulary.item_ids[rng.permutation(recommender.n_items)[:length]].tolist()
        for rows in (1, 4, 16, 32, 64):
            if rows > limits.batch:
                continue
            times = [days * length] * rows
            asked = recommender.ask(None, [ids] * rows, times)
            recommender.ranker.top_k(asked.histories, min(10, recommender.n_items), hidden=asked.seen)
    for length in (1, 3, 12):  # explanations of short histories, such as the page asks for
        asked = recommender.ask(None, [ids[:length]], [days * min(length, len(ids))])
        question = Question(asked, min(10, recommender.n_items), explain=True)
        answer(recommender, [question])
    return recommender.ranker.programs()


def _question(recommender: Recommender, request: RecommendRequest, limits: Limits) -> Question:
    """What a request asks; refuses what is too much or unknown."""
    _at_most(request.k, limits.k, "k")
    unknown: dict[str, list[Any]] = {}
    numbers: dict[str, np.ndarray | None] = {"candidates": None, "exclude": None}
    for name, what in (("candidates", "candidates"), ("exclude", "items to exclude")):
        ids = getattr(request, name)
        if ids is not None:
            _at_most(len(ids), limits.candidates, f"the number of {what}")
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


def _scores_asked(recommender: Recommender, request: ScoreRequest, limits: Limits) -> Question:
    _at_most(len(request.items), limits.candidates, "the number of items")
    wanted, unknown = _known(recommender, request.items)
    return Question(_asked(recommender, request, limits), len(wanted), wanted=wanted, unknown={"items": unknown})


def _asked(recommender: Recommender, request: Person, limits: Limits) -> Asked:
    """The person a request is about."""
    _at_most(len(request.history or ()), limits.history, "the length of history")
    if (request.user is None) == (request.history is None):
        raise HTTPException(422, "give either user (an id) or history (a list of item ids), not both and not none")
    times = None if request.history_times is None else [request.history_times]
    try:
        if request.user is None:
            asked = recommender.ask(None, [request.history or []], times)
        else:
            asked = recommender.ask([request.user], None, times)
    except ValueError as error:  # times that are none, for example
        raise HTTPException(422, str(error)) from None
    if asked.unknown_users:
        raise HTTPException(404, f"user {_shown(request.user)} is not in the model: send a history instead")
    if request.user is None and recommender.needs_times and times is None:
        raise HTTPException(422, "this model weighs items by elapsed time: send history_times too")
    return asked


def _known(recommender: Recommender, ids: list[Any]) -> tuple[np.ndarray, list[Any]]:
    """Numbers of the known items, and the unknown ids, each once."""
    numbers, unknown = recommender.vocabulary.items(ids)
    return numbers[numbers >= 0], list(dict.fromkeys(unknown))


def _at_most(value: int, most: int, what: str) -> None:
    if value > most:
        raise HTTPException(422, f"{what} is {_shown(value)} and may be at most {most:,}")


def _sentence(error: RequestValidationError) -> str:
    """The first complaint of the validation as one sentence."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    if first["type"] == "json_invalid":
        return 'the body is not JSON: send an object such as {"history": ["sku12"], "k": 10}'
    if not where:
        return 'the body must be a JSON object such as {"history": ["sku12"], "k": 10}'
    return f"{where[:100]}: {first['msg'].removeprefix('Value error, ')[:200]}"


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a very large number"
    return text if len(text) <= 80 else text[:77] + "..."


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return Json({"error": sentence}, status_code=status, headers=headers)
