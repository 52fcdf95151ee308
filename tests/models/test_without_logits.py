"""The softmax of MultVAE and MultiDAE without all logits: exact in chunks, near with drawn items."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffrec_jax as dr
from diffrec_jax.data.events import CSR
from diffrec_jax.data.packed import take_packed
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue
from diffrec_jax.models.contract import Sizes
from diffrec_jax.models.item_chunks import log_sum_exp

I, U, B = 97, 30, 16
USERS = jnp.asarray([*range(B - 1), -1], jnp.int32)
NOW = {"key": jax.random.key(1), "step": jnp.asarray(50), "epoch": jnp.asarray(0)}


@pytest.fixture(scope="module")
def csr():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 25, U)
    items = np.concatenate([rng.permutation(I)[:n] for n in lengths])
    return CSR.from_pairs(np.repeat(np.arange(U), lengths), items, n_users=U, n_items=I)


@pytest.mark.parametrize("chunk", [10, 97, 500])
@pytest.mark.parametrize("mesh", [None, (2, 4), (1, 8)])
def test_sums_of_exponentials_and_their_gradients_are_those_of_all_logits(chunk, mesh):
    mesh = None if mesh is None else make_mesh(users=mesh[0], items=mesh[1])
    rng = np.random.default_rng(0)
    v, table, bias, c = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((B, 5), (I, 5), (I,), (B,)))

    def ours(v, table, bias):
        return jnp.sum(c * log_sum_exp(v, table, bias, chunk, mesh))

    def whole(v, table, bias):
        return jnp.sum(c * jax.nn.logsumexp(v @ table.T + bias[None, :], axis=1))

    found, expected = (jax.jit(jax.value_and_grad(of, (0, 1, 2)))(v, table, bias) for of in (ours, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), found, expected)


@pytest.mark.parametrize("recency", [None, Recency()])
@pytest.mark.parametrize("model", [dr.MultVAE(dims=(4, 6), dropout=0.0), dr.MultiDAE(dims=(5,), dropout=0.0)])
def test_chunked_training_is_dense_training(csr, model, recency):
    model = dataclasses.replace(model, recency=recency)
    params = model.init(jax.random.key(0), Catalogue(n_items=I, n_users=U))
    device = device_csr(csr)

    def loss(params, output, rows):
        return dataclasses.replace(model, output=output).loss(params, None, rows, **NOW)[0]

    dense = jax.value_and_grad(loss)(params, "dense", take_rows(device, USERS, recency=recency))
    chunked = jax.value_and_grad(loss)(params, "chunked", take_packed(device, USERS, recency=recency))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), chunked, dense)


def test_drawn_items_estimate_the_softmax(csr):
    """With many draws the loss is near the dense one, from above or below; the same items serve all users."""
    model = dr.MultiDAE(dims=(5,), dropout=0.0, output="sampled", negatives=97)
    params = model.init(jax.random.key(0), Catalogue(n_items=I, n_users=U))
    params = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(jax.random.key(a.size), a.shape), params)
    device = device_csr(csr)
    whole = dataclasses.replace(model, output="dense").loss(params, None, take_rows(device, USERS), **NOW)[0]
    rows = take_packed(device, USERS)
    drawn = [model.loss(params, None, rows, **{**NOW, "key": jax.random.key(n)})[0] for n in range(20)]
    assert float(np.mean(drawn)) == pytest.approx(float(whole), rel=0.05)
    with pytest.raises(ValueError, match="negatives=98 must lie between 1 and the 97 items"):
        dataclasses.replace(model, negatives=98).loss(params, None, rows, **NOW)


def test_memory_does_not_grow_with_rows_times_items():
    n = 60_000
    rng = np.random.default_rng(0)
    csr = CSR.from_pairs(rng.integers(0, 600, 5_000), rng.integers(0, n, 5_000), n_users=600, n_items=n)
    model = dr.MultVAE(dims=(8,), output="chunked")
    params = model.shapes(Catalogue(n_items=n, n_users=600))
    taken = {}
    for rows in (64, 512):

        def step(params, csr, rows=rows):
            packed = take_packed(csr, jnp.arange(rows, dtype=jnp.int32))
            return jax.grad(lambda p: model.loss(p, None, packed, **NOW)[0])(params)

        taken[rows] = jax.jit(step).lower(params, device_csr(csr)).compile().memory_analysis().temp_size_in_bytes
    assert taken[512] < 512 * n * 4 / 2 and taken[512] < 8 * taken[64]


def test_the_way_follows_from_the_sizes():
    sizes = Sizes(n_users=10_000, n_items=1_000_000, n_interactions=10**6, batch_size=400)
    for n_items, output in ((1_000_000, "chunked"), (2_000, "dense")):
        suited, why = dr.MultVAE().suited(dataclasses.replace(sizes, n_items=n_items))
        assert suited.output == output and why.startswith(f"output={output}: a step has")
    assert dr.MultVAE(output="sampled").suited(sizes) == (dr.MultVAE(output="sampled"), "")
