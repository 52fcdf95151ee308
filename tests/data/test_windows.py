"""Windows and the examples made of them, against plain Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data.interactions import CSR
from diffrec_jax.data.rows import device_csr, make_rows, take_rows
from diffrec_jax.data.windows import in_short_windows, masked, next_items, one_cut, take_window, window

I = 50
HISTORIES = [[3], [4, 9, 1], list(range(10, 21)), [], [7, 8], list(range(30, 36))]


def data():
    users = np.repeat(np.arange(len(HISTORIES)), [len(h) for h in HISTORIES])
    return device_csr(CSR.from_pairs(users, np.concatenate(HISTORIES).astype(int), n_users=6, n_items=I, times=None))


def rows(users=(0, 1, 2, 3, 4, 5, -1)):
    return take_rows(data(), jnp.asarray(users, jnp.int32))


@pytest.mark.parametrize("length", [1, 4, 11, 30])
def test_a_window_holds_the_last_events_most_recent_last(length):
    items, real = jax.jit(window, static_argnums=1)(rows(), length)
    for n, history in enumerate([*HISTORIES, []]):
        last = history[-length:]
        assert items[n].tolist() == [I] * (length - len(last)) + last
        assert real[n].tolist() == [False] * (length - len(last)) + [True] * len(last)
    direct = take_window(data(), jnp.asarray([0, 1, 2, 3, 4, 5, -1], jnp.int32), length)
    np.testing.assert_array_equal(direct[0], items)
    np.testing.assert_array_equal(direct[1], real)


def test_next_items_ask_for_every_event_but_the_first():
    inputs, targets, weights = next_items(*window(rows(), 5))
    pairs = [
        [(int(a), int(b)) for a, b, w in zip(*row) if w > 0.0] for row in zip(inputs, targets, np.asarray(weights))
    ]
    assert pairs == [[*zip(h[-5:-1], h[-5:][1:])] for h in [*HISTORIES, []]]


def test_cuts_weighed_by_their_number_are_all_prefixes_alike():
    counts: dict[tuple[int, int], float] = {}
    cut = jax.jit(one_cut, static_argnums=1)
    batch, n = rows(), 2000
    for step in range(n):
        items, real, targets, weights = (np.asarray(a) for a in cut(batch, 4, jax.random.key(step)))
        for user in range(6):
            if weights[user] > 0.0:
                history = HISTORIES[user]
                m = history.index(targets[user])
                assert items[user][real[user]].tolist() == history[max(m - 4, 0) : m]
                counts[user, m] = counts.get((user, m), 0.0) + weights[user] / n
        assert weights[0] == weights[3] == weights[6] == 0.0
    assert len(counts) == sum(max(len(h) - 1, 0) for h in HISTORIES)
    np.testing.assert_allclose([*counts.values()], 4 / 18, atol=0.05)


@pytest.mark.parametrize("example", [lambda r, k: one_cut(r, 4, k)[:3], lambda r, k: masked(r, 4, k, p=0.4)])
def test_draws_depend_on_the_user_and_not_on_the_batch(example):
    whole, part = example(rows(), jax.random.key(3)), example(rows((5, -1, 2)), jax.random.key(3))
    for a, b in zip(whole, part):
        np.testing.assert_array_equal(a[jnp.asarray([5, 6, 2])], b)


def test_masked_events_are_the_targets_and_at_least_one():
    hidden = []
    for step in range(300):
        inputs, targets, weights = masked(rows(), 6, jax.random.key(step), p=0.3)
        items, real = window(rows(), 6)
        np.testing.assert_array_equal(np.asarray(inputs == I + 1), np.asarray(weights) > 0)
        np.testing.assert_array_equal(np.where(weights > 0, targets, inputs), items)
        assert not np.any((np.asarray(weights) > 0) & ~np.asarray(real))
        assert (np.sum(weights, axis=1) >= 1).tolist() == [True, True, True, False, True, True, False]
        hidden.append(np.asarray(weights[2]))
    assert np.mean(hidden) == pytest.approx(0.3 + 0.7**6 / 6, abs=0.04)
    _, _, forced = masked(rows(), 6, jax.random.key(0), p=0.3, force_last=1.0)
    assert np.asarray(forced[:, :-1]).sum() == 0 and np.asarray(forced[:, -1]).tolist() == [1, 1, 1, 0, 1, 1, 0]


def test_windows_are_as_short_as_the_longest_history_of_the_batch_allows():
    def seen(lengths, length=64):
        n = np.asarray(lengths)
        items = np.arange(100)[None] + 1000 * np.arange(len(n))[:, None]
        rows = make_rows(jnp.asarray(items, jnp.int32), jnp.asarray(n), n_items=9999)
        widths = []

        def last(items, real):
            widths.append(items.shape[1])
            where = jnp.full(items.shape[0], items.shape[1])
            return jnp.stack([items[:, -1], jnp.sum(real, axis=1), where], axis=1)

        return np.asarray(jax.jit(lambda rows: in_short_windows(last, rows, length))(rows)), widths

    for lengths, width in (([1, 8, 0], 8), ([9, 3, 2], 32), ([33, 1, 0], 64), ([90, 1, 5], 64)):
        found, compiled = seen(lengths)
        assert compiled == [8, 32, 64] and set(found[:, 2]) == {width}
        assert found[:, 1].tolist() == [min(n, 64) for n in lengths]
        ends = [1000 * row + n - 1 if n else 9999 for row, n in enumerate(lengths)]
        assert found[:, 0].tolist() == ends
    assert seen([5, 1], length=32)[1] == [32]
