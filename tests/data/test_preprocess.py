"""Filters: hand-worked logs, reports, and k-core as a fixed point."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec_jax.data import preprocess
from diffrec_jax.data.interactions import Interactions


def log(pairs, times=None, ratings=None):
    users, items = zip(*pairs)
    return Interactions.from_arrays(list(users), list(items), times=times, ratings=ratings)


def pairs_of(data):
    return list(zip(data.user_ids[data.users].tolist(), data.item_ids[data.items].tolist()))


def test_min_rating_keeps_order_and_reports():
    data = log([("u", "a"), ("v", "b"), ("u", "c")], ratings=[4, 3, 5]).min_rating(4)
    assert pairs_of(data) == [("u", "a"), ("u", "c")]
    assert data.user_ids.tolist() == ["u"]
    assert data.ratings.tolist() == [4, 5]
    assert str(data.provenance[0]) == "min_rating(4): 3 -> 2 events, 2 -> 1 users, 3 -> 2 items"


def test_min_rating_without_ratings_says_so():
    with pytest.raises(ValueError, match="needs ratings and this log has none"):
        log([("u", "a")]).min_rating(4)


@pytest.mark.parametrize(("keep", "expected"), [("first", [3, 2, 4]), ("last", [9, 2, 4])])
def test_duplicates_are_first_or_last_in_time_not_in_file(keep, expected):
    pairs = [("u", "a"), ("u", "a"), ("v", "b"), ("u", "b")]
    data = log(pairs, times=[9, 3, 2, 4]).deduplicate(keep)
    assert sorted((data.times // 1_000_000).tolist()) == sorted(expected)
    assert len(data) == 3


def test_duplicates_without_times_are_first_or_last_in_the_file():
    data = log([("u", "a"), ("u", "b"), ("u", "a")], ratings=[1, 2, 3])
    assert data.deduplicate("first").ratings.tolist() == [1, 2]
    assert data.deduplicate("last").ratings.tolist() == [2, 3]
    with pytest.raises(ValueError, match="keep must be 'first' or 'last'"):
        data.deduplicate("any")


def test_the_last_rating_of_a_pair_decides_and_the_first_that_passes_is_kept():
    data = log([("u", "a"), ("u", "a"), ("u", "b"), ("u", "b"), ("v", "a")], [1, 2, 3, 4, 5], [5, 1, 1, 5, 4])
    assert pairs_of(preprocess.prepare(data, rating=4, duplicates="last")) == [("u", "b"), ("v", "a")]
    first = preprocess.prepare(data, rating=4, duplicates="first")
    assert pairs_of(first) == [("u", "a"), ("u", "b"), ("v", "a")]
    assert first.ratings.tolist() == [5, 5, 4]
    with pytest.raises(ValueError, match=r"min_rating\(4\) left no events"):
        preprocess.prepare(log([("u", "a")] * 2, ratings=[5, 1]), rating=4, duplicates="last")


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=60))
@settings(max_examples=80, deadline=None)
def test_deduplicate_agrees_with_a_dictionary(events):
    data = log([e[:2] for e in events], times=[e[2] for e in events], ratings=list(range(len(events))))
    for keep in ("first", "last"):
        best = {}
        best_rated = 1 if keep == "last" else -1  # of one moment
        for n in sorted(range(len(events)), key=lambda n: (events[n][2], best_rated * n)):
            if keep == "last" or events[n][:2] not in best:
                best[events[n][:2]] = n
        assert data.deduplicate(keep).ratings.astype(int).tolist() == sorted(best.values())


def test_k_core_by_hand():
    # c has one event; without it w has one; the rest is a 2-core.
    data = log([("u", "a"), ("u", "b"), ("v", "a"), ("v", "b"), ("w", "a"), ("w", "c")]).k_core(2)
    assert pairs_of(data) == [("u", "a"), ("u", "b"), ("v", "a"), ("v", "b")]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=120), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_k_core_is_the_largest_fixed_point(events, k):
    data = log(events)
    alive = list(set(events))  # the slow way; a repeated pair counts once
    while True:
        kept = [e for e in alive if sum(f[0] == e[0] for f in alive) >= k and sum(f[1] == e[1] for f in alive) >= k]
        if len(kept) == len(alive):
            break
        alive = kept
    if not alive:
        with pytest.raises(ValueError, match=rf"k_core\({k}\) left no events"):
            data.k_core(k)
        return
    core = data.k_core(k)
    assert pairs_of(core) == [event for event in events if event in alive]
    assert sorted(pairs_of(core.deduplicate())) == sorted(alive)
    again = core.k_core(k)
    assert pairs_of(again) == pairs_of(core)
    assert (again.n_users, again.n_items) == (core.n_users, core.n_items)


def test_min_history_looks_once():
    data = log([("u", "a"), ("u", "b"), ("v", "a")]).min_history(2)
    assert pairs_of(data) == [("u", "a"), ("u", "b")]


def test_the_filter_that_empties_the_log_is_named_with_what_came_before():
    data = log([("u", "a"), ("v", "b")], ratings=[5, 1])
    with pytest.raises(ValueError, match=r"k_core\(2\) left no events: it removed all 1 .*min_rating\(4\): 2 -> 1"):
        preprocess.prepare(data, rating=4, core=2)


def test_titles_follow_their_items():
    data = Interactions.from_arrays([1, 1, 2], [10, 11, 11], item_titles={10: "ten", 11: "eleven"})
    kept = data.min_history(2).deduplicate().k_core(1)
    assert dict(zip(kept.item_ids.tolist(), kept.item_titles)) == {10: "ten", 11: "eleven"}
    assert data.select(np.array([False, False, True])).min_history(1).item_titles.tolist() == ["eleven"]


@pytest.mark.parametrize("call", [lambda d: d.k_core(0), lambda d: d.min_history(0)])
def test_thresholds_below_one_are_refused(call):
    with pytest.raises(ValueError, match="must be at least 1"):
        call(log([("u", "a")]))
