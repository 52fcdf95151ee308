"""SeqDiffRec by its equations, as no code of it was ever released."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import quick
from sequences import I, batch, initial, loss_of

from diffrec_jax.data.rows import make_rows
from diffrec_jax.data.windows import one_cut
from diffrec_jax.diffusion import importance
from diffrec_jax.diffusion.importance import LossHistory
from diffrec_jax.models.seq_diffrec import SeqDiffRec
from diffrec_jax.models.user_noise import normal_per_user

SMALL = SeqDiffRec(width=8, blocks=1, length=6, steps=5, noise_schedule="trunc_lin", dropout=0.0)
denoise = jax.jit(SMALL.denoise)


def by_hand(model, params, rows, memory):
    """The square, and both cross entropies, of each history, its weight, its step, and how unlikely that was."""
    cut_key, t_key, noise_key, _ = jax.random.split(jax.random.key(5), 4)
    items, real, targets, weights = one_cut(rows, 5, cut_key)
    p = np.full(5, 0.2) if memory is None else np.asarray(importance.probabilities(memory))
    t = np.asarray(importance.draw(jnp.asarray(p), t_key, len(targets))[0])
    W, b = np.asarray(params["items"]), np.asarray(params["item_bias"])
    E, schedule = np.asarray(params.get("read", W)), model.schedule
    found = []
    for row, user in enumerate(np.asarray(rows.users)):
        if weights[row] == 0.0:
            found.append((0.0, 0.0, 0.0))
            continue
        noise = np.asarray(jax.random.normal(jax.random.fold_in(noise_key, user), (7, 8)))[::-1]
        known = np.where(np.asarray(real[row])[:, None], E[np.minimum(items[row], I - 1)], 0.0)
        known = np.vstack([known, E[targets[row]]])
        h = known + 0.01 * noise[1:]
        alphabar = schedule.alphas_cumprod[t[row]]
        x = math.sqrt(alphabar) * h[-1] + math.sqrt(1.0 - alphabar) * noise[0]
        f = denoise(params, h[None, :-1].astype(np.float32), real[row][None], x[None].astype(np.float32), t[row][None])
        aim = known[-1] if t[row] == 0 else h[-1]
        square = np.mean((aim - np.asarray(f)[0]) ** 2)

        def lost(v, target=targets[row]):
            scores = W @ v + b
            return np.log(np.sum(np.exp(scores))) - scores[target]

        found.append((square, lost(h[-1]), lost(np.asarray(f)[0])))
    return np.array(found), np.asarray(weights), t, 1.0 / (5 * p[t])


@pytest.mark.parametrize("change", quick([{}, {"ce_on_denoised": False}, {"tied": True, "t_sampling": "uniform"}], {}))
def test_the_loss_is_its_equation_and_the_squares_of_steps_are_remembered(change):
    model = dataclasses.replace(SMALL, **change)
    params, rows = initial(model), batch(lengths=(2, 4, 6, 7, 12, 1, 0, 5), users=jnp.asarray([*range(7), -1]))
    memory = model.init_memory(params)
    if memory is not None:
        drawn = jax.random.uniform(jax.random.key(2), (5, 10), minval=0.1, maxval=2.0)
        memory = LossHistory(drawn, jnp.full(5, 10))
    parts, weights, t, unlikely = by_hand(model, params, rows, memory)
    wanted = parts[:, 0] * unlikely + parts[:, 1] + (parts[:, 2] if model.ce_on_denoised else 0.0)
    now = {"key": jax.random.key(5), "step": jnp.asarray(0), "epoch": jnp.asarray(0)}
    loss, aux = jax.jit(lambda params: model.loss(params, memory, rows, **now))(params)
    assert float(loss) == pytest.approx(np.sum(weights * wanted) / weights.sum(), rel=1e-5)
    if memory is None:
        assert aux.memory is None
        return
    used = weights > 0
    counted = importance.record(memory, jnp.asarray(t), jnp.asarray(parts[:, 0], jnp.float32), jnp.asarray(used))
    np.testing.assert_allclose(aux.memory.history, counted.history, rtol=1e-4)


def test_the_step_is_added_everywhere_and_what_comes_next_stands_last():
    params = initial(SMALL)
    h, x = jax.random.normal(jax.random.key(1), (2, 3, 8)), jnp.ones((2, 8))
    real = jnp.asarray([[False, True, True], [True, True, True]])
    one = denoise(params, h, real, x, jnp.asarray([2, 4]))
    z = np.asarray([[*np.cos(n * w), *np.sin(n * w)] for n in (3, 5) for w in [10_000.0 ** (-np.arange(4) / 4)]])
    tokens = jnp.concatenate([h, x[:, None]], axis=1) + params["positions"][None, 2:] + jnp.asarray(z)[:, None]
    there = jnp.pad(real, ((0, 0), (0, 1)), constant_values=True)
    encoded = SMALL.encoder.apply({"params": params["encoder"]}, tokens.astype(jnp.float32), there)
    np.testing.assert_allclose(one, encoded[:, -1], atol=1e-5)
    other = denoise(params, h.at[0, 0].set(9.0), real, x, jnp.asarray([2, 4]))
    np.testing.assert_array_equal(one, other)  # padding is not seen


def test_ranking_starts_anywhere_at_once_or_by_the_means_of_all_steps():
    rows, key = batch(), jax.random.key(3)
    params = initial(SMALL)
    histories = zip(np.asarray(rows.items), np.asarray(rows.lengths))
    items = np.stack([np.pad(history[max(0, n - 5) : n], (max(0, 5 - n), 0)) for history, n in histories])
    real = jnp.asarray([[j >= 5 - n for j in range(5)] for n in np.asarray(rows.lengths)])
    h = jnp.where(real[..., None], params["read"][items], 0.0)

    def f(x, t):
        return denoise(params, h, real, x, jnp.full(6, t))

    def told(**change):
        return dataclasses.replace(SMALL, **change).now(params, rows, key=key)

    def close(one, other):
        np.testing.assert_allclose(one, other, atol=1e-5)

    nothing = jnp.zeros((6, 8))
    close(told(), f(nothing, 4))
    close(told(from_step=2), f(nothing, 1))
    drawn = [normal_per_user(jax.random.fold_in(key, seed), rows.users, 8) for seed in range(3)]
    close(told(draws=3, from_step=3), sum(f(x, 2) for x in drawn) / 3)
    s, x = SMALL.schedule, drawn[0]
    for t in (2, 1, 0):  # Algorithm 2: the means of the posteriors, with alphabar of the step before
        before = s.alphas_cumprod[t - 1] if t else 1.0
        a, b = math.sqrt(before) * s.betas[t], math.sqrt(1.0 - s.betas[t]) * (1.0 - before)
        x = (a * f(x, t) + b * x) / (1.0 - s.alphas_cumprod[t])
    close(told(draws=1, from_step=3, whole_reverse=True), x)
    close(told(from_step=1, whole_reverse=True), told(from_step=1))


def test_noise_needs_a_key_and_belongs_to_the_user():
    params = initial(SMALL)
    model = dataclasses.replace(SMALL, draws=1)
    with pytest.raises(ValueError, match="draws=1 of noise when ranking need a key: pass one, or draws=0"):
        model.now(params, batch())
    rows, key = batch(), jax.random.key(3)
    turned = make_rows(rows.items[::-1], rows.lengths[::-1], rows.users[::-1], n_items=I)
    np.testing.assert_allclose(model.now(params, rows, key=key)[::-1], model.now(params, turned, key=key), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"from_step": 6}, "from_step=6 must be at most steps=5, the last"),
        ({"noise_schedule": "linear"}, "steps=5 is too few for noise_schedule=linear"),
        ({"t_sampling": "fixstep"}, "t_sampling='fixstep' is unknown: choose one of lossaware, uniform"),
    ],
)
def test_bad_hyper_parameters_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(SMALL, **change)


def test_a_loss_of_nothing_is_nothing():
    params = initial(SMALL)
    assert float(jax.jit(lambda params: loss_of(SMALL, params, batch(lengths=(1, 0))))(params)) == 0.0
