"""Noise: test untouched, seeds, counts, and which low ratings may enter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec_jax.data import noise, preprocess, splits, synthetic
from diffrec_jax.data.interactions import Interactions


def pairs(split, part):
    log = getattr(split, part)
    return list(zip(split.user_ids[log.users].tolist(), split.item_ids[log.items].tolist()))


def rated(seed=0, n_users=60, n_items=80, n=3000, times=True):
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, (n_users, n_items), (n, 2)).T
    return Interactions.from_arrays(
        users, items, times=rng.integers(0, 10**6, n) if times else None, ratings=rng.integers(1, 6, n)
    ).deduplicate()


@pytest.fixture(scope="module")
def log():
    return rated()


@pytest.fixture(scope="module")
def clean(log):
    return splits.temporal(preprocess.prepare(log, rating=4, core=3))


def test_natural_all_by_hand():
    """u likes 1, 2, 3, 4, 5 at times 10 … 50, dislikes 6 at 15 and 7 at 60 (after their test event at 50)."""
    log = Interactions.from_arrays(
        ["u"] * 7, [1, 2, 3, 4, 5, 6, 7], times=[10, 20, 30, 40, 50, 15, 60], ratings=[5, 5, 5, 5, 5, 1, 2]
    )
    split = splits.temporal(log.min_rating(4), train=0.6, valid=0.2, test=0.2)
    noisy = noise.natural(split, log, variant="all", seed=0)
    # pool in time: 1 6 2 3 4; clean train share 3 of 4, so round(3.75) = 4 of 5 to train
    assert [i for _, i in pairs(noisy, "train")] == [1, 6, 2, 3]
    assert [i for _, i in pairs(noisy, "valid")] == [4]
    assert pairs(noisy, "test") == pairs(split, "test")
    assert noisy.item_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert noisy.n_items == 6 and noisy.test.n_items == noisy.valid.n_items == 6
    note = next(n for n in noisy.notes if n.startswith("Natural noise"))
    assert "1 low ratings in train, 0 in valid, 0 clean events drawn away; train 3 -> 4, valid 1 -> 1" in note


@pytest.mark.parametrize("variant", noise.VARIANTS)
@pytest.mark.parametrize("rule", ["temporal", "leave_one_out", "global_time", "random"])
def test_natural_noise_keeps_test_and_the_promise(log, variant, rule):
    split = getattr(splits, rule)(preprocess.prepare(log, rating=4, core=3))
    noisy = noise.natural(split, log, variant=variant, seed=1)
    assert pairs(noisy, "test") == pairs(split, "test")
    before, after = splits.leakage_report(split), splits.leakage_report(noisy)
    assert after.overlap_train_test == after.overlap_valid_test == after.overlap_train_valid == 0
    if rule != "random":
        assert after.out_of_order == after.valid_after_test == before.out_of_order == 0
    if rule == "global_time":
        assert after.train_after_test == 0
    if rule == "leave_one_out":
        assert np.array_equal(np.bincount(noisy.valid.users), np.bincount(split.valid.users))

    ratings = dict(zip(zip(log.user_ids[log.users].tolist(), log.item_ids[log.items].tolist()), log.ratings))
    trained = pairs(noisy, "train") + pairs(noisy, "valid")
    was = set(pairs(split, "train") + pairs(split, "valid"))
    assert len(set(trained)) == len(trained)
    assert all(p in was or ratings[p] < 4 for p in trained)
    assert any(p not in was for p in trained)
    if variant == "all":
        assert was <= set(trained)
    else:
        sizes = [np.bincount(s.train.users, minlength=s.n_users) + np.bincount(s.valid.users, minlength=s.n_users)
                 for s in (split, noisy)]  # fmt: skip
        assert np.array_equal(*sizes)
        assert not was <= set(trained)
    assert noisy.item_ids[: split.n_items].tolist() == split.item_ids.tolist()
    assert noisy.notes[-1] == str(after)


def test_natural_noise_needs_the_rated_log(clean, log):
    with pytest.raises(ValueError, match="needs the rated log"):
        noise.apply("natural:all", clean, seed=0)
    with pytest.raises(ValueError, match="needs ratings, and this log has none"):
        noise.natural(clean, synthetic.generate(n_users=5, n_items=20), seed=0)
    with pytest.raises(ValueError, match=r"does not hold .* of the split's interactions"):
        noise.natural(clean, log.select(np.arange(len(log) // 2)), seed=0)
    with pytest.raises(ValueError, match="variant 'some' is unknown"):
        noise.natural(clean, log, variant="some", seed=0)


@pytest.mark.parametrize("times", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.37, 1.0])
def test_random_noise_adds_unknown_items_to_train_only(times, share):
    split = splits.temporal(preprocess.prepare(rated(times=times), rating=4, core=3))
    noisy = noise.random(split, share=share, seed=5)
    known = {p for part in ("train", "valid", "test") for p in pairs(split, part)}
    trained = pairs(noisy, "train")
    added = [p for p in trained if p not in known]
    assert len(added) == int(share * len(split.train) + 0.5)
    assert len(set(trained)) == len(trained)
    assert [p for p in trained if p in known] == pairs(split, "train")  # the clean ones stay, in their order
    assert pairs(noisy, "valid") == pairs(split, "valid") and pairs(noisy, "test") == pairs(split, "test")
    per_user = np.bincount(noisy.train.users) - np.bincount(split.train.users)
    assert np.abs(per_user - share * np.bincount(split.train.users)).max() <= 1
    if times:
        assert splits.leakage_report(noisy).out_of_order == 0
        assert set(zip(noisy.train.users, noisy.train.times)) == set(zip(split.train.users, split.train.times))
    assert f"{len(added):,} random events added to {len(split.train):,}" in noisy.notes[-2]


def test_noise_is_seeded(clean, log):
    for spec in ("random:0.3", "natural:similar_size"):
        one, same, other = (noise.apply(spec, clean, ratings=log, seed=s) for s in (1, 1, 2))
        assert pairs(one, "train") == pairs(same, "train") != pairs(other, "train")


@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_drawn_pairs_are_new_and_as_many_as_asked(seed, n_items, n_users):
    rng = np.random.default_rng(seed)
    known = np.flatnonzero(rng.random(n_users * n_items) < rng.random())
    held = np.bincount(known // n_items, minlength=n_users)
    need = rng.integers(0, n_items - held + 1)
    drawn = noise.draw_unknown(known, need, n_items, rng)
    assert np.array_equal(np.bincount(drawn // n_items, minlength=n_users), need)
    assert len(np.unique(drawn)) == len(drawn)
    assert not np.isin(drawn, known).any()


def test_draws_are_uniform_over_the_unknown_items():
    known = np.array([0, 1])  # user 0 knows items 0 and 1 of 10
    rng = np.random.default_rng(0)
    seen = np.zeros(10)
    for _ in range(4000):
        seen[noise.draw_unknown(known, np.array([2]), 10, rng)] += 1
    assert seen[:2].sum() == 0
    np.testing.assert_allclose(seen[2:] / 4000, 0.25, atol=0.03)


def test_a_user_who_knows_everything_gets_nothing():
    everything = Interactions.from_arrays([0] * 6 + [1, 1, 1], [0, 1, 2, 3, 4, 5, 0, 1, 2])
    split = splits.temporal(everything)
    noisy = noise.random(split, share=1.0, seed=0)
    added = np.bincount(noisy.train.users) - np.bincount(split.train.users)
    assert added.tolist() == [0, 2]


@pytest.mark.parametrize("spec", ["random:0", "random:1.5", "random:many", "random", "natural:some", "salt:0.1", ""])
def test_unknown_noise_is_refused_with_what_is_known(clean, log, spec):
    with pytest.raises(ValueError, match="use random:SHARE with a share in"):
        noise.apply(spec, clean, ratings=log, seed=0)
    with pytest.raises(ValueError, match=r"share 0 must lie in \(0, 1\]"):
        noise.random(clean, share=0, seed=0)
