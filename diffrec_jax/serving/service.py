"""A web service around a ``Recommender`` (FastAPI): lists, similar items, search by title, health, measures, a page.

Malformed requests are answered with 4xx and one sentence, too many at once with 503 and ``Retry-After``. It trusts
nobody: bodies, histories, lists and queues have limits, and no request can make it compile without bound.
"""

import json
from importlib import resources
from typing import Annotated, TypeAlias

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException as StarletteHTTPException

from diffrec_jax._version import __version__
from diffrec_jax.serving.answers import Answer, answer, item_document
from diffrec_jax.serving.batcher import MicroBatcher, OverloadedError
from diffrec_jax.serving.edge import Edge
from diffrec_jax.serving.measures import Measures
from diffrec_jax.serving.questions import Question
from diffrec_jax.serving.recommender import Recommender
from diffrec_jax.serving.requests import (
    Limits,
    RecommendRequest,
    ScoreRequest,
    SimilarRequest,
    at_most,
    question,
    scores_asked,
    shown,
)

__all__ = ["Limits", "create_app", "warm_up"]

PATHS = ("/", "/recommend", "/score", "/similar", "/search", "/health", "/metrics", "/docs", "/openapi.json")
Batcher: TypeAlias = MicroBatcher[Question, Answer]
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


class Json(Response):
    """JSON in plain ASCII, which any text survives, lone surrogates included."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """Encode."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def create_app(recommender: Recommender, limits: Limits | None = None) -> FastAPI:
    """The service as an ASGI application, for any server.

    Args:
      recommender: of the model.
      limits: see ``Limits``.
    """
    limits = Limits() if limits is None else limits
    app = FastAPI(title="diffrec_jax", version=__version__, description="Recommendations from a trained model.")
    measures = Measures()
    batcher = Batcher(
        lambda questions: answer(recommender, questions),
        max_batch=limits.batch,
        max_waiting=limits.waiting,
        observe=measures.batch,
    )
    app.state.batcher, app.state.measures = batcher, measures

    _offer_answers(app, recommender, batcher, limits)
    _offer_state(app, recommender, batcher, measures)
    _say_mistakes(app)

    def record(path: str, status: int, seconds: float) -> None:
        measures.record(path if path in PATHS else "other", status, seconds)

    app.add_middleware(Edge, most=limits.body_bytes, refuse=_error, record=record)
    return app


def _offer_answers(app: FastAPI, recommender: Recommender, batcher: Batcher, limits: Limits) -> None:
    """The paths that answer with items."""

    @app.post("/recommend", response_class=Json)
    async def recommend(request: RecommendRequest) -> Response:
        """The best items for a user or a history."""
        return Json(await batcher.ask(question(recommender, request, limits)))

    @app.post("/score", response_class=Json)
    async def score(request: ScoreRequest) -> Response:
        """The scores of given items for a user or a history, in the order given."""
        return Json(await batcher.ask(scores_asked(recommender, request, limits)))

    @app.post("/similar", response_class=Json)
    async def similar(request: SimilarRequest) -> Response:
        """Items like one."""
        at_most(request.k, limits.k, "k")
        number = int(recommender.vocabulary.items([request.item])[0][0])
        if number < 0:
            raise HTTPException(404, f"item {shown(request.item)} is not in the model")
        found = await batcher.run(lambda: recommender.similar_items([request.item], request.k))
        numbers = recommender.vocabulary.items(found["similar"])[0].tolist()
        items = [item_document(recommender, n) for n in numbers]
        for rank, (item, score) in enumerate(zip(items, found["score"].tolist()), 1):
            item["score"], item["rank"] = score, rank
        return Json({"items": items})

    @app.get("/search", response_class=Json)
    async def search(
        q: Annotated[str, Query(max_length=200, description="words of a title, or an id")],
        limit: Annotated[int, Query(ge=1, le=50)] = 10,
    ) -> Response:
        """Items by title."""
        return Json({"items": [item_document(recommender, n) for n in recommender.vocabulary.search(q, limit=limit)]})


def _offer_state(app: FastAPI, recommender: Recommender, batcher: Batcher, measures: Measures) -> None:
    """The paths that say how the service is, and its page."""

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


def _say_mistakes(app: FastAPI) -> None:
    """Every refusal is one sentence in one shape."""

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return _error(422, _sentence(error))

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> Response:
        known = {404: f"there is no {shown(request.url.path)} here; see /docs", 405: "this path takes another method"}
        plain = error.detail in ("Not Found", "Method Not Allowed")
        return _error(error.status_code, known.get(error.status_code, error.detail) if plain else error.detail)

    @app.exception_handler(OverloadedError)
    async def overloaded(request: Request, error: OverloadedError) -> Response:
        return _error(503, f"{error}: try again in a second", {"Retry-After": "1"})


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
        answer(recommender, [Question(asked, min(10, recommender.n_items), explain=True)])
    return recommender.ranker.programs()


def _sentence(error: RequestValidationError) -> str:
    """The first complaint of the validation as one sentence."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    if first["type"] == "json_invalid":
        return 'the body is not JSON: send an object such as {"history": ["sku12"], "k": 10}'
    if not where:
        return 'the body must be a JSON object such as {"history": ["sku12"], "k": 10}'
    return f"{where[:100]}: {first['msg'].removeprefix('Value error, ')[:200]}"


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    return Json({"error": sentence}, status_code=status, headers=headers)
