"""Training without outputs against training with them: equal for equal noise, equal in law with dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data.events import CSR
from diffrec_jax.data.packed import take_packed
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.diffusion.objective import loss_weights
from diffrec_jax.models import Catalogue, DiffRec
from diffrec_jax.models.contract import Sizes
from diffrec_jax.models.gram import noise_behind, noise_factor

I, U, B = 300, 40, 24
USERS = jnp.asarray([*range(B - 1), -1], jnp.int32)


@pytest.fixture(scope="module")
def csr():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 40, U)
    items = np.concatenate([rng.permutation(I)[:n] for n in lengths])
    return CSR.from_pairs(np.repeat(np.arange(U), lengths), items, n_users=U, n_items=I)


def drawn(model):
    params = model.init(jax.random.key(0), Catalogue(n_items=I, n_users=U))
    return jax.tree.map(lambda w: w + 0.05 * jax.random.normal(jax.random.key(1), w.shape), params)


@pytest.mark.parametrize("w0", [1.0, 0.3])
@pytest.mark.parametrize("dims, noise_scale", [((16,), 0.5), ((8, 24), 0.0)])
@pytest.mark.parametrize("recency", [None, Recency()])
def test_loss_and_gradients_equal_those_with_all_outputs(csr, w0, dims, noise_scale, recency):
    """The same noise behind the first layer, dropout off; some events count for more, by the log."""
    csr = dataclasses.replace(csr, weights=np.where(csr.indices % 3, 1.0, 2.5).astype(np.float32))
    model = DiffRec(dims=dims, steps=5, noise_scale=noise_scale, noise_min=0.01, noise_max=0.3, recency=recency, w0=w0)
    params, device = drawn(model), device_csr(csr)
    t = jnp.asarray(np.arange(B) % 5, jnp.int32)
    noise = jax.random.normal(jax.random.key(2), (B, dims[-1])) if noise_scale else None
    x = take_rows(device, USERS, recency=recency).dense()
    weights = jnp.asarray(loss_weights(model.schedule, mean_type="x0", reweight=True), jnp.float32)[t]

    def by_gram(params):
        losses = model.losses_behind(params, take_packed(device, USERS, recency=recency), t, noise)
        return jnp.mean(losses), losses

    def with_outputs(params):
        p = x @ params["params"]["in_items"]
        if noise is not None:
            signal, spread = (
                jnp.asarray(table, jnp.float32)[t][:, None]
                for table in (model.schedule.sqrt_alphas_cumprod, model.schedule.sqrt_one_minus_alphas_cumprod)
            )
            p = signal * p + spread * noise
        h = model.denoiser(I).apply(params, p, t, method="inner")
        outputs = h @ params["params"]["out_items"] + params["params"]["out_bias"][None, :]
        losses = weights * jnp.mean(jnp.where(x != 0, 1.0, w0) * jnp.square(outputs - x), axis=1)
        return jnp.mean(losses), losses

    (loss, losses), gradient = jax.jit(jax.value_and_grad(by_gram, has_aux=True))(params)
    (expected, each), of_dense = jax.jit(jax.value_and_grad(with_outputs, has_aux=True))(params)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(losses, each, rtol=1e-5, atol=1e-7)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(of_dense))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * largest), gradient, of_dense)


def means(model, rows, params, draws):
    """Mean loss and gradient over many keys, and their variances."""

    def one(key):
        def loss(params):
            now = jnp.zeros((), jnp.int32)
            return model.loss(params, model.init_memory(params), rows, key=key, step=now, epoch=now)[0]

        return jax.value_and_grad(loss)(params)

    found = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=50))(jax.random.split(jax.random.key(7), draws))
    return [(np.mean(leaf, 0), np.var(leaf, 0) / draws) for leaf in jax.tree.leaves(found)]


@pytest.mark.parametrize("forecast", [0.0, 3.0])
def test_with_noise_and_dropout_it_is_the_same_in_law(csr, forecast):
    """Loud noise, so that its part of the gradient towards the first layer counts; 600 draws of each."""
    model = DiffRec(
        dims=(8,), steps=3, noise_scale=1.0, noise_min=0.1, noise_max=0.5, dropout=0.5, w0=0.3, reweight=False,
        recency=Recency() if forecast else None, forecast=forecast, output="dense",
    )  # fmt: skip
    params, device = drawn(model), device_csr(csr)
    dense = means(model, take_rows(device, USERS, recency=model.recency), params, 600)
    packed = take_packed(device, USERS, recency=model.recency)
    by_gram = means(dataclasses.replace(model, output="gram"), packed, params, 600)
    for (a, a2), (b, b2) in zip(by_gram, dense):
        off = (a - b) / np.sqrt(a2 + b2 + 1e-20)
        assert np.sqrt(np.mean(np.square(off))) < 1.6, np.shape(a)  # 1 where they are equal, but for chance


def test_the_noise_has_the_covariance_of_noise_in_the_catalogue():
    w_in = jnp.asarray(np.random.default_rng(0).normal(size=(50, 4)), jnp.float32)
    factor = noise_factor(w_in)
    np.testing.assert_allclose(factor @ factor.T, w_in.T @ w_in, rtol=1e-4, atol=1e-4)
    few = noise_factor(w_in[:2])  # fewer items than hidden units: no covariance of full rank
    assert np.isfinite(few).all()
    z, slope = jax.random.normal(jax.random.key(0), (3, 4)), jax.random.normal(jax.random.key(1), (3, 4))
    gradient = jax.grad(lambda w: jnp.sum(slope * noise_behind(w, factor, z)))(w_in)
    given = w_in @ jnp.linalg.inv(w_in.T @ w_in) @ (factor @ z.T)  # E[ε | its image], [I, B]
    np.testing.assert_allclose(gradient, given @ slope, rtol=1e-3, atol=1e-3)


def test_the_way_follows_from_the_sizes():
    wide = Sizes(n_users=30_000, n_items=40_000, n_interactions=1_500_000, batch_size=1_000)
    narrow = dataclasses.replace(wide, n_items=500, batch_size=20)
    model = DiffRec(dims=(256,))
    for sizes, output in ((wide, "gram"), (narrow, "dense")):
        suited, why = model.suited(sizes)
        assert suited.output == output and why.startswith(f"output={output}: a step takes")
        assert dataclasses.replace(model, output="dense").suited(sizes)[0].output == "dense"
    for change in ({"norm": True}, {"mean_type": "eps"}):
        assert dataclasses.replace(model, **change).suited(wide)[0].output == "dense"


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"output": "gram", "norm": True}, "output=gram does not know the length of a noisy row, .* use output=dense"),
        ({"output": "gram", "mean_type": "eps"}, "output=gram never makes the noise .* use output=dense"),
        ({"w0": -0.5}, "w0=-0.5 must not be negative: 1 is the paper"),
        ({"w0": 0.5, "mean_type": "eps"}, "w0=0.5 weighs the error of predicted rows"),
        ({"output": "gramm"}, "output='gramm' is unknown: choose one of auto, dense, gram"),
    ],
)
def test_what_has_no_such_form_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        DiffRec(**change)


def test_dense_training_with_w0_weighs_what_is_not_there(csr):
    model = DiffRec(dims=(8,), steps=1, noise_scale=0.0, dropout=0.0, output="dense", w0=0.25)
    params, rows, now = drawn(model), take_rows(device_csr(csr), USERS), jnp.zeros((), jnp.int32)
    loss = model.loss(params, model.init_memory(params), rows, key=jax.random.key(0), step=now, epoch=now)[0]
    x = rows.dense()
    outputs = model.denoiser(I).apply(params, x, jnp.zeros(B, jnp.int32))
    each = jnp.mean(jnp.where(x == 1, 1.0, 0.25) * jnp.square(outputs - x), axis=1)
    np.testing.assert_allclose(loss, each[:-1].mean(), rtol=1e-5)
