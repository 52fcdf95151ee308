"""Clusters of items: k-means, embeddings by SVD, and what is refused."""

import numpy as np
import pytest

from diffrec_jax.data.events import CSR
from diffrec_jax.models.cluster_vae import Clusters
from diffrec_jax.models.clustering import k_means, remarks, svd_embeddings


def blobs(n=60, seed=0):
    rng = np.random.default_rng(seed)
    of_item = rng.integers(0, 3, n)
    return of_item, 10.0 * np.eye(3)[of_item] + rng.normal(size=(n, 3))


def test_k_means_finds_separate_clusters_and_is_seeded():
    truth, embeddings = blobs()
    found = k_means(embeddings, 3, n_items=60, seed=1)
    pairs = set(zip(truth.tolist(), found.of_item.tolist()))
    assert len(pairs) == 3  # the same clusters under other numbers
    assert found == k_means(embeddings, 3, n_items=60, seed=1)
    assert k_means(embeddings, 1, n_items=60).sizes == (60,)


def test_svd_embeddings_have_the_inner_products_of_the_best_approximation():
    rng = np.random.default_rng(0)
    x = (rng.random((40, 25)) < 0.3).astype(float)
    users, items = np.nonzero(x)
    embeddings = svd_embeddings(CSR.from_pairs(users, items, n_users=40, n_items=25), dim=6)
    assert embeddings.shape == (25, 6) and embeddings.dtype == np.float32
    _, sigma, vt = np.linalg.svd(x)
    expected = (vt[:6].T * sigma[:6] ** 2) @ vt[:6]
    np.testing.assert_allclose(embeddings @ embeddings.T, expected, atol=0.2)


def test_what_a_person_should_know_is_said():
    assert remarks(Clusters(np.repeat([0, 1], [1500, 1500]))) == ["2 item clusters of 1,500, 1,500 items"]
    _, warning = remarks(Clusters(np.repeat([0, 1, 2], [3, 95, 2])))
    assert warning.startswith("warning: cluster 1 holds 95% of the items")
    assert len(remarks(Clusters(np.zeros(9, int)))) == 1  # one cluster was asked for


@pytest.mark.parametrize(
    "embeddings, n_clusters, sentence",
    [
        (np.ones((9, 2)), 2, r"item embeddings of shape \[9, 2\] do not fit 10 items: one row per item is needed"),
        (np.ones(10), 2, r"item embeddings of shape \[10\] do not fit 10 items"),
        (np.where(np.eye(10) * (np.arange(10) > 7), np.nan, 1.0), 2, r"embedding of item 8 \(and 1 more\) holds NaN"),
        (np.full((10, 2), "a"), 2, "item embeddings hold <U1, not numbers"),
        (np.eye(10), 11, "n_cate=11 clusters cannot be made of 10 items: choose 1 to 10"),
        (np.eye(10), 0, "n_cate=0 clusters cannot be made of 10 items"),
        (np.ones((10, 2)), 2, "n_cate=2 clusters cannot be made of 1 distinct embeddings"),
        (np.append(np.zeros((9, 2)), [[9.0, 9.0]], axis=0), 2, "cluster . of 2 holds one item: use fewer clusters"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(embeddings, n_clusters, sentence):
    with pytest.raises(ValueError, match=sentence):
        k_means(embeddings, n_clusters, n_items=10)


def test_svd_of_a_small_catalogue_is_refused():
    with pytest.raises(ValueError, match="embeddings of width 64 need as many users and items, and there are 3 and 5"):
        svd_embeddings(CSR.from_pairs(np.arange(3), np.arange(3), n_users=3, n_items=5))
