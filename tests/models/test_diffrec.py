"""DiffRec against the recorded reference, and its collapsed reverse process against the dense loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import quick

from diffrec_jax.data.forecast import past_and_future
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import make_rows
from diffrec_jax.diffusion import corrupt, denoising_loss, importance, posterior_mean, predict_x0, q_sample, reverse
from diffrec_jax.diffusion.importance import LossHistory
from diffrec_jax.models import Catalogue, DiffRec
from diffrec_jax.models.denoiser import dropout, timestep_embedding

RECORDINGS = ["diffusion_x0_1layer", "diffusion_x0_2layer", "diffusion_x0_norm", "diffusion_eps_1layer"]


def model_of(config):
    config = {k: v for k, v in config.items() if k != "n_items"}
    return DiffRec(**{**config, "dims": tuple(config["dims"])})


def params_of(g, prefix, n_items, depth):
    """The recorded parameters in our layout."""
    w_in = g[f"{prefix}/in_layers.0.weight"].T
    hidden = {}
    names = [f"in_layers.{i}" for i in range(1, depth)] + [f"out_layers.{i}" for i in range(depth - 1)]
    for i, name in enumerate(names):
        hidden[f"hidden_{i}"] = {"kernel": g[f"{prefix}/{name}.weight"].T, "bias": g[f"{prefix}/{name}.bias"]}
    params = {
        "emb": {"kernel": g[f"{prefix}/emb_layer.weight"].T, "bias": g[f"{prefix}/emb_layer.bias"]},
        "in_items": w_in[:n_items],
        "in_emb": w_in[n_items:],
        "in_bias": g[f"{prefix}/in_layers.0.bias"],
        "out_items": g[f"{prefix}/out_layers.{depth - 1}.weight"].T,
        "out_bias": g[f"{prefix}/out_layers.{depth - 1}.bias"],
        **hidden,
    }
    return {"params": jax.tree.map(jnp.asarray, params)}


@pytest.mark.parametrize("name", RECORDINGS)
def test_forward_posterior_loss_and_reverse_equal_the_recorded_ones(golden, name):
    g = golden(name)
    model, n_items = model_of(g["config"]), g["config"]["n_items"]
    params = params_of(g, "params", n_items, len(model.dims))
    denoiser = model.denoiser(n_items)
    x0, t, noise = (jnp.asarray(g[k]) for k in ("x0", "t", "noise"))

    def denoise(x, t):
        return denoiser.apply(params, x, t)

    x_t = q_sample(model.schedule, x0, t, noise)
    np.testing.assert_allclose(x_t, g["x_t"], atol=1e-6)
    output = denoise(x_t, t)
    np.testing.assert_allclose(output, g["model_output"], atol=1e-6)
    x0_hat = predict_x0(model.schedule, output, x_t, t, mean_type=model.mean_type)
    np.testing.assert_allclose(x0_hat, g["pred_xstart"], atol=1e-6)
    np.testing.assert_allclose(posterior_mean(model.schedule, x0_hat, x_t, t), g["posterior_mean"], atol=1e-6)
    loss = denoising_loss(model.schedule, denoise, x0, t, noise, mean_type=model.mean_type).loss
    np.testing.assert_allclose(loss, g["loss_per_sample/reweight_True"], rtol=1e-5)
    for sampling_steps, key in ((0, "sampling_steps_0"), (int(g["reverse/half"]), "sampling_steps_half")):
        x_T = corrupt(model.schedule, x0, noise, sampling_steps=sampling_steps)
        x = reverse(model.schedule, denoise, x_T, mean_type=model.mean_type)
        np.testing.assert_allclose(x, g[f"reverse/{key}"], atol=1e-6)


@pytest.mark.parametrize("name", RECORDINGS)
def test_twenty_steps_of_adamw_equal_the_recorded_ones(golden, name):
    g = golden(name)
    c = g["train/config"]
    model = dataclasses.replace(model_of(g["config"]), lr=c["lr"], weight_decay=c["weight_decay"])
    n_items = g["config"]["n_items"]
    params = params_of(g, "params", n_items, len(model.dims))
    denoiser, optimizer = model.denoiser(n_items), model.optimizer()

    def mean_loss(params, t, noise):
        def denoise(x, t):
            return denoiser.apply(params, x, t)

        return jnp.mean(
            denoising_loss(model.schedule, denoise, jnp.asarray(g["x0"]), t, noise, mean_type=model.mean_type).loss
        )

    @jax.jit
    def step(params, state, t, noise):
        loss, gradient = jax.value_and_grad(mean_loss)(params, t, noise)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    for t, noise, loss in zip(g["train/t"], g["train/noise"], g["train/loss"]):
        params, state, ours = step(params, state, jnp.asarray(t), jnp.asarray(noise))
        np.testing.assert_allclose(ours, loss, rtol=2e-5)
    expected = params_of(g, "trained", n_items, len(model.dims))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, expected)


def test_timestep_embedding_equals_the_recorded_one(golden):
    g = golden("timestep_embedding")
    for size in (10, 11, 16):
        np.testing.assert_allclose(timestep_embedding(jnp.asarray(g["t"]), size), g[f"dim{size}"], atol=1e-5)


def some_rows(n_items=37, B=6, L=9, seed=0):
    rng = np.random.default_rng(seed)
    lengths = np.append(0, rng.integers(1, L + 1, B - 1)).astype(np.int32)  # one history is empty
    items = np.stack([rng.permutation(n_items)[:L] for _ in range(B)]).astype(np.int32)
    return make_rows(jnp.asarray(items), jnp.asarray(lengths), jnp.arange(B, dtype=jnp.int32), n_items=n_items)


@pytest.mark.parametrize("sampling_steps", [0, 3, 8])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("mean_type", ["x0", "eps"])
@pytest.mark.parametrize("dims", quick([(16,), (8, 16), (6, 12, 20)], (16,), (6, 12, 20)))
def test_the_collapsed_process_equals_the_dense_loop(dims, mean_type, norm, sampling_steps):
    model = DiffRec(
        dims=dims, mean_type=mean_type, norm=norm, sampling_steps=sampling_steps, steps=8,
        noise_scale=0.5, noise_min=0.001, noise_max=0.1,
    )  # fmt: skip
    rows = some_rows()
    params = model.init(jax.random.key(1), Catalogue(n_items=rows.n_items, n_users=6))
    params = jax.tree.map(lambda w: w + 0.05 * jax.random.normal(jax.random.key(2), w.shape), params)
    key = jax.random.key(3)
    dense = model.scores_by_dense_loop(params, rows, key)
    collapsed = jax.jit(model.scores)(params, rows, key=key, tables=model.prepare(params))
    assert float(jnp.abs(dense).max()) > 0.1
    np.testing.assert_allclose(collapsed, dense, atol=3e-5 if mean_type == "eps" else 3e-6, rtol=1e-4)


@pytest.mark.parametrize("change", [{"steps": 1}, {"noise_scale": 0.0}, {"noise_schedule": "cosine"}])
def test_the_collapsed_process_at_its_limits(change):
    model = DiffRec(**{"dims": (8,), "steps": 4, "noise_scale": 0.1, **change})
    rows = some_rows()
    params = model.init(jax.random.key(1), Catalogue(n_items=rows.n_items, n_users=6))
    key = jax.random.key(0)
    np.testing.assert_allclose(
        model.scores(params, rows, key=key), model.scores_by_dense_loop(params, rows, key), atol=2e-6, rtol=1e-5
    )


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("extra", [{}, {"sampling_steps": 3}, {"mean_type": "eps"}, {"sampling_noise": True}])
def test_guidance_takes_out_what_an_empty_history_gets(norm, extra):
    model = DiffRec(dims=(8, 16), steps=4, noise_scale=0.1, norm=norm, guidance=0.75, **extra)
    rows = some_rows()
    params = model.init(jax.random.key(1), Catalogue(n_items=rows.n_items, n_users=6))
    key = jax.random.key(0)
    plain = dataclasses.replace(model, guidance=0.0)
    without = dataclasses.replace(plain, sampling_steps=0, sampling_noise=False)
    nothing = without.scores(params, jax.tree.map(lambda a: a[:1], rows), key=key)  # the first history is empty
    scores = model.scores(params, rows, key=key, tables=model.prepare(params))
    np.testing.assert_allclose(scores, plain.scores(params, rows, key=key) - 0.75 * nothing, atol=3e-5)
    if model.factored:
        vectors = model.user_vectors(params, rows, key=key) @ model.item_vectors(params).T
        np.testing.assert_allclose(vectors, scores, atol=1e-5)


@pytest.mark.parametrize("fit_weighted", [False, True])
def test_a_forecast_compares_the_denoised_past_with_the_future(fit_weighted):
    recency = Recency("power", w_min=0.5, w_max=5.0)
    model = DiffRec(dims=(8,), steps=3, recency=recency, fit_weighted=fit_weighted, forecast=2.0, dropout=0.0)
    model = dataclasses.replace(model, noise_scale=0.0, reweight=False)
    rows = some_rows()
    params = model.init(jax.random.key(1), Catalogue(n_items=rows.n_items, n_users=6))
    key = jax.random.key(5)
    loss, _ = model.loss(params, LossHistory.create(3), rows, key=key, step=jnp.asarray(0), epoch=jnp.asarray(0))
    kernel = recency if fit_weighted else None
    past, future = past_and_future(rows, jax.random.fold_in(key, 3), half_life=2.0, recency=kernel)
    t, weight = importance.sample(LossHistory.create(3), jax.random.split(key, 3)[0], 6)
    output = model.denoiser(rows.n_items).apply(params, past.dense(), t)
    error = weight * np.square(output - future.dense()).mean(axis=1)
    np.testing.assert_allclose(loss, error[past.users >= 0].mean(), rtol=1e-5)


def test_noise_at_inference_depends_on_the_user_and_not_on_the_batch():
    for extra in ({"sampling_noise": True}, {"sampling_steps": 4}):
        model = DiffRec(dims=(8,), steps=4, noise_scale=0.9, noise_max=0.5, **extra)
        rows = some_rows()
        params = model.init(jax.random.key(1), Catalogue(n_items=rows.n_items, n_users=6))
        key = jax.random.key(0)
        together = model.scores(params, rows, key=key)
        for b in (1, 4):
            alone = jax.tree.map(lambda a, b=b: a[b : b + 1], rows)
            np.testing.assert_allclose(model.scores(params, alone, key=key)[0], together[b], atol=1e-5)
        assert float(jnp.abs(model.scores(params, rows, key=jax.random.key(9)) - together).max()) > 1e-4
        with pytest.raises(ValueError, match="prng_impl=rbg cannot draw per user: use threefry2x32"):
            model.scores(params, rows, key=jax.random.key(0, impl="rbg"))


def test_initial_parameters_have_the_reference_distribution_and_number():
    model = DiffRec(dims=(200, 600))
    params = model.init(jax.random.key(0), Catalogue(n_items=2810, n_users=1))["params"]
    fan_in = 2810 + 10
    for name, shape in (("in_items", (2810, 600)), ("out_items", (600, 2810))):
        assert params[name].shape == shape
    assert float(jnp.std(params["in_items"])) == pytest.approx((2 / (fan_in + 600)) ** 0.5, rel=0.01)
    assert float(jnp.std(params["in_emb"])) == pytest.approx((2 / (fan_in + 600)) ** 0.5, rel=0.05)
    assert float(jnp.std(params["out_items"])) == pytest.approx((2 / (2810 + 600)) ** 0.5, rel=0.01)
    assert float(jnp.std(params["hidden_0"]["kernel"])) == pytest.approx((2 / 800) ** 0.5, rel=0.01)
    assert float(jnp.std(params["out_bias"])) == pytest.approx(0.001, rel=0.1)
    amazon = DiffRec(dims=(1000,))
    shapes = jax.eval_shape(lambda key: amazon.init(key, Catalogue(n_items=94_949, n_users=1)), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 190_004_059


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_dropout_keeps_the_mean_and_the_share(rate):
    x = jnp.ones((200, 1003))
    y = dropout(jax.random.key(0), x, rate=rate)
    assert float(jnp.mean(y)) == pytest.approx(1.0, abs=0.01)
    assert float(jnp.mean(y == 0)) == pytest.approx(rate, abs=0.01)
    columns, rows = jnp.mean(y == 0, axis=0), jnp.mean(y == 0, axis=1)  # no column or row is special
    assert float(jnp.std(columns)) < 0.05 and float(jnp.std(rows)) < 0.03
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate))


def test_padding_rows_weigh_nothing_and_write_no_history():
    model = DiffRec(dims=(8,), steps=3)
    rows = some_rows()
    padded = rows.replace(users=rows.users.at[3:].set(-1))
    params = model.init(jax.random.key(1), Catalogue(n_items=rows.n_items, n_users=6))
    now = {"key": jax.random.key(5), "step": jnp.asarray(0), "epoch": jnp.asarray(0)}
    loss, aux = model.loss(params, LossHistory.create(3), padded, **now)
    junk = padded.replace(items=padded.items.at[3:].set(1), weights=padded.weights.at[3:].set(50.0))
    again, aux_again = model.loss(params, LossHistory.create(3), junk, **now)
    assert float(loss) == float(again) and int(aux.memory.count.sum()) == 3
    np.testing.assert_array_equal(aux.memory.history, aux_again.memory.history)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"sampling_steps": 6, "steps": 5}, "sampling_steps=6 must lie between 0 and steps=5"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"dims": ()}, r"dims=\[\] needs at least one number, each >= 1, such as"),
        ({"mean_type": "v"}, "mean_type='v' is unknown: choose one of x0, eps"),
        ({"mean_type": "eps", "noise_scale": 0.0}, "noise_scale=0 leaves none: use mean_type=x0"),
        ({"activation": "sine"}, "activation='sine' is unknown: choose one of tanh"),
        ({"dropout": 1.0}, r"dropout=1.0 must lie in \[0, 1\)"),
        ({"lr": 0.0}, "lr=0.0 must be positive"),
        ({"emb_size": 0}, "emb_size=0 must be at least 1"),
        ({"guidance": -1.5}, r"guidance=-1.5 must not be negative"),
        ({"forecast": -1.0}, "forecast=-1.0 is the half-life of the future in interactions"),
        ({"forecast": 5.0}, "forecast=5 looks at the order of a history, and no recency is given: name a kernel"),
        ({"forecast": 5.0, "recency": Recency(), "mean_type": "eps"}, "mean_type=eps predicts the noise, and forecast"),
    ],
)
def test_bad_hyper_parameters_are_refused_with_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        DiffRec(**change)
