"""ACVAE against its recording, and which loss moves which of its networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import quick
from sequences import I, batch, initial, loss_of

from diffrec_jax.models.acvae import ACVAE, adversary, contrast
from diffrec_jax.models.item_losses import softmax_losses

SMALL = ACVAE(width=8, hidden=6, latent=4, length=6, dropout=0.0)


def in_our_layout(g, dtype):
    """Recorded parameters: items keep their row of padding, the first."""

    def of(name):
        return jnp.asarray(g[f"w/{name}"], dtype)

    def dense(name):
        return {"kernel": jnp.squeeze(of(f"{name}.weight")).reshape(of(f"{name}.weight").shape[:2]).T} | {
            "bias": of(f"{name}.bias")
        }

    def gru(name):
        names = {"input": "weight_ih", "state": "weight_hh", "input_bias": "bias_ih", "state_bias": "bias_hh"}
        return {ours: of(f"{name}.{theirs}_l0").T for ours, theirs in names.items()}

    blocks = [{"narrow": dense(f"adversary/dnet_list.{n}"), "wide": dense(f"adversary/net_list.{n}")} for n in range(2)]
    taps = jnp.transpose(of("net/encoder.cnn_layer.0.weight"), (2, 1, 0))
    return {
        "items": of("net/decoder.linear2.weight"),
        "item_bias": of("net/decoder.linear2.bias"),
        "read": of("net/item_embed.weight"),
        "gru": gru("net/gru"),
        "noise": dense("net/encoder.eps.linear.0"),
        "first": dense("net/encoder.dot_cnn1.0"),
        "back": {"kernel": taps[::-1], "bias": of("net/encoder.cnn_layer.0.bias")},
        "last": dense("net/encoder.dot_cnn2.0"),
        "latent": dense("net/encoder.linear_o"),
        "feature": dense("net/decoder.linear1"),
        "adversary": {"read": dense("adversary/linear_i"), "blocks": blocks, "out": dense("adversary/linear_o")},
        "contrast": {"gru": gru("contrast/gru"), "out": dense("contrast/linear")},
    }


def close(ours, theirs, tolerance=2e-5):
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * max(1.0, np.abs(theirs).max())


@pytest.mark.parametrize("dtype", quick(["float32", "float64"], "float32"))
def test_it_equals_the_recorded_one(golden, dtype):
    g, model = golden("acvae_forward"), ACVAE(width=12, hidden=16, latent=8, dropout=0.0)
    real = ~g["padding"]
    with jax.enable_x64(dtype == "float64"):
        params, weights = in_our_layout(g, dtype), jnp.asarray(real, dtype) / 4
        x = model.embed(params, g["x"])
        close(np.asarray(x)[real], g["item_embedding_of_x"][real])
        noise = tuple(jnp.asarray(g[name], dtype) for name in ("eps1", "eps2"))
        latents = jax.jit(model.latents)(params, x, jnp.asarray(real), noise)
        close(np.asarray(latents)[real], g["z"][real])
        f = model.features(params, latents)
        close(np.asarray(f @ params["items"].T + params["item_bias"][None, None])[real], g["logits"][real])
        losses = softmax_losses(
            f.reshape(-1, 12), params["items"], params["item_bias"], jnp.asarray(g["y"]).reshape(-1)
        )
        close(jnp.sum(losses * weights.reshape(-1)), g["vae_loss"])

        z, prior = (jnp.asarray(g[name], dtype) for name in ("z", "prior"))  # also what padding gave
        of_latents, of_prior = (adversary(params["adversary"], x, a) for a in (z, prior))
        close(0.05 * jnp.sum(weights * jnp.mean(of_latents, axis=2)), g["kl_loss"])
        told_apart = jnp.mean(jax.nn.softplus(-of_latents) + jax.nn.softplus(of_prior), axis=2)
        close(jnp.sum(weights * told_apart), g["prior_loss"])
        own, others = (contrast(params["contrast"], x, a, jnp.ones((4, 8), bool)) for a in (z, jnp.roll(z, -1, axis=0)))
        close(0.1 * jnp.sum(weights * (jax.nn.softplus(others) + jax.nn.softplus(-own))), g["contrast_loss"])


def parts(params, rows, users):
    """Its four losses by their equations, history by history; each is contrasted with the next of ``users``."""
    key = jax.random.split(jax.random.key(5))[1]
    _, inputs, targets, weights = SMALL.examples(rows)
    L = inputs.shape[1]
    found, x, z, prior = [0.0] * 4, {}, {}, {}
    for row in users:
        drawn = jax.random.normal(jax.random.fold_in(key, rows.users[row]), (L, 16))[::-1]
        one, other, prior[row] = jnp.split(drawn, (6, 12), axis=1)
        x[row] = SMALL.embed(params, inputs[row : row + 1])
        noise = (one[None], other[None])
        z[row] = SMALL.latents(params, x[row], weights[row : row + 1] > 0, noise)
    for n, row in enumerate(users):
        following = users[(n + 1) % len(users)]
        w = weights[row]
        scores = SMALL.features(params, z[row][0]) @ params["items"].T + params["item_bias"][None]
        log_p = jax.nn.log_softmax(scores, axis=1)
        found[0] -= jnp.sum(w * log_p[jnp.arange(L), jnp.minimum(targets[row], I - 1)])
        told, of_prior = (adversary(params["adversary"], x[row], a)[0] for a in (z[row], prior[row][None]))
        found[1] += jnp.sum(w * jnp.mean(told, axis=1))
        found[3] += jnp.sum(w * jnp.mean(jax.nn.softplus(-told) + jax.nn.softplus(of_prior), axis=1))
        both = (weights[row] * weights[following]) > 0
        own, others = (contrast(params["contrast"], x[row], a, both[None])[0] for a in (z[row], z[following]))
        found[2] += jnp.sum(both * (jax.nn.softplus(others) + jax.nn.softplus(-own)))
    return [part / len(users) for part in found]


@pytest.mark.long
def test_each_network_descends_its_own_losses():
    rows = batch(lengths=(4, 3, 7, 5), users=jnp.asarray([0, -1, 2, 5]))
    params = initial(SMALL)
    gradients = jax.jit(jax.grad(lambda params: loss_of(SMALL, params, rows)))(params)
    by_part = jax.jit(jax.jacrev(lambda params: jnp.stack(parts(params, rows, [0, 2, 3]))))(params)
    weighed = {"adversary": (0, 0, 0, 1), "contrast": (0, 0, 1, 0)}
    for name, found in gradients.items():
        weights = jnp.asarray(weighed.get(name, (1.0, SMALL.kl_weight, SMALL.contrast_weight, 0.0)), jnp.float32)
        wanted = jax.tree.map(lambda of, w=weights: jnp.tensordot(w, of, axes=1), by_part[name])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), found, wanted)


@pytest.mark.long
def test_rows_of_padding_weigh_nothing():
    params, loss = initial(SMALL), jax.jit(lambda params, rows: loss_of(SMALL, params, rows))
    one = loss(params, batch(lengths=(4, 7, 5), users=jnp.asarray([0, 2, 5])))
    two = loss(params, batch(lengths=(4, 7, 5, 6, 3), users=jnp.asarray([0, 2, 5, -1, -1])))
    assert float(one) == pytest.approx(float(two), rel=1e-6)
