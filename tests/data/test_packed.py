"""Packed rows against dense ones in NumPy, and against the padded rows of the same histories."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data.events import CSR
from diffrec_jax.data.forecast import Fading
from diffrec_jax.data.packed import PIECE, Dropout, take_packed
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.data.walks import event_sums, product
from diffrec_jax.mesh import make_mesh

N_ITEMS = 71
USERS = jnp.asarray([5, 3, -1, 0, 11, 5, 1, 7], jnp.int32)


@pytest.fixture(scope="module")
def csr():
    """Twelve histories, one of them empty, two as long as a piece and two pieces, two with far more events."""
    rng = np.random.default_rng(0)
    lengths = np.array([9, 0, PIECE, 4, 1, 2 * PIECE, 3, 70, 5, 2, 6, 40])
    items = np.concatenate([rng.permutation(N_ITEMS)[:n] for n in lengths])
    users, times = np.repeat(np.arange(12), lengths), np.arange(lengths.sum()) * 10**11
    return CSR.from_pairs(users, items, n_users=12, n_items=N_ITEMS, times=times)


def square_beside(unobserved):
    def term(s, x, _):
        return jnp.where(x != 0, (1.0 - unobserved) * s**2, 0.0) - 2.0 * x * s + x**2

    return term


def curved(s, x, a):
    return x * (jnp.logaddexp(s, a) - s)


def numbers(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("kernel", [None, Recency(), Recency(kernel="exponential", half_life=3.0)])
def test_products_and_their_gradients_equal_those_of_padded_rows(csr, kernel):
    device, matrix, weights = device_csr(csr), numbers(N_ITEMS, 5), numbers(8, 5, seed=1)
    x = take_rows(device, USERS, recency=kernel).dense()

    def packed(matrix):
        return product(take_packed(device, USERS, recency=kernel), matrix)

    np.testing.assert_allclose(jax.jit(packed)(matrix), x @ matrix, rtol=1e-5, atol=1e-5)
    gradient = jax.jit(jax.grad(lambda m: jnp.sum(weights * packed(m))))(matrix)
    np.testing.assert_allclose(gradient, x.T @ weights, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unobserved", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("kernel", [None, Fading(3.0)])
def test_sums_over_events_and_their_gradients_equal_the_dense_ones(csr, unobserved, kernel):
    device, table, vectors, weights = device_csr(csr), numbers(N_ITEMS, 5), numbers(8, 5, seed=1), numbers(8, seed=2)
    packed = take_packed(device, USERS, recency=kernel)
    x = np.zeros((8, N_ITEMS), np.float32)
    for b, user in enumerate(np.asarray(USERS)):
        if user >= 0:
            history = csr.indices[csr.indptr[user] : csr.indptr[user + 1]]
            x[b, history] = 1.0 if kernel is None else np.exp2(-np.arange(len(history)) / 3.0)

    def ours(table, vectors):
        everywhere = unobserved * jnp.sum(jnp.square(vectors @ table.T), axis=1)
        return jnp.sum(weights * (everywhere + event_sums(packed, table, vectors, square_beside(unobserved))))

    def dense(table, vectors):
        importance = jnp.where(x != 0, 1.0, unobserved)
        return jnp.sum(weights * jnp.sum(importance * jnp.square(vectors @ table.T - x), axis=1))

    for a, b in zip(
        jax.jit(jax.value_and_grad(ours, (0, 1)))(table, vectors), jax.value_and_grad(dense, (0, 1))(table, vectors)
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-4), a, b)


def test_dropout_keeps_its_share_and_is_the_same_in_the_gradient(csr):
    device, identity = device_csr(csr), jnp.eye(N_ITEMS)
    packed, dropout = take_packed(device, USERS), Dropout.of(jax.random.key(3), 0.25)
    kept = product(packed, identity, dropout=dropout)
    whole = product(packed, identity)
    assert set(np.unique(kept)) == {0.0, np.float32(1 / 0.75)} and np.all(np.asarray(whole)[np.asarray(kept) > 0] == 1)
    assert float(kept.sum() / whole.sum()) == pytest.approx(1.0, abs=0.15)
    gradient = jax.grad(lambda m: jnp.sum(product(packed, m, dropout=dropout)[0]))(identity)
    np.testing.assert_array_equal(gradient[:, 0], kept[0])
    many = jax.vmap(lambda k: product(packed, identity, dropout=Dropout.of(k, 0.25)))(
        jax.random.split(jax.random.key(0), 400)
    )
    np.testing.assert_allclose(many.mean(0), whole, atol=0.15)


@pytest.mark.parametrize("users, items", [(4, 2), (8, 1), (1, 8)])
def test_a_mesh_changes_nothing(csr, users, items):
    mesh, kernel = make_mesh(users=users, items=items), Recency()
    matrix, table, vectors = numbers(N_ITEMS, 4), numbers(N_ITEMS, 3, seed=1), numbers(8, 3, seed=2)

    def all_of(csr, mesh):
        packed = take_packed(csr, USERS, recency=kernel, mesh=mesh)
        dropout = Dropout.of(jax.random.key(1), 0.5)

        def total(matrix, table, vectors, of_row):
            image = product(packed, matrix, dropout=dropout)
            errors = event_sums(packed, table, vectors, curved, of_row)
            return jnp.sum(jnp.square(image)) + jnp.sum(jnp.square(errors)), (image, errors)

        return jax.value_and_grad(total, (0, 1, 2, 3), has_aux=True)(matrix, table, vectors, numbers(8, seed=4))

    one, many = (
        jax.jit(all_of, static_argnums=1)(device_csr(csr), None),
        jax.jit(all_of, static_argnums=1)(device_csr(csr, mesh=mesh), mesh),
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-4), one, many)


def test_one_long_history_makes_no_batch_large():
    """A person with 20,000 events: the memory of a step stays what it is without."""
    rng = np.random.default_rng(0)

    def temporaries(longest):
        lengths = np.append(rng.integers(1, 20, 400), longest)
        users, n = np.repeat(np.arange(401), lengths), 30_000
        items = np.concatenate([np.arange(k) for k in lengths])
        device = device_csr(CSR.from_pairs(users, items, n_users=401, n_items=n))

        def step(device, matrix):
            return product(take_packed(device, jnp.arange(128, dtype=jnp.int32)), matrix)

        return jax.jit(step).lower(device, jnp.zeros((n, 8))).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(20_000) == temporaries(20)
