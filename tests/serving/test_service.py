"""The service: answers, refusals in one sentence, batching, shedding, measures; whatever comes, never a 500."""

import asyncio
import json
import threading

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffrec_jax.serving.batcher import MicroBatcher, OverloadedError
from diffrec_jax.serving.service import Limits, create_app

LIMITS = Limits(k=20, history=30, candidates=30, body_bytes=4000)


@pytest.fixture(scope="module")
def client(shop):
    return TestClient(create_app(shop, LIMITS))


def test_lists_equal_those_of_the_recommender(client, shop):
    answer = client.post("/recommend", json={"user": "u1", "k": 4})
    expected = shop.recommend(users=["u1"], k=4)
    assert answer.status_code == 200 and answer.json()["by"] == "model"
    assert [item["item"] for item in answer.json()["items"]] == expected["item"].tolist()
    assert answer.json()["items"][0]["title"].startswith("Thing number")
    body = {"history": ["sku1", "what", "sku2"], "k": 3, "candidates": ["sku4", "sku5"], "explain": True}
    answer = client.post("/recommend", json=body).json()
    assert sorted(item["item"] for item in answer["items"]) == ["sku4", "sku5"]
    assert answer["notes"] == ["1 items are not in the model and were left out: what"]
    reasons = shop.explain(histories=[["sku1", "sku2"]], items=["sku4"])
    because = next(item["because"] for item in answer["items"] if item["item"] == "sku4")
    assert [b["item"] for b in because] == reasons["because"].tolist()
    assert [b["effect"] for b in because] == pytest.approx(reasons["effect"].tolist(), abs=1e-5)
    cold = client.post("/recommend", json={"history": [], "k": 3, "explain": True}).json()
    assert cold["by"] == "popularity" and len(cold["items"]) == 3 and "most popular" in cold["notes"][0]
    seen = client.post("/recommend", json={"history": ["sku1"], "k": 20, "exclude_seen": False, "candidates": ["sku1"]})
    assert [item["item"] for item in seen.json()["items"]] == ["sku1"]


def test_similar_search_health_metrics_and_pages(client, shop):
    similar = client.post("/similar", json={"item": "sku3", "k": 2}).json()["items"]
    assert [item["item"] for item in similar] == shop.similar_items(["sku3"], k=2)["similar"].tolist()
    assert client.get("/search", params={"q": "grosse"}).json()["items"][0]["item"] == "sku7"
    assert client.get("/health").json()["items"] == 60
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"] and "<script>" in page.text
    assert "http://" not in page.text and "https://" not in page.text and "innerHTML" not in page.text
    assert "/recommend" in client.get("/openapi.json").json()["paths"] and client.get("/docs").status_code == 200
    text = client.get("/metrics").text
    assert 'diffrec_requests_total{path="/similar",status="200"}' in text and "diffrec_batch_size_count" in text
    for line in text.splitlines():
        assert line.startswith("# ") or float(line.rsplit(" ", 1)[1]) >= 0


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/recommend", "{", 422, "the body is not JSON"),
        ("/recommend", "[]", 422, "the body must be a JSON object"),
        ("/recommend", "{}", 422, "give either user (an id) or history"),
        ("/recommend", '{"user": "u1", "history": []}', 422, "give either user"),
        ("/recommend", '{"user": "nobody"}', 404, "user 'nobody' is not in the model: send a history instead"),
        ("/recommend", '{"user": "u1", "k": 21}', 422, "k is 21 and may be at most 20"),
        ("/recommend", '{"user": "u1", "k": 0}', 422, "k: Input should be greater than or equal to 1"),
        ("/recommend", '{"user": "u1", "k": 1' + "0" * 400 + "}", 422, "a very large number"),
        ("/recommend", '{"user": "u1", "what": 1}', 422, "what: Extra inputs"),
        (
            "/recommend",
            json.dumps({"history": ["sku1"] * 31}),
            422,
            "the length of history is 31 and may be at most 30",
        ),
        ("/recommend", json.dumps({"history": [["sku1"]]}), 422, "history.0"),
        ("/recommend", '{"history": ["sku1"], "history_times": ["soon"]}', 422, "soon"),
        ("/recommend", '{"history": ["sku1"], "history_times": [NaN]}', 422, ""),
        ("/recommend", '{"user": "\\ud800"}', 422, "unable to parse raw data as a unicode string"),
        ("/recommend", " " * 5000, 413, "at most 4,000 bytes"),
        ("/similar", '{"item": "what"}', 404, "item 'what' is not in the model"),
        ("/similar", '{"item": null}', 422, "item"),
        ("/nowhere", "{}", 404, "there is no '/nowhere' here; see /docs"),
        ("/health", "{}", 405, "another method"),
    ],
)
def test_malformed_requests_get_a_sentence(client, path, body, status, sentence):
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert sentence in (answer.json().get("error") or answer.text)


def test_a_body_nested_too_deeply_is_malformed_too(client):
    answer = client.post("/recommend", content="[" * 3000, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422) and answer.json()["error"]  # Python versions differ in what they call it


def test_whatever_comes_is_never_a_500(client):
    scalar = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    value = st.recursive(scalar, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
    names = st.sampled_from(("user", "history", "history_times", "k", "exclude_seen", "candidates", "explain", "item"))
    known = st.sampled_from(("u1", "sku1", "sku2", 3))
    document = value | st.dictionaries(names, value | st.lists(scalar | known, max_size=4) | known, max_size=4)
    body = st.binary(max_size=60) | document.map(lambda d: json.dumps(d).encode())

    @settings(max_examples=150, database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(path=st.sampled_from(("/recommend", "/similar")), body=body)
    def check(path, body):
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code < 500, (path, body)
        assert answer.status_code == 200 or answer.json()["error"]

    check()


def test_questions_that_come_together_share_a_call_and_too_many_are_refused():
    gate = threading.Event()

    def answer(questions):
        gate.wait(10)
        return [ValueError("no") if q == 5 else 10 * q for q in questions]

    async def scene():
        batcher = MicroBatcher(answer, max_batch=4, max_waiting=6)
        first = asyncio.create_task(batcher.ask(0))
        await asyncio.sleep(0.05)  # it is being answered: the others wait
        rest = [asyncio.create_task(batcher.ask(q)) for q in range(1, 7)]
        await asyncio.sleep(0.05)
        assert batcher.waiting == 6
        with pytest.raises(OverloadedError, match="6 questions wait already"):
            await batcher.ask(99)
        gate.set()
        answers = await asyncio.gather(first, *rest, return_exceptions=True)
        batcher.close()
        return answers, batcher.batches

    answers, batches = asyncio.run(scene())
    assert [a if isinstance(a, int) else str(a) for a in answers] == [0, 10, 20, 30, 40, "no", 60]
    assert batches == {1: 1, 4: 1, 2: 1}


def test_an_overloaded_service_answers_503(shop):
    app = create_app(shop, LIMITS)
    app.state.batcher.max_waiting = 0
    answer = TestClient(app).post("/recommend", json={"user": "u1"})
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert "try again" in answer.json()["error"]
