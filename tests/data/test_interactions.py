"""Rows and logs: hand-worked examples and properties against dictionaries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec_jax.data import preprocess, readers, splits
from diffrec_jax.data.events import CSR, Events, merge
from diffrec_jax.data.interactions import Interactions
from diffrec_jax.data.order import row_order


def _rows(csr):
    return [csr.indices[a:b].tolist() for a, b in zip(csr.indptr[:-1], csr.indptr[1:])]


def test_rows_are_in_time_order_and_equal_times_by_item():
    csr = CSR.from_pairs(
        np.array([1, 0, 1, 1, 0]),
        np.array([4, 2, 3, 0, 1]),
        n_users=3,
        n_items=5,
        times=np.array([9, 5, 9, 2, 1]),
    )
    assert _rows(csr) == [[1, 2], [0, 3, 4], []]
    assert csr.times.tolist() == [1, 5, 2, 9, 9]
    assert csr.indptr.dtype == csr.indices.dtype == np.int32
    assert csr.times.dtype == np.int64
    assert csr.lengths().tolist() == [2, 3, 0]
    assert csr.users().tolist() == [0, 0, 1, 1, 1]
    assert (csr.n_users, csr.n_items, csr.n_interactions) == (3, 5, 5)


def test_rows_without_times_keep_file_order_and_hold_an_item_once():
    csr = CSR.from_pairs(np.array([0, 1, 0, 0]), np.array([2, 1, 0, 2]), n_users=2, n_items=3)
    assert _rows(csr) == [[2, 0], [1]]
    assert csr.times is None


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(-3, 3)), max_size=60), st.booleans())
@settings(max_examples=80, deadline=None)
def test_rows_agree_with_a_dictionary(events, timed):
    users, items, times = (np.array([e[i] for e in events], np.int64) for i in range(3))
    csr = CSR.from_pairs(users, items, n_users=6, n_items=7, times=times * 10**15 if timed else None)
    expected = [[] for _ in range(6)]
    for user, item, _ in sorted(events, key=lambda e: (e[2], e[1])) if timed else events:
        if item not in expected[user]:
            expected[user].append(item)
    assert _rows(csr) == expected


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.one_of(st.integers(0, 3), st.integers(-(2**40), 2**40)), st.integers(0, 5)),
        max_size=50,
    ),
    st.sampled_from([1, 7, 1_000_000, 2**20]),
)
@settings(max_examples=80, deadline=None)
def test_row_order_is_the_stable_three_key_sort(events, unit):
    users, items = (np.array([event[i] for event in events], np.int32) for i in (0, 2))
    times = np.array([t * unit for _, t, _ in events], np.int64)
    order = row_order(users, items, times)
    order = np.arange(len(events)) if order is None else order
    assert order.tolist() == sorted(range(len(events)), key=lambda n: (users[n], times[n], items[n], n))


def test_a_log_made_with_other_numbers_is_renumbered():
    log = Interactions(
        np.array([1, 0, 1], np.int32),
        np.array([0, 1, 2], np.int32),
        np.array([7, 3]),
        np.array(["b", "c", "a"], object),
        item_titles=np.array(["B", "C", "A"], object),
    )
    assert log.user_ids.tolist() == [3, 7]
    assert log.item_ids.tolist() == ["a", "b", "c"]
    assert log.item_titles.tolist() == ["A", "B", "C"]
    assert log.user_ids[log.users].tolist() == [3, 7, 3]
    assert log.item_ids[log.items].tolist() == ["b", "c", "a"]
    with pytest.raises(ValueError, match="user_ids hold 7 more than once"):
        Interactions(np.zeros(1, np.int32), np.zeros(1, np.int32), np.array([7, 7]), np.array([1]))


def test_merge_folds_the_second_log_in_by_time_or_behind_without_times():
    a = CSR.from_pairs(np.array([0, 0, 1]), np.array([0, 1, 2]), n_users=2, n_items=4, times=np.array([1, 5, 1]))
    b = CSR.from_pairs(np.array([0, 0]), np.array([3, 1]), n_users=2, n_items=4, times=np.array([3, 9]))
    both = merge(a, b)
    assert _rows(both) == [[0, 3, 1], [2]]
    assert both.times.tolist() == [1, 3, 5, 1]
    untimed = merge(CSR(a.indptr, a.indices, 4), b)
    assert _rows(untimed) == [[0, 1, 3], [2]]
    assert untimed.times is None


def test_merge_refuses_different_vocabularies():
    a = CSR.from_pairs(np.array([0]), np.array([0]), n_users=1, n_items=4)
    with pytest.raises(ValueError, match="must share one vocabulary"):
        merge(a, CSR.from_pairs(np.array([0]), np.array([0]), n_users=1, n_items=5))


@pytest.mark.parametrize(("users", "items", "sentence"), [
    ([0, -1], [0, 0], r"user ids must lie in \[0, 2\); found -1"),
    ([0, 1], [0, 9], r"item ids must lie in \[0, 3\); found 9"),
    ([0, 1], [0], "equally long"),
])  # fmt: skip
def test_ids_out_of_range_are_refused(users, items, sentence):
    with pytest.raises(ValueError, match=sentence):
        CSR.from_pairs(np.array(users), np.array(items), n_users=2, n_items=3)


def test_a_log_checks_its_own_arrays():
    ids = np.array(["a", "b"], object)
    with pytest.raises(ValueError, match="times has 1 entries for 2 events"):
        Interactions(np.array([0, 1]), np.array([0, 1]), ids, ids, times=np.array([1]))
    with pytest.raises(ValueError, match="1 titles for 2 items"):
        Interactions(np.array([0, 1]), np.array([0, 1]), ids, ids, item_titles=np.array(["x"], object))
    with pytest.raises(ValueError, match=r"item ids must lie in \[0, 2\); found 2"):
        Interactions(np.array([0, 1]), np.array([0, 2]), ids, ids)


def test_nothing_of_size_users_times_items_is_made():
    """100,000 x 100,000 with 300,000 events: a dense row view would be 10 GB, a key table 80 GB."""
    import tracemalloc

    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 100_000, (2, 300_000))
    tracemalloc.start()
    CSR.from_pairs(users, items, n_users=100_000, n_items=100_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


def test_what_comes_in_with_methods_goes_out_with_them():
    pairs = {"users": ["u", "u", "u", "u", "v"], "items": ["a", "b", "c", "a", "b"]}
    log = Interactions.from_arrays(**pairs)
    split = log.deduplicate().k_core(1).min_history(2).split_by_time(0.6, 0.2, 0.2)
    assert all(type(part) is Interactions for part in (log, *split, splits.leave_one_out(log).train))
    events = readers.from_arrays(**pairs)
    assert type(events) is Events and type(preprocess.k_core(events, 1)) is Events
    assert Interactions.of(log) is log
    made = Interactions.of(events)
    assert (type(made), made.notes, made.users.tolist()) == (Interactions, events.notes, log.users.tolist())
    assert (repr(events).split()[0], repr(made).split()[0]) == ("Events:", "Interactions:")
