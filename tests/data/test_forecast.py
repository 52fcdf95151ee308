"""Pasts and futures against a reading of the definition, one history after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data.events import CSR
from diffrec_jax.data.forecast import cut, future_weights, past_and_future
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import device_csr, take_rows

KERNEL = Recency("power", w_min=0.2, w_max=3.0, power=2.0)
DAY = 86_400_000_000


def some_csr(*, with_times: bool = False) -> CSR:
    rng = np.random.default_rng(0)
    lengths = np.array([0, 1, 2, 7, 12])
    indices = np.concatenate([rng.permutation(20)[:n] for n in lengths]).astype(np.int32)
    times = np.concatenate([np.sort(rng.integers(0, 50 * DAY, n)) for n in lengths]) if with_times else None
    return CSR(np.append(0, np.cumsum(lengths)).astype(np.int32), indices, 20, times)


def histories(csr: CSR) -> list[np.ndarray]:
    return np.split(csr.indices, csr.indptr[1:-1])


@pytest.mark.parametrize("seed", range(5))
def test_every_row_is_cut_in_two_and_weighed_on_either_side(seed):
    csr = some_csr()
    rows = take_rows(device_csr(csr), jnp.array([4, 3, 2, 1, 0, -1]), recency=KERNEL)
    past, future = past_and_future(rows, jax.random.key(seed), half_life=3.0, recency=KERNEL)
    np.testing.assert_array_equal(past.users, [4, 3, 2, -1, -1, -1])  # what cannot be cut is padding
    np.testing.assert_array_equal(future.users, past.users)
    for b, history in enumerate([histories(csr)[user] for user in (4, 3, 2)]):
        place, n = int(past.lengths[b]), len(history)
        assert 1 <= place < n
        before, after = np.zeros(20), np.zeros(20)
        before[history[:place]] = [0.2 + 2.8 * (m / max(place - 1, 1)) ** 2 for m in range(place)]
        after[history[place:]] = [0.5 ** (m / 3.0) for m in range(n - place)]
        np.testing.assert_allclose(past.dense()[b], before, rtol=1e-6)
        np.testing.assert_allclose(future.dense()[b], after, rtol=1e-6)


def test_places_are_uniform_and_the_kernel_sees_the_age_at_the_cut():
    csr = some_csr(with_times=True)
    rows = take_rows(device_csr(csr), jnp.full(3000, 3))
    kernel = Recency("exponential", half_life=10.0)
    past, _ = past_and_future(rows, jax.random.key(0), half_life=3.0, recency=kernel)
    counts = np.bincount(past.lengths, minlength=8)
    assert counts[0] == counts[7] == 0 and abs(counts[1:7] - 500).max() < 90
    days = csr.times[csr.indptr[3] : csr.indptr[4]] / DAY
    b = int(np.flatnonzero(np.asarray(past.lengths) == 4)[0])
    expected = 0.1 + 0.9 * 0.5 ** ((days[3] - days[:4]) / 10.0)
    np.testing.assert_allclose(past.weights[b, :4], expected, rtol=1e-4)


def test_on_the_host_nothing_is_lost_and_the_order_stays():
    csr = some_csr(with_times=True)
    for share, places in ((0.01, [0, 1, 1, 1, 1]), (0.5, [0, 1, 1, 3, 6]), (1.0, [0, 1, 1, 6, 11])):
        past, future = cut(csr, share)
        np.testing.assert_array_equal(past.lengths(), places)
        for whole, before, after in zip(histories(csr), histories(past), histories(future)):
            np.testing.assert_array_equal(whole, np.append(before, after))
        assert len(past.times) == len(past.indices) and past.times[-1] == csr.times[csr.indptr[4] + places[-1] - 1]
        weights = np.split(future_weights(future, 2.0), future.indptr[1:-1])
        np.testing.assert_allclose(weights[-1], 0.5 ** (np.arange(12 - places[-1]) / 2.0), rtol=1e-6)
