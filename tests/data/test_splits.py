"""Splits: counts by hand, nothing lost or invented, order where promised, and the leakage check by brute force."""

import datetime
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec_jax.data import splits
from diffrec_jax.data.interactions import Interactions

RULES = {
    "temporal": splits.temporal,
    "leave_one_out": splits.leave_one_out,
    "global_time": splits.global_time,
    "random": splits.random,
    "diffrec": lambda log: splits.diffrec(log, rating=None, core=0),
}


def single_user(n, **columns):
    return Interactions.from_arrays(["u"] * n, list(range(n)), times=[100 * (n - k) for k in range(n)], **columns)


def counts(split):
    return tuple(map(len, split))


@pytest.mark.parametrize(("n", "expected"), [
    (3, (2, 0, 1)), (4, (3, 0, 1)), (5, (4, 0, 1)), (6, (4, 1, 1)), (7, (5, 1, 1)), (10, (7, 1, 2)), (20, (14, 2, 4)),
    (100, (70, 10, 20)),
])  # fmt: skip
def test_temporal_counts(n, expected):
    assert counts(splits.temporal(single_user(n))) == expected


@pytest.mark.parametrize("n", [10, 30, 90, 1000])
def test_temporal_takes_the_earliest_first(n):
    train, valid, test = splits.temporal(single_user(n))  # item k has time 100 (n - k): the last item comes first
    assert [*train.items, *valid.items, *test.items] == list(range(n - 1, -1, -1))


@pytest.mark.parametrize(("n", "expected"), [
    # train int(0.7 n) + 1, valid ceil(0.2 n) - 1, test the middle rest; 0.7 * 90 is 62.99… in float64
    (10, (8, 1, 1)), (11, (8, 2, 1)), (13, (10, 2, 1)), (20, (15, 3, 2)), (90, (63, 17, 10)), (100, (71, 19, 10)),
])  # fmt: skip
def test_diffrec_counts(n, expected):
    assert counts(splits.diffrec(single_user(n), rating=None, core=0)) == expected


def test_the_diffrec_recipe_on_a_log_worked_out_by_hand():
    """Two users, ten items both like, one low rating and one item only one of them met.

    Ratings >= 4 drop (v, 10); the 10-core drops item 11 (one event) and, at k = 2, nothing else. Ten events per user:
    int(7.0) + 1 = 8 to train, ceil(2.0) - 1 = 1, the last, to valid, the ninth to test.
    """
    users = ["u"] * 11 + ["v"] * 11
    items = [*range(10), 11, *reversed(range(10)), 10]
    ratings = [4] * 11 + [5] * 10 + [3]
    log = Interactions.from_arrays(users, items, times=list(range(22)), ratings=ratings)
    split = splits.diffrec(log, rating=4, core=2)
    assert split.item_ids.tolist() == list(range(10))
    rows = {
        part: [[int(split.item_ids[i]) for i in log.items[log.users == u]] for u in (0, 1)]
        for part, log in zip(("train", "valid", "test"), split)
    }
    assert rows == {
        "train": [[0, 1, 2, 3, 4, 5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 2]],
        "test": [[8], [1]],
        "valid": [[9], [0]],
    }
    assert "validation events are later than its test events" in split.guarantee
    assert splits.leakage_report(split).valid_after_test == 2
    assert [report.name for report in split.train.provenance] == ["min_rating(4)", "deduplicate(first)", "k_core(2)"]


def test_leave_one_out_and_short_users():
    log = Interactions.from_arrays(
        ["u", "u", "u", "u", "v", "v", "w"], [1, 2, 3, 4, 1, 2, 1], times=[1, 2, 3, 4, 1, 2, 1]
    )
    split = splits.leave_one_out(log)
    assert split.item_ids[split.test.items].tolist() == [4]
    assert split.item_ids[split.valid.items].tolist() == [3]
    assert counts(split) == (5, 1, 1)
    assert "2 of 3 users have fewer than 3 events; all of theirs are in train." in split.notes


def test_global_time_keeps_ties_together_and_counts_cold_users():
    log = Interactions.from_arrays(
        list("aaaaabbbcc"), [1, 2, 3, 4, 5, 1, 2, 6, 7, 1], times=[1, 2, 3, 4, 5, 6, 7, 7, 9, 9]
    )
    split = splits.global_time(log)
    assert counts(split) == (6, 2, 2)
    assert split.train.times.max() < split.valid.times.min() < split.test.times.min()
    report = splits.leakage_report(split)
    assert (report.cold_users, report.cold_items, report.cold_item_events) == (1, 1, 1)
    with pytest.raises(ValueError, match="leaves train or test empty: too many of the 3 events share one time"):
        splits.global_time(Interactions.from_arrays([1, 1, 1], [1, 2, 3], times=[5, 5, 5]))
    with pytest.raises(ValueError, match="'global_time' needs times"):
        splits.global_time(Interactions.from_arrays([1, 1, 1], [1, 2, 3]))


CLICKS = ["2020-01-30", "2020-01-31T23:59:59Z", "2020-02-01", "2020-02-02", "2020-03-01 10:00:00 UTC", "2020-03-02"]


def clicks():
    stamps = [np.datetime64(text.removesuffix("Z").removesuffix(" UTC"), "s") for text in CLICKS]
    return Interactions.from_arrays(list("abcabc"), range(6), times=np.array(stamps))


@pytest.mark.parametrize(("cuts", "expected"), [
    (["2020-02-01", "2020-03-01"], [[0, 1], [2, 3], [4, 5]]),
    (["2020-02-01"], [[0, 1], [], [2, 3, 4, 5]]),
    (["2020-02-01T00:00:01+00:00", "2020-03-02"], [[0, 1, 2], [3, 4], [5]]),
    ([datetime.date(2020, 2, 1), np.datetime64("2020-03-01T10:00:00")], [[0, 1], [2, 3], [4, 5]]),
    ([1_580_515_200], [[0, 1], [], [2, 3, 4, 5]]),
])  # fmt: skip
def test_global_time_cuts_where_it_is_told(cuts, expected):
    split = splits.global_time(clicks(), cuts=cuts)
    assert [sorted(split.item_ids[part.items].tolist()) for part in split] == expected
    assert any(note.startswith("Cut at 2020-02-01T00:00:0") for note in split.notes)
    assert any("no validation part" in note for note in split.notes) == (len(cuts) == 1)


@pytest.mark.parametrize(("cuts", "sentence"), [
    (["2020-03-01", "2020-02-01"], "cuts 2020-03-01 and 2020-02-01 are not in order"),
    (["2020-03-01", "2020-03-01"], "not in order"),
    (["soon"], "the cut 'soon' is no time: write it like 2020-01-31"),
    ([20200201], "the cut '20200201' is no time"),
    ([None], "no time"),
    ([object()], "no time"),
    ([], "one moment, which begins test, or two"),
    ("2020-03-01", "one moment"),
    (["2021-01-01"], "leaves 6 events to train, 0 to valid and 0 to test: cut within the log, from 2020-01-30T00"),
    (["2019-01-01", "2020-02-01"], "leaves 0 events to train"),
    (["2020-02-03", "2020-02-04"], "leaves 4 events to train, 0 to valid and 2 to test"),
])  # fmt: skip
def test_cuts_that_cut_nothing_are_refused(cuts, sentence):
    with pytest.raises(ValueError, match=sentence):
        splits.global_time(clicks(), cuts=cuts)


def test_as_given_needs_no_validation():
    train, test = Interactions.from_arrays(["u", "v"], [10, 20]), Interactions.from_arrays(["v"], [10])
    split = splits.as_given(train, None, test)
    assert counts(split) == (2, 0, 1) and split.valid.n_users == split.n_users == 2


def test_random_is_seeded_and_has_the_sizes_of_temporal():
    log = single_user(40)
    one, same, other = (splits.random(log, seed=s) for s in (3, 3, 4))
    assert counts(one) == counts(splits.temporal(log))
    assert one.train.items.tolist() == same.train.items.tolist() != other.train.items.tolist()
    assert "seed 3" in one.guarantee


def test_without_times_file_order_is_the_order_and_is_said():
    split = splits.temporal(Interactions.from_arrays(["u"] * 10, list(range(10))))
    assert split.test.items.tolist() == [8, 9]
    assert "file order (the log has no times)" in split.guarantee
    assert splits.leakage_report(split).ties is None


def test_as_given_brings_three_vocabularies_together():
    train = Interactions.from_arrays(["u", "v"], [10, 20], item_titles={10: "ten", 20: "twenty"})
    valid = Interactions.from_arrays(["v"], [30])
    test = Interactions.from_arrays(["w", "u"], [10, 40])
    split = splits.as_given(train, valid, test)
    assert split.user_ids.tolist() == ["u", "v", "w"]
    assert split.item_ids.tolist() == [10, 20, 30, 40]
    assert split.item_titles.tolist() == ["ten", "twenty", "", ""]
    assert split.user_ids[split.test.users].tolist() == ["w", "u"]
    assert split.item_ids[split.test.items].tolist() == [10, 40]
    assert splits.leakage_report(split).cold_users == 1


def test_logs_of_whole_numbers_and_of_text_share_ids_as_text():
    train = Interactions.from_arrays(["1", "x"], ["10", "20"])
    split = splits.as_given(train, Interactions.from_arrays([1], [20]), Interactions.from_arrays([12], ["10"]))
    assert split.user_ids[split.valid.users].tolist() == ["1"]
    assert split.item_ids[split.valid.items].tolist() == ["20"]
    assert (split.n_users, split.n_items) == (3, 2)
    digits = [Interactions.from_arrays([str(n)], ["7"]) for n in range(3)]
    assert sorted(splits.as_given(*digits).user_ids.tolist()) == ["0", "1", "2"]


@pytest.mark.parametrize("shares", [(0.7, 0.1, 0.1), (0, 0.5, 0.5), (0.9, 0.1, 0.0), (1.2, -0.4, 0.2)])
def test_shares_that_make_no_split_are_refused(shares):
    with pytest.raises(ValueError, match="the three add up to 1"):
        single_user(20).split_by_time(*shares)


def test_a_log_too_short_for_any_test_event_is_refused():
    with pytest.raises(ValueError, match="leaves valid and test empty"):
        splits.temporal(Interactions.from_arrays(["u", "v"], [1, 2], times=[1, 2]))


def test_titles_and_times_travel():
    log = Interactions.from_arrays(["u"] * 5, [1, 2, 3, 4, 5], times=[1, 2, 3, 4, 5], item_titles={1: "one"})
    split = log.split_by_time(0.6, 0.2, 0.2)
    assert split.item_titles.tolist() == ["one", "2", "3", "4", "5"]
    assert split.test.times.tolist() == [5_000_000]


events = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 8), st.integers(0, 12)),
    min_size=8,
    max_size=80,
    unique_by=lambda e: e[:2],
)


@pytest.mark.parametrize("rule", sorted(RULES))
@given(events=events)
@settings(max_examples=60, deadline=None)
def test_no_event_is_lost_or_invented_and_promises_hold(rule, events):
    users, items, times = zip(*((f"u{u}", f"i{i}", t) for u, i, t in events))
    log = Interactions.from_arrays(users, items, times=times)
    try:
        split = RULES[rule](log)
    except ValueError as error:
        assert "empty" in str(error)
        return

    def raw(part):
        return zip(split.user_ids[part.users], split.item_ids[part.items], part.times)

    together = Counter(entry for part in split for entry in raw(part))
    assert together == Counter((f"u{u}", f"i{i}", t * 1_000_000) for u, i, t in events)
    report = splits.leakage_report(split)
    _assert_report(split, report)
    assert str(report) == split.notes[-1]
    if rule in ("temporal", "leave_one_out"):
        assert report.out_of_order == report.valid_after_test == 0
    if rule == "global_time":
        assert report.train_after_test == report.out_of_order == report.valid_after_test == report.ties == 0


def _assert_report(split, report):
    """The check against dictionaries of sets."""
    train, valid, test = ({(u, i): t for u, i, t in zip(p.users, p.items, p.times)} for p in split)
    assert report.overlap_train_test == len(train.keys() & test.keys())
    assert report.overlap_train_valid == len(train.keys() & valid.keys())
    assert report.overlap_valid_test == len(valid.keys() & test.keys())
    assert report.cold_users == len({u for u, _ in test} - {u for u, _ in train})
    cold = {i for _, i in test} - {i for _, i in train}
    assert (report.cold_items, report.cold_item_events) == (len(cold), sum(i in cold for _, i in test))
    assert report.train_after_test == sum(t > min(test.values()) for t in train.values())
    users = range(split.n_users)
    times = [[[t for (v, _), t in p.items() if v == u] for p in (train, valid, test)] for u in users]
    assert report.out_of_order == sum(bool(a and b + c and max(a) > min(b + c)) for a, b, c in times)
    assert report.valid_after_test == sum(bool(b and c and max(b) > min(c)) for a, b, c in times)
    ties = [(a and b + c and max(a) == min(b + c)) or (b and c and max(b) == min(c)) for a, b, c in times]
    assert report.ties == sum(map(bool, ties))


def test_overlaps_are_counted():
    a = Interactions.from_arrays([0, 0, 1], [0, 1, 0])
    report = splits.leakage_report(splits.as_given(a, a, Interactions.from_arrays([0, 1], [1, 1])))
    assert (report.overlap_train_valid, report.overlap_train_test, report.overlap_valid_test) == (3, 1, 1)


def test_a_large_log_is_split_in_vectorised_time():
    rng = np.random.default_rng(0)
    users, items, times = rng.integers(0, (50_000, 20_000, 10**9), (500_000, 3)).T
    split = Interactions.from_arrays(users, items, times=10**9 + times).deduplicate().k_core(5).split_by_time()
    assert splits.leakage_report(split).out_of_order == 0
