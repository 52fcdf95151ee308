"""Lists against scores computed directly, for every kind of model; what people type; explanations; vectors."""

import jax
import numpy as np
import pyarrow as pa
import pytest
from oracles import ranked

import diffrec_jax as dr
from diffrec_jax.data.events import merge
from diffrec_jax.data.rows import device_csr, make_rows, take_rows
from diffrec_jax.mesh import make_mesh


def direct_scores(recommender, csr, users):
    """Scores of known users without buckets, padding or batching."""
    model, params = recommender.content.model, recommender.ranker.params
    rows = take_rows(device_csr(csr), np.asarray(users, np.int32), recency=getattr(model, "recency", None))
    key = jax.random.fold_in(jax.random.key(0), 3)
    return np.array(jax.jit(lambda params, rows: model.scores(params, rows, key=key))(params, rows))


@pytest.mark.parametrize("name", ["diffrec", "corrupted", "noisy", "exponential", "latent", "ease"])
def test_lists_are_the_best_unseen_items(make, name):
    history = "train+valid" if name == "exponential" else "train"
    recommender = make(name, history=history)
    content = recommender.content
    seen = merge(content.train, content.valid)
    users = np.arange(content.train.n_users)
    scores = direct_scores(recommender, content.train if history == "train" else seen, users)
    scores[seen.users(), seen.indices] = -np.inf
    found = recommender.recommend(users=content.vocabulary.user_ids, k=7)
    warm = content.train.lengths() > 0
    for user in np.flatnonzero(warm):
        mine = found["user"] == content.vocabulary.user_ids[user]
        items = content.vocabulary.items(found["item"][mine])[0]
        np.testing.assert_allclose(scores[user, items], np.sort(scores[user])[::-1][:7], atol=1e-5)
        np.testing.assert_allclose(found["score"][mine], scores[user, items], atol=1e-5)
        assert found["rank"][mine].tolist() == list(range(1, 8))


def test_a_known_user_and_the_same_history_get_the_same_scores(make):
    for name in ("diffrec", "exponential"):
        recommender = make(name)
        train, vocabulary = recommender.content.train, recommender.vocabulary
        row = slice(train.indptr[0], train.indptr[1])
        ids, times = vocabulary.item_ids[train.indices[row]], train.times[row]
        known = recommender.recommend(users=vocabulary.user_ids[:1], k=5, exclude_seen=False)
        shuffled = np.random.default_rng(0).permutation(len(ids))
        stranger = recommender.recommend(
            histories=[ids[shuffled].tolist()], history_times=[times[shuffled].tolist()], k=5, exclude_seen=False
        )
        assert known["item"].tolist() == stranger["item"].tolist()
        np.testing.assert_allclose(known["score"], stranger["score"], atol=1e-5)


def test_unknown_ids_are_reported_and_skipped(shop):
    found = shop.recommend(users=["u1", "nobody", "u2"], k=3)
    assert list(dict.fromkeys(found["user"])) == ["u1", "u2"] and found.unknown_users == ("nobody",)
    assert found.notes == ["1 user is (nobody) not in the model: skipped."]
    strange = shop.recommend(histories=[["sku1", "what", 7, None, "sku2"]], k=3)
    same = shop.recommend(histories=[["sku1", "sku2"]], k=3)
    assert strange["item"].tolist() == same["item"].tolist() and strange.unknown_items == ("what", 7, None)
    assert len(shop.recommend(users=["nobody"])) == 0 and len(shop.recommend(users=[])) == 0


def test_an_empty_history_gets_popularity_and_says_so(shop):
    counts = np.bincount(shop.content.train.indices, minlength=shop.n_items)
    best = shop.vocabulary.item_ids[ranked(counts[None], shop.vocabulary.item_ids, counts)[0][:4]]
    found = shop.recommend(histories=[["sku1"], [], ["what"]], k=4)
    assert found.by_popularity == (1, 2) and "by popularity" in found.notes[-1]
    for row in (1, 2):
        assert found["item"][found["user"] == row].tolist() == best.tolist()
    np.testing.assert_allclose(
        found["score"][found["user"] == 1], np.sort(counts)[::-1][:4] / shop.content.train.n_users
    )
    only = shop.recommend(histories=[[]], k=4, candidates=best[1:3].tolist())
    assert only["item"].tolist() == best[1:3].tolist()


def test_candidates_seen_items_and_short_lists(shop):
    only = [f"sku{i}" for i in range(5)]
    found = shop.recommend(histories=[["sku0", "sku1"]], k=10, candidates=[*only, "what"])
    assert sorted(found["item"]) == ["sku2", "sku3", "sku4"] and found.unknown_items == ("what",)
    again = shop.recommend(histories=[["sku0", "sku1"]], k=10, candidates=only, exclude_seen=False)
    assert sorted(again["item"]) == only
    everything = shop.recommend(histories=[["sku0"]], k=500)
    assert len(everything) == shop.n_items - 1 and not any(item == "sku0" for item in everything["item"])


def test_repeated_items_count_once_and_the_first_one_counts(make):
    recommender = make("linear")
    once = recommender.recommend(histories=[["sku3", "sku4", "sku5"]], k=5)
    twice = recommender.recommend(histories=[["sku3", "sku4", "sku3", "sku5", "sku5"]], k=5)
    other = recommender.recommend(histories=[["sku5", "sku4", "sku3"]], k=5)
    assert np.array_equal(once["score"], twice["score"]) and not np.array_equal(once["score"], other["score"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "give either users"),
        ({"users": ["u1"], "histories": [["sku1"]]}, "give either users"),
        ({"users": "u1"}, "must be a list of user ids"),
        ({"histories": ["sku1"]}, "history 0 is 'sku1', and must be a list"),
        ({"users": ["u1"], "k": 0}, "k=0 must be a whole number between 1 and 10,000"),
        ({"users": ["u1"], "k": True}, "k=True must be"),
        ({"histories": [["sku1"]], "history_times": []}, "history_times has 0 lists for 1 histories"),
        ({"histories": [["sku1"]], "history_times": [[1, 2]]}, r"history_times\[0\] must be a list of 1 times"),
        ({"histories": [["sku1"]], "history_times": [["soon"]]}, "soon"),
        ({"histories": [["sku1"]], "history_times": [[10**40]]}, "history_times cannot be read"),
        ({"users": ["u1"], "history_times": [[1]]}, "history_times belong to histories"),
    ],
)
def test_bad_questions_get_one_sentence(shop, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        shop.recommend(**options)


def test_a_model_of_elapsed_time_asks_for_times(make):
    with pytest.raises(ValueError, match="give the times of the histories too"):
        make("exponential").recommend(histories=[["sku1", "sku2"]])


def test_few_programs_serve_everything_and_batches_do_not_matter(shop):
    recommender = dr.Recommender(shop.content, shop.ranker.params)
    ids, rng = recommender.vocabulary.item_ids, np.random.default_rng(3)
    histories = [rng.choice(ids, size=rng.integers(1, 55), replace=False).tolist() for _ in range(150)]
    whole = recommender.recommend(histories=histories, k=10)
    compiled = recommender.ranker.programs()
    single = [recommender.recommend(histories=[history], k=5) for history in histories[:20]]
    one_more = recommender.ranker.programs() - compiled
    for i, found in enumerate(single):
        mine = np.flatnonzero(whole["user"] == i)[:5]
        assert whole["item"][mine].tolist() == found["item"].tolist()
        np.testing.assert_allclose(whole["score"][mine], found["score"], atol=1e-6)
    for n in (1, 64, 130, 150, 3):
        recommender.recommend(histories=histories[:n], k=int(rng.integers(1, 30)))
    assert compiled <= 2 and one_more == 1 and recommender.ranker.programs() <= 5


def test_eight_devices_equal_one(make, shop):
    for mesh in (make_mesh(), make_mesh(users=2, items=4)):
        many = make("diffrec", mesh=mesh).recommend(users=shop.vocabulary.user_ids, k=6)
        one = shop.recommend(users=shop.vocabulary.user_ids, k=6)
        assert many["item"].tolist() == one["item"].tolist()
        np.testing.assert_allclose(many["score"], one["score"], atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "latent", "ease"])
def test_explanations_are_exact(make, name):
    recommender = make(name)
    model, params, n = recommender.content.model, recommender.ranker.params, recommender.n_items

    @jax.jit
    def scores(params, items, lengths):
        rows = make_rows(items, lengths, n_items=n, recency=getattr(model, "recency", None))
        return model.scores(params, rows, key=jax.random.key(0))

    def score(history, item):
        items = np.asarray([[*history, 0, 0, 0][:3]], np.int32)
        return float(scores(params, items, np.asarray([len(history)], np.int32))[0, item])

    histories = [["sku5", "sku1", "sku9"], ["sku2"], []]
    found = recommender.explain(histories=histories, k=2)
    assert found.by_popularity == (2,) and len(found) == 2 * 3 + 2 * 1
    lists = recommender.recommend(histories=histories, k=2)
    for row in found.rows():
        assert row["item"] in lists["item"][lists["user"] == row["user"]]
        numbers = recommender.vocabulary.items(histories[row["user"]])[0].tolist()
        item, because = recommender.vocabulary.items([row["item"], row["because"]])[0].tolist()
        effect = score(numbers, item) - score([i for i in numbers if i != because], item)
        np.testing.assert_allclose(row["effect"], effect, atol=1e-5)
    first = [row for row in found.rows() if row["user"] == 0][:3]
    assert [row["rank"] for row in first] == [1, 2, 3]
    assert first[0]["effect"] >= first[1]["effect"] >= first[2]["effect"]
    chosen = recommender.explain(histories=[["sku5", "sku1"]], items=["sku30", "what"])
    assert set(chosen["item"]) == {"sku30"} and chosen.unknown_items == ("what",)


@pytest.mark.parametrize("name", ["normalised", "latent_deep"])
def test_user_vectors_times_item_vectors_are_the_scores(make, name):
    recommender = make(name)
    users = recommender.vocabulary.user_ids
    vectors, items = recommender.user_vectors(users=users), recommender.item_vectors()
    direct = direct_scores(recommender, recommender.content.train, np.arange(len(users)))
    np.testing.assert_allclose(vectors @ items.T, direct, atol=1e-5)
    np.testing.assert_allclose(vectors[:, -1], 1.0, atol=1e-6)
    with pytest.raises(ValueError, match="user 'nobody' is not in the model"):
        recommender.user_vectors(users=["nobody"])


def test_a_model_without_vectors_says_so(make):
    for name in ("eps", "noisy", "ease"):
        with pytest.raises(ValueError, match="has no user and item vectors"):
            make(name).item_vectors()


def test_similar_items(make):
    recommender = make("diffrec")
    found = recommender.similar_items(["sku3", "what", "sku8"], k=4)
    unit = recommender.item_vectors()[:, :-1]
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    number = recommender.vocabulary.items(["sku3"])[0][0]
    cosine = unit @ unit[number]
    cosine[number] = -np.inf
    assert found.unknown_items == ("what",) and found["item"].tolist() == ["sku3"] * 4 + ["sku8"] * 4
    expected = recommender.vocabulary.item_ids[np.argsort(-cosine)[:4]]
    assert found["similar"][:4].tolist() == expected.tolist()
    alone = make("ease").similar_items(["sku3"], k=4)
    assert alone["similar"].tolist() == make("ease").recommend(histories=[["sku3"]], k=4)["item"].tolist()


def test_ids_may_be_spelled_either_way(make, split):
    numbers = dr.serving.Vocabulary(np.arange(5), np.array([10, 20, -3]))
    assert numbers.items([10, "20", " 20 ", "-3", np.int64(20), 20.0, True, "x", "99"])[0].tolist() == [
        *(0, 1, 1, 2, 1),
        *(-1, -1, -1, -1),
    ]
    text = dr.serving.Vocabulary(np.array(["1", "a"], object), np.array(["7", "b"], object))
    assert text.users([1, "a", "1", True])[0].tolist() == [0, 1, 0, -1]


def test_search_by_title(shop):
    ids = shop.vocabulary.item_ids
    assert next(ids[n] for n in shop.vocabulary.search("number 12")) == "sku12"
    assert [ids[n] for n in shop.vocabulary.search("EMILE grosse")] == ["sku7"]
    assert shop.vocabulary.search("  ") == [] and len(shop.vocabulary.search("thing", limit=3)) == 3


def test_tables_are_ready_for_data_frames(shop):
    found = shop.recommend(users=["u1", "u2"], k=3)
    table = pa.table(found)
    assert table.column_names == ["user", "item", "score", "rank"] and len(table) == 6
    assert table.to_pylist() == list(found.rows())
    streamed = list(shop.stream(shop.vocabulary.user_ids, 3, chunk=7))
    whole = shop.recommend(users=shop.vocabulary.user_ids, k=3)
    assert np.concatenate([t["item"] for t in streamed]).tolist() == whole["item"].tolist()
    for chunk in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"chunk={chunk} must be a whole number of at least 1"):
            next(shop.stream(shop.vocabulary.user_ids, 3, chunk=chunk))
