"""Exports do what the live model does, on their own: programs, vectors in an index, model cards."""

import json
import re

import numpy as np
import pytest

from diffrec_jax.serving import export_program, export_vectors, load_program, vector_files
from diffrec_jax.serving.card import model_card


def padded(recommender):
    """The training histories as the program takes them."""
    train = recommender.content.train
    items = np.full((train.n_users, int(train.lengths().max())), 3, np.int32)  # padding may be anything
    days = np.zeros(items.shape, np.float32)
    for user in range(train.n_users):
        row = slice(train.indptr[user], train.indptr[user + 1])
        items[user, : train.lengths()[user]] = train.indices[row]
        days[user, : train.lengths()[user]] = (train.times[row] - train.times[row][:1]) / 86_400e6
    return items, train.lengths(), days


@pytest.mark.parametrize("name", ["diffrec", "exponential", "latent"])
def test_the_program_gives_the_lists_of_the_live_model(make, exported, tmp_path, name):
    recommender, folder = make(name), exported / "jax"
    if name != "diffrec":
        folder = tmp_path / "program"
        export_program(recommender, folder, k=9)
    program = load_program(folder)
    items, lengths, days = padded(recommender)
    days = [days] if name == "exponential" else []
    asked = recommender.ask(recommender.vocabulary.user_ids, None, None)
    scores, expected = recommender.ranker.top_k(asked.histories, 9, hidden=asked.histories)
    found, best = program(items, lengths, *days)
    assert np.array_equal(np.asarray(found), expected)
    np.testing.assert_allclose(best, scores, atol=1e-5)
    one, _ = program(items[:1, :30], lengths[:1], *(d[:1, :30] for d in days))  # another batch, another length
    assert np.array_equal(np.asarray(one)[0], expected[0])


def test_vectors_in_an_exact_index_give_the_same_lists(shop, exported):
    faiss = pytest.importorskip("faiss")
    vectors = np.load(exported / "vectors" / "item_vectors.npy", allow_pickle=False)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    items, lengths, _ = padded(shop)
    users = np.asarray(load_program(exported / "vectors")(items, lengths))
    _, found = index.search(users, 5)
    asked = shop.ask(shop.vocabulary.user_ids, None, None)
    assert np.array_equal(found, shop.ranker.top_k(asked.histories, 5)[1])


def test_a_model_without_vectors_is_refused(make, tmp_path):
    with pytest.raises(ValueError, match="has no user and item vectors"):
        export_vectors(make("eps"), tmp_path / "vectors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        export_program(make("eps"), tmp_path / "program", k=0)
    with pytest.raises(ValueError, match="holds no exported program"):
        load_program(tmp_path)
    (tmp_path / "program.jax_export").write_bytes(b"what")
    with pytest.raises(ValueError, match="cannot be read by JAX"):
        load_program(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "jax", "vectors"])
def test_the_model_card_tells_the_truth(exported, monkeypatch, kind):
    card = (exported / kind / "README.md").read_text()
    for text in ("# DiffRec on shop", "temporal", "0.2500", "official", '"dims"', "terms", "40 users, 60 items"):
        assert text in card, text
    assert str(exported) not in card
    if kind == "vectors":
        pytest.importorskip("faiss")
    monkeypatch.chdir(exported)
    for code in re.findall(r"```python\n(.*?)```", card, re.S):  # what the card tells people to run, runs
        exec(code, {})


def test_a_card_without_numbers_says_so(shop):
    card = model_card(shop.content, kind="safetensors", folder="x")
    assert "No evaluation is recorded." in card


def test_the_model_card_shows_whatever_list_lengths_were_evaluated(shop):
    results = {"test": {"official": {"precision@5": 0.5, "recall@5": 0.25, "ndcg@5": 0.125}}}
    card = model_card(shop.content, kind="safetensors", folder="x", results=results)
    assert "| test | protocol | recall@5 | ndcg@5 |" in card and "| 0.2500 | 0.1250 |" in card


def test_vectors_with_ids_come_in_parts_that_other_systems_read(shop, tmp_path, monkeypatch):
    """Their inner products rank as the model does, in DuckDB's SQL and from the lines that Vertex AI takes."""
    duckdb = pytest.importorskip("duckdb")
    monkeypatch.setattr(vector_files, "ROWS_PER_PART", 16)
    export_vectors(shop, tmp_path / "out", files=["parquet", "json"], users=True)
    assert len(list((tmp_path / "out" / "items").glob("*.parquet"))) == 4
    found = duckdb.sql(
        "SELECT u.id, i.id, list_inner_product(u.vector, i.vector) AS score "
        f"FROM '{tmp_path}/out/users/*.parquet' u, '{tmp_path}/out/items/*.parquet' i "
        "QUALIFY row_number() OVER (PARTITION BY u.id ORDER BY score DESC) = 1"
    ).fetchall()
    best = shop.recommend(users=shop.vocabulary.user_ids, k=1, exclude_seen=False)
    warm = shop.content.train.lengths() > 0
    known = {user for user, has in zip(shop.vocabulary.user_ids, warm) if has}
    expected = {user: item for user, item in zip(best["user"], best["item"]) if user in known}
    assert {user: item for user, item, _ in found if user in known} == expected
    lines = [json.loads(x) for file in sorted((tmp_path / "out" / "items").glob("*.json")) for x in file.open()]
    assert [line["id"] for line in lines] == shop.vocabulary.item_ids.tolist()
    np.testing.assert_allclose([line["embedding"] for line in lines], shop.item_vectors(), rtol=1e-6)
    with pytest.raises(ValueError, match="files=avro is unknown: choose from parquet, json"):
        export_vectors(shop, tmp_path / "more", files=["avro"])
    with pytest.raises(ValueError, match="the vectors of users come in parts: say which files"):
        export_vectors(shop, tmp_path / "more", users=True)
