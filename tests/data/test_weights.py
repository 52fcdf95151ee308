"""What a log says that an event counts, on its way from a column to the rows that models read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffrec_jax as dr
from diffrec_jax.data.events import CSR, checksum, merge
from diffrec_jax.data.forecast import cut, future_weights, shown_and_asked
from diffrec_jax.data.interactions import Interactions
from diffrec_jax.data.noise import random
from diffrec_jax.data.packed import take_packed
from diffrec_jax.data.recency import Recency, weights_of
from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.data.walks import product
from diffrec_jax.models import Popularity

U, I = 12, 30


@pytest.fixture(scope="module")
def log():
    """A log in no order at all, every event with a weight that tells it apart."""
    rng = np.random.default_rng(0)
    pairs = rng.permutation(U * I)[:150]
    users, items = [f"u{p // I:02}" for p in pairs], [f"i{p % I:02}" for p in pairs]
    times = 1_600_000_000 + 86_400 * rng.permutation(len(pairs))
    return Interactions.from_arrays(users, items, times=times, weights=1.0 + np.arange(len(pairs)) / 8)


def by_pair(users, items, weights):
    return {(u, i): w for u, i, w in zip(users.tolist(), items.tolist(), weights.tolist())}


def test_every_event_keeps_its_own_through_filters_splits_and_rows(log):
    log = log.k_core(3)
    own = by_pair(log.users, log.items, log.weights)
    for part in log.split_by_time(0.6, 0.2, 0.2):
        csr = part.csr()
        found = by_pair(csr.users(), csr.indices, csr.weights)
        assert len(found) == len(part) and all(own[pair] == weight for pair, weight in found.items())
    train, valid, _ = (part.csr() for part in log.split_by_time(0.6, 0.2, 0.2))
    both = merge(train, valid)
    assert all(own[pair] == w for pair, w in by_pair(both.users(), both.indices, both.weights).items())
    of_train = merge(train, dataclasses.replace(valid, weights=None))
    assert sorted(of_train.weights) == sorted([*train.weights, *np.ones(len(valid.indices))])
    assert checksum(train) != checksum(dataclasses.replace(train, weights=None))


@pytest.mark.parametrize("recency", [None, Recency(w_min=0.2), Recency(kernel="exponential", half_life=9.0)])
def test_rows_hold_the_product_with_recency_padded_packed_and_on_the_host(log, recency):
    csr = log.csr()
    plain = CSR(csr.indptr, csr.indices, I, csr.times)
    expected = np.zeros((U, I), np.float32)
    expected[csr.users(), csr.indices] = csr.weights * weights_of(plain, recency)
    np.testing.assert_allclose(weights_of(csr, recency), expected[csr.users(), csr.indices], rtol=1e-6)
    rows = take_rows(device_csr(csr), jnp.arange(U), recency=recency)
    np.testing.assert_allclose(rows.dense(), expected, rtol=1e-5)
    np.testing.assert_array_equal(take_rows(device_csr(csr, timeless=True), jnp.arange(U)).weights.max(), 1.0)
    packed = take_packed(device_csr(csr), jnp.arange(U), recency=recency)
    np.testing.assert_allclose(product(packed, jnp.eye(I)), expected, rtol=1e-5)


def test_pasts_and_futures_are_weighed_by_the_log_too(log):
    """Padded, packed and on the host; each entry is the kernel's weight of its event times the log's."""
    csr, recency, key = log.csr(), Recency(w_min=0.2), jax.random.key(0)
    model = dr.DiffRec(recency=recency, forecast=3.0)
    weighed, plain = (device_csr(each) for each in (csr, dataclasses.replace(csr, weights=None)))
    own = take_rows(weighed, jnp.arange(U)).dense()
    padded = shown_and_asked(model, take_rows(weighed, jnp.arange(U), recency=recency), key)
    packed = shown_and_asked(model, take_packed(weighed, jnp.arange(U), recency=recency), key)
    unweighed = shown_and_asked(model, take_rows(plain, jnp.arange(U), recency=recency), key)
    for by_rows, by_pieces, before in zip(padded, packed, unweighed):
        np.testing.assert_allclose(by_rows.dense(), before.dense() * own, rtol=1e-5)
        np.testing.assert_allclose(product(by_pieces, jnp.eye(I)), by_rows.dense(), rtol=1e-5)
    past, future = cut(csr, 0.5)
    assert sorted([*past.weights, *future.weights]) == sorted(csr.weights)
    fading = future_weights(dataclasses.replace(future, weights=None), 3.0)
    np.testing.assert_allclose(future_weights(future, 3.0), fading * future.weights, rtol=1e-6)


def test_a_random_event_counts_what_the_event_beside_it_counts(log):
    split = log.split_by_time(0.6, 0.2, 0.2)
    noisy = random(split, share=0.5, seed=0)
    assert len(noisy.train) > len(split.train) and set(noisy.train.weights) == set(split.train.weights)


def test_of_a_repeated_pair_the_event_that_is_kept_keeps_its_own():
    """Nothing is known yet of what came later; of one moment it is the weightiest, whatever the order of rows."""
    views = {"users": ["a"] * 4 + ["b"], "items": ["x", "x", "x", "y", "x"], "times": [1, 1, 3, 2, 1]}
    columns = [*views.values(), [1.0, 2.0, 5.0, 1.0, 1.0]]
    for order in ([0, 1, 2, 3, 4], [4, 2, 1, 0, 3]):
        users, items, times, weights = (np.array(column)[order].tolist() for column in columns)
        log = Interactions.from_arrays(users, items, times=times, weights=weights)
        assert log.csr().weights.tolist() == [2.0, 1.0, 1.0]
        first, last = log.deduplicate(), log.deduplicate("last")
        assert first.csr().weights.tolist() == [2.0, 1.0, 1.0] and last.csr().weights.tolist() == [1.0, 5.0, 1.0]
        assert first.notes[-1] == (
            "weights: 1 events weigh more than the first of their pair, which is the one kept; duplicates=last keeps "
            "the newest."
        )
        assert not any(note.startswith("weights") for note in last.notes)
        assert log.keep_repeats().csr().weights.tolist() == [2.0, 1.0, 1.0, 5.0, 1.0]


@pytest.mark.parametrize(
    "weights, said",
    [
        (
            [1.0, 0.0, -2.0],
            r"row 2: weight 0 in column 'weight' must be above 0: drop the 2 events that count for noth",
        ),
        ([1.0, -2.0, 1.0], "row 2: weight -2 in column 'weight' must be above 0: drop the 1 events"),
        ([1.0, None, 1.0], r"row 2: None in column 'weight' is not a weight \(a number above 0\)"),
        ([1.0, float("inf"), 1.0], r"row 2: inf in column 'weight' is not a weight"),
        (["1", "2", "much"], r"row 3: 'much' in column 'weight' is not a weight"),
        ([1.0, 2.0], r"3 users but 2 weight values"),
    ],
)
def test_weights_that_are_none_are_refused(weights, said):
    with pytest.raises(ValueError, match=said):
        Interactions.from_arrays(["a", "b", "c"], ["x", "y", "z"], weights=weights)


def test_fitting_reads_them_and_says_so_where_a_model_does_not(log):
    counts = np.bincount(log.items, log.weights)
    np.testing.assert_allclose(dr.fit(Popularity(), log).params, counts, rtol=1e-6)
    with pytest.warns(UserWarning, match="Markov does not weigh events: the weights of train are left aside"):
        dr.fit(dr.Markov(), log)
