"""The cluster autoencoder against the recorded reference, NumPy, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.models.cluster_vae import (
    Clusters,
    ClusterVAE,
    divide_width,
    kl_divergence,
    multinomial_nll,
    reparameterise,
    split,
)

RECORDINGS = ["cluster_vae_1cluster", "cluster_vae_3clusters", "cluster_vae_3clusters_deep"]


def recorded_params(g, prefix="params"):
    """The recorded autoencoder in our layout."""
    params = {}
    names = {key.removeprefix(f"{prefix}/").rsplit(".", 1)[0] for key in g if key.startswith(f"{prefix}/")}
    for name in names:
        part, *numbers = name.split(".")
        per_cluster = any(n.startswith(part) and n.count(".") == 2 for n in names)
        if part == "encoder" and not per_cluster:
            numbers = ["0", *numbers]  # one cluster: no index of it
        layer = int(numbers[-1]) // 2  # linear layers and activations alternate
        ours = "_".join([part, *numbers[:-1], str(layer)])
        params[f"{ours}_kernel"] = jnp.asarray(g[f"{prefix}/{name}.weight"].T)
        params[f"{ours}_bias"] = jnp.asarray(g[f"{prefix}/{name}.bias"])
    return {"params": params}


def recorded_clusters(g):
    """The recordings with one cluster hold ids too, which nothing used."""
    return Clusters(np.where(g["config"]["n_cate"] == 1, 0, g["cluster_ids"]))


@pytest.mark.parametrize("name", RECORDINGS)
def test_encoder_decoder_kl_and_likelihood_equal_the_recorded_ones(golden, name):
    g = golden(name)
    config, clusters = g["config"], recorded_clusters(g)
    vae = ClusterVAE(clusters.sizes, tuple(config["in_dims_as_given"]), tuple(config["out_dims"]), config["act_func"])
    params = recorded_params(g)
    shapes = jax.eval_shape(vae.init, jax.random.key(0), jnp.zeros((1, len(clusters.of_item))))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
    if "category_map" in g:
        np.testing.assert_array_equal(clusters.order, g["category_map"])
    x = jnp.asarray(g["x"])[:, clusters.order]
    np.testing.assert_array_equal(x, g["batch_in_cluster_order"])
    mean, log_variance = vae.apply(params, split(x, vae.sizes), method="encode")
    np.testing.assert_allclose(mean, g["latent_mean"], atol=1e-6)
    np.testing.assert_allclose(jnp.mean(kl_divergence(mean, log_variance)), g["kl"], rtol=1e-5)
    logits = jnp.concatenate(vae.apply(params, mean, method="decode"), axis=1)
    np.testing.assert_allclose(logits, g["logits"], atol=1e-6)
    np.testing.assert_allclose(jnp.mean(multinomial_nll([logits], [x])), g["multinomial_nll"], rtol=1e-5)


@pytest.mark.parametrize("in_dims", [(12,), (12, 18, 30)])
@pytest.mark.parametrize("sizes", [(20,), (7, 2, 8, 3)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_any_depth_and_number_of_clusters_equals_numpy(sizes, in_dims, mirrored):
    vae = ClusterVAE(sizes, in_dims, in_dims if mirrored else (), "sigmoid")
    x = np.random.default_rng(0).random((4, 20)).astype(np.float32)
    params = vae.init(jax.random.key(0), jnp.asarray(x))
    params = jax.tree.map(lambda w: w + 0.1 * jax.random.normal(jax.random.key(1), w.shape), params)
    p = jax.tree.map(lambda w: np.asarray(w, np.float64), params)["params"]

    def act(h):
        return 1 / (1 + np.exp(-h))

    means, start = [], 0
    for c, size in enumerate(sizes):
        h = x[:, start : start + size]
        for layer in range(len(in_dims)):
            h = act(h @ p[f"encoder_{c}_{layer}_kernel"] + p[f"encoder_{c}_{layer}_bias"])
        means.append(h[:, : h.shape[1] // 2])
        start += size
    logits = [np.concatenate(means, axis=1)]
    assert logits[0].shape == (4, in_dims[0])
    if mirrored:
        logits = means
        for layer in range(len(in_dims)):
            logits = [h @ p[f"decoder_{c}_{layer}_kernel"] + p[f"decoder_{c}_{layer}_bias"]
                      for c, h in enumerate(logits)]  # fmt: skip
            logits = logits if layer == len(in_dims) - 1 else [act(h) for h in logits]
    else:
        logits = [logits[0] @ p["decoder_0_kernel"] + p["decoder_0_bias"]]
    np.testing.assert_allclose(vae.apply(params, jnp.asarray(x)), np.concatenate(logits, axis=1), atol=1e-5)
    gathered = [
        x[:, s : s + n] @ k for s, n, k in zip(np.cumsum((0, *sizes)), sizes, vae.apply(params, method="first_kernels"))
    ]
    np.testing.assert_allclose(vae.apply(params, gathered, method="means"), np.concatenate(means, axis=1), atol=1e-6)


def test_likelihood_and_divergence_equal_numpy_and_their_limits():
    rng = np.random.default_rng(0)
    logits, x = rng.normal(size=(3, 8)), rng.random((3, 8))
    log_softmax = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    for sizes in ((8,), (3, 1, 4)):
        blocks = (split(jnp.asarray(whole), sizes) for whole in (logits, x))
        np.testing.assert_allclose(multinomial_nll(*blocks), -(log_softmax * x).sum(1), 1e-5)
    large = multinomial_nll([jnp.full((1, 8), 1e4)], [jnp.ones((1, 8))])
    assert float(large[0]) == pytest.approx(8 * np.log(8), rel=1e-3)
    zeros = jnp.zeros((2, 5))
    np.testing.assert_array_equal(kl_divergence(zeros, zeros), 0.0)
    np.testing.assert_allclose(kl_divergence(zeros + 2.0, zeros), 5 * 2.0**2 / 2)
    noise = jax.random.normal(jax.random.key(0), (20_000, 1))
    z = reparameterise(jnp.full((1, 1), 3.0), jnp.full((1, 1), 2 * np.log(0.5)), noise)
    assert float(z.mean()) == pytest.approx(3.0, abs=0.02) and float(z.std()) == pytest.approx(0.5, abs=0.02)


def test_places_and_order_undo_each_other():
    clusters = Clusters(np.array([2, 0, 1, 1, 0, 2, 2]))
    assert clusters.sizes == (2, 2, 3) and clusters.starts == (0, 2, 4)
    np.testing.assert_array_equal(clusters.order, [1, 4, 2, 3, 0, 5, 6])
    np.testing.assert_array_equal(clusters.order[clusters.place[:-1]], np.arange(7))
    assert clusters.place[-1] == 7  # padding stays padding
    assert clusters == Clusters([2, 0, 1, 1, 0, 2, 2]) and hash(clusters) == hash(Clusters([2, 0, 1, 1, 0, 2, 2]))
    assert clusters != Clusters([2, 0, 1, 1, 0, 2, 0])
    large = np.arange(3000) % 3
    swapped = large.copy()
    swapped[[1500, 1501]] = swapped[[1501, 1500]]
    assert repr(Clusters(large)).startswith("Clusters(1000, 1000, 1000 items, crc32 ")
    assert repr(Clusters(large)) == repr(Clusters(large)) != repr(Clusters(swapped))


def test_widths_are_divided_by_size_with_at_least_one_each():
    assert divide_width(300, (9_495, 85_454)) == (30, 270)
    assert divide_width(24, (17, 16, 20)) == (7, 7, 10)
    assert divide_width(10, (2, 1000)) == (1, 9)
    with pytest.raises(ValueError, match=r"in_dims: a width of 2 leaves nothing for the last of 3 clusters \(of 5, 5"):
        divide_width(2, (5, 5, 5))


@pytest.mark.parametrize(
    "of_item, sentence",
    [
        ([0, 2, 0, 2], "cluster 1 of 3 is empty: use fewer clusters, or other item embeddings"),
        ([0, 0, 1, 0], "cluster 1 of 2 holds one item: use fewer clusters"),
        ([0.5, 1.0], "clusters must be one whole number >= 0 per item"),
        ([0, -1], "clusters must be one whole number >= 0 per item"),
        ([], "clusters must be one whole number >= 0 per item"),
        ([[0, 1]], r"and this is an array of int64 of shape \(1, 2\)"),
    ],
)
def test_bad_clusters_are_refused_with_a_sentence(of_item, sentence):
    with pytest.raises(ValueError, match=sentence):
        Clusters(np.array(of_item))
