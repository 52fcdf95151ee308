import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.diffusion import SCALED_SCHEDULES, loss_weights, make_schedule, scaled_schedule

TABLES = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "posterior_variance", "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip


@pytest.mark.parametrize("file", ["schedules", "schedules_beta_free"])
def test_tables_equal_the_recorded_ones(golden, file):
    recorded = golden(file)
    configs = {key.split("/")[0]: value for key, value in recorded.items() if key.endswith("/config")}
    assert len(configs) >= 2
    for n, config in configs.items():
        schedule = make_schedule(config.pop("schedule"), **config)
        for table in TABLES:
            np.testing.assert_allclose(getattr(schedule, table), recorded[f"{n}/{table}"], rtol=1e-15, err_msg=table)
        for mean_type in ("x0", "eps"):
            if (key := f"{n}/{mean_type}_weight") in recorded:
                weights = loss_weights(schedule, mean_type=mean_type, reweight=True)
                np.testing.assert_allclose(weights, recorded[key], rtol=2e-10)


def test_float64_weights_matter_for_ml_1m():
    schedule = make_schedule(steps=40, noise_scale=0.005, noise_min=0.005, noise_max=0.01)
    alphabar = np.float32(schedule.alphas_cumprod)
    snr = alphabar / (1 - alphabar)
    exact = loss_weights(schedule, mean_type="x0", reweight=True)
    assert np.abs((snr[:-1] - snr[1:]) / exact[1:] - 1).max() > 0.03


@pytest.mark.parametrize("name", ["linear-var", "linear", "cosine", "binomial"])
def test_limits_of_every_schedule(name):
    schedule = make_schedule(name, steps=7, noise_scale=0.5, noise_min=0.01, noise_max=0.1)
    assert schedule.posterior_mean_coef1[0] == pytest.approx(1, abs=1e-10) and schedule.posterior_mean_coef2[0] == 0
    assert np.all(np.diff(schedule.alphas_cumprod) < 0)
    variance = schedule.posterior_mean_coef2**2 * (1 - schedule.alphas_cumprod) + schedule.posterior_variance
    np.testing.assert_allclose(variance, 1 - schedule.alphas_cumprod_prev, atol=1e-12)  # marginals stay consistent
    one = make_schedule(name, steps=1, noise_scale=0.5, noise_min=0.01, noise_max=0.1)
    assert one.steps == 1 and one.posterior_mean_coef1[0] == pytest.approx(1)
    none = make_schedule(name, steps=3, noise_scale=0, noise_min=0.1, noise_max=0.1)
    assert not none.has_noise and np.all(none.alphas_cumprod == 1)
    assert np.all(loss_weights(none, mean_type="x0", reweight=True) == 1)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"noise_min": 0.01}, r"noise_min=0.01 must be smaller than noise_max=0.01"),
        ({"steps": 0}, r"steps=0 .* choose steps >= 1"),
        ({"noise_scale": 1.5}, r"noise_scale=1.5 must lie in \[0, 1\]"),
        ({"noise_scale": -0.1}, r"noise_scale=-0.1 must lie in"),
        ({"noise_min": 0.0, "beta_fixed": False}, r"beta at step 0 is 0, outside \(0, 1\]"),
        ({"name": "linear", "noise_max": 3.0, "noise_scale": 1.0}, r"beta at step \d is .*outside \(0, 1\]"),
        ({"name": "sigmoid"}, r"noise_schedule='sigmoid' is unknown: choose one of linear-var"),
    ],
)
def test_bad_schedules_are_refused_with_a_sentence(change, sentence):
    good = {"name": "linear-var", "steps": 5, "noise_scale": 0.1, "noise_min": 0.001, "noise_max": 0.01}
    with pytest.raises(ValueError, match=sentence):
        make_schedule(**{**good, **change})


def test_cosine_and_binomial_ignore_the_noise_range():
    for name in ("cosine", "binomial"):
        a = make_schedule(name, steps=5, noise_scale=1.0, noise_min=0.5, noise_max=0.1)
        b = make_schedule(name, steps=5, noise_scale=1.0, noise_min=0.0, noise_max=0.0)
        assert jnp.array_equal(a.betas, b.betas)


def test_schedules_scaled_to_their_steps_equal_the_recorded_ones(golden):
    recorded, met = golden("diffurec_schedules"), set()
    for key, values in recorded.items():
        group, _, table = key.partition("/")
        name, _, steps = group.rpartition("_")
        schedule = scaled_schedule(name, steps=int(steps))
        found = np.log(schedule.large_variance) if table == "reverse_log_variance" else getattr(schedule, table)
        np.testing.assert_allclose(found, values, rtol=1e-12, atol=1e-12, err_msg=key)
        met.add(name)
    assert met == set(SCALED_SCHEDULES)


@pytest.mark.parametrize("name", SCALED_SCHEDULES)
def test_the_first_steps_of_a_schedule_are_a_schedule(name):
    whole = scaled_schedule(name, steps=32)
    part = whole.first(7)
    assert part.steps == 7 and part.posterior_mean_coef1[0] == pytest.approx(1, abs=1e-10)
    assert np.all((whole.betas > 0) & (whole.betas <= 1))
    np.testing.assert_array_equal(part.posterior_variance, whole.posterior_variance[:7])
    np.testing.assert_allclose(part.alphas_cumprod, np.cumprod(1 - part.betas))


def test_bad_scaled_schedules_are_refused_with_a_sentence():
    with pytest.raises(ValueError, match=r"noise_schedule='binomial' is unknown: choose one of trunc_lin, linear"):
        scaled_schedule("binomial", steps=9)
    for name in ("linear", "pw_lin"):
        with pytest.raises(ValueError, match=rf"steps=19 is too few for noise_schedule={name}: choose 20 or more"):
            scaled_schedule(name, steps=19)
