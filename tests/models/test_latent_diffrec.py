"""L-DiffRec: joint training against the recorded reference, its loss, and inference against the dense way."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_cluster_vae import recorded_clusters, recorded_params

from diffrec_jax.data.events import CSR
from diffrec_jax.data.forecast import past_and_future
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import device_csr, make_rows, take_rows
from diffrec_jax.diffusion import importance
from diffrec_jax.diffusion.importance import LossHistory
from diffrec_jax.models import Catalogue, LatentDiffRec
from diffrec_jax.models.cluster_vae import split
from diffrec_jax.models.contract import Model

RECORDINGS = ["latent_training_1cluster", "latent_training_3clusters", "latent_training_3clusters_deep"]
SCHEDULE = ("emb_size", "steps", "noise_schedule", "noise_scale", "noise_min", "noise_max", "beta_fixed", "reweight")
ANNEALING = ("lamda", "anneal_cap", "anneal_steps", "vae_anneal_cap", "vae_anneal_steps", "lr1", "lr2")


def model_of(config, clusters):
    dims = {name: tuple(config[name]) for name in ("in_dims", "out_dims", "mlp_dims")}
    same = {name: config[name] for name in (*SCHEDULE, *ANNEALING, "act_func", "mlp_act_func")}
    return LatentDiffRec(clusters=clusters, **dims, **same)


def params_of(g, prefix, n_latent):
    w_in = g[f"{prefix}/mlp/in_layers.0.weight"].T
    denoiser = {
        "emb": {"kernel": g[f"{prefix}/mlp/emb_layer.weight"].T, "bias": g[f"{prefix}/mlp/emb_layer.bias"]},
        "in_items": w_in[:n_latent],
        "in_emb": w_in[n_latent:],
        "in_bias": g[f"{prefix}/mlp/in_layers.0.bias"],
        "out_items": g[f"{prefix}/mlp/out_layers.0.weight"].T,
        "out_bias": g[f"{prefix}/mlp/out_layers.0.bias"],
    }
    denoiser = {"params": jax.tree.map(jnp.asarray, denoiser)}
    return {"autoencoder": recorded_params(g, f"{prefix}/ae"), "denoiser": denoiser}


def rows_of(x):
    """Dense 0/1 rows as padded histories."""
    lengths = (x > 0).sum(1)
    items = np.argsort(x == 0, axis=1, kind="stable")[:, : lengths.max()]
    users = jnp.arange(len(x), dtype=jnp.int32)
    return make_rows(jnp.asarray(items, jnp.int32), jnp.asarray(lengths, jnp.int32), users, n_items=x.shape[1])


@pytest.mark.parametrize("name", RECORDINGS)
def test_twenty_joint_steps_and_the_scores_after_them_equal_the_recorded_ones(golden, name):
    g = golden(name)
    config = g["config"]
    model = model_of(config, recorded_clusters(g))
    clusters = model.clusters
    x = jnp.asarray(g["x"])[:, clusters.order]
    params, optimizer = params_of(g, "params", config["in_dims"][0]), model.optimizer()

    def joint_loss(params, n, t, latent_noise, noise):
        terms = model.terms(params, x, t, latent_noise=latent_noise, noise=noise)
        elbo, nll, kl = (jnp.mean(term) for term in terms)
        lamda, gamma = model.lamda_at(n // config["batches_per_epoch"]), model.gamma_at(n)
        return lamda * elbo + nll + gamma * kl, (elbo, nll, kl, lamda, gamma)

    @jax.jit
    def step(params, state, n, *draws):
        (loss, parts), gradient = jax.value_and_grad(joint_loss, has_aux=True)(params, n, *draws)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, (loss, *parts)

    state = optimizer.init(params)
    for n in range(20):
        draws = (jnp.asarray(g[f"train/{k}"][n]) for k in ("t", "eps_reparam", "noise"))
        params, state, ours = step(params, state, jnp.asarray(n), *draws)
        expected = [g[f"train/{k}"][n] for k in ("loss", "elbo", "vae_nll", "kl", "lamda", "gamma")]
        np.testing.assert_allclose(ours, expected, rtol=5e-5, atol=1e-7)
    trained = params_of(g, "trained", config["in_dims"][0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), params, trained)

    scores = jax.jit(model.scores)(trained, rows_of(g["x"]), key=jax.random.key(0))
    expected = np.empty_like(g["trained_scores/logits_cluster_order"])
    expected[:, clusters.order] = g["trained_scores/logits_cluster_order"]
    np.testing.assert_allclose(scores, expected, atol=2e-6)


SMALL = {"in_dims": (8,), "mlp_dims": (6,), "steps": 4, "noise_scale": 0.5, "noise_min": 0.01, "noise_max": 0.1}
CLUSTERS = np.random.default_rng(3).integers(0, 3, 23)


def small_csr(n_users=12, n_items=23):
    rng = np.random.default_rng(0)
    histories = [rng.permutation(n_items)[: rng.integers(0, 9)] for _ in range(n_users)]
    return CSR.from_pairs(
        np.repeat(np.arange(n_users), [len(h) for h in histories]), np.concatenate(histories),
        n_users=n_users, n_items=n_items,
    )  # fmt: skip


def small(**change):
    model = LatentDiffRec(**{**SMALL, "clusters": CLUSTERS, **change})
    params = model.init(jax.random.key(1), Catalogue(n_items=23, n_users=12))
    return model, jax.tree.map(lambda w: w + 0.1 * jax.random.normal(jax.random.key(2), w.shape), params)


@pytest.mark.parametrize("reweight, reparam", [pytest.param(True, True, marks=pytest.mark.long), (False, False)])
def test_the_loss_is_the_sum_of_its_terms(reweight, reparam):
    model, params = small(reweight=reweight, reparam=reparam, vae_dropout=0.0, dropout=0.0, lamda=0.2)
    rows = take_rows(device_csr(small_csr()), jnp.arange(12, dtype=jnp.int32), recency=Recency())
    now = {"key": jax.random.key(5), "step": jnp.asarray(7), "epoch": jnp.asarray(100)}
    loss, aux = jax.jit(model.loss)(params, LossHistory.create(4), rows, **now)
    m = {k: float(v) for k, v in aux.metrics.items()}
    assert m["gamma"] == pytest.approx(7 / 200) and m["lamda"] == pytest.approx(0.2 * (1 - 100 / 500))
    vae = m["nll"] + m["gamma"] * m["kl"]
    expected = m["lamda"] * m["diffusion"] + vae if reweight else m["diffusion"] + m["lamda"] * vae
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert int(aux.memory.count.sum()) == 12
    again, _ = model.loss(params, LossHistory.create(4), rows, **{**now, "key": jax.random.key(6)})
    assert float(again) != float(loss)


def test_a_forecast_encodes_the_past_and_decodes_the_future():
    recency, key = Recency("power", w_min=0.5, w_max=2.0), jax.random.key(5)
    model, params = small(recency=recency, forecast=2.0, reparam=False, vae_dropout=0.0, dropout=0.0, noise_scale=0.0)
    rows = take_rows(device_csr(small_csr()), jnp.arange(12, dtype=jnp.int32), recency=recency)
    _, aux = model.loss(params, LossHistory.create(4), rows, key=key, step=jnp.asarray(7), epoch=jnp.asarray(0))
    past, future = past_and_future(rows, jax.random.fold_in(key, 5), half_life=2.0, recency=recency)
    t, _ = importance.sample(LossHistory.create(4), jax.random.split(key, 5)[0], 12)
    blocks = split(past.dense()[:, model.clusters.order], model.clusters.sizes)
    z = model.autoencoder.apply(params["autoencoder"], blocks, method="encode")[0]
    z = model.denoiser.apply(params["denoiser"], z, t)
    logits = jnp.concatenate(model.autoencoder.apply(params["autoencoder"], z, method="decode"), axis=1)
    nll = -jnp.sum(future.dense()[:, model.clusters.order] * jax.nn.log_softmax(logits), axis=1)
    assert float(aux.metrics["nll"]) == pytest.approx(float(nll[past.users >= 0].mean()), rel=1e-5)
    assert int(aux.memory.count.sum()) == int((past.users >= 0).sum())


def test_annealing_and_its_limits():
    model, _ = small()
    assert [float(model.gamma_at(jnp.asarray(n))) for n in (0, 60, 1000)] == pytest.approx([0.0, 0.3, 0.3])
    assert [float(model.lamda_at(jnp.asarray(e))) for e in (0, 250, 5000)] == pytest.approx([0.03, 0.015, 0.005])
    model = dataclasses.replace(model, anneal_steps=0, vae_anneal_steps=0)
    assert float(model.gamma_at(jnp.asarray(0))) == pytest.approx(0.3)
    assert float(model.lamda_at(jnp.asarray(9))) == pytest.approx(0.03)


def test_padding_rows_weigh_nothing_and_write_no_history():
    model, params = small()
    rows = take_rows(device_csr(small_csr()), jnp.arange(12, dtype=jnp.int32))
    padded = rows.replace(users=rows.users.at[5:].set(-1))
    now = {"key": jax.random.key(5), "step": jnp.asarray(0), "epoch": jnp.asarray(0)}
    loss, aux = model.loss(params, LossHistory.create(4), padded, **now)
    junk = padded.replace(items=padded.items.at[5:].set(1), weights=padded.weights.at[5:].set(50.0))
    again, aux_again = model.loss(params, LossHistory.create(4), junk, **now)
    assert float(loss) == float(again) and int(aux.memory.count.sum()) == 5
    np.testing.assert_array_equal(aux.memory.history, aux_again.memory.history)


@pytest.mark.parametrize("change", [{}, {"in_dims": (8, 10)}, {"in_dims": (8, 10), "out_dims": (8, 10)},
                                    {"clusters": np.zeros(23, int)}, {"steps": 1}, {"noise_scale": 0.0},
                                    {"norm": True}])  # fmt: skip
def test_scores_equal_encoding_dense_rows(change):
    model, params = small(**change)
    rows = take_rows(device_csr(small_csr()), jnp.arange(12, dtype=jnp.int32), recency=Recency())
    x = rows.dense()[:, model.clusters.order]
    z = model.autoencoder.apply(params["autoencoder"], split(x, model.clusters.sizes), method="encode")[0]
    for t in range(model.steps - 1, -1, -1):
        t_batch = jnp.full(12, t)
        x0_hat = model.denoiser.apply(params["denoiser"], z, t_batch)
        c1, c2 = model.schedule.posterior_mean_coef1[t], model.schedule.posterior_mean_coef2[t]
        z = c1 * x0_hat + c2 * z
    logits = np.concatenate(model.autoencoder.apply(params["autoencoder"], z, method="decode"), axis=1)
    expected = np.empty_like(logits)
    expected[:, model.clusters.order] = logits
    scores = jax.jit(model.scores)(params, rows, key=jax.random.key(0), tables=model.prepare(params))
    np.testing.assert_allclose(scores, expected, atol=3e-6)


def test_renaming_the_items_changes_nothing_but_their_names():
    """The cluster order is invisible outside."""
    model, params = small()
    rows = take_rows(device_csr(small_csr()), jnp.arange(12, dtype=jnp.int32))
    order = model.clusters.order
    renamed = dataclasses.replace(model, clusters=CLUSTERS[order])  # items already in cluster order
    new_name = np.append(model.clusters.place[:-1], 23)
    scores = model.scores(params, rows, key=jax.random.key(0))
    again = renamed.scores(params, rows.replace(items=jnp.asarray(new_name)[rows.items]), key=jax.random.key(0))
    np.testing.assert_allclose(scores[:, order], again, atol=1e-6)


def test_noise_at_inference_depends_on_the_user_and_not_on_the_batch():
    for extra in ({"sampling_noise": True}, {"sampling_steps": 4}):
        model, params = small(**extra)
        rows = take_rows(device_csr(small_csr()), jnp.arange(12, dtype=jnp.int32))
        together = model.scores(params, rows, key=jax.random.key(0))
        alone = jax.tree.map(lambda a: a[4:5], rows)
        np.testing.assert_allclose(model.scores(params, alone, key=jax.random.key(0))[0], together[4], atol=1e-5)
        assert float(jnp.abs(model.scores(params, rows, key=jax.random.key(9)) - together).max()) > 1e-4


def test_the_parts_have_learning_rates_of_their_own():
    model, params = small(lr1=1e-2, lr2=1e-4)
    optimizer = model.optimizer()
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params)
    for part, lr in (("autoencoder", 1e-2), ("denoiser", 1e-4)):
        for leaf in jax.tree.leaves(updates[part]):
            np.testing.assert_allclose(leaf, -lr, rtol=1e-4)


def test_the_number_and_distribution_of_parameters_are_the_reference_ones():
    amazon = LatentDiffRec(clusters=np.repeat([0, 1], [9_495, 85_454]))
    shapes = jax.eval_shape(lambda key: amazon.init(key, Catalogue(n_items=94_949, n_users=108_822)), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 75_478_819
    assert isinstance(amazon, Model)
    model = LatentDiffRec(clusters=np.repeat([0, 1], [900, 1100]))
    params = model.init(jax.random.key(0), Catalogue(n_items=2000, n_users=1))
    vae, denoiser = params["autoencoder"]["params"], params["denoiser"]["params"]
    assert float(jnp.std(vae["encoder_0_0_kernel"])) == pytest.approx((2 / (900 + 270)) ** 0.5, rel=0.01)
    assert float(jnp.std(vae["decoder_0_kernel"])) == pytest.approx((2 / 2300) ** 0.5, rel=0.01)
    assert float(jnp.std(denoiser["in_items"])) == pytest.approx((2 / 610) ** 0.5, rel=0.02)
    for name, leaf in (*vae.items(), *denoiser.items(), ("emb_bias", denoiser["emb"]["bias"])):
        assert "bias" not in name or not jnp.any(leaf)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"out_dims": (200,)}, r"out_dims=\[200\] does not fit in_dims=\[8\]: choose \[\]"),
        ({"in_dims": ()}, r"in_dims=\[\] needs at least one number, each >= 1, such as"),
        ({"in_dims": (2,)}, "in_dims: a width of 2 leaves nothing for the last of 3 clusters"),
        ({"mlp_dims": (0,)}, r"mlp_dims=\[0\] needs at least one number, each >= 1, such as"),
        ({"act_func": "sine"}, "act_func='sine' is unknown: choose one of tanh"),
        ({"mlp_act_func": "sine"}, "mlp_act_func='sine' is unknown"),
        ({"emb_size": 0}, "emb_size=0 must be at least 1"),
        ({"mean_type": "v"}, "mean_type='v' is unknown: choose one of x0, eps"),
        ({"mean_type": "eps", "noise_scale": 0.0}, "noise_scale=0 leaves none"),
        ({"sampling_steps": 9}, "sampling_steps=9 must lie between 0 and steps=4"),
        ({"vae_dropout": 1.0}, r"vae_dropout=1.0 must lie in \[0, 1\)"),
        ({"lr2": 0.0}, "lr2=0.0 must be positive"),
        ({"anneal_steps": -1}, "anneal_steps=-1 must not be negative"),
        ({"clusters": np.zeros(22, int)}, "clusters are of 22 items, and the catalogue has 23"),
        ({"forecast": 5.0}, "forecast=5 looks at the order of a history, and no recency is given: name a kernel"),
        ({"clusters": None}, "L-DiffRec needs the cluster of each item"),
    ],
)
def test_bad_hyper_parameters_are_refused_with_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        small(**change)
