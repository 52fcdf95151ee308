"""EASE in blocks against EASE: the same where one block holds everything, exact within each block otherwise."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import diffrec_jax as dr
from diffrec_jax.data import synthetic
from diffrec_jax.data.events import CSR
from diffrec_jax.data.recency import Recency, weights_of
from diffrec_jax.models.baselines import EASE
from diffrec_jax.models.block_ease import BlockEASE

I = 40


@pytest.fixture(scope="module")
def csr():
    rng = np.random.default_rng(0)
    popular = (np.arange(I) + 3.0) ** -1.0
    lengths = rng.integers(1, 15, 120)
    items = np.concatenate([rng.choice(I, n, replace=False, p=popular / popular.sum()) for n in lengths])
    return CSR.from_pairs(np.repeat(np.arange(120), lengths), items, n_users=120, n_items=I)


def matrix(params):
    """``[I, I]``: the weights that were kept."""
    found = np.zeros((I, I + 1))
    np.put_along_axis(found, np.asarray(params["items"]), np.asarray(params["similarity"]), axis=1)
    return found[:, :I]


@pytest.mark.parametrize("fit_weighted", [False, True])
@pytest.mark.parametrize("head", [12, 500])
def test_one_block_is_ease(csr, fit_weighted, head):
    options = {"l2": 5.0, "recency": Recency(), "fit_weighted": fit_weighted}
    ours = BlockEASE(head=head, block=500, kept=500, **options).fit(csr)
    np.testing.assert_allclose(matrix(ours), EASE(**options).fit(csr), atol=2e-5)


def test_every_block_is_ease_on_its_items_and_the_head(csr):
    model = BlockEASE(l2=5.0, head=10, block=8, kept=500)
    found, x = matrix(model.fit(csr)), np.zeros((120, I))
    x[csr.users(), csr.indices] = weights_of(csr, None)
    owned = []
    for members, own in model._blocks(csr, scipy.sparse.csc_array(x.astype(np.float32))):
        inverse = np.linalg.inv(x[:, members].T @ x[:, members] + 5.0 * np.eye(len(members)))
        expected = -inverse / np.diag(inverse)
        np.fill_diagonal(expected, 0.0)
        np.testing.assert_allclose(found[np.ix_(members, members[own])], expected[:, own], atol=2e-5)
        rest = np.setdiff1d(np.arange(I), members)
        assert not found[np.ix_(rest, members[own])].any()
        assert len(members) <= 18 and set(members[:10]) == set(np.argsort(-x.sum(0), kind="stable")[:10])
        owned += members[own].tolist()
    assert sorted(owned) == list(range(I))  # every item takes its weights from one block


def test_the_largest_weights_in_size_are_kept(csr):
    whole, few = (matrix(BlockEASE(l2=5.0, kept=kept).fit(csr)) for kept in (500, 6))
    for item in range(I):
        kept = np.flatnonzero(few[item])
        assert len(kept) <= 6
        np.testing.assert_allclose(few[item, kept], whole[item, kept], atol=1e-6)
        dropped = np.setdiff1d(np.arange(I), kept)
        assert np.abs(whole[item, dropped]).max() <= np.abs(few[item, kept]).min() + 1e-6


def test_it_is_near_ease_and_keeps_its_memory_bounded():
    split = synthetic.generate(n_users=500, n_items=120, seed=3).split_by_time(0.7, 0.1, 0.2)
    found = {
        type(model).__name__: dr.evaluate(dr.fit(model, split.train), split.valid).mean("official")["recall@20"]
        for model in (EASE(l2=50.0), BlockEASE(l2=50.0, head=40, block=30, kept=60))
    }
    assert found["BlockEASE"] > 0.95 * found["EASE"]
    assert BlockEASE().bytes_needed(10**6) < 6 * 2**30 and EASE().bytes_needed(10**6) > 2**40
    assert jnp.isfinite(dr.fit(BlockEASE(), split.train).params["similarity"]).all()
