import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.diffusion import corrupt, denoising_loss, make_schedule, posterior_mean, predict_x0, q_sample, reverse

SCHEDULE = make_schedule(steps=6, noise_scale=0.5, noise_min=0.01, noise_max=0.2)


@pytest.fixture
def rows():
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.bernoulli(keys[0], 0.3, (5, 11)).astype(jnp.float32), jax.random.normal(keys[1], (5, 11))


def test_x0_to_eps_to_x0_is_the_identity(rows):
    x0, noise = rows
    for t in range(SCHEDULE.steps):
        step = jnp.full(5, t)
        x_t = q_sample(SCHEDULE, x0, step, noise)
        np.testing.assert_allclose(predict_x0(SCHEDULE, noise, x_t, step, mean_type="eps"), x0, atol=3e-6)


def test_a_perfect_denoiser_restores_the_row(rows):
    x0, noise = rows
    for sampling_steps in (0, 3, 6):
        x_T = corrupt(SCHEDULE, x0, noise, sampling_steps=sampling_steps)
        np.testing.assert_allclose(reverse(SCHEDULE, lambda x, t: x0, x_T), x0, atol=1e-6)


def test_posterior_mean_of_the_noiseless_path_is_the_path_itself(rows):
    x0, _ = rows
    for t in range(1, SCHEDULE.steps):
        x_t = q_sample(SCHEDULE, x0, jnp.asarray(t), jnp.zeros_like(x0))
        before = q_sample(SCHEDULE, x0, jnp.asarray(t - 1), jnp.zeros_like(x0))
        np.testing.assert_allclose(posterior_mean(SCHEDULE, x0, x_t, jnp.asarray(t)), before, atol=1e-6)


def test_the_loop_equals_posterior_means_step_by_step(rows):
    x0, _ = rows

    def denoise(x, t):
        return jnp.tanh(x + 0.1 * t[:, None])

    for mean_type in ("x0", "eps"):
        x = x0
        for t in reversed(range(SCHEDULE.steps)):
            step = jnp.full(5, t)
            x = posterior_mean(SCHEDULE, predict_x0(SCHEDULE, denoise(x, step), x, step, mean_type=mean_type), x, step)
        np.testing.assert_allclose(reverse(SCHEDULE, denoise, x0, mean_type=mean_type), x, rtol=1e-5, atol=1e-6)


def test_sampling_noise_has_the_posterior_variance_and_spares_the_last_step():
    x_T, key = jnp.zeros((20_000, 1)), jax.random.key(3)

    def noise(t):
        return jax.random.normal(jax.random.fold_in(key, t), x_T.shape)

    two = make_schedule(steps=2, noise_scale=1.0, noise_min=0.1, noise_max=0.3)
    identity = reverse(two, lambda x, t: x, x_T, sampling_noise=noise)  # the last step returns f(x) = x, unperturbed
    assert float(jnp.var(identity)) == pytest.approx(two.posterior_variance[1], rel=0.05)
    one = make_schedule(steps=1, noise_scale=1.0, noise_min=0.1, noise_max=0.3)
    assert not jnp.any(reverse(one, lambda x, t: x, x_T, sampling_noise=noise))


def test_no_noise_means_the_network_alone(rows):
    x0, noise = rows
    none = make_schedule(steps=3, noise_scale=0.0, noise_min=0.1, noise_max=0.2)
    np.testing.assert_array_equal(q_sample(none, x0, jnp.full(5, 2), noise), x0)
    np.testing.assert_allclose(reverse(none, lambda x, t: 0.5 * x, x0), x0 / 8)
    out = denoising_loss(none, lambda x, t: 0.5 * x, x0, jnp.full(5, 1), noise)
    np.testing.assert_allclose(out.loss, jnp.mean((x0 / 2) ** 2, axis=1), rtol=1e-6)


def test_without_reweighting_the_loss_is_the_plain_error(rows):
    x0, noise = rows
    for mean_type, target in (("x0", x0), ("eps", noise)):
        for t in (0, 4):
            step = jnp.full(5, t)
            output = jnp.tanh(q_sample(SCHEDULE, x0, step, noise))
            out = denoising_loss(
                SCHEDULE, lambda x, t: jnp.tanh(x), x0, step, noise, mean_type=mean_type, reweight=False
            )
            np.testing.assert_allclose(out.loss, jnp.mean((target - output) ** 2, axis=1), rtol=1e-5)


def test_corruption_without_noise_is_refused():
    with pytest.raises(ValueError, match="sampling_steps=2 corrupts the row first"):
        corrupt(SCHEDULE, jnp.zeros((1, 3)), None, sampling_steps=2)


def test_the_reverse_loop_compiles_once_and_takes_gradients(rows):
    x0, _ = rows
    traces = 0

    @jax.jit
    def run(w, x):
        nonlocal traces
        traces += 1
        return jnp.sum(reverse(SCHEDULE, lambda x, t: w * x, x))

    run(0.5, x0)
    run(0.7, x0 + 1)
    assert traces == 1
    gradient = jax.grad(run)(0.5, x0)
    numeric = (run(0.5 + 1e-2, x0) - run(0.5 - 1e-2, x0)) / 2e-2
    assert float(gradient) == pytest.approx(float(numeric), rel=1e-2)
