from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import device_csr, make_rows, take_rows


@pytest.fixture
def csr():
    rng = np.random.default_rng(0)
    histories = [rng.permutation(23)[: rng.integers(0, 9)] for _ in range(12)]
    histories[3] = np.arange(0)
    indptr = np.append(0, np.cumsum([len(h) for h in histories]))
    indices = np.concatenate(histories)
    return SimpleNamespace(indptr=indptr, indices=indices, n_items=23, times=None, weights=None, histories=histories)


def dense_of(csr, users, recency=None):
    out = np.zeros((len(users), csr.n_items), np.float32)
    for b, u in enumerate(users):
        if u >= 0:
            M = len(csr.histories[u])
            weights = 1.0 if recency is None else recency(M)
            out[b, csr.histories[u]] = weights
    return out


def test_dense_rows_and_products_equal_numpy(csr):
    users = np.array([5, 3, -1, 0, 11, 5], np.int32)
    device = device_csr(csr)
    rows = jax.jit(take_rows)(device, jnp.asarray(users))
    expected = dense_of(csr, users)
    np.testing.assert_array_equal(rows.dense(), expected)
    np.testing.assert_array_equal(rows.counts, dense_of(csr, np.arange(12)).sum(0))
    matrix = np.random.default_rng(1).normal(size=(23, 4)).astype(np.float32)
    np.testing.assert_allclose(rows.product(jnp.asarray(matrix)), expected @ matrix, atol=1e-5)
    values = jnp.array([1.0, 2.0, jnp.nan, 6.0, 4.0, 2.0])  # the third row belongs to nobody
    assert float(rows.mean(values)) == 3.0 and float(rows.mean(values, where=rows.lengths > 99)) == 0.0


@pytest.mark.parametrize("mesh_shape", [(4, 2), (2, 4), (8, 1), (1, 8)])
def test_a_mesh_changes_nothing(csr, mesh_shape):
    mesh = jax.make_mesh(mesh_shape, ("users", "items"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    users = jnp.asarray([5, 3, -1, 0, 11, 5, 1, 2], jnp.int32)
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(23, 4)), jnp.float32)
    recency = Recency()

    @jax.jit
    def both(csr, users):
        rows = take_rows(csr, users, recency=recency, mesh=mesh)
        return rows.dense(), rows.product(matrix)

    dense, product = both(device_csr(csr, mesh=mesh), users)
    rows = take_rows(device_csr(csr), users, recency=recency)
    np.testing.assert_allclose(dense, rows.dense(), rtol=2e-7)
    np.testing.assert_allclose(product, rows.product(matrix), atol=1e-5)


def test_linear_recency_equals_the_recorded_weights(golden):
    g = golden("temporal_weights")
    for M in (1, 2, 3, 7, 50):
        items = jnp.arange(60, dtype=jnp.int32)[None]
        recency = Recency("linear", w_min=float(g["w_min"]), w_max=float(g["w_max"]))
        rows = make_rows(items, jnp.asarray([M], jnp.int32), n_items=60, recency=recency)
        np.testing.assert_allclose(rows.weights[0, :M], g[f"M{M}"], rtol=1e-6)
        assert not jnp.any(rows.weights[0, M:])


def test_power_and_exponential_kernels():
    lengths = jnp.asarray([4, 1, 0], jnp.int32)
    w = Recency("power", w_min=0.2, w_max=1.0, power=2.0).weights(lengths, 4)
    np.testing.assert_allclose(w[0], 0.2 + 0.8 * np.array([0, 1 / 9, 4 / 9, 1]), rtol=1e-6)
    assert float(w[1, 0]) == pytest.approx(0.2)
    days = jnp.asarray([[0.0, 10.0, 20.0, 20.0], [5.0, 0, 0, 0], [0.0, 0, 0, 0]])
    w = Recency("exponential", w_min=0.0, w_max=1.0, half_life=10.0).weights(lengths, 4, days)
    np.testing.assert_allclose(w[0], [0.25, 0.5, 1.0, 1.0], rtol=1e-6)
    with pytest.raises(ValueError, match="recency=exponential needs timestamps"):
        Recency("exponential").weights(lengths, 4)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"kernel": "step"}, "recency='step' is unknown: choose one of linear, power, exponential"),
        ({"w_min": 2.0}, "w_min=2.0, w_max=1.0: choose 0 <= w_min <= w_max"),
        ({"power": 0.0}, "recency_power=0.0 must be positive"),
    ],
)
def test_bad_kernels_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Recency(**change)
