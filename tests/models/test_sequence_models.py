"""GRU4Rec and BERT4Rec: their equations by hand, what padding must not change, and what they learn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequences import I, batch, chains, initial, loss_of

import diffrec_jax as dr
from diffrec_jax import api
from diffrec_jax.data.rows import device_csr, make_rows, take_rows
from diffrec_jax.mesh import make_mesh

GRU = dr.GRU4Rec(width=8, length=6, dropout=0.0, packing=False)
BERT = dr.BERT4Rec(width=8, length=6, blocks=1, dropout=0.0)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def by_hand(params, history):
    """Eq. 1 and 2 of one layer, event by event, in NumPy: the states ``[n, D]``."""
    (layer,) = params["layers"]
    w, u, c, d = (np.asarray(layer[name], np.float64) for name in ("input", "state", "input_bias", "state_bias"))
    h, states, D = np.zeros(8), [], 8
    for item in history:
        read, kept = np.asarray(params["items"], np.float64)[item] @ w + c, h @ u + d
        r, z = (sigmoid(read[part] + kept[part]) for part in (slice(0, D), slice(D, 2 * D)))
        h = (1 - z) * np.tanh(read[2 * D :] + r * kept[2 * D :]) + z * h
        states.append(h)
    return np.asarray(states)


def test_gru4rec_is_its_equations_and_a_cell_goes_on_where_a_history_ends():
    params, rows = initial(GRU), batch()
    scores, losses = np.asarray(GRU.scores(params, rows)), []
    for row, n in enumerate((1, 4, 6, 7, 12, 0)):
        history = np.asarray(rows.items)[row, :n][-7:]
        states = by_hand(params, history[:-1])
        for h, target in zip(states, history[1:]):
            logits = h @ np.asarray(params["items"]).T + np.asarray(params["item_bias"])
            losses.append(np.log(np.exp(logits).sum()) - logits[target])
        if n:
            last = by_hand(params, history[-6:])[-1] @ np.asarray(params["items"]).T + np.asarray(params["item_bias"])
            np.testing.assert_allclose(scores[row], last, atol=1e-5)
    assert float(loss_of(GRU, params, rows)) == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_event_costs_one_cell(tied):
    two, rows = dataclasses.replace(GRU, layers=2, tied=tied), batch()
    params, state = initial(two), two.initial_state(initial(two), 1)
    step = jax.jit(two.step)
    for item in np.asarray(rows.items)[1, :4]:
        state = step(params, state, jnp.asarray([item]))
    np.testing.assert_allclose(state[-1, 0], two.user_vectors(params, rows)[1, :-1], atol=1e-6)
    d, layer = 8, 6 * 8 * 8 + 6 * 8
    first = layer if tied else 3 * d * I + 3 * d * d + 3 * d
    assert sum(a.size for a in jax.tree.leaves(params)) == I * (d + 1) + first + layer


def test_an_event_never_changes_what_gru4rec_said_before_it():
    params, items, real = initial(GRU), batch((6, 6)).items[:, :6], jnp.ones((2, 6), bool)
    features = jax.jit(GRU.features)
    now, later = features(params, items, real), features(params, items.at[:, 3].set(items[:, 2]), real)
    np.testing.assert_array_equal(now[:, :3], later[:, :3])
    assert np.abs(now[:, 3:] - later[:, 3:]).min(axis=(0, 1)).max() > 1e-4


def test_gru4rec_in_few_rows_is_gru4rec():
    params, rows = initial(GRU), batch((1, 4, 6, 7, 12, 0, 2, 2))
    packed = dataclasses.replace(GRU, packing=True)
    one, other = (jax.jit(jax.value_and_grad(lambda p, m=m: loss_of(m, p, rows)))(params) for m in (packed, GRU))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


@pytest.mark.long
def test_bert4rec_with_the_last_event_hidden_is_trained_on_what_it_ranks_by():
    model = dataclasses.replace(BERT, force_last=1.0)
    params, rows = initial(model), batch((2, 5, 6, 0))
    before = make_rows(rows.items, jnp.maximum(rows.lengths - 1, 0), rows.users, n_items=I)
    shares = np.asarray(jax.nn.log_softmax(model.scores(params, before), axis=1))
    lasts = [int(rows.items[row, n - 1]) for row, n in enumerate((2, 5, 6))]
    assert float(loss_of(model, params, rows)) == pytest.approx(-np.mean(shares[np.arange(3), lasts]), rel=1e-5)


def test_bert4rec_sees_what_comes_later_but_not_what_is_hidden():
    params, rows = initial(BERT), batch((6, 6))
    items, real = rows.items[:, :6].at[0, 2].set(I + 1), jnp.ones((2, 6), bool)
    features = jax.jit(BERT.features)
    f = features(params, items, real)
    later = features(params, items.at[0, 5].set((items[0, 5] + 1) % I), real)
    assert np.abs(f[0, 2] - later[0, 2]).max() > 1e-3
    np.testing.assert_allclose(f[1], later[1], atol=1e-6)


@pytest.mark.parametrize("model", [GRU, BERT], ids=["gru4rec", "bert4rec"])
def test_a_window_ends_with_the_last_event_however_it_is_padded(model):
    params, rows = initial(model), batch((4, 6, 12, 0))
    of_wider = make_rows(jnp.pad(rows.items, ((0, 0), (0, 5))), rows.lengths, rows.users, n_items=I)
    one, two = (np.asarray(jax.jit(model.user_vectors)(params, r)) for r in (rows, of_wider))
    np.testing.assert_allclose(one, two, atol=1e-5)
    seen = 6 - (model is BERT)
    cut = make_rows(rows.items[2:3, 12 - seen : 12], jnp.asarray([seen]), n_items=I)
    np.testing.assert_allclose(model.user_vectors(params, cut)[0], one[2], atol=1e-5)
    assert np.isfinite(one).all()


LEARNERS = {
    "gru4rec": dr.GRU4Rec(width=32, length=8, dropout=0.0, packing=False, lr=0.01),
    "session_parallel": dr.GRU4Rec(width=32, length=8, dropout=0.0, session_parallel=True, n_sample=20, adagrad_lr=0.1),
    "bert4rec": dr.BERT4Rec(width=32, length=8, dropout=0.0, force_last=0.5, lr=0.005),
    "causal_diffurec": dr.CausalDiffuRec(width=32, length=8, dropout=0.0, history_dropout=0.0, packing=False, lr=0.005),
    "diffurec": dr.DiffuRec(width=32, blocks=2, length=8, dropout=0.0, history_dropout=0.0, positions=True, lr=0.005),
    "seq_diffrec": dr.SeqDiffRec(width=32, blocks=1, length=8, steps=8, dropout=0.0, lr=0.005),
    "stosa": dr.STOSA(width=32, length=8, dropout=0.0, loss_name="softmax", lr=0.005),
    "caser": dr.Caser(width=32, order=2, length=8, dropout=0.0, targets=1, lr=0.02),
    "acvae": dr.ACVAE(width=32, hidden=32, latent=16, length=8, dropout=0.0, lr=0.01),
}


@pytest.mark.long
@pytest.mark.parametrize("name", LEARNERS)
def test_order_is_learned_where_there_is_any_and_nothing_leaks_where_there_is_none(name):
    model, found = LEARNERS[name], []
    for shuffled in (False, True):
        train, test = chains(shuffled=shuffled)
        fitted = api.fit(model, train, batch_size=50, epochs=60, mesh=make_mesh(devices=jax.devices()[:1]))
        rows = take_rows(device_csr(train), jnp.arange(200, dtype=jnp.int32))
        scores = np.asarray(model.scores(fitted.params, rows, key=jax.random.key(0)))
        found.append(np.mean(np.argmax(scores, axis=1) == test.indices))
    assert found[0] > 0.9 and found[1] < 0.15
