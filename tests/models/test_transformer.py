"""The transformer against recorded references, and what causal, padded and packed inputs must not change."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import quick

from diffrec_jax.models.item_losses import softmax_cross_entropy
from diffrec_jax.models.transformer import NORMS, Encoder, drop_bytes

D = 16


def dense(g, name):
    return {"kernel": jnp.asarray(np.squeeze(g[f"{name}.weight"])).T, "bias": jnp.asarray(g[f"{name}.bias"])}


def norm(g, name):
    return {"scale": jnp.asarray(g[f"{name}.weight"]), "bias": jnp.asarray(g[f"{name}.bias"])}


def of_sasrec(g, w="w"):
    """Recorded parameters of the SASRec of the paper, or their gradients, in our layout."""
    p = {"last_norm": norm(g, f"{w}/last_layernorm")}
    for n in range(2):
        attention = f"{w}/attention_layers.{n}"
        thirds = zip(
            np.split(g[f"{attention}.in_proj_weight"], 3), np.split(g[f"{attention}.in_proj_bias"], 3), strict=True
        )
        for i, (weight, bias) in enumerate(thirds):
            p[f"attention_{n}_{i}"] = {"kernel": jnp.asarray(weight).T, "bias": jnp.asarray(bias)}
        del p[f"attention_{n}_1"]["bias"]  # which cancels
        p[f"attention_{n}_3"] = dense(g, f"{attention}.out_proj")
        for i in range(2):
            p[f"dense_{n}_{i}"] = dense(g, f"{w}/forward_layers.{n}.conv{i + 1}")
        p[f"norms_{n}_0"] = norm(g, f"{w}/attention_layernorms.{n}")
        p[f"norms_{n}_1"] = norm(g, f"{w}/forward_layernorms.{n}")
    names = {"items": "item_emb.weight", "positions": "pos_emb.weight"}
    return {"encoder": p} | {ours: jnp.asarray(g[f"{w}/{theirs}"]) for ours, theirs in names.items()}


def of_s3(g, w="w"):
    """The same of the S3-Rec family."""
    p = {}
    for n in range(2):
        layer = f"{w}/item_encoder.layer.{n}"
        for i, name in enumerate(("query", "key", "value", "dense")):
            p[f"attention_{n}_{i}"] = dense(g, f"{layer}.attention.{name}")
        del p[f"attention_{n}_1"]["bias"]  # which cancels
        for i in range(2):
            p[f"dense_{n}_{i}"] = dense(g, f"{layer}.intermediate.dense_{i + 1}")
        p[f"norms_{n}_0"] = norm(g, f"{layer}.attention.LayerNorm")
        p[f"norms_{n}_1"] = norm(g, f"{layer}.intermediate.LayerNorm")
    names = {"items": "item_embeddings.weight", "positions": "position_embeddings.weight"}
    return {"encoder": p, "norm": norm(g, f"{w}/LayerNorm")} | {k: jnp.asarray(g[f"{w}/{v}"]) for k, v in names.items()}


def features_sasrec(params, g, variant):
    """``[B, L, D]``; positions are numbered from 1, and padding, zero at first, is attended to."""
    seq = g["seq"]
    kind = {"original_block": "original", "post_ln": "post", "pre_ln": "pre"}[variant]
    x = params["items"][seq] * np.sqrt(D) + params["positions"][None, 1:]
    encoder = Encoder(D, 2, 2, D, norm=kind, activation="relu", epsilon=1e-8)
    x = x * jnp.asarray(seq > 0)[..., None]
    return encoder.apply({"params": params["encoder"]}, x, jnp.ones(seq.shape, bool))


def features_s3(params, g):
    mean = params["items"][g["seq"]] + params["positions"][None]
    mean -= mean.mean(-1, keepdims=True)
    x = mean / jnp.sqrt(jnp.square(mean).mean(-1, keepdims=True) + 1e-12)
    x = x * params["norm"]["scale"][None, None] + params["norm"]["bias"][None, None]
    encoder = Encoder(D, 2, 2, 4 * D, norm="post", activation="gelu_exact", final_norm=False, epsilon=1e-12)
    return encoder.apply({"params": params["encoder"]}, x, jnp.asarray(g["seq"] > 0))


def bce(f, items, g):
    real = g["pos"] > 0
    positive, negative = (jnp.sum(f * items[g[name]], -1) for name in ("pos", "neg"))
    return jnp.sum((jax.nn.softplus(-positive) + jax.nn.softplus(negative)) * real) / real.sum()


def close(ours, theirs, tolerance=2e-5):
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * max(1.0, np.abs(theirs).max())


def same_trees(ours, theirs, tolerance=2e-5):
    found, wanted = (dict(jax.tree_util.tree_leaves_with_path(t)) for t in (ours, theirs))
    assert found.keys() == wanted.keys()
    for path, value in found.items():
        close(value, np.asarray(wanted[path]), tolerance)


@pytest.mark.parametrize("variant", quick(["original_block", "post_ln", "pre_ln"], "original_block"))
def test_sasrec_equals_the_recorded_one(golden, variant):
    g = golden("sasrec_forward")
    params = of_sasrec(g)
    f = features_sasrec(params, g, variant)
    real = g["seq"] > 0
    close(np.asarray(f)[real], g[f"{variant}/features"][real])
    close(f[:, -1] @ params["items"].T, g[f"{variant}/scores"])

    def loss(params):
        return bce(features_sasrec(params, g, variant), params["items"], g)

    value, gradient = jax.value_and_grad(loss)(params)
    close(value, g[f"{variant}/loss_bce"])
    recorded = of_sasrec(g, f"{variant}/grad")
    for tree in (gradient, recorded):  # the row of padding is no parameter there
        tree["items"] = tree["items"].at[0].set(0.0)
    same_trees(gradient, recorded)
    target = jnp.asarray(g["pos"]).reshape(-1)
    full = softmax_cross_entropy(f.reshape(-1, D), params["items"][1:], None, target - 1, (target > 0) * 1.0, 7)
    close(full / (target > 0).sum(), g[f"{variant}/loss_full_ce_items_1_to_N"])


def test_three_steps_of_adam_equal_the_recorded_ones(golden):
    g, trained = golden("sasrec_forward"), golden("sasrec_training")
    params = of_sasrec(g)
    optimizer = optax.adam(1e-3, b2=0.98)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        def loss(params):
            f = features_sasrec(params, g, "original_block")
            return bce(f, params["items"].at[0].set(0.0), g)

        value, gradient = jax.value_and_grad(loss)(params)
        gradient["items"] = gradient["items"].at[0].set(0.0)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    for wanted in trained["losses"]:
        params, state, value = step(params, state)
        close(value, wanted)
    same_trees(params, of_sasrec(trained, "after3"))


def test_the_s3_family_equals_the_recorded_one(golden):
    g = golden("sasrec_s3rec_style_forward")
    params, real = of_s3(g), g["seq"] > 0
    f = features_s3(params, g)
    close(np.asarray(f)[real], g["features"][real])
    close(f[:, -1] @ params["items"].T, g["scores"])
    value, gradient = jax.value_and_grad(lambda p: bce(features_s3(p, g), p["items"], g))(params)
    close(value, g["loss_bce"])
    same_trees(gradient, of_s3(g, "grad"))


def make(norm="pre", **more):
    encoder = Encoder(8, 2, 2, 12, norm=norm, **more)
    x = jax.random.normal(jax.random.key(0), (3, 9, 8))
    real = jnp.arange(9)[None] >= jnp.asarray([0, 4, 8])[:, None]
    params = encoder.init(jax.random.key(1), x, real)
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), params)
    return encoder, params, x, real


@pytest.mark.parametrize("norm", NORMS)
def test_an_event_never_changes_what_stands_before_it(norm):
    encoder, params, x, real = make(norm)
    for n in (1, 5, 8):
        changed = encoder.apply(params, x.at[:, n, 0].add(1.0), real)
        now = encoder.apply(params, x, real)
        np.testing.assert_array_equal(changed[:, :n], now[:, :n])
        assert np.abs(changed[0, n:] - now[0, n:]).max() > 1e-3
    both = make(norm, causal=False)[0]
    assert (
        np.abs(both.apply(params, x.at[:, 8, 0].add(1.0), real)[0, 0] - both.apply(params, x, real)[0, 0]).max() > 1e-4
    )


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("causal", [True, False])
def test_padding_is_never_seen_and_histories_of_one_row_do_not_see_each_other(norm, causal):
    encoder, params, x, real = make(norm, causal=causal)
    now = encoder.apply(params, x, real)
    np.testing.assert_allclose(encoder.apply(params, jnp.where(real[..., None], x, 7.0), real)[real], now[real])
    packed = jnp.concatenate([x[1:2, 4:], x[:1, :3], x[2:, 8:]], axis=1)
    segments = jnp.asarray([[0] * 5 + [1] * 3 + [2]])
    together = encoder.apply(params, packed, jnp.ones((1, 9), bool), segments)[0]
    np.testing.assert_allclose(together[:5], now[1, 4:], atol=1e-5)
    np.testing.assert_allclose(together[8:], now[2, 8:], atol=1e-5)


def test_dropout_keeps_the_mean_and_does_not_depend_on_rows_that_follow():
    x = jnp.ones((50, 40, 10))
    dropped = drop_bytes(jax.random.key(0), x, rate=0.3)
    assert float(jnp.mean(dropped)) == pytest.approx(1.0, abs=0.02)
    assert float(jnp.mean(dropped == 0)) == pytest.approx(0.3, abs=0.01)
    np.testing.assert_array_equal(drop_bytes(jax.random.key(0), x[:7], rate=0.3), dropped[:7])
    encoder, params, x, real = make(dropout=0.4)
    one, two = (encoder.apply(params, x, real, key=jax.random.key(n)) for n in (0, 1))
    assert np.abs(one - two).max() > 0.1
    np.testing.assert_array_equal(encoder.apply(params, x, real, key=jax.random.key(0)), one)
