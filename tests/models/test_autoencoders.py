"""ELSA, MultVAE and MultiDAE against NumPy, on any mesh, and what they learn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax import api
from diffrec_jax.data.events import CSR
from diffrec_jax.data.forecast import past_and_future
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue
from diffrec_jax.models.contract import Model
from diffrec_jax.models.elsa import ELSA
from diffrec_jax.models.mult_vae import MultiDAE, MultVAE

MODELS = [
    ELSA(dim=6),
    MultVAE(dims=(4, 7), dropout=0.0, recency=Recency()),
    MultVAE(dims=(5,), dropout=0.0, vae_anneal_steps=0),
    MultiDAE(dims=(4, 7), dropout=0.0),
    MultiDAE(dims=(5,), dropout=0.0, activation="relu"),
]
IDS = ["elsa", "multvae", "multvae_shallow", "multidae", "multidae_shallow"]
U, I = 11, 19


@pytest.fixture(scope="module")
def csr():
    users, items = np.nonzero(np.random.default_rng(0).random((U, I)) < 0.3)
    return CSR.from_pairs(users, items, n_users=U, n_items=I)


def batch(csr, model, mesh=None):
    users = jnp.asarray([*range(U), -1], jnp.int32)
    return take_rows(device_csr(csr, mesh=mesh), users, recency=model.recency, mesh=mesh)


def initial(model):
    params = model.init(jax.random.key(1), Catalogue(n_items=I, n_users=U))
    return jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), params)


def loss_of(model, params, rows, step=100):
    key = jax.random.key(5)
    return model.loss(params, model.init_memory(params), rows, key=key, step=jnp.asarray(step), epoch=jnp.asarray(0))


def by_hand(model, params, x, step=100, asked=None):
    """Scores ``[B, I]`` and losses ``[B]`` of rows in float64; ``asked``: rows to predict, if not ``x``."""
    asked = x if asked is None else asked
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    if isinstance(model, ELSA):
        a = p["items"] / np.linalg.norm(p["items"], axis=1, keepdims=True)
        predicted = x @ (a @ a.T - np.eye(I))
        unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (predicted, x)]
        return x @ a @ a.T, np.square(unit[0] - unit[1]).sum(axis=1)
    p, Z = p["params"], model.dims[0]
    act = {"tanh": np.tanh, "relu": lambda h: np.maximum(h, 0.0)}[model.activation]
    h = x / np.linalg.norm(x, axis=1, keepdims=True) @ p["in_items"] + p["in_bias"]
    if len(model.dims) > 1:
        h = act(h) @ p["encoder_0"]["kernel"] + p["encoder_0"]["bias"]

    def decode(z):
        if len(model.dims) > 1:
            z = act(z @ p["decoder_0"]["kernel"] + p["decoder_0"]["bias"])
        return z @ p["out_items"] + p["out_bias"]

    def nll(logits):
        shifted = logits - logits.max(axis=1, keepdims=True)
        return -(asked * (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))).sum(axis=1)

    if isinstance(model, MultiDAE):
        return decode(act(h)), nll(decode(act(h)))
    mean, log_variance = h[:, :Z], h[:, Z:]
    noise = np.asarray(jax.random.normal(jax.random.split(jax.random.key(5))[1], (U + 1, Z)))[:U]
    kl = 0.5 * (mean**2 + np.exp(log_variance) - 1.0 - log_variance).sum(axis=1)
    gamma = min(model.vae_anneal_cap, step / model.vae_anneal_steps if model.vae_anneal_steps else np.inf)
    return decode(mean), nll(decode(mean + noise * np.exp(0.5 * log_variance))) + gamma * kl


@pytest.mark.parametrize("model", MODELS, ids=IDS)
def test_loss_and_scores_equal_numpy(csr, model):
    assert isinstance(model, Model) and model.factored
    params, rows = initial(model), batch(csr, model)
    scores, losses = by_hand(model, params, np.asarray(rows.dense(), np.float64)[:U])
    loss, aux = loss_of(model, params, rows)
    assert float(loss) == pytest.approx(losses.mean(), rel=1e-4)
    ours = model.scores(params, rows)
    np.testing.assert_allclose(ours[:U], scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.scores(params, rows, tables=model.prepare(params)), ours, atol=1e-5)
    np.testing.assert_allclose(model.user_vectors(params, rows) @ model.item_vectors(params).T, ours, atol=1e-4)
    assert all(np.isfinite(value) for value in aux.metrics.values())


@pytest.mark.parametrize("kind", [MultVAE, MultiDAE])
def test_a_forecast_shows_the_past_and_asks_for_the_future(csr, kind):
    recency = Recency("power", w_min=0.5, w_max=2.0)
    model = kind(dims=(4, 7), dropout=0.0, recency=recency, forecast=2.0)
    params, rows = initial(model), batch(csr, model)
    past, future = past_and_future(rows, jax.random.fold_in(jax.random.key(5), 2), half_life=2.0, recency=recency)
    x, asked = (np.asarray(part.dense(), np.float64)[:U] for part in (past, future))
    losses = by_hand(model, params, x, asked=asked)[1][np.asarray(past.users)[:U] >= 0]
    assert float(loss_of(model, params, rows)[0]) == pytest.approx(losses.mean(), rel=1e-4)
    with pytest.raises(ValueError, match="forecast=3 looks at the order of a history, and no recency is given"):
        kind(forecast=3.0)


def test_kl_is_annealed(csr):
    model = MultVAE(dims=(4,), dropout=0.0, vae_anneal_cap=0.3, vae_anneal_steps=200)
    params, rows = initial(model), batch(csr, model)
    gammas = [float(loss_of(model, params, rows, step)[1].metrics["gamma"]) for step in (0, 30, 1000)]
    assert gammas == pytest.approx([0.0, 0.15, 0.3])


def test_the_gradient_of_elsa_is_that_of_its_definition(csr):
    model = ELSA(dim=6)
    params, rows = initial(model), batch(csr, model)
    x = rows.dense()[:U]

    def direct(params):
        a = params["items"] / jnp.linalg.norm(params["items"], axis=1, keepdims=True)
        predicted = x @ (a @ a.T - jnp.eye(I))
        unit = [v / jnp.linalg.norm(v, axis=1, keepdims=True) for v in (predicted, x)]
        return jnp.square(unit[0] - unit[1]).sum(axis=1).mean()

    expected = jax.grad(direct)(params)["items"]
    ours = jax.grad(lambda p: loss_of(model, p, rows)[0])(params)["items"]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("model", [ELSA(dim=8), MultiDAE(dims=(8,), lr=0.02, output="dense")])
def test_tastes_are_learned_and_a_run_can_be_loaded(model, tmp_path):
    rng = np.random.default_rng(0)
    n_users, n_items = 60, 40
    items = np.concatenate([2 * rng.permutation(n_items // 2)[:12] + u % 2 for u in range(n_users)])
    users, held = np.repeat(np.arange(n_users), 12), np.tile(np.arange(12) >= 8, n_users)
    train, valid = (
        CSR.from_pairs(users[part], items[part], n_users=n_users, n_items=n_items) for part in (~held, held)
    )
    mesh = make_mesh(devices=jax.devices()[:1])
    options = {"batch_size": 20, "epochs": 30, "eval_every": 30, "mesh": mesh, "workdir": tmp_path / "run"}
    fitted = api.fit(model, train, valid, **options)
    assert api.evaluate(fitted, valid).mean("standard")["recall@10"] > 0.6  # knowing the taste alone gives 0.83
    import diffrec_jax

    loaded = diffrec_jax.load(tmp_path / "run")
    assert loaded.content.model == model
    jax.tree.map(np.testing.assert_array_equal, loaded.ranker.params, fitted.params)


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: ELSA(dim=0), r"dim=0 must be at least 1"),
        (lambda: ELSA(lr=0.0), r"lr=0.0 must be positive"),
        (lambda: MultVAE(dims=()), r"dims=\[\] needs at least one number, each >= 1, such as"),
        (lambda: MultVAE(vae_anneal_cap=-1.0), r"vae_anneal_cap=-1.0 must not be negative"),
        (lambda: MultiDAE(dropout=1.0), r"dropout=1.0 must lie in \[0, 1\)"),
        (lambda: MultiDAE(activation="sine"), r"activation='sine' is unknown: choose one of"),
        (lambda: dataclasses.replace(MODELS[3], weight_decay=-1.0), r"weight_decay=-1.0 must not be negative"),
    ],
)
def test_bad_hyper_parameters_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
