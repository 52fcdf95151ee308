"""Closed-form baselines against NumPy and by hand, with and without recency."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data.events import CSR
from diffrec_jax.data.forecast import cut, future_weights
from diffrec_jax.data.recency import Recency, weights_of
from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.mesh import make_mesh, replicated
from diffrec_jax.models import baselines, item_knn
from diffrec_jax.models.baselines import CUTS, EASE, Popularity, RecentPopularity
from diffrec_jax.models.item_knn import ItemKNN
from diffrec_jax.options import search_space

DAY = 86_400_000_000
KERNELS = [Recency("linear"), Recency("power", power=3.0, w_min=0.0), Recency("exponential", half_life=4.0)]


@pytest.fixture(scope="module")
def csr():
    """Twelve users of 23 items with times; one user and one item without interactions."""
    rng = np.random.default_rng(0)
    users, items = np.nonzero(rng.random((12, 23)) < 0.35)
    keep = (users != 3) & (items != 7)
    users, items = users[keep], items[keep]
    times = rng.integers(0, 30, len(users)) * DAY
    return CSR.from_pairs(users, items, n_users=12, n_items=23, times=times)


def dense(csr, weights=None):
    x = np.zeros((csr.n_users, csr.n_items))
    x[csr.users(), csr.indices] = 1.0 if weights is None else weights
    return x


def all_rows(csr, recency=None, mesh=None):
    users = jnp.arange(12, dtype=jnp.int32)
    return jax.jit(lambda c: take_rows(c, users, recency=recency, mesh=mesh))(device_csr(csr, mesh=mesh))


@pytest.mark.parametrize("recency", [None, *KERNELS], ids=lambda r: r.kernel if r else "none")
def test_weights_on_the_host_are_those_of_the_device(csr, recency):
    on_device = all_rows(csr, recency).dense()
    np.testing.assert_allclose(dense(csr, weights_of(csr, recency)), on_device, atol=1e-6)


def test_popularity_by_hand():
    day = np.array([0, 10, 20, 5, 25]) * DAY
    train = CSR.from_pairs(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 2, 1]), n_users=3, n_items=4, times=day)
    np.testing.assert_array_equal(Popularity().fit(train), [1, 2, 2, 0])
    linear = Popularity(recency=Recency("linear", w_min=0.0))  # weights 0, ½, 1 and 0, 1
    np.testing.assert_allclose(linear.fit(train), [0.0, 1.5, 1.0, 0.0])
    recent = RecentPopularity(half_life=5.0)  # ages 25, 15, 5, 20, 0 days
    np.testing.assert_allclose(recent.fit(train), [2**-5, 2**-3 + 1, 2**-1 + 2**-4, 0.0])
    rows = take_rows(device_csr(train), jnp.asarray([2, 0], jnp.int32))
    np.testing.assert_array_equal(recent.scores(recent.fit(train), rows)[0], recent.fit(train))


@pytest.mark.parametrize("fit_weighted", [False, True])
def test_ease_that_forecasts_is_ridge_regression_of_futures_on_pasts(csr, fit_weighted):
    recency, X, Y = KERNELS[2], [], []
    for share in (np.arange(CUTS) + 0.5) / CUTS:
        past, future = cut(csr, share)
        X.append(dense(past, weights_of(past, recency) if fit_weighted else None))
        Y.append(dense(future, future_weights(future, 2.0)))
    X, Y = np.vstack(X), np.vstack(Y)
    expected = np.linalg.solve(X.T @ X / CUTS + 3.0 * np.eye(23), X.T @ Y / CUTS)
    np.fill_diagonal(expected, 0.0)  # what is known is not recommended
    model = EASE(l2=3.0, recency=recency, fit_weighted=fit_weighted, forecast=2.0)
    np.testing.assert_allclose(model.fit(csr), expected, atol=1e-6)


@pytest.mark.parametrize("fit_weighted", [False, True])
def test_ease_on_weighted_rows_equals_its_closed_form(csr, fit_weighted):
    recency = KERNELS[1]
    x = dense(csr, weights_of(csr, recency) if fit_weighted else None)
    inverse = np.linalg.inv(x.T @ x + 3.0 * np.eye(23))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0.0)
    model = EASE(l2=3.0, recency=recency, fit_weighted=fit_weighted)
    weights = model.fit(csr)
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    scores = model.scores(weights, all_rows(csr, recency))
    np.testing.assert_allclose(scores, dense(csr, weights_of(csr, recency)) @ expected, atol=1e-4)


@pytest.mark.parametrize("forecast", [0.0, 2.0])
@pytest.mark.parametrize("columns", [5, 512])
def test_ease_in_float32_is_what_float64_rounds_to(csr, forecast, columns, monkeypatch):
    """Where memory holds only half of it, the same weights come out in half the digits, whatever the blocks."""
    monkeypatch.setattr(baselines, "COLUMNS", columns)
    double = EASE(l2=3.0, recency=KERNELS[0], forecast=forecast)
    single = dataclasses.replace(double, max_bytes=double.bytes_needed(23) - 1)
    assert (double.precision(23), single.precision(23)) == (np.float64, np.float32)
    assert single.bytes_needed(23) < double.bytes_needed(23)
    assert not dataclasses.replace(double, max_bytes=single.bytes_needed(23) - 1).fits(23)
    found, expected = single.fit(csr), double.fit(csr)
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=3e-6)
    monkeypatch.setattr(baselines, "LAPACK_ITEMS", 10)
    np.testing.assert_allclose(single.fit(csr), expected, atol=3e-6)


def test_what_is_fitted_in_float32_is_not_copied():
    weights = baselines._zeros(50, np.dtype(np.float32)).T
    taken = baselines._on_device(weights)
    assert taken.unsafe_buffer_pointer() == weights.ctypes.data
    placed = jax.device_put(taken, replicated(make_mesh(devices=jax.devices()[:1])))
    assert placed.unsafe_buffer_pointer() == weights.ctypes.data


@pytest.mark.parametrize("pivot", [1, 7, 40])
def test_elimination_inverts_as_lapack_does(pivot, monkeypatch):
    x = np.random.default_rng(0).normal(size=(60, 40)).astype(np.float32)
    gram = np.asfortranarray(x.T @ x + np.eye(40, dtype=np.float32))
    by_lapack = baselines.inverted(gram.copy(order="F"), 0.0)
    monkeypatch.setattr(baselines, "LAPACK_ITEMS", 10)
    monkeypatch.setattr(baselines, "PIVOT", pivot)
    swept = baselines.inverted(gram.copy(order="F"), 0.0)
    np.testing.assert_allclose(swept, np.linalg.inv(gram.astype(np.float64)), atol=1e-5)
    np.testing.assert_allclose(swept, by_lapack, atol=1e-5)
    for items in (10, 100):  # by elimination, by LAPACK
        monkeypatch.setattr(baselines, "LAPACK_ITEMS", items)
        with pytest.raises(ValueError, match="not positive definite with l2=-100: choose a larger l2"):
            baselines.inverted(gram.copy(order="F"), -100.0)


def knn_by_hand(x, model):
    """Similarities ``[I, I]`` with all but the K largest of each row zeroed, one pair at a time."""
    n_items = x.shape[1]
    sim = np.zeros((n_items, n_items))
    for i in range(n_items):
        for j in range(n_items):
            a, b = (x[:, i] ** 2).sum() ** model.asymmetry, (x[:, j] ** 2).sum() ** (1 - model.asymmetry)
            dot = x[:, i] @ x[:, j]
            sim[i, j] = dot / (a * b + model.shrink) if i != j and dot else 0.0
        order = np.lexsort((np.arange(n_items), -sim[i].astype(np.float32)))  # ties go to the lower item
        sim[i, order[model.neighbours :]] = 0.0
    return sim


@pytest.mark.parametrize(
    "model",
    [
        ItemKNN(neighbours=4, shrink=0.0),
        ItemKNN(neighbours=6, shrink=2.5, asymmetry=0.3),
        ItemKNN(neighbours=500, recency=KERNELS[1], fit_weighted=True),
        ItemKNN(neighbours=5, recency=KERNELS[2]),
    ],
)
@pytest.mark.parametrize("at_once", [1, 40, 2**24])
def test_item_knn_equals_numpy_whatever_the_blocks(csr, model, at_once, monkeypatch):
    monkeypatch.setattr(item_knn, "PRODUCTS_AT_ONCE", at_once)
    params = model.fit(csr)
    similarity = np.zeros((23, 24))
    np.put_along_axis(similarity, np.asarray(params["items"]), np.asarray(params["similarity"]), axis=1)
    expected = knn_by_hand(dense(csr, weights_of(csr, model.recency) if model.fit_weighted else None), model)
    np.testing.assert_allclose(similarity[:, :-1], expected, atol=1e-6)
    if at_once == 1:
        scores = model.scores(params, all_rows(csr, model.recency))
        np.testing.assert_allclose(scores, dense(csr, weights_of(csr, model.recency)) @ similarity[:, :-1], atol=1e-5)
        as_matrix = model.scores(params, all_rows(csr, model.recency), tables=model.prepare(params))
        np.testing.assert_allclose(as_matrix, scores, atol=1e-5)


def test_item_knn_keeps_its_memory_bounded():
    rng = np.random.default_rng(1)
    n = 40_000  # XᵀX dense: 12 GiB
    train = CSR.from_pairs(rng.integers(0, 9_000, 60_000), rng.integers(0, n, 60_000), n_users=9_000, n_items=n)
    model = ItemKNN(neighbours=20)
    params = model.fit(train)
    assert params["items"].shape == (n, 20)
    assert model.bytes_needed(n) < 2**29
    assert model.prepare(params) is None


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: EASE(l2=0.0), r"l2=0.0 must be positive"),
        (lambda: EASE(fit_weighted=True), r"no recency is given: name a kernel"),
        (lambda: EASE(forecast=5.0), r"forecast=5 looks at the order of a history, and no recency is given"),
        (lambda: ItemKNN(neighbours=0), r"neighbours=0 must be at least 1"),
        (lambda: ItemKNN(shrink=-1.0), r"shrink=-1.0 must not be negative"),
        (lambda: ItemKNN(asymmetry=2.0), r"asymmetry=2.0 must lie in \[0, 1\]"),
        (lambda: RecentPopularity(half_life=0.0), r"half_life=0.0 must be positive"),
    ],
)
def test_bad_hyper_parameters_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_recent_popularity_without_times_is_refused(csr):
    with pytest.raises(ValueError, match="recent_popularity needs timestamps, which this data lacks: use popularity"):
        RecentPopularity().fit(dataclasses.replace(csr, times=None))


def test_the_space_of_a_kernel_holds_its_defaults():
    space = search_space(Recency)
    assert list(space) == ["w_min", "w_max", "power", "half_life"]
    assert all(getattr(Recency(), name) in values for name, values in space.items())
