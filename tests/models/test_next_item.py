"""The losses that sequential models share, by hand, with biases of items and without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data.rows import make_rows
from diffrec_jax.data.windows import next_items, window
from diffrec_jax.models.item_losses import gbce_beta
from diffrec_jax.models.next_item import NextItem

B, L, I, D, K = 4, 5, 11, 3, 6


def made(with_bias):
    rng = np.random.default_rng(0)
    items = jnp.asarray(np.stack([rng.permutation(I)[: L + 1] for _ in range(B)]), jnp.int32)
    rows = make_rows(items, jnp.asarray([6, 3, 2, 0]), jnp.arange(B), n_items=I)
    items, real = window(rows, L + 1)
    f, table, bias = (jnp.asarray(rng.normal(size=n), jnp.float32) for n in ((B, L, D), (I, D), I))
    return f, table, bias if with_bias else None, items, next_items(items, real)[2], rows


def logits_by_position(f, table, bias, items, weights, rows):
    """For each position that counts: the scores of all items, the target, and what the window holds."""
    del rows
    b = 0.0 if bias is None else np.asarray(bias, np.float64)
    for row, at in zip(*np.nonzero(np.asarray(weights))):
        logits = np.asarray(f, np.float64)[row, at] @ np.asarray(table, np.float64).T + b
        yield logits, int(items[row, at + 1]), np.isin(np.arange(I), np.asarray(items)[row])


@pytest.mark.parametrize("with_bias", [False, True])
def test_softmax_is_that_of_all_items_as_is_sampled_with_all_of_them(with_bias):
    arrays = made(with_bias)
    wanted = np.mean([np.log(np.exp(s).sum()) - s[y] for s, y, _ in logits_by_position(*arrays)])
    for loss in (NextItem("softmax", K, 0.0), NextItem("sampled", I, 0.0)):
        assert float(loss.mean(*arrays, key=jax.random.key(0))) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("name, t", [("bce", 0.0), ("gbce", 0.0), ("gbce", 0.75)])
def test_binary_losses_are_those_by_hand_in_the_mean_of_their_draws(with_bias, name, t):
    arrays, loss, beta, n = made(with_bias), NextItem(name, K, t), 1.0, 1 if name == "bce" else K
    # XLA for CPUs (jaxlib 0.10.2) is wrong about Σ_d f[l, d] t[i[n, l], d] + g[n, l] beyond 32,768 such sums
    means = jax.jit(jax.vmap(lambda key: loss.mean(*arrays, key=jax.random.key(key))))
    drawn = jnp.concatenate([means(jnp.arange(1000 * n, 1000 * (n + 1))) for n in range(4)])
    if name == "gbce":
        beta = gbce_beta(K, I, t)
    wanted = [
        beta * np.logaddexp(0, -s[y]) + n * np.logaddexp(0, s[~seen]).sum() / I
        for s, y, seen in logits_by_position(*arrays)
    ]
    assert float(jnp.mean(drawn)) == pytest.approx(np.mean(wanted) / (1 if name == "bce" else K + 1), rel=0.02)


def test_more_negatives_than_items_are_refused_where_any_are_drawn():
    for name in ("sampled", "gbce"):
        with pytest.raises(ValueError, match="negatives=40 must lie between 1 and the 11 items"):
            NextItem(name, 40, 0.0).check(I)
    NextItem("softmax", 40, 0.0).check(I)
