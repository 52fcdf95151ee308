"""Masked and unmasked rankings of the same scores, and ranks in the middle of ties, against a few lines of NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax import api
from diffrec_jax.data import splits, synthetic
from diffrec_jax.data.events import merge
from diffrec_jax.data.rows import device_csr, make_rows, take_rows
from diffrec_jax.evaluation.conventions import mid_rank_metrics
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models.elsa import ELSA
from diffrec_jax.models.markov import Markov

KS = (2, 5, 10)


@pytest.fixture(scope="module")
def split():
    return splits.leave_one_out(synthetic.generate(n_users=60, n_items=25, seed=3).k_core(3))


@pytest.fixture(scope="module")
def fitted(split):
    return api.fit(Markov(), split.train, split.valid, mesh=make_mesh(devices=jax.devices()[:1]))


@pytest.fixture(scope="module")
def found(split, fitted):
    return api.evaluate(fitted, split.test, with_valid=True, ks=KS, others=True)


def truth_of(items, n_items):
    return make_rows(jnp.asarray(items, jnp.int32)[:, None], jnp.ones(len(items), jnp.int32), n_items=n_items)


def test_ranks_in_the_middle_of_ties_by_hand():
    inf = np.inf
    scores = [[5, 4, 3, 2, 1], [1, 1, 1, 1, 1], [3, 2, 2, 2, 0], [5, 4, -inf, 2, 1], [2, 3, 2, -inf, -inf]]
    metrics = mid_rank_metrics(jnp.asarray(scores, jnp.float32), truth_of([1, 4, 2, 2, 0], 5), (1, 2, 3))
    before = [1, 2, 2, inf, 1.5]  # better, and half of the equal others: a constant score is in the middle
    for k in (1, 2, 3):
        hit = np.asarray(before) < k
        np.testing.assert_array_equal(metrics[f"hit@{k}"], hit)
        np.testing.assert_allclose(
            metrics[f"ndcg@{k}"], np.where(hit, 1 / np.log2(np.asarray(before) + 2), 0), rtol=1e-6
        )


def test_every_ranking_of_one_pass_equals_its_own_definition(split, fitted, found):
    assert found.ranking == "masked" and len(found.users) == split.n_users
    assert sorted(found.others) == ["masked, mid-rank", "unmasked", "unmasked, mid-rank"]
    train, valid, test = (log.csr() for log in split)
    held = test.indices[test.indptr[found.users]]
    history = merge(train, valid)
    rows = take_rows(device_csr(history), jnp.asarray(found.users))
    raw = np.asarray(Markov().scores(fitted.params, rows))
    raw = np.where(
        np.asarray(fitted.standing.users) > 0, raw, raw[:, np.asarray(fitted.standing.users) > 0].min(1)[:, None]
    )
    masked = np.where(np.asarray(rows.dense()) > 0, -np.inf, raw)
    for name, scores in (("masked", masked), ("unmasked", raw)):
        own = scores[np.arange(len(held)), held][:, None]
        before = (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
        for k in KS:
            np.testing.assert_array_equal(found.others[f"{name}, mid-rank"][f"hit@{k}"], before < k)
    assert found.others["unmasked"].keys() == found.per_user.keys()


def test_unmasked_is_what_an_evaluation_with_nothing_masked_says(split, fitted, found):
    alone = api.evaluate(fitted, split.test, with_valid=True, ks=KS, seen=[])
    assert alone.ranking == "unmasked" and alone.others == {}
    turned = api.evaluate(fitted, split.test, with_valid=True, ks=KS, others=True, mask_seen=False)
    assert turned.ranking == "unmasked" and "masked" in turned.others and turned.masked == 0
    for name, values in found.others["unmasked"].items():
        np.testing.assert_array_equal(alone.per_user[name], values)
        np.testing.assert_array_equal(turned.per_user[name], values)
        np.testing.assert_array_equal(turned.others["masked"][name], found.per_user[name])
    assert alone.mean("official") == found.other_means()["unmasked"]["official"]


def test_ties_are_not_shared_where_several_items_are_held_out(split, fitted):
    both = api.evaluate(fitted, split.train, seen=split.valid, ks=KS, others=True)
    assert sorted(both.others) == ["unmasked"]


def test_rankings_are_the_same_on_eight_devices(split, found):
    spread = api.fit(Markov(), split.train, split.valid, mesh=make_mesh(users=4, items=2))
    for name, metrics in api.evaluate(spread, split.test, with_valid=True, ks=KS, others=True).others.items():
        for metric, values in metrics.items():
            np.testing.assert_allclose(values, found.others[name][metric], atol=1e-6, err_msg=f"{name} {metric}")


def test_validation_ranks_as_it_was_told(split):
    one = make_mesh(devices=jax.devices()[:1])
    fitted = api.fit(ELSA(dim=8), split.train, split.valid, epochs=1, eval_every=1, ks=KS, mesh=one, mask_seen=False)
    chosen_by = fitted.result.progress.best_value
    found = api.evaluate(fitted, split.valid)
    assert found.ranking == "unmasked" and chosen_by == pytest.approx(found.mean("official")["recall@20"])
    assert chosen_by != api.evaluate(fitted, split.valid, mask_seen=True).mean("official")["recall@20"]
