"""A catalogue ranked a block at a time against the same catalogue ranked at once, and samples of users."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffrec_jax as dr
from diffrec_jax.data import synthetic
from diffrec_jax.evaluation import evaluator, streaming
from diffrec_jax.evaluation.ranking import top_k
from diffrec_jax.evaluation.standing import Standing
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.mesh import make_mesh
from diffrec_jax.training import Observer

B, I, V, K = 6, 83, 4, 9


@pytest.mark.parametrize("block", [7, 20, 83, 200])
@pytest.mark.parametrize("whole_numbers", [False, True])  # of which many are equal
def test_lists_are_those_of_the_whole_catalogue(block, whole_numbers, monkeypatch):
    monkeypatch.setattr(streaming, "BLOCK", block)
    rng = np.random.default_rng(0)
    users, items = (jnp.asarray(rng.normal(size=(n, V)), jnp.float32) for n in (B, I))
    if whole_numbers:
        users, items = jnp.round(users), jnp.round(items)
    counts = jnp.asarray(rng.integers(0, 4, I), jnp.int32)
    place = np.lexsort((rng.random(I), np.asarray(counts) == 0)).argsort().astype(np.int32)
    standing = Standing(place=jnp.asarray(place), users=counts, share=counts / 10.0, all_known=False)
    lengths = jnp.asarray([3, 0, 1, 2, 5, 1], jnp.int32)
    hidden = jnp.asarray(np.where(rng.random((B, 12)) < 0.8, rng.integers(0, I, (B, 12)), I), jnp.int32)
    allowed = jnp.asarray(rng.random(I) < 0.7)
    scores = standing.settle(users @ items.T, lengths)
    masked = scores.at[jnp.arange(B)[:, None], hidden].set(-jnp.inf, mode="drop")
    for allow, ks in ((None, K), (allowed, I)):
        rest = {"hidden": {"masked": hidden, "unmasked": None}, "allowed": allow}
        found = streaming.streamed_top_k(users, items, lengths, standing, ks, **rest)
        for name, every in (("masked", masked), ("unmasked", scores)):
            every = every if allow is None else jnp.where(allow[None, :], every, -jnp.inf)
            values, numbers = top_k(every, ks, place=standing.place)
            np.testing.assert_allclose(found[name][0], values, rtol=1e-5, atol=1e-6)
            listed = np.asarray(values) > -np.inf
            np.testing.assert_array_equal(np.asarray(found[name][1])[listed], np.asarray(numbers)[listed])


@pytest.fixture(scope="module")
def fitted():
    split = synthetic.generate(n_users=80, n_items=90, seed=2).split_by_time(0.7, 0.1, 0.2)
    mesh = make_mesh(devices=jax.devices()[:1])
    options = {"epochs": 2, "batch_size": 20, "seed": 1, "mesh": mesh}
    return split, dr.fit(dr.DiffRec(dims=(6,), steps=3, guidance=0.3), split.train, split.valid, **options)


def test_evaluation_and_lists_do_not_change(fitted, monkeypatch):
    split, fitted = fitted
    users = list(split.user_ids[:20])
    whole, lists = dr.evaluate(fitted, split.test, ks=(5, 20), others=True), fitted.recommend(users, k=7)
    monkeypatch.setattr(streaming, "LARGE", 1)
    monkeypatch.setattr(streaming, "BLOCK", 32)
    streamed = dr.evaluate(fitted, split.test, ks=(5, 20), others=True)
    for name, values in whole.per_user.items():
        np.testing.assert_allclose(streamed.per_user[name], values, atol=1e-6, err_msg=name)
    assert streamed.per_item.keys() == whole.per_item.keys() and streamed.others.keys() == whole.others.keys()
    for name, found in whole.others.items():
        np.testing.assert_allclose(streamed.others[name]["ndcg@20"], found["ndcg@20"], atol=1e-6)
    assert streamed.beyond == pytest.approx(whole.beyond)
    anew = dataclasses.replace(fitted).recommend(users, k=7)
    assert list(anew["item"]) == list(lists["item"]) and np.allclose(anew["score"], lists["score"], atol=1e-5)


def test_a_sample_ranks_some_users_exactly_and_says_so(fitted, monkeypatch):
    split, fitted = fitted
    whole, part = (dr.evaluate(fitted, split.test, ks=(5, 20), sample=sample) for sample in (0, 30))
    assert len(part.users) == 30 and set(part.users) < set(whole.users)
    same = np.isin(whole.users, part.users)
    np.testing.assert_allclose(part.per_user["recall@20"], whole.per_user["recall@20"][same], atol=1e-6)
    share = len(whole.users) / whole.n_users
    assert part.mean("official")["recall@20"] == pytest.approx(part.per_user["recall@20"].mean() * share, rel=0.02)
    note = next(note for note in part.notes if "sample" in note)
    assert f"30 of the {len(whole.users)} users" in note and "recall@20 ± 0.0" in note
    assert [n for n in whole.notes if "sample" in n] == []
    with pytest.raises(ValueError, match=r"a sample of 500 users is more than the .* choose fewer, or 0 for all"):
        dr.evaluate(fitted, split.test, sample=500)
    half = part.per_user["recall@20"].std(ddof=1) / 30**0.5 * (1 - 30 / len(whole.users)) ** 0.5 * 1.96 * share
    assert f"recall@20 ± {half:.4f}" in note or f"recall@20 ± {half - 1e-4:.4f}" in note


class Told(Observer):
    def __init__(self):
        self.sentences = []

    def decided(self, sentence):
        self.sentences.append(sentence)


def test_validation_takes_a_sample_where_everybody_would_take_too_long(fitted):
    split, _ = fitted
    options = FitOptions()
    assert options.users_to_validate(30_000, 40_000) == 0
    assert options.users_to_validate(10**6, 10**6) == 2**34 // 10**6
    assert options.users_to_validate(900, 10**9) == 0 and options.users_to_validate(5_000, 10**9) == 1_000
    assert FitOptions(valid_users=7).users_to_validate(30, 40) == 7
    told = Told()
    few = dr.fit(dr.DiffRec(dims=(6,)), split.train, split.valid, epochs=1, valid_users=9, observer=told)
    assert told.sentences[0].startswith("output=gram: a step takes")
    assert told.sentences[1].startswith("validation: a sample is ranked: 9 of the ") and len(told.sentences) == 2
    assert len(few.validation(few.stored).users) == 9


def test_scores_of_a_large_catalogue_come_in_smaller_batches(fitted, monkeypatch):
    split, fitted = fitted
    monkeypatch.setattr(evaluator, "SCORES_AT_ONCE", 300)
    whole = dr.evaluate(fitted, split.test, ks=(5,))
    monkeypatch.undo()
    np.testing.assert_allclose(
        whole.per_user["recall@5"], dr.evaluate(fitted, split.test, ks=(5,)).per_user["recall@5"]
    )
