import numpy as np
import pytest
import scipy.stats

from diffrec_jax.evaluation.significance import bootstrap_intervals, holm, paired_test


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
