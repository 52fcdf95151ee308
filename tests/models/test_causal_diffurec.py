"""Causal DiffuRec: what its positions may and may not know, and what it is without its noise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequences import I, batch, initial, loss_of

from diffrec_jax import api
from diffrec_jax.data.interactions import CSR
from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue
from diffrec_jax.models.causal_diffurec import CausalDiffuRec

SIZES = {"width": 8, "blocks": 1, "heads": 2, "length": 6, "steps": 5}
SMALL = CausalDiffuRec(**SIZES, positions=False, dropout=0.0, history_dropout=0.0, packing=False)


vectors = jax.jit(lambda model, params, rows: model.now(params, rows, key=jax.random.key(3)), static_argnums=0)


def test_without_noise_the_loss_is_the_cross_entropy_of_what_each_prefix_is_scored():
    model = dataclasses.replace(SMALL, delta=0.0, length=13)
    params, rows = initial(model), batch()
    losses = []
    for n in range(1, 12):
        logits = np.asarray(
            vectors(model, params, rows.replace(lengths=jnp.full(6, n))) @ params["items"].T, np.float64
        )
        for row in np.flatnonzero(np.asarray(rows.lengths) > n):
            losses.append(np.log(np.exp(logits[row]).sum()) - logits[row, int(rows.items[row, n])])
    assert float(loss_of(model, params, rows)) == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_position_knows_its_own_target_by_its_noise_alone():
    model = dataclasses.replace(SMALL, delta=0.5)
    params, real = initial(model), jnp.ones((1, 6), bool)
    h = jax.random.normal(jax.random.key(0), (1, 6, 8))
    x, t = jax.random.normal(jax.random.key(1), (1, 6, 8)), jnp.asarray([[0, 1, 2, 3, 4, 0]])
    now = model.denoise(params, h, real, x, t, 0.5)
    for change in ((h.at[0, 3, 0].add(1.0), x, t), (h, x.at[0, 3, 0].add(1.0), t), (h, x, t.at[0, 3].set(1))):
        other = model.denoise(params, change[0], real, change[1], change[2], 0.5)
        np.testing.assert_array_equal(other[0, :3], now[0, :3])
        assert np.abs(other[0, 3:] - now[0, 3:]).max() > 1e-3
    blind = dataclasses.replace(model, carries_target=False)
    np.testing.assert_array_equal(
        blind.denoise(params, h, real, x, t, 0.5), blind.denoise(params, h, real, x + 1.0, t, 0.5)
    )


def test_positions_before_the_last_carry_what_came_after_them():
    params, items = initial(SMALL), jnp.asarray([[I, 3, 5, 7]])
    x, t = SMALL.placed(params, items, jnp.full((1, 8), 9.0), jnp.asarray([4]))
    np.testing.assert_array_equal(t, [[0, 0, 0, 4]])
    share = np.sqrt(1.0 - SMALL.schedule.betas[0])
    np.testing.assert_allclose(x[0, :3], share * params["items"][np.asarray([3, 5, 7])], rtol=1e-5)
    np.testing.assert_array_equal(x[0, 3], jnp.full(8, 9.0))


def test_without_noise_it_is_a_plain_encoder_and_padding_is_not_seen():
    plain = dataclasses.replace(SMALL, delta=0.0, positions=True)
    params, rows = initial(plain), batch()
    one = vectors(plain, params, rows)
    np.testing.assert_allclose(
        vectors(dataclasses.replace(plain, reverse_steps=3, draws=2), params, rows), one, atol=1e-5
    )
    noisy = dataclasses.replace(plain, delta=0.5)
    wide = dataclasses.replace(noisy, length=13)
    longer = {**params, "positions": jnp.pad(params["positions"], ((7, 0), (0, 0)), constant_values=3.0)}
    short = np.asarray(rows.lengths) <= plain.length
    found = vectors(noisy, params, rows)
    np.testing.assert_allclose(found[short], vectors(wide, longer, rows)[short], atol=1e-5)
    assert np.isfinite(found).all() and np.abs(found - one).max() > 1e-3


@pytest.mark.long
def test_rows_of_padding_weigh_nothing():
    noisy = dataclasses.replace(SMALL, delta=0.5, dropout=0.2)
    params, rows = initial(noisy), batch((4, 6, 12))
    padded = batch((4, 6, 12, 5), users=jnp.asarray([0, 1, 2, -1]))
    both = jax.jit(jax.value_and_grad(lambda p, r: loss_of(noisy, p, r)))
    (one, its), (other, others) = both(params, rows), both(params, padded)
    assert float(one) == pytest.approx(float(other), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), its, others)


@pytest.mark.long
def test_short_histories_share_rows_and_nothing_changes():
    plain, rows = dataclasses.replace(SMALL, delta=0.0, positions=True), batch((1, 4, 6, 7, 12, 0, 2, 2))
    params = initial(plain)
    packed = dataclasses.replace(plain, packing=True)
    one, other = (jax.jit(jax.value_and_grad(lambda p, m=m: loss_of(m, p, rows)))(params) for m in (packed, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


@pytest.mark.long
def test_packed_positions_carry_their_own_targets():
    model = dataclasses.replace(SMALL, delta=0.5, positions=True)
    params, rows = initial(model), batch((1, 4, 6, 7, 12, 0, 2, 2))
    means = []
    for packing in (True, False):
        now = dataclasses.replace(model, packing=packing)
        means.append(float(jnp.mean(jax.jit(jax.vmap(lambda k, m=now: loss_of(m, params, rows, k)))(jnp.arange(2000)))))
    assert means[0] == pytest.approx(means[1], rel=0.01)


@pytest.mark.long
def test_nothing_leaks_where_there_is_no_order_and_order_is_learned_where_there_is():
    how = {"batch_size": 50, "epochs": 15, "mesh": make_mesh(devices=jax.devices()[:1])}
    model = CausalDiffuRec(width=16, length=8, dropout=0.0, history_dropout=0.0, packing=False, lr=0.01)
    rng, users, found = np.random.default_rng(0), np.arange(200), []
    chains = (rng.integers(0, 30, 200)[:, None] + np.arange(9)) % 30
    for train in (chains[:, :-1], np.stack([rng.permutation(30)[:8] for _ in users])):
        csr = CSR.from_pairs(np.repeat(users, 8), train.ravel(), n_users=200, n_items=30)
        fitted = api.fit(model, csr, **how)
        scores = np.asarray(model.scores(fitted.params, take_rows(device_csr(csr), jnp.arange(200, dtype=jnp.int32))))
        found.append(np.mean(np.argmax(scores, axis=1) == chains[:, -1]))
    assert found[0] > 0.95 and found[1] < 0.15


def test_the_table_starts_as_wide_as_it_is_told_to():
    for std, wanted in ((None, 0.02), (0.5, 0.5)):
        params = dataclasses.replace(SMALL, init_std=std).init(jax.random.key(0), Catalogue(n_items=400, n_users=9))
        assert float(jnp.std(params["items"])) == pytest.approx(wanted, rel=0.1)


def test_bad_hyper_parameters_are_refused():
    with pytest.raises(ValueError, match="reverse_steps=6 must be at most steps=5, all of them"):
        dataclasses.replace(SMALL, reverse_steps=6)
    with pytest.raises(ValueError, match=r"delta=-0.1 must not be negative"):
        CausalDiffuRec(delta=-0.1)
