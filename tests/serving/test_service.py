"""The service: answers, refusals in one sentence, batching, shedding, measures; whatever comes, never a 500."""

import asyncio
import collections
import json
import threading

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shop import one_device

import diffrec_jax as dr
from diffrec_jax.models.baselines import EASE
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


def notes(client, **body):
    answer = client.post("/recommend", json=body).json()
    return [item["item"] for item in answer["items"]], answer["notes"]


def test_notes_say_why_candidates_are_missing(client, shop):
    some = {"history": ["sku1", "sku2"], "k": 5}
    items, said = notes(client, **some, candidates=["what", "sku1", "sku4", "sku4", "else"])
    assert items == ["sku4"]
    assert said == [
        "2 candidates are not in the model: left out (what, else)",
        "1 candidate is what this person already has: left out; exclude_seen=false keeps them (sku1)",
    ]
    items, said = notes(client, **some, candidates=["what"])
    assert items == [] and said[1:] == ["no candidate is left to recommend"]
    items, said = notes(client, **some, candidates=["sku1", "sku2"])
    assert items == [] and said[0].startswith("2 candidates are what this person already has") and len(said) == 2
    items, said = notes(client, **some, candidates=["sku1", "sku2"], exclude_seen=False)
    assert sorted(items) == ["sku1", "sku2"] and said == []
    assert notes(client, **some, candidates=[]) == ([], ["no candidate is left to recommend"])
    items, said = notes(client, history=[], k=5, candidates=["sku1", "what"])
    assert items == ["sku1"] and "most popular" in said[-1] and len(said) == 2
    assert notes(client, history=["what"], k=1, candidates=["else"])[1] == [
        "1 items are not in the model and were left out: what",
        "1 candidate is not in the model: left out (else)",
        "no candidate is left to recommend",
    ]
    own = shop.vocabulary.item_ids[shop.ask(["u1"], None, None).seen.items].tolist()
    assert notes(client, user="u1", candidates=own)[0] == []


def test_excluded_items_are_left_out_and_short_lists_are_said(client, shop):
    best, _ = notes(client, user="u1", k=6)
    items, said = notes(client, user="u1", k=4, exclude=[best[0], best[2], "what"])
    assert items == [best[1], *best[3:6]] and said == [
        "1 item to exclude is not in the model: nothing to leave out (what)"
    ]
    items, said = notes(client, user="u1", k=4, candidates=best[:3], exclude=best[:1])
    assert items == best[1:3] and said == [f"1 candidate is also in exclude: left out ({best[0]})"]
    left = shop.vocabulary.item_ids[:30].tolist()
    small = TestClient(create_app(shop, Limits(k=100)))
    items, said = notes(small, history=["sku1"], k=60, exclude=[id_ for id_ in left if id_ != "sku1"])
    assert len(items) == 60 - len({*left, "sku1"})
    assert said == [f"only {len(items)} items are left to recommend, fewer than k=60"]
    repeated, _ = notes(client, history=["sku1", "sku1", "sku2"], k=3)
    assert repeated == notes(client, history=["sku1", "sku2"], k=3)[0]


def test_scores_of_given_items(client, shop):
    body = {"user": "u1", "items": ["sku5", "what", "sku9", "sku5"]}
    answer = client.post("/score", json=body).json()
    expected = shop.score(["u1"], [["sku5", "sku9", "sku5"]])
    assert [item["item"] for item in answer["items"]] == ["sku5", "sku9", "sku5"]
    assert [item["score"] for item in answer["items"]] == pytest.approx(expected["score"].tolist(), abs=1e-6)
    assert answer["items"][0]["title"] == "Thing number 5" and answer["by"] == "model"
    assert answer["notes"] == ["1 item is not in the model: no score (what)"]
    cold = client.post("/score", json={"history": [], "items": ["sku5"]}).json()
    assert cold["by"] == "popularity" and cold["notes"] == [
        "there is no history to go by, so the scores are popularity"
    ]
    nothing = client.post("/score", json={"user": "u1", "items": []})
    assert nothing.status_code == 200 and nothing.json()["items"] == []
    assert nothing.json()["notes"] == ["no item is left to score"]


def test_ids_beyond_float64_survive_a_client_in_javascript():
    ids = [2**53 + n for n in range(1, 5)] + [7]
    data = dr.Interactions.from_arrays([1, 1, 2, 2, 3, 3, 3], [ids[n] for n in (0, 1, 1, 2, 2, 3, 4)])
    client = TestClient(create_app(dr.fit(EASE(l2=1.0), data, mesh=one_device()).recommender))

    def as_javascript(response):  # where every number is a float
        assert response.status_code == 200, response.text
        return json.loads(response.text, parse_int=float)

    names = set(map(str, ids))
    body = {"user": 1.0, "k": 5, "exclude_seen": False, "explain": True}
    answer = as_javascript(client.post("/recommend", json=body))
    assert {item["item"] for item in answer["items"]} == names
    assert all(reason["item"] in names for item in answer["items"] for reason in item["because"])
    found = as_javascript(client.get("/search", params={"q": str(ids[0])}))["items"]
    assert found == [{"item": str(ids[0])}]
    mine = [item["item"] for item in answer["items"] if item["item"] != "7"]  # what the page sends back
    again = as_javascript(client.post("/recommend", json={"history": mine[:2], "candidates": mine, "k": 5}))
    assert {item["item"] for item in again["items"]} == set(mine[2:])
    assert "not in the model" not in " ".join(again["notes"])
    similar = as_javascript(client.post("/similar", json={"item": mine[0]}))["items"]
    assert {item["item"] for item in similar} <= names
    assert client.post("/score", json={"user": 1, "items": [ids[1]]}).json()["items"][0]["item"] == str(ids[1])


def test_smaller_whole_numbers_stay_numbers():
    data = dr.Interactions.from_arrays([1, 1, 2, 2], [2**53 - 1, 6, 6, 7])
    client = TestClient(create_app(dr.fit(EASE(l2=1.0), data, mesh=one_device()).recommender))
    answer = client.post("/recommend", json={"history": [6.0], "k": 3}).json()
    assert {item["item"] for item in answer["items"]} == {2**53 - 1, 7}


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
        ("/recommend", '{"history": [true]}', 422, "history.0: True is no id: send text or a whole number"),
        ("/recommend", '{"history": [12.5]}', 422, "12.5 is no id"),
        ("/recommend", '{"user": 9007199254740994.0}', 422, "is no id: send text or a whole number (as text beyond"),
        ("/recommend", '{"user": "u1", "candidates": ["sku1", false]}', 422, "candidates.1: False is no id"),
        ("/recommend", '{"user": "u1", "candidates": "sku1"}', 422, "candidates"),
        ("/recommend", '{"user": "u1", "history_times": []}', 422, "history_times belong to histories"),
        ("/recommend", '{"history": ["sku1"], "history_times": [true]}', 422, "history_times.0"),
        (
            "/recommend",
            json.dumps({"user": "u1", "exclude": ["sku1"] * 31}),
            422,
            "the number of items to exclude is 31 and may be at most 30",
        ),
        ("/score", '{"user": "u1"}', 422, "items: Field required"),
        ("/score", '{"items": ["sku1"]}', 422, "give either user (an id) or history"),
        ("/score", '{"user": "nobody", "items": ["sku1"]}', 404, "user 'nobody' is not in the model"),
        (
            "/score",
            json.dumps({"user": "u1", "items": ["sku1"] * 31}),
            422,
            "the number of items is 31 and may be at most 30",
        ),
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
    names = st.sampled_from(
        ("user", "history", "history_times", "k", "exclude_seen", "candidates", "exclude", "explain", "item", "items")
    )
    known = st.sampled_from(("u1", "sku1", "sku2", 3))
    document = value | st.dictionaries(names, value | st.lists(scalar | known, max_size=4) | known, max_size=4)
    body = st.binary(max_size=60) | document.map(lambda d: json.dumps(d).encode())

    @settings(max_examples=150, database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(path=st.sampled_from(("/recommend", "/score", "/similar")), body=body)
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
        sizes = collections.Counter()
        batcher = MicroBatcher(answer, max_batch=4, max_waiting=6, observe=lambda size: sizes.update([size]))
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
        return answers, sizes

    answers, batches = asyncio.run(scene())
    assert [a if isinstance(a, int) else str(a) for a in answers] == [0, 10, 20, 30, 40, "no", 60]
    assert batches == {1: 1, 4: 1, 2: 1}


def test_an_overloaded_service_answers_503(shop):
    app = create_app(shop, LIMITS)
    app.state.batcher.max_waiting = 0
    answer = TestClient(app).post("/recommend", json={"user": "u1"})
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
    assert "try again" in answer.json()["error"]
