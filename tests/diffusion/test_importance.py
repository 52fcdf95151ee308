import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.diffusion import importance
from diffrec_jax.diffusion.importance import LossHistory


def test_thirty_updates_equal_the_recorded_ones(golden):
    g = golden("importance_history")
    with jax.enable_x64(True):
        state = LossHistory.create(4)
        state = state.replace(history=state.history.astype(jnp.float64))
        update = jax.jit(importance.record)
        for i in range(len(g["t"])):
            state = update(state, jnp.asarray(g["t"][i]), jnp.asarray(g["loss"][i]))
            np.testing.assert_array_equal(state.count, g["count_after"][i])
            # the recorded losses were rounded to float32, the recorded history was not
            np.testing.assert_allclose(state.history, g["history_after"][i], rtol=6e-8)
            np.testing.assert_allclose(importance.probabilities(state), g["probabilities_after"][i], rtol=6e-8)


def _record_one_by_one(history, count, t, losses, valid):
    """The definition: one example after the other."""
    history, count = history.copy(), count.copy()
    for step, loss, ok in zip(t, losses, valid):
        if not ok:
            continue
        if count[step] == 10:
            history[step] = np.append(history[step][1:], loss)
        else:
            history[step][count[step]] = loss
            count[step] += 1
    return history, count


def test_a_batch_equals_one_example_after_the_other():
    rng = np.random.default_rng(0)
    for T, B in ((1, 5), (1, 40), (3, 1), (3, 40), (5, 17)):
        state = LossHistory.create(T)
        expected = np.zeros((T, 10), np.float32), np.zeros(T, np.int32)
        for _ in range(24):
            t, losses = rng.integers(0, T, B), rng.random(B).astype(np.float32)
            valid = rng.random(B) < 0.8
            state = importance.record(state, jnp.asarray(t), jnp.asarray(losses), jnp.asarray(valid))
            expected = _record_one_by_one(*expected, t, losses, valid)
            np.testing.assert_array_equal(state.history, expected[0])
            np.testing.assert_array_equal(state.count, expected[1])


def test_sampling_follows_the_probabilities_and_stays_unbiased():
    history = jnp.asarray(np.array([1.0, 2.0, 5.0])[:, None] * np.ones(10), jnp.float32)
    state = LossHistory(history=history, count=jnp.full(3, 10, jnp.int32))
    p = importance.probabilities(state)
    np.testing.assert_allclose(p, 0.999 * np.array([1, 2, 5]) / 8 + 0.001 / 3, rtol=1e-6)
    t, weight = importance.sample(state, jax.random.key(0), 200_000)
    np.testing.assert_allclose(np.bincount(t) / t.size, p, atol=5e-3)
    np.testing.assert_allclose(np.bincount(t, weights=weight) / t.size, np.ones(3) / 3, atol=5e-3)


def test_uniform_until_every_step_has_ten_and_when_all_losses_vanish():
    state = LossHistory(history=jnp.ones((2, 10)), count=jnp.asarray([10, 9], jnp.int32))
    np.testing.assert_allclose(importance.probabilities(state), 0.5)
    zero = LossHistory(history=jnp.zeros((2, 10)), count=jnp.full(2, 10, jnp.int32))
    np.testing.assert_allclose(importance.probabilities(zero), 0.5)
    _, weight = importance.sample(zero, jax.random.key(1), 7)
    np.testing.assert_allclose(weight, 1.0)
