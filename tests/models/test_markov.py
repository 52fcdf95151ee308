"""Counts of transitions against a few lines of Python, and against what counts reach on public data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.data.interactions import CSR
from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.models.markov import Markov, Transitions

HISTORIES = [[0, 1, 2, 3], [1, 2, 4], [2, 1, 3, 0, 4], [5], []]


def csr_of(histories, n_items):
    users = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
    items = np.concatenate(histories).astype(int)
    return CSR.from_pairs(users, items, n_users=len(histories), n_items=n_items)


@pytest.mark.parametrize("model", [Transitions(distance=2, last=3, decay=0.7), Markov(), Transitions()])
def test_scores_are_the_sums_of_the_definition(model):
    train = csr_of(HISTORIES, 7)
    c, popularity = np.zeros((7, 7)), np.bincount(train.indices, minlength=7)
    for history in HISTORIES:
        for a in range(len(history)):
            for b in range(a + 1, min(a + model.distance, len(history) - 1) + 1):
                c[history[a], history[b]] += 1.0 / (b - a)
    expected = np.zeros((6, 7))
    for row, history in enumerate(HISTORIES):
        for k, item in enumerate(history[::-1][: model.last]):
            expected[row] += model.decay**k * c[item] / np.sqrt(popularity[item])
    rows = take_rows(device_csr(train), jnp.asarray([0, 1, 2, 3, 4, -1], jnp.int32))
    np.testing.assert_allclose(model.scores(model.fit(train), rows), expected, rtol=1e-5, atol=1e-7)


def test_among_equal_votes_popularity_decides_however_close():
    n = 400
    histories = [[0, *range(n, n + 3)], *([0, i] for i in range(1, n)), *([i] for i in range(1, n) for _ in range(i))]
    train = csr_of(histories, n + 5)
    rows = take_rows(device_csr(train), jnp.asarray([1], jnp.int32))
    rows = rows.replace(lengths=jnp.ones_like(rows.lengths))
    scores = np.asarray(Markov().scores(Markov().fit(train), rows)[0])
    assert (np.diff(scores[1:n]) > 0).all() and scores[1] > scores[n]
    assert scores[n] > scores[n + 1] == scores[n + 2] > scores[n + 3] > 0
    np.testing.assert_allclose(scores[1 : n + 1], 1.0 / np.sqrt(n), rtol=1e-3)


def test_a_log_without_pairs_ranks_by_popularity():
    train = csr_of([[3], [3], [1]], 5)
    rows = take_rows(device_csr(train), jnp.asarray([0], jnp.int32))
    assert np.argsort(-np.asarray(Transitions().scores(Transitions().fit(train), rows)[0])).tolist()[:2] == [3, 1]


# HR@5, 10, 20, NDCG@5, 10, 20, the last event held out, at the middle of its ties: (masked, unmasked)
PUBLIC = {
    ("beauty", Markov()): (
        (0.0517, 0.0670, 0.0824, 0.0390, 0.0440, 0.0479),
        (0.0507, 0.0661, 0.0821, 0.0378, 0.0428, 0.0468),
    ),
    ("beauty", Transitions()): (
        (0.0624, 0.0846, 0.1100, 0.0460, 0.0531, 0.0595),
        (0.0589, 0.0812, 0.1075, 0.0425, 0.0497, 0.0563),
    ),
    ("ml-1m_sasrec", Markov()): (
        (0.1533, 0.2144, 0.2858, 0.1062, 0.1259, 0.1437),
        (0.1351, 0.1887, 0.2563, 0.0901, 0.1073, 0.1243),
    ),
    ("ml-1m_sasrec", Transitions()): (
        (0.1861, 0.2609, 0.3523, 0.1285, 0.1527, 0.1757),
        (0.1581, 0.2202, 0.3036, 0.1068, 0.1269, 0.1479),
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name, model", PUBLIC, ids=lambda a: a if isinstance(a, str) else type(a).__name__)
def test_what_counts_reach_on_public_data(real_data, name, model):
    pairs = np.loadtxt(real_data(f"sequential/{name}.txt"), np.int64) - 1
    n_users, n_items = pairs.max(0) + 1
    whole = CSR.from_pairs(*pairs.T, n_users=n_users, n_items=n_items)
    place = np.arange(len(whole.indices)) - np.repeat(whole.indptr[1:], whole.lengths())  # -1: the last event
    train, history = (
        CSR.from_pairs(whole.users()[place < -n], whole.indices[place < -n], n_users=n_users, n_items=n_items)
        for n in (2, 1)
    )
    params, held = model.fit(train), whole.indices[place == -1]
    csr = device_csr(history)

    @jax.jit
    def ranks(users, held):
        rows = take_rows(csr, users)
        scores = model.scores(params, rows)
        own = jnp.take_along_axis(scores, held[:, None], axis=1)
        found = []
        for s in (jnp.where(rows.dense() > 0, -jnp.inf, scores), scores):
            found.append(jnp.sum(s > own, 1) + (jnp.sum(s == own, 1) - 1) / 2)
        return found

    found = [[], []]
    for users in np.array_split(np.arange(n_users, dtype=np.int32), -(-n_users // 400)):
        for kept, rank in zip(found, ranks(users, held[users])):
            kept.append(np.asarray(rank))
    for ranked, wanted in zip(found, PUBLIC[name, model]):
        rank = np.concatenate(ranked)
        hr = [np.mean(rank < k) for k in (5, 10, 20)]
        ndcg = [np.mean((rank < k) / np.log2(rank + 2)) for k in (5, 10, 20)]
        np.testing.assert_allclose(hr + ndcg, wanted, atol=1e-4)
