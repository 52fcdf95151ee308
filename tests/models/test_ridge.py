"""The running ridge regression against its dense recursion in NumPy, and a step that never meets the catalogue."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffrec_jax as dr
from diffrec_jax.data import synthetic
from diffrec_jax.data.events import CSR
from diffrec_jax.data.packed import Dropout, take_packed
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import device_csr
from diffrec_jax.data.touched import Touched
from diffrec_jax.data.walks import product
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue, DiffRec
from diffrec_jax.models.ridge import CHUNK, Ridge, adagrad_rows, regress
from diffrec_jax.models.without_outputs import OUTPUTS
from diffrec_jax.training import NonFiniteLossError, Trainer
from experiments.running.sweeping import space_of
from experiments.settings.config import configure

I, U, B, H = 90, 40, 16, 5
KERNEL = Recency()


@pytest.fixture(scope="module")
def csr():
    """Some are empty, the first item is in all others (it alone fills half a slice), and some events count more."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 30, U) * (rng.random(U) > 0.1)
    items = np.concatenate([np.append(0, 1 + rng.permutation(I - 1)[: n - 1])[:n] for n in lengths])
    weights = rng.choice([1.0, 2.5], len(items)).astype(np.float32)
    return CSR.from_pairs(np.repeat(np.arange(U), lengths), items, n_users=U, n_items=I, weights=weights)


def batches(n):
    rng = np.random.default_rng(1)
    for _ in range(n):
        users = np.append(rng.permutation(U)[: B - 1], -1).astype(np.int32)
        yield users, rng.normal(size=(B, H + 1)), rng.random(B) * (users >= 0)


def dense(csr, users, kernel=None):
    x = np.zeros((len(users), csr.n_items))
    for b, user in enumerate(users):
        if user >= 0:
            row = slice(csr.indptr[user], csr.indptr[user + 1])
            places = np.arange(row.stop - row.start)
            recency = 1.0 if kernel is None else kernel.at(places, np.asarray(len(places)))
            x[b, csr.indices[row]] = csr.weights[row] * recency
    return x


def single(array):
    return jnp.asarray(array, jnp.float32)


def near(ours, theirs, *, rtol=1e-5, atol=1e-6):
    """Equal, but for a share ``atol`` of the largest number."""
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol * np.abs(theirs).max())


@pytest.mark.parametrize("kernel", [None, KERNEL])
@pytest.mark.parametrize("mesh", [None, (2, 4), (1, 8)])
def test_the_running_sums_are_those_of_the_dense_recursion(csr, kernel, mesh):
    mesh = None if mesh is None else make_mesh(users=mesh[0], items=mesh[1])
    decay, l2, stored = 0.9, 0.01, I + (-I % mesh.shape["items"] if mesh else 0)
    device, ridge = device_csr(csr, mesh=mesh), Ridge.create(stored, H)
    A, C, m = np.zeros((I, H + 1)), np.zeros((H + 1, H + 1)), 0.0

    @jax.jit
    def step(device, ridge, users, vectors, weights):
        rows = take_packed(device, users, recency=kernel, mesh=mesh)
        return regress(ridge, rows, product(rows, ridge.targets), vectors, weights, decay=decay)

    for users, vectors, weights in batches(6):
        x, h = dense(csr, users, kernel), weights[:, None] * vectors
        A, C, m = decay * A + x.T @ h, decay * C + h.T @ vectors, decay * m + weights.sum()
        ridge = step(device, ridge, jnp.asarray(users), single(vectors), single(weights))
    s = float(ridge.scale)
    near(s * np.asarray(ridge.targets)[:I], A)
    near(s * s * np.asarray(ridge.crossed), A.T @ A)
    near(ridge.moments, C)
    near(ridge.mass, m)
    K = np.linalg.inv(C + l2 * m * np.eye(H + 1))
    near(ridge.inverse(l2, 0.0), K, rtol=1e-4)
    settled, outputs, bias = jax.jit(lambda r: r.settled(jnp.ones((H, stored)), jnp.ones(stored), l2))(ridge)
    near(np.column_stack([outputs.T, bias])[:I], A @ K, rtol=1e-4, atol=1e-5)
    near(settled.crossed, A.T @ A, rtol=1e-4)
    near(np.asarray(settled.targets)[:I], A)
    assert float(settled.scale) == 1.0


def test_settling_goes_over_more_items_than_a_chunk_holds():
    n = CHUNK + 7
    targets, half = single(np.random.default_rng(0).normal(size=(n, 3))), jnp.asarray(0.5)
    ridge = Ridge.create(n, 2).replace(targets=targets, scale=half, moments=jnp.eye(3), mass=jnp.ones(()))
    settled, outputs, bias = ridge.settled(jnp.zeros((2, n)), jnp.zeros(n), 1.0)
    W = 0.5 * np.asarray(targets, np.float64) / 2.0
    near(np.column_stack([outputs.T, bias]), W)
    near(settled.crossed, 4 * W.T @ W, rtol=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_adagrad_moves_the_rows_that_a_batch_touches_and_no_others(csr, rate):
    rng = np.random.default_rng(2)
    table, squares, device = rng.normal(size=(I, H)), np.zeros(I), device_csr(csr)
    ours, sums = single(table), jnp.zeros(I)
    for n, (users, vectors, _) in enumerate(batches(3)):
        slopes = vectors[:, :H]
        rows, dropout = take_packed(device, jnp.asarray(users)), Dropout.of(jax.random.key(n), rate) if rate else None
        x = np.asarray(product(rows, jnp.eye(I), dropout=dropout), np.float64)
        gradient = x.T @ slopes
        squares += np.mean(gradient**2, axis=1)
        table -= 0.1 * gradient / (np.sqrt(squares)[:, None] + 1e-8)
        ours, sums = adagrad_rows(ours, sums, rows, single(slopes), lr=0.1, dropout=dropout)
    near(sums, squares)
    near(ours, table, rtol=1e-4)


def test_slices_hold_all_events_of_their_items(csr):
    rows = take_packed(device_csr(csr), jnp.asarray(np.arange(B), jnp.int32), recency=KERNEL)
    events = Touched.of(rows)

    def add(now, x):
        return x.at[now.items].add(now.sums(jnp.eye(B)), mode="drop", unique_indices=True)

    near(events.walk(add, jnp.zeros((I, B)), n_items=I).T, dense(csr, np.arange(B), KERNEL))
    turns = events.walk(lambda now, n: n + 1, jnp.zeros((), jnp.int32), n_items=I)
    assert 1 < int(turns) <= 1 + int(events.total) // (events.slice_size - B)


def trainer_of(model, n_items, options, *, n_users):
    mesh = make_mesh(devices=jax.devices()[:1])
    return Trainer(model, Catalogue(n_items=n_items, n_users=n_users), mesh, 0, options)


def test_the_loss_of_a_step_is_that_of_all_outputs(csr):
    """Without noise and dropout, after some steps: by Eq. 2 and 3 it is the one by the whole last layer."""
    model = DiffRec(dims=(6, H), steps=1, noise_scale=0.0, dropout=0.0, output="ridge", lr=1e-2, ridge_l2=1e-6)
    trainer = trainer_of(model, I, FitOptions(batch_size=U), n_users=U)
    device, state = device_csr(csr, mesh=trainer.mesh), trainer.init()
    program = trainer.compile(device)
    for epoch in range(4):
        before = jax.tree.map(np.array, state.params)
        state = program(state, device, np.int32(epoch), np.int32(1))
    x = dense(csr, np.arange(U))
    outputs = model.denoiser(I).apply(before, single(x), jnp.zeros(U, jnp.int32))
    expected = float(np.mean(np.square(np.asarray(outputs) - x)))
    assert float(state.loss_sum / state.loss_rows) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("n_items", [2 * CHUNK + 1, 10 * CHUNK])
def test_no_table_is_copied_and_temporaries_do_not_grow_with_the_catalogue(n_items):
    rng = np.random.default_rng(0)
    csr = CSR.from_pairs(rng.integers(0, 200, 900), rng.integers(0, n_items, 900), n_users=200, n_items=n_items)
    trainer = trainer_of(DiffRec(dims=(8,), output="ridge"), n_items, FitOptions(batch_size=32), n_users=200)
    program = trainer.compile(device_csr(csr, mesh=trainer.mesh))
    copies = re.findall(rf"f32\[(?:{n_items},\d+|\d+,{n_items})\]\S* copy\(", program.as_text())
    assert not copies
    assert program.memory_analysis().temp_size_in_bytes < 2**20


@pytest.mark.long
def test_it_learns_as_well_as_dense_training():
    split = synthetic.generate(n_users=600, n_items=150, seed=1).split_by_time(0.7, 0.1, 0.2)
    options = {"epochs": 12, "batch_size": 50, "eval_every": 4, "patience": 100}
    models = {output: DiffRec(dims=(24,), output=output, lr=2e-3) for output in ("dense", "gram", "ridge")}
    fitted = {output: dr.fit(model, split.train, split.valid, **options) for output, model in models.items()}
    best = {output: each.result.progress.best_value for output, each in fitted.items()}
    floor = dr.evaluate(dr.fit(dr.Popularity(), split.train), split.valid).mean("official")["recall@20"]
    assert best["dense"] > 1.2 * floor
    assert best["gram"] == pytest.approx(best["dense"], abs=0.015), best
    assert best["ridge"] > best["dense"] - 0.015, best


def test_a_regression_that_fails_says_what_to_raise():
    split = synthetic.generate(n_users=40, n_items=30, seed=1).split_by_time(0.7, 0.1, 0.2)
    model = DiffRec(dims=(4,), output="ridge", rows_lr=1e38, activation="relu")
    with pytest.raises(NonFiniteLossError, match=r"not finite at step .* raise ridge_l2=0.002, lower rows_lr=1e"):
        dr.fit(model, split.train, epochs=5, batch_size=10)


def test_a_moving_average_is_refused():
    with pytest.raises(ValueError, match=r"ema_decay=0.9 averages parameters from step to step, .*: use ema_decay=0"):
        trainer_of(DiffRec(output="ridge"), I, FitOptions(ema_decay=0.9), n_users=U)
    with pytest.raises(ValueError, match=r"ema_decay=0.5 averages parameters"):
        configure(model="diffrec", output="ridge", ema_decay=0.5)


def test_its_options_mean_nothing_otherwise():
    assert configure(model="diffrec", output="ridge", ridge_l2=0.1).network.ridge_l2 == 0.1
    with pytest.raises(ValueError, match="ridge_l2 means nothing to diffrec: drop it, or say --output=ridge"):
        configure(model="diffrec", ridge_l2=0.1)
    searched = {output: set(space_of(configure(model="diffrec", output=output), (), "")) for output in OUTPUTS}
    assert "w0" in searched["gram"] and "w0" not in searched["ridge"] and "ridge_l2" in searched["ridge"]
    assert "norm" in searched["dense"] and "norm" not in searched["gram"] | searched["ridge"]


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"norm": True}, "output=ridge does not know the length of a noisy row, .* use output=dense"),
        ({"mean_type": "eps"}, "output=ridge never makes the noise .* use output=dense"),
        ({"w0": 0.3}, "w0=0.3 gives every item a regression of its own: use output=gram, or w0=1"),
        ({"ridge_l2": 0.0}, r"ridge_l2=0.0 must be positive: 0.002, say"),
    ],
)
def test_what_has_no_such_form_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(DiffRec(output="ridge"), **change)
