"""Somebody else's lists: the metrics of our own evaluation, by raw ids, whatever is odd about them."""

import jax
import numpy as np
import pyarrow as pa
import pytest

import diffrec_jax as dr
from diffrec_jax.data import synthetic
from diffrec_jax.evaluation import evaluate_lists
from diffrec_jax.evaluation.standing import tie_keys
from diffrec_jax.mesh import make_mesh

# Users a, b and c with histories; a and b have held-out items.
LOG = dr.Interactions.from_arrays([*"aaabbbcc"], ["i0", "i1", "i2", "i1", "i3", "i4", "i0", "i5"])
TRAIN, TEST = LOG.select(np.array([0, 3, 6, 7])), LOG.select(np.array([1, 2, 4, 5]))  # a: i1, i2; b: i3, i4


@pytest.fixture(scope="module")
def ours():
    """An evaluation of our own, and the lists that it judged."""
    split = synthetic.generate(n_users=60, n_items=40, seed=2).k_core(3).split_by_time(0.7, 0.1, 0.2)
    fitted = dr.fit(dr.EASE(), split.train, split.valid, mesh=make_mesh(devices=jax.devices()[:1]))
    found = dr.evaluate(fitted, split.test, ks=(1, 5, 20))
    return split, found, fitted.recommend(users=split.user_ids, k=20)


def hits(lists, order=None, **more):
    users, items = zip(*lists)
    found = evaluate_lists(users, items, TEST, train=TRAIN, ks=(1, 2, 3), **more)
    return found, {name: values.tolist() for name, values in found.per_user.items()}


@pytest.mark.parametrize("by", ["order", "rank", "score"])
def test_our_own_lists_get_our_own_numbers_in_whatever_order_their_lines_come(ours, by):
    split, expected, lists = ours
    lines = np.arange(len(lists["user"])) if by == "order" else np.random.default_rng(0).permutation(len(lists["user"]))
    how = {"order": {}, "rank": {"ranks": lists["rank"][lines]}, "score": {"scores": lists["score"][lines]}}[by]
    found = evaluate_lists(
        lists["user"][lines], lists["item"][lines], split.test, train=split.train, ks=(20, 5, 1), **how
    )
    assert found.n_users == expected.n_users
    np.testing.assert_array_equal(found.users, expected.users)
    for name, values in expected.per_user.items():
        np.testing.assert_allclose(found.per_user[name], values, atol=1e-6, err_msg=name)
    for protocol in ("official", "standard"):
        assert found.mean(protocol) == pytest.approx(expected.mean(protocol), abs=1e-6)
    for name, value in expected.beyond.items():
        assert found.beyond[name] == pytest.approx(value, abs=1e-6), name
    for name, values in expected.per_item.items():
        np.testing.assert_array_equal(found.per_item[name], values, err_msg=name)


def test_metrics_by_hand_and_both_conventions():
    found, of = hits([("a", "i2"), ("a", "i5"), ("a", "i1"), ("b", "i0"), ("b", "i4")])
    assert of["recall@1"] == [0.5, 0.0] and of["recall@2"] == [0.5, 0.5] and of["recall@3"] == [1.0, 0.5]
    assert of["mrr@3"] == [1.0, 0.5] and of["precision@2"] == [0.5, 0.5]
    assert found.mean("standard")["recall@3"] == 0.75 and found.mean("official")["recall@3"] == 0.5  # of three users


def test_a_repeated_an_unknown_and_an_owned_item_keep_their_places_and_are_no_hits():
    found, of = hits([("a", "i1"), ("a", "i1"), ("a", "i2"), ("b", "what?"), ("b", "i1"), ("b", "i3")])
    assert of["recall@2"] == [0.5, 0.0] and of["recall@3"] == [1.0, 0.5]
    notes = " ".join(found.notes)
    assert "1 lines repeat an item" in notes and "1 listed items are not in this data" in notes
    assert "1 listed items are among what their users have already" in notes


def test_users_without_a_list_count_as_0_and_strangers_are_left_out():
    found, of = hits([("b", "i3"), ("zoe", "i3"), ("c", "i1")])
    assert of["recall@1"] == [0.0, 0.5]
    notes = " ".join(found.notes)
    assert "1 of 2 users with held-out items have no list, and count as 0" in notes
    assert "1 lines are of users who are not in this data" in notes
    assert "1 lists are shorter than K = 3; none is longer than 1, so that K = 2, 3 judges no more" in notes


def test_equal_scores_stand_by_the_key_of_our_own_lists_which_is_said():
    lists = [("a", item) for item in ("i5", "i1", "i4", "i2", "?")]
    first, of = hits(lists, scores=[1.0] * 5)
    for n in range(1, 5):
        assert hits(lists[n:] + lists[:n], scores=[1.0] * 5)[1] == of
    in_order = sorted(("i5", "i1", "i4", "i2"), key=lambda item: (item in ("i4", "i2"), tie_keys([item])[0]))
    for k in (1, 2, 3):  # items of the training part, then the others
        assert of[f"recall@{k}"] == [sum(item in ("i1", "i2") for item in in_order[:k]) / 2, 0.0]
    assert "1 lists hold equal scores" in " ".join(first.notes)
    close, of = hits([("a", "i5"), ("a", "i1")], scores=[1.0, 1.0 + 1e-12])
    assert of["recall@1"] == [0.5, 0.0] and "equal scores" not in " ".join(close.notes)


def test_held_out_items_that_their_users_have_already_are_counted():
    found, of = hits([("a", "i1")], seen=LOG.csr())
    assert of["recall@1"] == [0.0, 0.0]
    assert "4 held-out items are among what their users have already" in " ".join(found.notes)


@pytest.mark.parametrize("form", [list, np.array, pa.array, lambda ids: pa.chunked_array([pa.array(ids)])])
def test_ids_are_known_by_their_spelling_whatever_holds_them(form):
    data = dr.Interactions.from_arrays([1, 1, 2, 2], [10, 20, 10, 30])
    for users, items in (([1, 2], [10, 30]), (["1", "2"], ["10", "30"])):
        found = evaluate_lists(form(users), form(items), data, ks=(1,))
        assert found.per_user["recall@1"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "more, sentence",
    [
        ({"scores": [1.0, float("nan")]}, "line 2 of the lists has the score nan"),
        ({"scores": [1.0, None]}, "line 2 of the lists has the score nan"),
        ({"scores": 1.0}, "scores of the lists are a float"),
        ({"scores": [1.0]}, "lists have 2 lines but 1 scores"),
        ({"scores": ["high", "low"]}, "scores of the lists are no numbers"),
        ({"ranks": [1, 1]}, "line 2 of the lists repeats rank 1 of its user"),
        ({"ranks": [1, 2], "scores": [1, 2]}, "ordered by scores or by ranks: give one of them"),
        ({"ks": ()}, r"ks=\(\) must be list lengths"),
    ],
)
def test_what_orders_nothing_is_refused(more, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate_lists(["a", "a"], ["i1", "i2"], TEST, **more)


@pytest.mark.parametrize(
    "users, items, sentence",
    [
        ([7, 8], ["i1", "i2"], "no user of the lists is in this data .7, for one."),
        (["a", "b"], ["x", "y"], "no item of the lists is in this data .'x', for one."),
        (["a", None], ["i1", "i2"], "line 2 of the lists has no user"),
        ([], [], "the lists hold no lines"),
        (["a", 1], ["i1", "i2"], "users of the lists mix types"),
        (["a"], ["i1", "i2"], "lists have 1 users but 2 items"),
        ("ab", ["i1", "i2"], "users of the lists are a str"),
        (["a", "b"], {"i1": 1, "i2": 2}, "items of the lists are a dict"),
        (["a", "b"], {"i1", "i2"}, "items of the lists are a set"),
        (["a", "b"], np.array([["i1"], ["i2"]]), "items of the lists are a ndarray"),
    ],
)
def test_lists_of_other_data_are_refused(users, items, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate_lists(users, items, TEST)


OTHER = dr.Interactions.from_arrays([*"xxxyyyzz"], ["q0", "q1", "q2", "q1", "q3", "q4", "q0", "q5"])


@pytest.mark.parametrize(
    "logs, sentence",
    [
        ({"train": OTHER}, "train and truth number their users and items differently"),
        ({"seen": OTHER}, "seen and truth number their users and items differently"),
        ({"seen": OTHER.select(np.array([0])).k_core(1).csr()}, "seen and truth number"),
        ({"truth": (TRAIN, TEST)}, "truth is a tuple and must be an Interactions"),
        ({"truth": TEST.csr()}, "truth is a CSR and must be an Interactions"),
        ({"train": TRAIN.csr()}, "train is a CSR and must be an Interactions"),
        ({"seen": [TRAIN]}, "seen is a list and must be an Interactions"),
    ],
)
def test_logs_of_other_ids_are_refused_even_of_the_same_sizes(logs, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate_lists(["a", "a"], ["i1", "i2"], **{"truth": TEST, "train": TRAIN, **logs})


def test_what_users_have_may_be_a_log_or_its_rows():
    for seen in (LOG, LOG.csr()):
        assert hits([("a", "i1")], seen=seen)[1]["recall@1"] == [0.0, 0.0]
