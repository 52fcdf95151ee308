"""What a model of order needs of a log: sentences about what is missing, and what it gives where there is little."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax import api
from diffrec_jax.data.interactions import Interactions
from diffrec_jax.data.ordered import check_order, order_notes
from diffrec_jax.data.rows import make_rows
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models.baselines import Popularity
from diffrec_jax.models.contract import Catalogue
from diffrec_jax.models.markov import Markov
from diffrec_jax.models.registry import MODELS
from diffrec_jax.models.sasrec import SASRec

SORTED = [list(range(n % 3, n % 3 + 4)) for n in range(8)]


def log_of(histories, times=None):
    users = [user for user, items in enumerate(histories) for _ in items]
    return Interactions.from_arrays(users, [item for items in histories for item in items], times=times)


@pytest.mark.parametrize(("log", "sentence"), [
    (log_of(SORTED), "the log has no times, and each history goes by ascending item id, which is no order of events"),
    (log_of(SORTED, [5] * 32), "all events of each history have one time, so they have no order: name a finer time"),
    (log_of([[1], [2], [1]]), "none of the 3 histories has two events, so nothing comes after anything"),
])  # fmt: skip
def test_a_log_without_order_is_refused_for_models_of_order_only(log, sentence):
    one = make_mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=sentence):
        api.fit(Markov(), log, mesh=one)
    api.fit(Popularity(), log, mesh=one)


def test_an_order_is_taken_where_times_give_it_or_the_file_does():
    check_order(log_of(SORTED, list(range(32))).csr())  # ascending, but in time
    check_order(log_of([*SORTED[:6], [3, 2, 1, 0]]).csr())  # one history that does not ascend
    check_order(log_of([[1, 2]] * 3).csr())  # too few to tell


def test_ties_short_histories_and_long_windows_are_said():
    rows = log_of([[1, 2, 3], [4], [2, 1]], [1, 1, 2, 3, 4, 4]).csr()
    assert order_notes(rows, 10) == (
        "2 of 6 training events have the time of the one before in the same history: the item id decides their order.",
        "1 of 3 training histories hold one event, from which no order is learned.",
        "length=10 is longer than the longest training history (3 events): what lies beyond is never trained, and a "
        "smaller length gives the same faster.",
    )
    assert order_notes(log_of([[1, 2], [2, 1]], [1, 2, 3, 4]).csr(), 2) == ()
    long_and_short = log_of([[1, 2, 3, 4, 5], *[[1, 2]] * 7], range(19)).csr()
    padded = "11 positions to learn from in windows of 4: 66% of slots are padding"
    assert order_notes(long_and_short, 4, batch=8) == (f"{padded}.",)
    shared = f"{padded}, and 31% where short histories share rows, as they do."
    assert order_notes(long_and_short, 4, batch=8, packing=True) == (shared,)


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.family == "sequential"])
def test_every_sequential_model_says_that_it_needs_order(name):
    assert MODELS[name].model.needs_order


def test_an_empty_history_gets_finite_vectors_and_popular_items():
    model = SASRec(width=8, blocks=1, heads=1, length=4)
    params = model.init(jax.random.key(0), Catalogue(n_items=5, n_users=3))
    rows = make_rows(jnp.zeros((1, 4), jnp.int32), jnp.zeros(1, jnp.int32), n_items=5)
    assert np.isfinite(model.user_vectors(params, rows)).all()
    fitted = api.fit(Markov(), log_of([[3, 1], [3, 2], [1, 3]]), mesh=make_mesh(devices=jax.devices()[:1]))
    assert fitted.recommend(histories=[[]], k=2)["item"].tolist() == [3, 1]
