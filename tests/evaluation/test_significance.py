import numpy as np
import pytest
import scipy.stats

from diffrec_jax.evaluation.significance import bootstrap_intervals, compare_systems, holm, paired_test


def test_p_values_are_those_of_scipy_and_of_the_definition():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 40))
    b[:10] = a[:10]  # no difference
    difference = (a - b)[10:]
    assert paired_test(a, b, test="t") == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
    ranks = scipy.stats.rankdata(np.abs(difference))
    w = min(ranks[difference > 0].sum(), ranks[difference < 0].sum())
    n = len(difference)
    z = (w - n * (n + 1) / 4) / np.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    assert paired_test(a, b) == pytest.approx(2 * scipy.stats.norm.cdf(z), rel=0.1)  # normal approximation
    assert paired_test(a, b) == paired_test(b, a) and paired_test(a, a) == 1.0
    assert paired_test(a, np.zeros(40), test="t") < 1e-6 and paired_test(np.ones(9), np.zeros(9), test="t") == 0.0
    with pytest.raises(ValueError, match="test='f' is unknown: choose one of wilcoxon, t"):
        paired_test(a, b, test="f")
    with pytest.raises(ValueError, match="same users on both sides, not 40 and 39"):
        paired_test(a, b[1:])


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])
    assert holm([]).shape == (0,)


def test_intervals_are_those_of_scipy_within_their_noise():
    values = np.random.default_rng(1).exponential(size=(300, 2))
    low, high = bootstrap_intervals(values, resamples=4000)
    for column in range(2):
        found = scipy.stats.bootstrap((values[:, column],), np.mean, n_resamples=4000, method="percentile", rng=2)
        width = high[column] - low[column]
        assert abs(found.confidence_interval.low - low[column]) < 0.06 * width
        assert abs(found.confidence_interval.high - high[column]) < 0.06 * width
    again = bootstrap_intervals(values, resamples=4000)
    np.testing.assert_array_equal(again, (low, high))
    constant = bootstrap_intervals(np.full((5, 1), 0.25), resamples=10)
    np.testing.assert_allclose(constant, 0.25)


def test_systems_are_compared_with_the_first_metric_by_metric():
    rng = np.random.default_rng(2)
    values = rng.random((3, 50, 2))
    values[1] = values[0]
    values[2] = values[0] + 0.2 + 0.01 * rng.random((50, 2))
    found = compare_systems(values, test="t", resamples=200)
    np.testing.assert_allclose(found.mean, values.mean(axis=1))
    np.testing.assert_allclose(found.difference, (values - values[0]).mean(axis=1), atol=1e-12)
    low, high = bootstrap_intervals(values[2] - values[0], resamples=200)  # the same users are drawn for everything
    np.testing.assert_allclose((found.difference_low[2], found.difference_high[2]), (low, high))
    one_by_one = [[paired_test(values[s, :, m], values[0, :, m], test="t") for m in range(2)] for s in (1, 2)]
    np.testing.assert_array_equal(found.p, [[1.0, 1.0], *one_by_one])
    np.testing.assert_array_equal(found.p_holm[1:].ravel(), holm(found.p[1:].ravel()))
    assert found.p_holm[1].min() == 1.0 and found.p_holm[2].max() < 1e-6
    alone = compare_systems(values[:1], resamples=20)
    assert np.all(alone.low < alone.mean) and np.all(alone.mean < alone.high) and np.all(alone.p_holm == 1.0)
    with pytest.raises(ValueError, match="there are no users with held-out items"):
        compare_systems(values[:, :0])
