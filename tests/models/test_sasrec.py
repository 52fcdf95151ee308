"""SASRec: its losses by hand, what padding and windows must not change, and what it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import quick
from sequences import I, batch, chains, initial, loss_of

from diffrec_jax import api
from diffrec_jax.data.rows import device_csr, make_rows, take_rows
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models.item_losses import gbce_beta
from diffrec_jax.models.next_item import LOSSES
from diffrec_jax.models.sasrec import SASRec
from diffrec_jax.testing import ModelSuite

SMALL = SASRec(width=8, length=6, dropout=0.0, packing=False)  # packed, it takes three times as long to compile


@pytest.mark.long
class TestSASRecGBCE(ModelSuite):
    model = SASRec(width=8, length=7, norm="pre", loss_name="gbce", negatives=5, packing=False)
    bad = (("negatives", 0), ("t", 2.0), ("lr", 0.0))


features = jax.jit(SMALL.features)


def test_the_loss_is_the_cross_entropy_of_what_each_prefix_is_scored():
    params, rows = initial(SMALL), batch()
    losses = []
    for row in range(6):
        history = np.asarray(rows.items)[row, : int(rows.lengths[row])][-SMALL.length - 1 :]
        f = features(params, history[None, :-1], np.ones((1, max(len(history) - 1, 0)), bool))
        logits = np.asarray(f[0] @ params["items"].T, np.float64)
        losses += [np.log(np.exp(row).sum()) - row[target] for row, target in zip(logits, history[1:])]
    assert float(loss_of(SMALL, params, rows)) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.long
def test_short_histories_share_rows_and_nothing_changes():
    params, rows = initial(SMALL), batch((1, 4, 6, 7, 12, 0, 2, 2))
    packed = dataclasses.replace(SMALL, packing=True)
    one, other = (jax.jit(jax.value_and_grad(lambda p, m=m: loss_of(m, p, rows)))(params) for m in (packed, SMALL))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


@pytest.mark.parametrize("loss_name", quick(LOSSES, "softmax"))
def test_rows_of_padding_weigh_nothing(loss_name):
    model = dataclasses.replace(SMALL, loss_name=loss_name, negatives=4, dropout=0.2)
    params, rows = initial(model), batch((4, 6, 12))
    padded = batch((4, 6, 12, 5), users=jnp.asarray([0, 1, 2, -1]))
    both = jax.jit(jax.value_and_grad(lambda p, r: loss_of(model, p, r)))
    (one, its), (other, others) = both(params, rows), both(params, padded)
    assert float(one) == pytest.approx(float(other), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), its, others)


@pytest.mark.long
def test_all_items_as_negatives_are_the_softmax_and_binary_losses_are_those_by_hand():
    params, rows = initial(SMALL), batch()
    sampled = dataclasses.replace(SMALL, loss_name="sampled", negatives=I)
    assert float(loss_of(sampled, params, rows)) == pytest.approx(float(loss_of(SMALL, params, rows)), rel=1e-5)
    gbce = dataclasses.replace(SMALL, loss_name="gbce", negatives=1, t=0.0)
    assert gbce_beta(1, I, 0.0) == 1.0
    for model, share in ((gbce, 0.5), (dataclasses.replace(SMALL, loss_name="bce"), 1.0)):
        drawn = jax.jit(jax.vmap(lambda key, model=model: loss_of(model, params, rows, key)))(jnp.arange(600))
        found = float(jnp.mean(drawn)) / share
        expected = []
        for row in range(6):
            history = np.asarray(rows.items)[row, : int(rows.lengths[row])][-SMALL.length - 1 :]
            f = features(params, history[None, :-1], np.ones((1, max(len(history) - 1, 0)), bool))
            logits = np.asarray(f[0] @ params["items"].T, np.float64)
            others = np.logaddexp(0.0, logits)[:, ~np.isin(np.arange(I), history)].sum(1) / I
            targets = logits[np.arange(len(logits)), history[1:]] if len(logits) else np.zeros(0)
            expected += [*(np.logaddexp(0.0, -targets) + others)]
        assert found == pytest.approx(np.mean(expected), rel=0.02)


def test_no_model_sees_more_than_its_window_nor_how_it_is_padded():
    params, rows = initial(SMALL), batch()
    wide = dataclasses.replace(SMALL, length=13)
    longer = {**params, "positions": jnp.pad(params["positions"], ((7, 0), (0, 0)), constant_values=3.0)}
    short = np.asarray(rows.lengths) <= SMALL.length
    one, two = SMALL.user_vectors(params, rows), wide.user_vectors(longer, rows)
    np.testing.assert_allclose(one[short], two[short], atol=1e-5)
    assert np.isfinite(one).all() and one.shape == (6, 9)
    last = rows.items[3, 1:7]
    cut = make_rows(jnp.pad(last, (0, 6))[None], jnp.asarray([6]), n_items=I)
    np.testing.assert_allclose(SMALL.user_vectors(params, cut)[0], one[3], atol=1e-5)
    np.testing.assert_allclose(one @ SMALL.item_vectors(params).T, SMALL.scores(params, rows), atol=1e-5)


@pytest.mark.long
def test_order_is_learned_where_there_is_any_and_nothing_leaks_where_there_is_none():
    how = {"batch_size": 50, "epochs": 15, "mesh": make_mesh(devices=jax.devices()[:1])}
    model = SASRec(width=16, length=8, dropout=0.0, packing=False, lr=0.01)
    found = []
    for shuffled in (False, True):
        train, test = chains(shuffled=shuffled)
        fitted = api.fit(model, train, **how)
        rows = take_rows(device_csr(train), jnp.arange(200, dtype=jnp.int32))
        scores = np.asarray(model.scores(fitted.params, rows))
        found.append(np.mean(np.argmax(scores, axis=1) == test.indices))
    assert found[0] > 0.95 and found[1] < 0.15


def test_more_negatives_than_items_are_refused_before_anything_is_trained():
    model = SASRec(loss_name="sampled", negatives=40)
    with pytest.raises(ValueError, match="negatives=40 must lie between 1 and the 30 items of the catalogue: choose"):
        api.fit(model, chains()[0])


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: SASRec(width=65), "width=65 does not divide by heads=2: choose a multiple of 2, or other heads"),
        (lambda: SASRec(length=1), "length=1 must be at least 2: one event has no order"),
        (lambda: SASRec(loss_name="hinge"), "loss='hinge' is unknown: choose one of softmax, sampled, gbce, bce"),
    ],
)
def test_bad_hyper_parameters_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
