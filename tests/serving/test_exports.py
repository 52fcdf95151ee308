"""Exports do what the live model does, on their own: programs, vectors in an index, model cards."""

import re

import numpy as np
import pytest

from diffrec_jax.serving import export_program, export_vectors, load_program
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
