"""The synthetic log really has clusters, skew and drift, and is the same every time."""

import numpy as np
import pytest

from diffrec_jax.data import datasets, synthetic


def cluster_of(data):
    return np.array([int(title.split()[1].rstrip(",")) for title in data.item_titles])[data.items]


@pytest.fixture(scope="module")
def data():
    return synthetic.generate(seed=0)


def test_it_is_seeded(data):
    same, other = synthetic.generate(seed=0), synthetic.generate(seed=1)
    assert np.array_equal(data.items, same.items) and np.array_equal(data.times, same.times)
    assert not np.array_equal(data.items[:100], other.items[:100])


def test_events_are_in_time_order_and_unique(data):
    assert np.all(np.diff(data.times) >= 0)
    assert len(data.deduplicate()) == len(data)
    assert np.bincount(data.users, minlength=1000).min() >= 3
    assert 30_000 < len(data) < 70_000


def test_popularity_is_skewed(data):
    counts = np.sort(np.bincount(data.items, minlength=data.n_items))[::-1]
    assert counts[: data.n_items // 10].sum() > 0.25 * len(data)


def test_users_have_clusters_and_drift(data):
    rows, clusters = data.csr(), cluster_of(data)
    lookup = np.zeros(data.n_items, int)
    lookup[data.items] = clusters
    first, last = [], []
    for u in range(200):
        row = lookup[rows.indices[rows.indptr[u] : rows.indptr[u + 1]]]
        k = max(2, len(row) // 4)
        first.append(np.bincount(row[:k], minlength=13)[1:] / k)
        last.append(np.bincount(row[-k:], minlength=13)[1:] / k)
    first, last = np.array(first), np.array(last)
    assert first.max(1).mean() > 0.5  # one cluster leads (1/12 by chance)
    assert np.mean(first.argmax(1) != last.argmax(1)) > 0.6  # and it is another one at the end


def test_the_catalogue_makes_it_without_files_or_network(tmp_path):
    split = datasets.load("synthetic", data_dir=tmp_path, cache_dir=tmp_path / "never")
    assert split.rule == "temporal" and split.n_users == 1000 and split.item_titles is not None
    assert not (tmp_path / "never").exists()
    assert split.notes[0].startswith("Synthetic data (seed 0)")


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="no more clusters than items"):
        synthetic.generate(n_items=5, n_clusters=9)
    with pytest.raises(ValueError, match=r"stray=2 is a share; it must lie in \[0, 1\]"):
        synthetic.generate(stray=2)
