"""Caser by its equations, written out for one history after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequences import I, batch, initial, loss_of

from diffrec_jax.models.caser import Caser

SMALL = Caser(width=4, order=3, vertical=2, horizontal=3, length=6, dropout=0.0)


def relu(x):
    return np.maximum(x, 0.0)


def z_by_hand(params, events):
    """Eq. 1 and 2 of at most K items."""
    image = np.zeros((3, 4))
    if len(events):
        image[3 - len(events) :] = params["read"][events]
    along = [params["along"]["kernel"][:, v] @ image + params["along"]["bias"][v] for v in range(2)]
    across = []
    for h, layer in enumerate(params["across"], start=1):
        for f in range(3):
            told = [np.sum(image[s : s + h] * layer["kernel"][..., f]) + layer["bias"][f] for s in range(3 - h + 1)]
            across.append(max(relu(np.array(told))))
    return relu(np.concatenate([*along, across]) @ params["dense"]["kernel"] + params["dense"]["bias"])


def softplus(x):
    return np.log1p(np.exp(x))


def test_scores_and_loss_are_the_equations():
    params, rows = initial(SMALL), batch()
    scores, p = np.asarray(jax.jit(SMALL.scores)(params, rows)), jax.tree.map(np.asarray, params)
    key = jax.random.split(jax.random.key(5))[1]
    total = count = 0.0
    for row, n in enumerate(np.asarray(rows.lengths)):
        history, u = np.asarray(rows.items)[row, :n][-7:], p["users"][row]
        x = np.concatenate([z_by_hand(p, history[-3:]), u])
        np.testing.assert_allclose(scores[row], p["items"] @ x + p["item_bias"], atol=1e-5)
        drawn = np.asarray(jax.random.randint(jax.random.fold_in(key, row), (6, 3, 3), 0, I))[::-1]
        for j in range(len(history) - 1):  # the last position of a window of six is the one before the last event
            x = np.concatenate([z_by_hand(p, history[max(0, j - 2) : j + 1]), u])
            for k, target in enumerate(history[j + 1 : j + 4]):
                others = drawn[6 - (len(history) - 1) + j, k]
                lost = [softplus(p["items"][o] @ x + p["item_bias"][o]) * (o not in history) for o in others]
                total += softplus(-(p["items"][target] @ x + p["item_bias"][target])) + np.mean(lost)
                count += 1
    assert float(jax.jit(lambda p: loss_of(SMALL, p, rows))(params)) == pytest.approx(total / count, rel=1e-5)


def test_somebody_who_was_not_trained_on_is_the_mean_of_those_who_were():
    params = initial(SMALL)
    params["users"] = params["users"].at[3:].set(0.0)
    rows = batch(users=jnp.asarray([0, 1, 2, 3, -1, -1]))
    found = np.asarray(SMALL.now(params, rows))[:, 4:]
    np.testing.assert_array_equal(found[:3], params["users"][:3])
    np.testing.assert_allclose(found[3:], np.tile(np.mean(params["users"][:3], axis=0), (3, 1)), rtol=1e-6)
