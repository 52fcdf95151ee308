"""Losses over items against their definitions, in values and gradients, chunked, sharded and sampled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import item_losses
from diffrec_jax.models.item_losses import gbce, gbce_beta, sampled_softmax, softmax_cross_entropy

P, D, I = 45, 6, 37


def arrays(dtype=np.float32):
    rng = np.random.default_rng(0)
    vectors, table, bias = (jnp.asarray(0.4 * rng.normal(size=s), dtype) for s in ((P, D), (I, D), (I,)))
    targets = jnp.asarray(rng.integers(0, I, P), jnp.int32)
    weights = jnp.asarray(rng.random(P) * (rng.random(P) < 0.6), dtype)
    return vectors, table, bias, jnp.where(weights > 0, targets, I), weights


def dense(vectors, table, bias, targets, weights):
    logits = vectors @ table.T + (0.0 if bias is None else bias[None])
    target = jnp.take_along_axis(logits, jnp.minimum(targets, I - 1)[:, None], axis=1)[:, 0]
    return jnp.sum(weights * (jax.nn.logsumexp(logits, axis=1) - target))


def compare(ours, theirs, given, tolerance):
    for a, b in zip(
        jax.tree.leaves(jax.jit(jax.value_and_grad(ours, argnums=(0, 1, 2)))(*given)),
        jax.tree.leaves(jax.value_and_grad(theirs, argnums=(0, 1, 2))(*given)),
        strict=True,
    ):
        assert np.abs(np.asarray(a) - np.asarray(b)).max() <= tolerance * max(1.0, np.abs(np.asarray(b)).max())


@pytest.mark.parametrize("chunk", [1000, 37, 10, 1])
@pytest.mark.parametrize("block", [7, 512])
def test_chunks_equal_the_dense_form_in_values_and_gradients(chunk, block, monkeypatch):
    monkeypatch.setattr(item_losses, "BLOCK", block)
    compare(functools.partial(softmax_cross_entropy, chunk=chunk), dense, arrays(), 1e-6)
    ours = softmax_cross_entropy(*arrays(), chunk=chunk)
    np.testing.assert_allclose(ours, dense(*arrays()), rtol=1e-6)


def test_in_double_precision_to_ten_digits():
    with jax.enable_x64(True):
        for chunk in (10, 37):
            compare(functools.partial(softmax_cross_entropy, chunk=chunk), dense, arrays(np.float64), 1e-10)


@pytest.mark.parametrize("items", [1, 4, 8])
@pytest.mark.parametrize("chunk", [3, 64])
def test_items_and_positions_spread_over_devices_equal_one(items, chunk):
    mesh = make_mesh(items=items)
    compare(functools.partial(softmax_cross_entropy, chunk=chunk, mesh=mesh), dense, arrays(), 1e-6)


def test_without_weights_or_bias_and_far_out_it_is_finite():
    vectors, table, bias, targets, weights = arrays()
    loss, gradients = jax.value_and_grad(softmax_cross_entropy)(vectors, table, bias, targets, 0.0 * weights)
    assert float(loss) == 0.0 and not np.any(gradients)
    far = softmax_cross_entropy(1e4 * vectors, 1e4 * table, None, targets, weights, 10)
    np.testing.assert_allclose(far, dense(1e4 * vectors, 1e4 * table, None, targets, weights), rtol=1e-5)
    with pytest.raises(ValueError, match="chunk=0 items at a time must be at least 1"):
        softmax_cross_entropy(vectors, table, bias, targets, weights, 0)


def test_all_items_as_negatives_are_the_full_softmax():
    given, everything = arrays(), jnp.arange(I)
    log_q = jnp.full(I, -np.log(I))
    sampled = functools.partial(sampled_softmax, negatives=everything, log_q=log_q)
    compare(sampled, dense, given, 1e-6)
    np.testing.assert_allclose(sampled(*given[:2], None, *given[3:]), dense(*given[:2], None, *given[3:]), rtol=1e-6)


def test_the_correction_makes_any_proposal_unbiased_in_the_limit():
    vectors, table, bias, targets, weights = arrays()
    q = np.random.default_rng(1).random(I) + 0.1
    q /= q.sum()
    negatives = jnp.asarray(np.random.default_rng(2).choice(I, 36, p=q))

    def mean_sum(log_q):
        """Σ_j exp s_j / (K q_j) has the mean Σ_i exp s_i: the corrected sum, averaged over draws."""
        rng, found = np.random.default_rng(3), []
        for _ in range(400):
            drawn = rng.choice(I, 36, p=q)
            found.append(
                np.exp(np.asarray(vectors @ table[drawn].T + bias[None, drawn]) - log_q[drawn] - np.log(36)).sum(1)
            )
        return np.mean(found, axis=0)

    full = np.exp(np.asarray(vectors @ table.T + bias[None])).sum(1)
    np.testing.assert_allclose(mean_sum(np.log(q)), full, rtol=0.15)
    got = sampled_softmax(vectors, table, bias, targets, weights, negatives, jnp.log(q)[negatives])
    logits = np.asarray(vectors @ table[negatives].T + bias[None, negatives]) - np.log(36 * q)[np.asarray(negatives)]
    logits = np.where(np.asarray(negatives) == np.asarray(targets)[:, None], -np.inf, logits)
    own = np.asarray(jnp.sum(vectors * table[jnp.minimum(targets, I - 1)], 1) + bias[jnp.minimum(targets, I - 1)])
    by_hand = np.log(np.exp(own) + np.exp(logits).sum(1)) - own
    assert float(got) == pytest.approx(float((np.asarray(weights) * by_hand).sum()), rel=1e-4)


def test_more_negatives_than_items_are_refused():
    given = arrays()
    with pytest.raises(ValueError, match="negatives=38 must lie between 1 and the 37 items of the catalogue"):
        sampled_softmax(*given, jnp.zeros(38, jnp.int32), jnp.zeros(38))
    with pytest.raises(ValueError, match="negatives=0 must lie"):
        gbce(jnp.zeros(3), jnp.zeros((3, 0)), n_items=5, t=0.5)


def test_gbce_equals_the_recorded_one(golden):
    g = golden("gsasrec_forward")
    logits = jnp.asarray(g["logits"])
    real = g["labels"] != g["pad_id"]
    for t in (0.0, 0.5, 0.75, 1.0):
        assert gbce_beta(6, 30, t) == pytest.approx(float(g[f"gbce_t{t}_beta"]), rel=1e-12)
        ours = np.asarray(gbce(logits[..., 0], logits[..., 1:], n_items=30, t=t))
        np.testing.assert_allclose(ours[real], g[f"gbce_t{t}_per_position"][real], rtol=2e-5, atol=2e-6)
        assert ours[real].mean() == pytest.approx(float(g[f"gbce_t{t}_loss"]), rel=2e-5)


@pytest.mark.long
def test_a_million_items_take_bounded_memory():
    n, positions, width = 1_000_000, 1024, 64
    shapes = [jax.ShapeDtypeStruct(s, d) for s, d in (((positions, width), "f4"), ((n, width), "f4"), ((n,), "f4"))]
    shapes += [jax.ShapeDtypeStruct((positions,), "i4"), jax.ShapeDtypeStruct((positions,), "f4")]
    compiled = jax.jit(jax.value_and_grad(softmax_cross_entropy, argnums=(0, 1, 2))).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 0.6 * 2**30
