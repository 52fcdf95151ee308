"""What an event counts where lists are made: of known people, of strangers, in a folder, a program and a request."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

import diffrec_jax as dr
from diffrec_jax.serving import export_program, export_safetensors, load_program
from diffrec_jax.serving.histories import Histories
from diffrec_jax.serving.service import create_app

ITEMS = np.array([f"sku{i:02}" for i in range(20)])


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(0)
    users, items = np.divmod(rng.permutation(30 * 20)[:260], 20)
    weights = rng.choice([1.0, 2.0, 8.0], 260)
    columns = {"times": 1_600_000_000 + 86_400 * rng.permutation(260), "weights": weights}
    return dr.Interactions.from_arrays([f"u{u:02}" for u in users], ITEMS[items].tolist(), **columns)


@pytest.fixture(scope="module")
def recommender(log):
    return dr.fit(dr.EASE(l2=10.0), log).recommender


@pytest.fixture(scope="module")
def history(recommender):
    """Items, times and weights of the first user."""
    train = recommender.content.train
    row = slice(train.indptr[0], train.indptr[1])
    return ITEMS[train.indices[row]].tolist(), train.times[row].tolist(), train.weights[row].tolist()


def test_the_same_history_with_its_weights_gets_the_list_of_its_owner(recommender, history):
    items, times, weights = history
    owner = recommender.recommend(users=["u00"], k=5)
    order = np.random.default_rng(1).permutation(len(items))
    columns = ([np.array(column)[order].tolist()] for column in (items, times, weights))
    stranger = recommender.recommend(None, next(columns), 5, history_times=next(columns), history_weights=next(columns))
    assert owner["item"].tolist() == stranger["item"].tolist()
    np.testing.assert_allclose(owner["score"], stranger["score"], rtol=1e-5)
    alike = recommender.recommend(histories=[items], k=5)
    assert not np.allclose(owner["score"], alike["score"])
    ones = recommender.recommend(histories=[items], history_weights=[[1] * len(items)], k=5)
    np.testing.assert_array_equal(alike["score"], ones["score"])


def test_folder_and_program_know_them(recommender, history, tmp_path):
    export_safetensors(recommender, tmp_path / "model")
    loaded = dr.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.content.train.weights, recommender.content.train.weights)
    assert "weight" in pq.read_table(tmp_path / "model" / "train.parquet").column_names
    export_program(recommender, tmp_path / "program", k=5)
    assert "`logged` holds what each event counts" in (tmp_path / "program" / "README.md").read_text()
    items, _, weights = history
    numbers = recommender.vocabulary.items(items)[0][None, :]
    found, scores = load_program(tmp_path / "program")(numbers, [len(items)], np.array([weights], np.float32))
    owner = loaded.recommend(users=["u00"], k=5)
    assert ITEMS[np.asarray(found)[0]].tolist() == owner["item"].tolist()
    np.testing.assert_allclose(scores[0], owner["score"], rtol=1e-5)


def test_explanations_leave_the_weights_of_the_others_alone(recommender, history):
    items, _, weights = history
    effects = recommender.explain(histories=[items], history_weights=[weights], k=1)
    target = effects["item"][0]
    whole = recommender.score(items=[target], histories=[items], history_weights=[weights])["score"][0]
    less = recommender.score(items=[target], histories=[items[1:]], history_weights=[weights[1:]])["score"][0]
    np.testing.assert_allclose(effects["effect"][effects["because"] == items[0]], whole - less, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"users": ["u00"], "history_weights": [[1]]}, "history_weights belong to histories=: the weights of known"),
        ({"histories": [["sku01"]], "history_weights": []}, "history_weights has 0 lists for 1 histories"),
        ({"histories": [["sku01"]], "history_weights": [[1, 2]]}, r"history_weights\[0\] must be a list of 1 weights"),
        ({"histories": [["sku01"]], "history_weights": [["much"]]}, "history_weights cannot be read as numbers"),
        ({"histories": [["sku01"]], "history_weights": [[-1.0]]}, "weight -1 in column 'history_weights' must be abov"),
    ],
)
def test_what_is_no_weight_is_refused(recommender, asked, said):
    with pytest.raises(ValueError, match=said):
        recommender.recommend(**asked)


def test_a_model_of_a_log_without_weights_refuses_them(log):
    plain = dr.Interactions.from_arrays(log.user_ids[log.users].tolist(), log.item_ids[log.items].tolist())
    recommender = dr.fit(dr.EASE(l2=10.0), plain).recommender
    with pytest.raises(ValueError, match="history_weights mean nothing to this model, whose log had no weights"):
        recommender.recommend(histories=[["sku01"]], history_weights=[[1.0]])


def test_a_request_brings_them(recommender, history):
    items, _, weights = history
    with TestClient(create_app(recommender)) as client:
        found = client.post("/recommend", json={"history": items, "history_weights": weights, "k": 5}).json()
        refused = client.post("/recommend", json={"history": items, "history_weights": [1, 2]})
    owner = recommender.recommend(users=["u00"], k=5)
    assert [each["item"] for each in found["items"]] == owner["item"].tolist()
    assert refused.status_code == 422 and "history_weights[0] must be a list" in refused.json()["error"]


def test_histories_with_and_without_them_share_a_call(recommender, history):
    """As requests do that come while the device is busy: each is answered as if it were alone."""
    items, _, weights = history
    asked = [recommender.ask(None, [items], None, given).histories for given in ([weights], None)]
    alone = [recommender.ranker.top_k(each, 5) for each in asked]
    together = recommender.ranker.top_k(Histories.concatenate(asked), 5)
    for row, (scores, found) in enumerate(alone):
        np.testing.assert_array_equal(found[0], together[1][row])
        np.testing.assert_allclose(scores[0], together[0][row], rtol=1e-5)
