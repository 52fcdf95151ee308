"""Repeated items: dropped as ever, or kept in histories for models that read their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax import api
from diffrec_jax.data import splits
from diffrec_jax.data.events import CSR, merge
from diffrec_jax.data.interactions import Interactions
from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.data.windows import window
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models.baselines import EASE, Popularity
from diffrec_jax.models.markov import Markov
from diffrec_jax.serving import load

HISTORIES = [["a", "b", "a", "c", "a"], ["b", "a", "b", "a", "b"], ["c", "c", "a", "b", "a"]]
LOG = Interactions.from_arrays(
    [user for user in range(3) for _ in range(5)],
    [item for items in HISTORIES for item in items],
    times=[*range(5)] * 3,
)


def rows(log):
    csr = log.csr()
    return ["".join(log.item_ids[row]) for row in np.split(csr.indices, csr.indptr[1:-1])]


@pytest.fixture
def one():
    return make_mesh(devices=jax.devices()[:1])


def test_rows_and_splits_keep_repeats_where_they_are_told_to():
    assert rows(LOG) == ["abc", "ba", "cab"]
    kept = LOG.keep_repeats()
    assert rows(kept) == ["abaca", "babab", "ccaba"]
    train, valid, test = splits.leave_one_out(kept)
    assert (rows(train), rows(valid), rows(test)) == (["aba", "bab", "cca"], ["c", "a", "b"], ["a", "b", "a"])
    joined = merge(train.csr(), valid.csr())
    assert joined.repeats and joined.lengths().tolist() == [4, 4, 4]
    assert joined.once().lengths().tolist() == [3, 2, 3] and not joined.once().repeats
    assert len(splits.leave_one_out(LOG).test) == 2  # of two users: the third has three things, the second two


def test_filters_count_a_repeated_pair_once_and_keep_all_of_it():
    log = LOG.keep_repeats()
    assert len(log.k_core(2)) == 15 and log.k_core(2).repeats
    with pytest.raises(ValueError, match=r"k_core\(3\) left no events"):
        log.k_core(3)  # five events of two things are two
    assert rows(log.deduplicate()) == ["abc", "ba", "cab"]


def test_a_model_of_order_reads_repeats_and_others_the_first_of_each(one):
    split = splits.leave_one_out(LOG.keep_repeats())
    fitted = api.fit(Markov(), split.train, split.valid, mesh=one)
    assert fitted.train.repeats and fitted.train.n_interactions == 9
    once = CSR.from_pairs(split.train.users, split.train.items, n_users=3, n_items=3, times=split.train.times)
    for model in (EASE(), Popularity()):
        plain, kept = (api.fit(model, log, mesh=one) for log in (once, split.train))
        assert not kept.train.repeats
        jax.tree.map(np.testing.assert_array_equal, plain.params, kept.params)


def test_what_is_held_out_again_is_found_only_where_nothing_is_masked(one):
    split = splits.leave_one_out(LOG.keep_repeats())
    fitted = api.fit(Markov(), split.train, split.valid, mesh=one)
    with pytest.warns(UserWarning, match="3 of 3 held-out interactions are among the seen ones"):
        found = api.evaluate(fitted, split.test, with_valid=True, seen=[split.train, split.valid], ks=(3,), others=True)
    assert found.mean("standard")["hit@3"] == 0.0 == found.other_means()["masked, mid-rank"]["standard"]["hit@3"]
    assert found.other_means()["unmasked"]["standard"]["hit@3"] == 1.0


def test_a_served_history_keeps_repeats_after_the_way_through_a_folder(one, tmp_path):
    split = splits.leave_one_out(LOG.keep_repeats())
    fitted = api.fit(Markov(), split.train, split.valid, mesh=one, workdir=tmp_path)
    for recommender in (fitted.recommender, load(tmp_path)):
        known = recommender.recommend(users=[2], k=3, exclude_seen=False)  # c, c, a
        typed = recommender.recommend(histories=[["c", "c", "a"]], k=3, exclude_seen=False)
        assert known["item"].tolist() == typed["item"].tolist() == np.asarray(ranked(fitted, "a")).tolist()
        other = recommender.recommend(histories=[["a", "c", "a"]], k=3, exclude_seen=False)
        assert other["item"].tolist() == typed["item"].tolist()  # the last event decides, though it is no new one


def ranked(fitted, last):
    item_ids = fitted.vocabulary.item_ids
    train = fitted.train
    counts = np.zeros(len(item_ids))
    users = train.users()
    at = np.flatnonzero((train.indices[:-1] == item_ids.tolist().index(last)) & (users[:-1] == users[1:]))
    np.add.at(counts, train.indices[at + 1], 1)
    popularity = np.bincount(train.indices, minlength=len(item_ids))
    return item_ids[np.lexsort((-popularity, -counts))]


def test_rows_with_repeats_are_dense_and_windowed_as_they_are():
    kept = take_rows(device_csr(LOG.keep_repeats().csr()), jnp.arange(3))
    np.testing.assert_array_equal(kept.dense(), np.asarray([[1, 1, 1], [1, 1, 0], [1, 1, 1]]))
    np.testing.assert_array_equal(window(kept, 3)[0], [[0, 2, 0], [1, 0, 1], [0, 1, 0]])
