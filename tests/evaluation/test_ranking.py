import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import ranked

from diffrec_jax import api
from diffrec_jax.data import synthetic
from diffrec_jax.data.events import CSR
from diffrec_jax.data.rows import device_csr, make_rows, take_rows
from diffrec_jax.diffusion import reverse
from diffrec_jax.evaluation import Evaluator, Standing, hits, mask_seen, ranking_metrics, top_k
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue, DiffRec
from diffrec_jax.models.baselines import EASE, Popularity
from diffrec_jax.training import TrainState, train_step


@pytest.mark.parametrize("shape", [(1, 8), (2, 4), (8, 1), (1, 1)])
@pytest.mark.parametrize("n_items, k", [(37, 5), (37, 37), (9, 3)])
def test_top_k_on_any_mesh_equals_a_stable_sort(shape, n_items, k):
    mesh = make_mesh(users=shape[0], items=shape[1], devices=jax.devices()[: shape[0] * shape[1]])
    scores = np.random.default_rng(0).integers(0, 6, (8, n_items)).astype(np.float32)  # many ties
    values, items = jax.jit(lambda s: top_k(s, k, mesh=mesh))(jnp.asarray(scores))
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(items, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, expected, axis=1))


@pytest.mark.parametrize("n_items, k", [(2**14, 20), (2**14 + 5, 1), (2**15 - 1, 128)])
def test_top_k_of_a_long_catalogue_equals_a_stable_sort(n_items, k):
    random = np.random.default_rng(0)
    scores = np.stack([random.normal(size=n_items), random.integers(0, 3, n_items), np.full(n_items, -np.inf)])
    scores = scores.astype(np.float32)
    scores[2, n_items // 2] = 0.5  # nearly everything is masked
    values, items = jax.jit(top_k, static_argnums=1)(jnp.asarray(scores), k)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(items, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, expected, axis=1))


@pytest.mark.parametrize("n_items", [8_000, 2**17])
@pytest.mark.parametrize("shape, crossing", [((1, 8), "16,80]"), ((8, 1), "")])
def test_only_what_the_top_k_needs_crosses_between_devices(shape, crossing, n_items):
    mesh = make_mesh(users=shape[0], items=shape[1])
    sharding = jax.sharding.NamedSharding(mesh, jax.P("users", "items"))
    scores = jax.ShapeDtypeStruct((16, n_items), jnp.float32, sharding=sharding)
    text = jax.jit(lambda s: top_k(s, 10, mesh=mesh)).lower(scores).compile().as_text()
    gathers = [line for line in text.splitlines() if "all-gather(" in line or "all-reduce(" in line]
    assert bool(gathers) == bool(crossing) and all(crossing in line for line in gathers), gathers


def test_seen_items_never_appear_and_hits_are_found():
    items = jnp.asarray([[3, 1, 0, 0], [2, 0, 0, 0]], jnp.int32)
    seen = make_rows(items, jnp.asarray([2, 0], jnp.int32), n_items=5)
    scores = jnp.asarray([[1, 9, 2, 8, 3], [5, 4, 3, 2, 1]], jnp.float32)
    _, best = top_k(mask_seen(scores, seen), 3)
    np.testing.assert_array_equal(best, [[4, 2, 0], [0, 1, 2]])
    truth = make_rows(jnp.asarray([[4, 0], [3, 2]], jnp.int32), jnp.asarray([2, 2], jnp.int32), n_items=5)
    np.testing.assert_array_equal(hits(best, truth), [[True, False, True], [False, False, True]])


def test_k_beyond_the_catalogue_is_refused():
    with pytest.raises(ValueError, match="k=6 must lie between 1 and the 5 items"):
        top_k(jnp.zeros((1, 5)), 6)


@pytest.fixture(scope="module")
def split():
    return synthetic.generate(n_users=150, n_items=60, seed=2).k_core(3).split_by_time(0.7, 0.1, 0.2)


def dense(csr):
    out = np.zeros((csr.n_users, csr.n_items))
    out[csr.users(), csr.indices] = 1
    return out


def reference_metrics(scores, seen, split, ks):
    """One user after the other, from scores of everybody."""
    truth, popularity = dense(split.test.csr()), dense(split.train.csr()).sum(0)
    users = np.flatnonzero(truth.sum(1))
    found = np.zeros((len(users), max(ks)), bool)
    for n, items in enumerate(ranked(np.asarray(scores)[users], split.item_ids, popularity, seen[users])):
        hit = truth[users[n], items[: max(ks)]] > 0
        found[n, : len(hit)] = hit
    return ranking_metrics(jnp.asarray(found), jnp.asarray(truth[users].sum(1), jnp.int32), ks)


@pytest.mark.parametrize("with_valid", [pytest.param(False, marks=pytest.mark.long), True])
def test_the_evaluator_equals_one_user_after_the_other(split, with_valid):
    model = DiffRec(dims=(12,), steps=4)
    fitted = api.fit(model, split.train, split.valid, epochs=2, eval_every=2, mesh=make_mesh())
    found = api.evaluate(fitted, split.test, with_valid=with_valid, ks=(5, 20))
    train, valid = (dense(part.csr()) for part in (split.train, split.valid))
    history = np.maximum(train, valid) if with_valid else train
    denoiser, x_T = model.denoiser(history.shape[1]), jnp.asarray(history, jnp.float32)
    dense_scores = reverse(model.schedule, lambda x, t: denoiser.apply(fitted.params, x, t), x_T)
    expected = reference_metrics(np.asarray(dense_scores), np.maximum(train, valid), split, (5, 20))
    for name, values in expected.items():
        np.testing.assert_allclose(found.per_user[name], values, atol=1e-6, err_msg=name)
    assert found.n_users == split.n_users


def test_batch_size_and_order_change_nothing(split):
    model = DiffRec(dims=(12,), steps=3, noise_scale=0.5, noise_max=0.3, sampling_steps=2)
    train, valid = split.train.csr(), split.valid.csr()
    params = model.init(jax.random.key(0), Catalogue(n_items=train.n_items, n_users=train.n_users))
    results = []
    for batch_size in (7, 64, 400):
        mesh = make_mesh(devices=jax.devices()[:1])
        rows = {"history": train, "seen": train, "truth": valid, "standing": Standing.of(split.item_ids, train)}
        ev = Evaluator(model, **rows, mesh=mesh, ks=(10,), batch_size=batch_size)
        results.append(ev(jax.device_put(params, jax.devices()[0])))
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].users, other.users)
        np.testing.assert_allclose(results[0].per_user["ndcg@10"], other.per_user["ndcg@10"], atol=1e-6)


def test_ease_equals_its_closed_form_and_popularity_its_counts(split):
    train = split.train.csr()
    x = dense(train)
    inverse = np.linalg.inv(x.T @ x + 50.0 * np.eye(x.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    np.testing.assert_allclose(EASE(l2=50.0).fit(train), weights, atol=1e-6)
    for model, scores in ((EASE(l2=50.0), x @ weights), (Popularity(), np.broadcast_to(x.sum(0), x.shape))):
        fitted = api.fit(model, split.train, split.valid, mesh=make_mesh())
        found = api.evaluate(fitted, split.test, ks=(10,))
        seen = np.maximum(x, dense(split.valid.csr()))
        expected = reference_metrics(scores, seen, split, (10,))
        np.testing.assert_allclose(found.per_user["recall@10"], expected["recall@10"], atol=1e-6)
    with pytest.raises(ValueError, match=r"EASE needs 14\.0 GiB for 60,000 items, and max_bytes allows 6\.0"):
        EASE().fit(CSR(np.zeros(2, np.int32), np.zeros(0, np.int32), n_items=60_000))


def test_recommendations_are_unseen_and_ordered(split):
    fitted = api.fit(Popularity(), split.train, split.valid, mesh=make_mesh())
    found = fitted.recommend(split.train.user_ids[[0, 5, 9]], k=7)
    items = fitted.vocabulary.items(found["item"])[0].reshape(3, 7)
    assert np.all(np.diff(found["score"].reshape(3, 7), axis=1) <= 0)
    seen = np.maximum(dense(split.train.csr()), dense(split.valid.csr()))
    assert not np.take_along_axis(seen[[0, 5, 9]], items, axis=1).any()


def test_nothing_of_size_users_times_items_exists():
    """100,000 users x 100,000 items: a dense matrix would take 37 GiB in float32, and 1.2 GiB even as bits."""
    n = 100_000
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, n, 300_000), rng.integers(0, n, 300_000)
    train = CSR.from_pairs(users, items, n_users=n, n_items=n)
    valid = CSR.from_pairs(rng.integers(0, 40, 80), rng.integers(0, n, 80), n_users=n, n_items=n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mesh = make_mesh(devices=jax.devices()[:1])
    fitted = api.fit(Popularity(), train, valid, mesh=mesh)
    assert np.isfinite(api.evaluate(fitted, valid).mean("official")["recall@20"])
    model = DiffRec(dims=(4,), steps=2)
    state = TrainState.create(model, model.optimizer(), model.init(jax.random.key(0), Catalogue(n_items=n, n_users=n)))
    csr = device_csr(train, mesh=mesh)

    @jax.jit
    def step(state, users):
        return train_step(model, model.optimizer(), state, take_rows(csr, users), key=jax.random.key(0))

    state = step(state, jnp.arange(64, dtype=jnp.int32))
    assert int(state.bad_step) == -1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < n * n / 8, f"{grown / 2**20:.0f} MiB"
