"""Packed histories: where they lie, what they see, and what they save."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import quick

from diffrec_jax.data.packing import SHARES, in_few_rows, pack, plan, unpack, waste
from diffrec_jax.models.transformer import Encoder

L = 8
LENGTHS = [1, 8, 3, 0, 5, 2, 2, 1, 7, 0, 4]


def windows(lengths=LENGTHS):
    rng = np.random.default_rng(0)
    real = np.arange(L) >= L - np.asarray(lengths)[:, None]
    return jnp.asarray(np.where(real, rng.integers(1, 50, real.shape), 0)), jnp.asarray(real)


def test_every_event_has_a_slot_of_its_own_in_order_and_is_found_again():
    items, real = windows()
    where = jax.jit(plan)(real)
    taken = {}
    for n, length in enumerate(LENGTHS):
        slots = np.asarray(where.slot[n])
        assert (slots[: L - length] == L).all() and (np.diff(slots[L - length :]) == 1).all()
        for slot in slots[L - length :]:
            assert taken.setdefault((int(where.row[n]), int(slot)), n) == n and slot < L
    assert len(taken) == sum(LENGTHS) and int(where.rows) == 1 + max(row for row, _ in taken) == 5
    packed = pack(items, where, rows=6, fill=-1)
    assert int(jnp.sum(packed >= 0)) == sum(LENGTHS)
    np.testing.assert_array_equal(unpack(packed[..., None], where)[..., 0], items)


def test_first_fit_by_hand_and_what_it_saves():
    _, real = windows([3, 5, 8, 4, 4])
    where = plan(real)
    assert where.row.tolist() == [1, 1, 0, 2, 2] and int(where.rows) == 3
    _, nothing = windows([0, 0])
    assert int(plan(nothing).rows) == 0
    lengths = np.array([3, 5, 9, 4, 4])
    assert waste(lengths, 8, batch=5, packed=False) == pytest.approx(1.0 - 24 / 40)
    assert waste(lengths, 8, batch=5, packed=True) == pytest.approx(0.0)  # three rows of the five
    assert waste(np.full(64, 2), 8, batch=32, packed=True) == pytest.approx(1.0 - 64 / (16 * 8))  # eight would do


CASES = [(LENGTHS, True), (LENGTHS, False), ([8] * 3, True), ([1] * 33, True)]


@pytest.mark.parametrize("case", quick(CASES, CASES[0]))
def test_packed_windows_are_encoded_like_windows_of_their_own(case):
    lengths, causal = case
    items, real = windows(lengths)
    encoder = Encoder(6, 1, 2, inner=12, causal=causal)
    table, places = (jax.random.normal(jax.random.key(n), (size, 6)) for n, size in ((0, 50), (1, L)))
    params = encoder.init(jax.random.key(2), jnp.zeros((1, L, 6)), jnp.ones((1, L), bool))
    weight = jax.random.normal(jax.random.key(3), (len(lengths), L, 6))

    def apart(table):
        f = encoder.apply(params, table[items] + places[None], real)
        return jnp.sum(weight * jnp.where(real[..., None], f, 0.0)), f

    def together(table):
        def encode(items, segments, columns):
            sizes.append(items.shape[0])
            return encoder.apply(params, table[items] + places[columns], segments >= 0, segments)

        f = in_few_rows(encode, items, real)
        return jnp.sum(weight * f), f

    sizes = []
    (_, f), gradient = jax.jit(jax.value_and_grad(together, has_aux=True))(table)
    (_, g), expected = jax.jit(jax.value_and_grad(apart, has_aux=True))(table)
    np.testing.assert_allclose(f, jnp.where(real[..., None], g, 0.0), atol=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-4)
    assert set(sizes) == {-(-len(lengths) // share) for share in (*SHARES, 1)}
