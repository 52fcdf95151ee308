import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import ranked

from diffrec_jax import api
from diffrec_jax.data import synthetic
from diffrec_jax.evaluation import BEYOND, beyond_accuracy
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models.baselines import EASE, Popularity


def oracle(lists, popularity, n_users):
    """The four measures from the lists themselves, one item or one entry at a time; Gini by its definition."""
    n_items = len(popularity)
    entries = np.concatenate(lists)
    counts = np.array([(entries == i).sum() for i in range(n_items)], float)
    head = sorted(range(n_items), key=lambda i: (-popularity[i], i))[: int(np.ceil(n_items / 5))]
    return {
        "coverage": len(set(entries)) / n_items,
        "gini": np.abs(counts[:, None] - counts[None, :]).sum() / (2 * n_items * counts.sum()),
        "popularity_share": np.mean([i in head for i in entries]),
        "novelty": np.mean([-np.log2(max(popularity[i], 1) / n_users) for i in entries]),
    }


def test_the_limits():
    popularity = jnp.asarray([8, 4, 0, 2, 1])
    even = beyond_accuracy(jnp.full(5, 3), popularity, 8)
    assert float(even["gini"]) == pytest.approx(0, abs=1e-7) and float(even["coverage"]) == 1
    assert float(even["popularity_share"]) == pytest.approx(0.2)
    one = beyond_accuracy(jnp.asarray([7, 0, 0, 0, 0]), popularity, 8)
    expected = {"coverage": 0.2, "gini": 0.8, "popularity_share": 1.0, "novelty": 0.0}
    assert {name: float(value) for name, value in one.items()} == pytest.approx(expected, abs=1e-6)
    nothing = beyond_accuracy(jnp.zeros(5, jnp.int32), popularity, 8)
    assert all(float(value) == 0 for value in nothing.values()) and tuple(nothing) == BEYOND


def dense(csr):
    out = np.zeros((csr.n_users, csr.n_items))
    out[csr.users(), csr.indices] = 1
    return out


@pytest.fixture(scope="module")
def split():
    return synthetic.generate(n_users=90, n_items=40, seed=2).k_core(3).split_by_time(0.7, 0.1, 0.2)


@pytest.mark.parametrize("model, shape", [(EASE(l2=50.0), (1, 1)), (Popularity(), (4, 2))])
def test_the_evaluator_equals_the_lists_themselves(split, model, shape):
    train, test = split.train.csr(), split.test.csr()
    mesh = make_mesh(users=shape[0], items=shape[1], devices=jax.devices()[: shape[0] * shape[1]])
    fitted = api.fit(model, split.train, split.valid, mesh=mesh)
    ks = (5, 40)  # lists of 40 run out of unseen items
    found = api.evaluate(fitted, split.test, ks=ks)
    popularity = np.bincount(train.indices, minlength=train.n_items)
    history = dense(train)[found.users]
    scores = history @ np.asarray(fitted.params) if isinstance(model, EASE) else np.tile(popularity, (len(history), 1))
    everybody = ranked(scores, split.item_ids, popularity, history + dense(split.valid.csr())[found.users] > 0)
    truth = {u: set(test.indices[test.indptr[u] : test.indptr[u + 1]]) for u in found.users}
    for k in ks:
        lists = [row[:k] for row in everybody]
        for name, value in oracle(lists, popularity, split.n_users).items():
            assert found.beyond[f"{name}@{k}"] == pytest.approx(value, rel=1e-5), (name, k)
        right = [i for u, row in zip(found.users, lists) for i in row if i in truth[u]]
        np.testing.assert_array_equal(found.per_item[f"hits@{k}"], np.bincount(right, minlength=train.n_items))
        np.testing.assert_array_equal(
            found.per_item[f"listed@{k}"], np.bincount(np.concatenate(lists), minlength=train.n_items)
        )
    np.testing.assert_array_equal(found.per_item["popularity"], popularity)
    np.testing.assert_array_equal(found.per_item["truth"], np.bincount(test.indices, minlength=train.n_items))


def test_a_validation_does_not_count_lists(split):
    fitted = api.fit(Popularity(), split.train, split.valid)
    evaluator = api.Evaluator(
        fitted.model,
        history=fitted.train,
        seen=fitted.train,
        truth=fitted.valid,
        standing=fitted.standing,
        mesh=fitted.mesh,
    )
    found = evaluator(fitted.params)
    assert found.per_user and not found.beyond and not found.per_item
