"""Where a model does not decide: equal scores, items without training users, users without a history; and that what is
evaluated is what is served, whatever the order of a file and the numbering of its ids."""

import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import quick
from oracles import ranked

import diffrec_jax as dr
from diffrec_jax.data import splits
from diffrec_jax.data.events import CSR, merge
from diffrec_jax.evaluation import Standing, top_k
from diffrec_jax.evaluation.metrics import ranking_metrics
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models.baselines import EASE, Popularity, RecentPopularity
from diffrec_jax.models.item_knn import ItemKNN

MODELS = {
    "popularity": Popularity(),
    "recent popularity": RecentPopularity(),
    "item_knn": ItemKNN(neighbours=4),
    "ease": EASE(l2=5.0),
    "lightgcn": dr.LightGCN(dim=4, updates=2, triples=64),
    "diffrec": dr.DiffRec(dims=(6,), steps=2),
    "elsa": dr.ELSA(dim=4),
}


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def fit(model, train, valid=None):
    return dr.fit(model, train, valid, epochs=1, mesh=one_device())


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (2, 4), (8, 1)])
@pytest.mark.parametrize("n_items, k", [(37, 5), (37, 37), (9, 3), (60, 20)])
def test_equal_scores_go_by_place_on_any_mesh(shape, n_items, k):
    rng = np.random.default_rng(n_items)
    mesh = make_mesh(users=shape[0], items=shape[1], devices=jax.devices()[: shape[0] * shape[1]])
    place = rng.permutation(n_items).astype(np.int32)
    scores = rng.integers(0, 4, (8, n_items)).astype(np.float32)
    scores[0], scores[1] = 0.0, np.where(np.arange(n_items) % 2, 0.0, -0.0)
    scores[2, 3:] = -np.inf
    values, items = jax.jit(lambda s, p: top_k(s, k, place=p, mesh=mesh))(scores, place)
    expected = np.stack([np.lexsort((place, -row))[:k] for row in scores])
    there = np.isfinite(np.take_along_axis(scores, expected, axis=1))
    np.testing.assert_array_equal(np.where(there, items, -1), np.where(there, expected, -1))
    np.testing.assert_array_equal(values, np.take_along_axis(scores, expected, axis=1))


def test_equal_scores_of_a_long_catalogue_go_by_place():
    n_items, k, rng = 2**15 - 7, 30, np.random.default_rng(0)
    place = rng.permutation(n_items).astype(np.int32)
    scores = np.stack([rng.integers(0, 3, n_items), np.zeros(n_items), rng.normal(size=n_items)]).astype(np.float32)
    _, items = jax.jit(lambda s, p: top_k(s, k, place=p))(scores, place)
    np.testing.assert_array_equal(items, np.stack([np.lexsort((place, -row))[:k] for row in scores]))


def test_items_without_training_users_stand_behind_all_others_and_empty_histories_get_popularity():
    train = CSR.from_pairs(np.array([0, 0, 1]), np.array([1, 3, 3]), n_users=4, n_items=5)
    standing = Standing.of(np.array(list("abcde"), object), train)
    scores = jnp.asarray([[9.0, -2.0, 9.0, -5.0, 0.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    settled = np.asarray(standing.settle(scores, jnp.asarray([2, 0])))
    np.testing.assert_array_equal(settled[0], [-5, -2, -5, -5, -5])
    np.testing.assert_array_equal(settled[1], [0, 0.25, 0, 0.5, 0])
    assert set(np.argsort(standing.place)[:2]) == {1, 3}
    expected = ranked(np.asarray(scores)[:1], list("abcde"), [0, 1, 0, 2, 0])
    np.testing.assert_array_equal(top_k(jnp.asarray(settled[:1]), 5, place=standing.place)[1], expected)


def new_items_last():
    """40 users with four events each; the last one is on an item that nobody has in training."""
    users, times = np.repeat(np.arange(40), 4), np.tile(np.arange(4), 40) * 1000 + np.repeat(np.arange(40), 4)
    items = np.array([f"old{u % 5}{j}" if j < 3 else f"new{u % 20}" for u in range(40) for j in range(4)])
    return users, items, times


@pytest.mark.parametrize("name", quick(MODELS, "popularity", "ease", "lightgcn"))
def test_a_number_does_not_depend_on_the_order_of_rows_or_the_numbering_of_ids(name):
    users, items, times = new_items_last()
    found = []
    orders = [np.argsort(times, kind="stable"), np.argsort(-times), np.random.default_rng(0).permutation(len(users))]
    for order in orders:
        log = dr.Interactions.from_arrays(users[order], items[order], times=times[order])
        train, valid, test = log.split_by_time(0.5, 0.25, 0.25)
        fitted = fit(MODELS[name], train, valid)
        lists = fitted.recommend(train.user_ids[:9], k=30)
        found.append((dr.evaluate(fitted, test), lists["item"].tolist(), lists["score"].tolist()))
    first, *others = found
    for other in others:
        assert other[0].means() == first[0].means()
        assert (other[0].beyond, other[0].ties, other[1:]) == (first[0].beyond, first[0].ties, first[1:])
        for column in first[0].per_item:
            np.testing.assert_array_equal(other[0].per_item[column], first[0].per_item[column])
    # 25 items nobody has in training, 1 of them masked, share the 12 places behind the 8 known and unseen ones
    assert abs(first[0].mean("standard")["recall@20"] - 12 / 24) < 0.3
    assert first[0].ties["20"] == 40 and "40 of 40 lists of 10" in first[0].notes[-1]
    known = set(train.item_ids[np.bincount(train.items, minlength=train.n_items) > 0].tolist())
    for user in range(9):
        is_known = [item in known for item in first[1][user * 30 : (user + 1) * 30]]
        assert is_known == sorted(is_known, reverse=True)


@pytest.mark.long
def test_a_log_numbered_by_hand_gives_the_same_number():
    users, items, times = new_items_last()
    log = dr.Interactions.from_arrays(users, items, times=times)
    number = np.random.default_rng(0).permutation(log.n_items).astype(np.int32)
    ids = np.empty_like(log.item_ids)
    ids[number] = log.item_ids
    other = replace(log, items=number[log.items], item_ids=ids)
    for model in (ItemKNN(), dr.DiffRec(dims=(6,), steps=2)):
        means = []
        for data in (log, other):
            train, valid, test = data.split_by_time(0.5, 0.25, 0.25)
            means.append(dr.evaluate(fit(model, train, valid), test).means())
        assert means[0] == means[1]


@pytest.fixture(scope="module")
def with_strangers():
    """A log of which a quarter of the users begin after the first cut."""
    rng = np.random.default_rng(3)
    users = np.concatenate([rng.integers(0, 45, 700), rng.integers(45, 60, 250)])
    times = np.concatenate([rng.integers(0, 1000, 700), rng.integers(800, 1000, 250)])
    items = (40 * rng.random(950) ** 2).astype(int)
    return splits.global_time(dr.Interactions.from_arrays(users, items, times=times))


@pytest.mark.parametrize("name", quick(MODELS, "ease"))
def test_served_lists_scored_by_hand_give_the_evaluated_number(with_strangers, name):
    train, valid, test = with_strangers
    fitted = fit(MODELS[name], train, valid)
    found = dr.evaluate(fitted, test, ks=(5, 10))
    truth = test.csr()
    assert np.any(train.csr().lengths()[found.users] == 0)
    lists = fitted.recommend(test.user_ids[found.users], k=10)
    hits = np.zeros((len(found.users), 10), bool)
    for user, item, rank in zip(lists["user"], lists["item"], lists["rank"]):
        row = np.searchsorted(found.users, np.searchsorted(test.user_ids, user))
        of_user = truth.indices[truth.indptr[found.users[row]] : truth.indptr[found.users[row] + 1]]
        hits[row, rank - 1] = item in test.item_ids[of_user]
    expected = ranking_metrics(jnp.asarray(hits), jnp.asarray(truth.lengths()[found.users]), (5, 10))
    for metric, values in expected.items():
        np.testing.assert_allclose(found.per_user[metric], values, atol=1e-6, err_msg=metric)


def test_validation_is_known_by_its_pairs_and_masked_truth_is_counted_and_said():
    users = np.repeat(np.arange(30), 6)
    log = dr.Interactions.from_arrays(users, (users * 3 + np.tile(np.arange(6), 30)) % 36, times=np.arange(180))
    train, valid, test = splits.leave_one_out(log)
    fitted = fit(EASE(l2=1.0), train, valid)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = dr.evaluate(fitted, valid).mean("standard")
        for part in (valid.select(valid.users < 15), replace(valid, times=None), valid.csr()):
            found = dr.evaluate(fitted, part)
            assert found.masked == 0 and found.mean("standard")["recall@10"] > 0
        assert dr.evaluate(fitted, replace(valid, times=None)).mean("standard") == whole
        assert dr.evaluate(fitted, train).mean("standard")["recall@20"] > 0.9
        assert dr.evaluate(fitted, train.select(train.users < 9)).mean("standard")["recall@20"] > 0.9
    both = replace(
        test, **{c: np.concatenate([getattr(test, c), getattr(valid, c)[:7]]) for c in ("users", "items", "times")}
    )
    with pytest.warns(UserWarning, match="7 of 37 held-out interactions are among the seen ones"):
        assert dr.evaluate(fitted, both).masked == 7
    assert dr.evaluate(fitted, both, seen=train).masked == 0
    assert dr.evaluate(fitted, both, seen=[]).masked == 0
    with pytest.warns(UserWarning, match="30 of 30"):
        assert dr.evaluate(fitted, valid, seen=[train, valid]).mean("standard")["recall@100"] == 0.0


@pytest.mark.parametrize("ids", [np.arange(4), np.array(list("abcd"))])
def test_held_out_logs_are_known_by_their_raw_ids(ids):
    A = dr.Interactions.from_arrays
    train = A(ids[[0, 0, 1, 1, 2, 2, 3, 3]], ids[[0, 1, 2, 3, 0, 1, 2, 3]])
    test = A(ids[[3, 3, 2, 1, 0]], ids[[0, 1, 2, 1, 3]])
    fitted = fit(EASE(l2=1.0), train)
    by_hand = CSR.from_pairs(np.array([3, 3, 2, 1, 0]), np.array([0, 1, 2, 1, 3]), n_users=4, n_items=4)
    assert dr.evaluate(fitted, test, ks=(2,)).means() == dr.evaluate(fitted, by_hand, ks=(2,)).means()
    assert dr.evaluate(fitted, test, ks=(2,)).mean("standard")["recall@2"] == 1.0
    part = A(ids[[3]], ids[[1]])  # some of the users and items
    assert dr.evaluate(fitted, part, ks=(2,)).users.tolist() == [3]
    other = A(["x", "y"], ["p", "q"])
    for call in (lambda: dr.evaluate(fitted, other), lambda: fit(EASE(), train, other)):
        with pytest.raises(ValueError, match=r"2 users of (truth|valid) are not in the training data, 'x' for one"):
            call()
    numbered = fit(EASE(), train.csr())
    with pytest.raises(ValueError, match="items of truth are not in the training data, 9 for one"):
        dr.evaluate(numbered, A([0], [9]))


def test_what_is_no_log_and_no_list_of_lengths_gets_a_sentence():
    log = dr.Interactions.from_arrays([0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], times=[1, 2, 3, 4, 5, 6])
    split = splits.leave_one_out(log)
    with pytest.raises(ValueError, match="train is a Split and must be an Interactions or a CSR: take it apart"):
        dr.fit(EASE(), split)
    fitted = fit(Popularity(), split.train)
    with pytest.raises(ValueError, match=r"truth is a list and must be"):
        dr.evaluate(fitted, [1, 2])
    for ks in (20, np.int64(20), None, "20", (), np.array([], int), (0,), (True,), (2.5,), (np.nan,), {5}):
        with pytest.raises(ValueError, match="must be list lengths, whole numbers of at least 1"):
            dr.evaluate(fitted, split.test, ks=ks)
    assert "recall@2" in dr.evaluate(fitted, split.test, ks=np.array([2, 1])).per_user
    assert fitted.score([0, 1], [1, 0])["score"].tolist() == [2.0, 2.0]
    for seen, what in ((split, "Split"), (5, "int"), ([split.train, None], "NoneType"), ("train", "str")):
        with pytest.raises(ValueError, match=f"seen is a {what} and must be"):
            dr.evaluate(fitted, split.test, seen=seen)
    for other in (EASE(), fitted.recommender, None):
        with pytest.raises(ValueError, match=r"must be what fit\(model, train, valid\) returns"):
            dr.evaluate(other, split.test)
    for model in (EASE, "ease", None, split.train):
        with pytest.raises(ValueError, match=r"is a class: pass a model, as in EASE\(\)|is no model"):
            dr.fit(model, split.train)
    with pytest.raises(ValueError, match="split one log"):
        dr.evaluate(fitted, CSR.from_pairs(np.zeros(1, int), np.zeros(1, int), n_users=1, n_items=1))


def test_validation_lists_mask_training_alone_and_a_merge_keeps_both():
    a = CSR.from_pairs(np.array([0]), np.array([1]), n_users=1, n_items=3)
    b = CSR.from_pairs(np.array([0]), np.array([2]), n_users=1, n_items=3)
    assert merge(a, b).indices.tolist() == [1, 2]
