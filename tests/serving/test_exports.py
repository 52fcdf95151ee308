"""Exports do what the live model does, on their own: programs, vectors in an index, model cards."""

import re

import numpy as np
import pytest

from diffrec_jax.serving import export_program, export_safetensors, export_vectors, load_program


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


@pytest.mark.parametrize("name", ["exponential", "latent"])
def test_the_program_gives_the_lists_of_the_live_model(make, tmp_path, name):
    recommender = make(name)
    export_program(recommender, tmp_path / "program", k=9)
    program = load_program(tmp_path / "program")
    items, lengths, days = padded(recommender)
    days = [days] if name == "exponential" else []
    asked = recommender.ask(recommender.vocabulary.user_ids, None, None)
    scores, expected = recommender.ranker.top_k(asked.histories, 9, hidden=asked.histories)
    found, best = program(items, lengths, *days)
    assert np.array_equal(np.asarray(found), expected)
    np.testing.assert_allclose(best, scores, atol=1e-5)
    one, _ = program(items[:1, :30], lengths[:1], *(d[:1, :30] for d in days))  # another batch, another length
    assert np.array_equal(np.asarray(one)[0], expected[0])


def test_vectors_in_an_exact_index_give_the_same_lists(make, tmp_path):
    faiss = pytest.importorskip("faiss")
    for name in ("diffrec",):
        recommender = make(name)
        export_vectors(recommender, tmp_path / name)
        vectors = np.load(tmp_path / name / "item_vectors.npy", allow_pickle=False)
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        items, lengths, _ = padded(recommender)
        users = np.asarray(load_program(tmp_path / name)(items, lengths))
        _, found = index.search(users, 5)
        asked = recommender.ask(recommender.vocabulary.user_ids, None, None)
        assert np.array_equal(found, recommender.ranker.top_k(asked.histories, 5)[1])


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


def test_the_model_card_tells_the_truth(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = {"test": {"official": {"recall@20": 0.25, "ndcg@10": 0.125}}, "eval_history": "train"}
    for kind, export in (("w", export_safetensors), ("p", export_program), ("v", export_vectors)):
        export(make("diffrec"), tmp_path / kind, results=results)
        card = (tmp_path / kind / "README.md").read_text()
        for text in ("# DiffRec on shop", "temporal", "0.2500", "official", '"dims"', "terms", "40 users, 60 items"):
            assert text in card, text
        assert str(tmp_path) not in card
        if kind == "v" and not _has_faiss():
            continue
        for code in re.findall(r"```python\n(.*?)```", card, re.S):  # what the card tells people to run, runs
            exec(code, {})
    export_safetensors(make("diffrec"), tmp_path / "bare")
    assert "No evaluation is recorded." in (tmp_path / "bare" / "README.md").read_text()


def _has_faiss():
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True
