"""Sessions: whole on one side, nothing lost, the last event asked for and the others shown, never trained on."""

import re

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec_jax import api
from diffrec_jax.data.interactions import Interactions
from diffrec_jax.data.preprocess import k_core
from diffrec_jax.data.sessions import by_session
from diffrec_jax.data.splits import Split
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models.markov import Markov
from diffrec_jax.serving import load


def log_of(sessions, *, times=True):
    """Sessions of items, one event a minute, one session after the other."""
    users = [f"s{n:02}" for n, items in enumerate(sessions) for _ in items]
    items = [f"i{item}" for items in sessions for item in items]
    return Interactions.from_arrays(users, items, times=list(range(len(users))) if times else None)


def pairs(log):
    return [*zip(log.user_ids[log.users].tolist(), log.item_ids[log.items].tolist())]


TEN = log_of([[n, n + 1, n + 2] for n in range(10)])


@pytest.mark.parametrize("times", [True, False])
def test_whole_sessions_go_to_one_side_and_the_last_event_is_asked_for(times):
    split = by_session(log_of([[n, n + 1, n + 2] for n in range(10)], times=times))
    assert isinstance(split, Split) and split.rule == "sessions"
    assert {user for user, _ in pairs(split.train)} == {f"s{n:02}" for n in range(7)} and len(split.train) == 21
    assert pairs(split.valid) == [("s07", "i9")] and pairs(split.test) == [("s08", "i10"), ("s09", "i11")]
    assert pairs(split.context) == [(f"s{n:02}", f"i{n + k}") for n in (7, 8, 9) for k in (0, 1)]
    assert ("in time" if times else "in the file (the log has no times)") in split.guarantee
    assert "Sessions: 7 train, 1 valid, 2 test." in split.notes


def test_a_session_belongs_where_it_ends_and_one_event_asks_for_nothing():
    log = Interactions.from_arrays([*"aabbcd", "e", "e"], [*"xyxyzxxz"], times=[0, 90, 10, 20, 30, 95, 40, 100])
    split = by_session(log, train=0.4, valid=0, test=0.6)  # ends: b 20, c 30, a 90, d 95, e 100
    assert {user for user, _ in pairs(split.train)} == {"b", "c"} and not len(split.valid)
    assert pairs(split.test) == [("a", "y"), ("e", "z")]
    assert pairs(split.context) == [("a", "x"), ("d", "x"), ("e", "x")]
    assert "1 of valid and test have one event and are not asked for." in " ".join(split.notes)
    dated = by_session(log, cuts=["1970-01-01T00:00:50Z"])
    assert pairs(dated.test) == pairs(split.test)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=6), min_size=4, max_size=12), st.booleans())
def test_nothing_is_lost_and_nothing_trained_on_lies_after_a_tested_session(sessions, repeats):
    log = log_of([dict.fromkeys(items) if len(set(items)) > 1 else [0, 1] for items in sessions])
    log = log.keep_repeats() if repeats else log
    split = by_session(log, train=0.5, valid=0.2, test=0.3)
    parts = (*split, split.context)
    assert sorted(pair for part in parts for pair in pairs(part)) == sorted(pairs(log))
    assert split.train.times.max() < split.test.times.min()
    sides = [{user for user, _ in pairs(part)} for part in (split.train, split.context)]
    assert not sides[0] & sides[1]


def test_a_session_is_ranked_from_its_own_earlier_events_which_are_served_and_never_trained_on(tmp_path):
    split = by_session(log_of([[n % 4, (n + 1) % 4, (n + 2) % 4] for n in range(20)]))
    one = make_mesh(devices=jax.devices()[:1])
    data = (split.train, split.valid)
    fitted = api.fit(Markov(), *data, context=split.context, mesh=one, workdir=tmp_path)
    alone = api.fit(Markov(), split.train, mesh=one)
    jax.tree.map(np.testing.assert_array_equal, fitted.params, alone.params)
    assert api.evaluate(fitted, split.test, ks=(1,)).mean("standard")["hit@1"] == 1.0
    assert api.evaluate(alone, split.test, ks=(1,)).mean("standard")["hit@1"] < 1.0
    for recommender in (fitted.recommender, load(tmp_path)):
        found = recommender.recommend(users=split.user_ids[split.test.users], k=1)
        assert found["item"].tolist() == split.item_ids[split.test.items].tolist()


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda: by_session(log_of([[1], [2], [3]])), "leaves test empty (3 sessions): a tested session needs two events"),
    (lambda: by_session(log_of([[1, 2]] * 4, times=False), cuts=["2020-01-01"]), "need times and this log has none"),
    (lambda: by_session(TEN, train=0.5, valid=0.5, test=0.5), "add up to 1"),
    (lambda: by_session(TEN, cuts=["2020-01-01"]), "leaves 10 sessions to train"),
])  # fmt: skip
def test_what_cannot_be_split_is_refused(make, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        make()


def test_the_core_of_sessions_asks_more_of_items_than_of_sessions():
    log = log_of([[1, 2], [1, 2], [1, 2, 3], [1, 3], [2]])
    kept = k_core(log, 3, of_users=2)
    assert kept.item_ids.tolist() == ["i1", "i2"] and kept.user_ids.tolist() == ["s00", "s01", "s02"]
