"""No part of a split depends on the order of the rows of a log, nor on how its ids are numbered."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec_jax.data import events, noise, preprocess, splits
from diffrec_jax.data.interactions import Interactions
from diffrec_jax.data.order import id_order

RULES = {
    "temporal": splits.temporal,
    "leave_one_out": splits.leave_one_out,
    "global_time": splits.global_time,
    "random": splits.random,
    "diffrec": lambda log: splits.diffrec(log, rating=3.0, core=0),
    "random noise": lambda log: noise.random(splits.temporal(log), share=0.5, seed=1),
    "natural noise": lambda log: noise.natural(
        splits.temporal(preprocess.prepare(log, rating=3.0)), log, variant="similar_size", threshold=3.0, seed=1
    ),
}
EVENTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 6), st.integers(1, 5)), min_size=12, max_size=80
)


def log_of(events, order):
    users, items, times, ratings = (np.array([events[n][i] for n in order]) for i in range(4))
    return Interactions.from_arrays(
        np.char.add("u", users.astype(str)), np.char.add("i", items.astype(str)), times=times, ratings=ratings
    )


def content(split):
    """Everything a model sees of a split, in raw ids."""
    parts = []
    for log in split:
        rows = log.csr()
        times = None if rows.times is None else rows.times.tolist()
        parts.append((log.user_ids[rows.users()].tolist(), log.item_ids[rows.indices].tolist(), times))
    return parts, split.user_ids.tolist(), split.item_ids.tolist()


@pytest.mark.parametrize("rule", RULES)
@given(events=EVENTS, data=st.data())
@settings(max_examples=25, deadline=None)
def test_a_split_is_the_same_for_any_order_of_rows(rule, events, data):
    order = data.draw(st.permutations(range(len(events))))
    try:
        expected = content(RULES[rule](log_of(events, range(len(events)))))
    except ValueError as error:
        with pytest.raises(ValueError) as found:
            RULES[rule](log_of(events, order))
        assert str(found.value) == str(error)
        return
    assert content(RULES[rule](log_of(events, order))) == expected


def test_a_split_is_the_same_for_any_numbering_of_ids():
    rng = np.random.default_rng(0)
    events = [(u, i, t, 5) for u, i, t in zip(*rng.integers(0, 9, (3, 90)).tolist())]
    log = log_of(events, range(90))
    number = rng.permutation(log.n_items).astype(np.int32)
    ids = np.empty_like(log.item_ids)
    ids[number] = log.item_ids
    renumbered = replace(log, items=number[log.items], item_ids=ids)
    for rule in RULES.values():
        assert content(rule(renumbered)) == content(rule(log))


def test_repeats_are_split_once_and_said_so_in_python_as_on_the_command_line():
    users, times = np.repeat(np.arange(60), 15), np.tile(np.arange(15), 60) * 100 + np.repeat(np.arange(60), 15)
    items = (users * 3 + np.random.default_rng(0).integers(0, 5, 900)) % 40
    log = Interactions.from_arrays(users, items, times=times)
    split = log.k_core(3).split_by_time(0.7, 0.1, 0.2)
    prepared = splits.temporal(preprocess.prepare(log, core=3))
    assert content(split) == content(prepared)
    assert splits.leakage_report(split).overlap_train_test == 0
    assert any(note.startswith("deduplicate(first): 900 -> ") for note in split.notes)


def test_of_one_moment_the_better_rated_event_counts_whatever_the_file_says_first():
    for order in ([0, 1], [1, 0]):
        log = Interactions.from_arrays(["u", "u"], ["a", "a"], times=[7, 7], ratings=np.array([2, 5])[order])
        for keep in ("first", "last"):
            assert log.deduplicate(keep).ratings.tolist() == [5]


def test_a_vocabulary_is_looked_at_once_and_another_one_anew(monkeypatch):
    log = Interactions.from_arrays([3, 1, 2], [7, 9, 8])
    looked = []
    monkeypatch.setattr(events, "id_order", lambda ids, role: looked.append(role) or id_order(ids, role))
    log.select(np.array([0, 2])).select(np.array([1]))
    assert not looked
    other = replace(log, user_ids=log.user_ids[::-1].copy())
    assert looked == ["user"] and list(other.user_ids) == [1, 2, 3]
    assert list(other.user_ids[other.users]) == list(log.user_ids[::-1][log.users])
