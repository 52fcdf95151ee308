"""Excluded items, candidates of each person, scores of given pairs: each against lists and scores computed directly."""

import numpy as np
import pyarrow as pa
import pytest

from diffrec_jax.serving import pairs


def items_of(table, user):
    return table["item"][table["user"] == user].tolist()


def test_excluded_items_make_room_for_the_next_ones(make):
    for name in ("diffrec", "ease"):
        recommender = make(name)
        users = ["u1", "u2", "nobody", "u3"]
        longer = recommender.recommend(users=users, k=20)
        best = items_of(longer, "u1")
        found = recommender.recommend(users=users, k=5, exclude=[best[0], best[3], "what"])
        for user in ("u1", "u2", "u3"):
            left = [item for item in items_of(longer, user) if item not in (best[0], best[3])]
            assert items_of(found, user) == left[:5]
        assert found.unknown_items == ("what",) and found.unknown_users == ("nobody",)
        own = [[best[0]], [], [best[1]], items_of(longer, "u3")[:2]]  # one list for each user asked for
        found = recommender.recommend(users=users, k=5, exclude=own)
        assert items_of(found, "u1") == best[1:6]
        assert items_of(found, "u2") == items_of(longer, "u2")[:5]
        assert items_of(found, "u3") == items_of(longer, "u3")[2:7]
        column = recommender.recommend(users=users, k=5, exclude=pa.array(own, pa.list_(pa.string())))
        assert column["item"].tolist() == found["item"].tolist()
    kept = recommender.recommend(histories=[["sku1"]], k=60, exclude_seen=False, exclude=[["sku2"]])
    assert "sku1" in kept["item"] and "sku2" not in kept["item"] and len(kept) == 59
    popular = recommender.recommend(histories=[[]], k=3)["item"].tolist()
    assert recommender.recommend(histories=[[]], k=2, exclude=[popular[0]])["item"].tolist() == popular[1:]
    assert recommender.recommend(histories=[[]], k=2, exclude=[[popular[0]]])["item"].tolist() == popular[1:]


@pytest.mark.parametrize("name", ["diffrec", "ease", "popularity"])
def test_candidates_of_each_person_give_the_lists_that_each_alone_would_get(make, name):
    recommender = make(name)
    rng = np.random.default_rng(0)
    ids = recommender.vocabulary.item_ids
    users = ["u3", "nobody", "u0", "u7", "u8"]
    own = [rng.choice(ids, size=n, replace=True).tolist() for n in (9, 3, 50, 1, 12)]
    for options in ({}, {"exclude": ["sku1", "sku2"]}, {"exclude_seen": False}):
        found = recommender.recommend(users=users, k=6, candidates=own, **options)
        for user, mine in zip(users, own):
            alone = recommender.recommend(users=[user], k=6, candidates=mine, **options)
            assert items_of(found, user) == alone["item"].tolist()
            np.testing.assert_allclose(found["score"][found["user"] == user], alone["score"], atol=1e-5)
        ranks = found["rank"][found["user"] == "u0"]
        assert ranks.tolist() == list(range(1, len(ranks) + 1))
    strangers = recommender.recommend(
        histories=[["sku4"], [], ["sku5"]], k=3, candidates=[["sku1", "what"], own[0], []]
    )
    assert items_of(strangers, 0) == ["sku1"] and strangers.unknown_items == ("what",)
    popular = recommender.recommend(histories=[[]], k=3, candidates=own[0])
    assert items_of(strangers, 1) == popular["item"].tolist() and strangers.by_popularity == (1,)
    assert items_of(strangers, 2) == [] and strangers.short == (0, 2)
    assert "2 lists are (0, 2) shorter than asked for: no more items were left." in strangers.notes


def test_an_empty_list_is_never_without_a_sentence(shop):
    for options in ({"candidates": []}, {"candidates": ["what"]}, {"candidates": ["sku1"]}, {"exclude": [list(ALL)]}):
        found = shop.recommend(histories=[["sku1"]], k=3, **options)
        assert len(found) == 0 and found.short == (0,)
        assert "1 list is (0) shorter than asked for: no more items were left." in found.notes


ALL = [f"sku{n}" for n in range(60)]


@pytest.mark.parametrize("name", ["diffrec", "normalised", "noisy", "ease"])
def test_scores_of_pairs_are_those_of_the_lists(make, name):
    recommender = make(name)
    users = ["u1", "u2", "u3"]
    lists = recommender.recommend(users=users, k=60, exclude_seen=False)
    order = np.random.default_rng(0).permutation(len(lists))
    asked, items = lists["user"][order], lists["item"][order]
    found = recommender.score(asked, items)
    assert found["user"].tolist() == asked.tolist() and found["item"].tolist() == items.tolist()
    np.testing.assert_allclose(found["score"], lists["score"][order], atol=1e-5)
    of_each = recommender.score(users, [ALL] * 3)
    assert of_each["user"].tolist() == np.repeat(users, 60).tolist() and of_each["item"].tolist() == ALL * 3
    history = ["sku1", "sku2"]
    lists = recommender.recommend(histories=[history], k=60, exclude_seen=False)
    stranger = recommender.score(histories=[history], items=[lists["item"]])
    np.testing.assert_allclose(stranger["score"], lists["score"], atol=1e-5)
    one = recommender.score(histories=[history, ["sku9"]], items=["sku5", "sku6"])
    assert one["user"].tolist() == [0, 1] and one["item"].tolist() == ["sku5", "sku6"]


def test_pairs_keep_their_order_and_unknown_ones_are_said(shop):
    users, items = ["u2", "nobody", "u1", "u2", "u2"], ["sku1", "sku1", "what", "sku1", "sku3"]
    found = shop.score(pa.chunked_array([users]), np.array(items))
    assert found["user"].tolist() == ["u2"] * 3 and found["item"].tolist() == ["sku1", "sku1", "sku3"]
    assert found["score"][0] == found["score"][1]
    assert found.unknown_users == ("nobody",) and found.unknown_items == ("what",)
    assert pa.table(found).column_names == ["user", "item", "score"]
    cold = shop.score(histories=[[], ["sku1"]], items=[["sku2", "sku3"], ["sku4"]])
    popular = shop.recommend(histories=[[]], candidates=["sku2", "sku3"], k=2)
    share = dict(zip(popular["item"].tolist(), popular["score"].tolist()))
    assert cold["score"][:2].tolist() == [share["sku2"], share["sku3"]] and cold.by_popularity == (0,)
    assert len(shop.score([], [])) == 0 and len(shop.score(["nobody"], ["sku1"])) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((["u1"],), r"give items=\[…\]"),
        ((None, ["sku1"]), "give either users"),
        ((["u1"], ["sku1", "sku2"]), "2 items for 1 people: give one item, or one list of items, for each"),
        ((["u1"], [["sku1"], ["sku2"]]), "2 lists of items for 1 people"),
        (("u1", ["sku1"]), "users='u1' must be a list"),
        ((["u1"], "sku1"), "items='sku1' must be a list"),
        ((["u1"], [True]), "items holds True"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(shop, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        shop.score(*arguments)


def test_many_pairs_of_one_person_come_in_pieces(monkeypatch, shop):
    expected = shop.score(["u1", "u2", "u3"], [ALL, ALL[:7], ALL[:50]])
    monkeypatch.setattr(pairs, "WIDTHS", (4, 16))
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", 32)
    calls = []

    def scores_at(histories, at):
        calls.append(at.shape)
        return shop.ranker.listed_scores_at(histories, at)

    asked = shop.ask(["u1", "u2", "u3"], None, None)
    numbers = shop.vocabulary.items(expected["item"])[0]
    rows = np.repeat([0, 1, 2], [60, 7, 50])
    found = pairs.scores_of_pairs(scores_at, asked.histories, rows, numbers)
    np.testing.assert_allclose(found, expected["score"], atol=1e-6)
    assert all(n * width <= 32 and width in (4, 16) for n, width in calls)
