import jax.numpy as jnp
import numpy as np
import pytest
import pytrec_eval

from diffrec_jax.evaluation import METRICS, average, ranking_metrics


def hits_of(predicted, truth):
    return jnp.asarray([[item in truth[u] for item in row] for u, row in enumerate(predicted)])


def test_metrics_equal_the_recorded_ones(golden):
    g = golden("metrics")
    n_users, topn = int(g["n_users"]), [int(k) for k in g["topn"]]
    truth = [set(g["truth"][g["truth"][:, 0] == u, 1]) for u in range(n_users)]
    users = [u for u in range(n_users) if truth[u]]
    assert len(users) < n_users  # some have no truth
    hits = hits_of(g["predicted"][users], [truth[u] for u in users])
    per_user = ranking_metrics(hits, jnp.asarray([len(truth[u]) for u in users]), topn)
    means = average({k: np.asarray(v) for k, v in per_user.items()}, n_users=n_users, protocol="official")
    for name in ("precision", "recall", "ndcg", "mrr"):
        np.testing.assert_allclose([means[f"{name}@{k}"] for k in topn], g[name], atol=5.01e-5, err_msg=name)


def test_metrics_equal_trec_eval():
    rng = np.random.default_rng(0)
    predicted = np.stack([rng.permutation(60)[:20] for _ in range(30)])
    truth = [set(rng.permutation(60)[: rng.integers(1, 30)]) for _ in range(30)]
    ks = (1, 5, 20)
    ours = ranking_metrics(hits_of(predicted, truth), jnp.asarray([len(t) for t in truth]), ks)
    relevant = {f"u{u}": {f"i{i}": 1 for i in t} for u, t in enumerate(truth)}
    run = {f"u{u}": {f"i{i}": float(100 - r) for r, i in enumerate(row)} for u, row in enumerate(predicted)}
    measures = {f"{m}.{k}" for m in ("P", "recall", "ndcg_cut", "success") for k in ks} | {"recip_rank"}
    theirs = pytrec_eval.RelevanceEvaluator(relevant, measures).evaluate(run)
    names = {"precision": "P", "recall": "recall", "ndcg": "ndcg_cut", "hit": "success"}
    for u in range(30):
        for k in ks:
            for name, measure in names.items():
                assert float(ours[f"{name}@{k}"][u]) == pytest.approx(theirs[f"u{u}"][f"{measure}_{k}"], abs=1e-6)
        assert float(ours["mrr@20"][u]) == pytest.approx(theirs[f"u{u}"]["recip_rank"], abs=1e-6)


def test_by_hand():
    hits = jnp.asarray([[0, 1, 0, 1], [0, 0, 0, 0]], bool)
    m = ranking_metrics(hits, jnp.asarray([3, 5]), (2, 4))
    assert float(m["precision@2"][0]) == 0.5 and float(m["recall@4"][0]) == pytest.approx(2 / 3)
    assert float(m["mrr@4"][0]) == 0.5 and float(m["hit@2"][0]) == 1
    gain, ideal = 1 / np.log2(3) + 1 / np.log2(5), 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert float(m["ndcg@4"][0]) == pytest.approx(gain / ideal)
    assert all(float(m[f"{name}@{k}"][1]) == 0 for name in METRICS for k in (2, 4))


def test_the_two_conventions_differ_by_the_users_without_truth():
    per_user = {"recall@20": np.array([0.5, 0.25])}
    assert average(per_user, n_users=4, protocol="official") == {"recall@20": 0.1875}
    assert average(per_user, n_users=4, protocol="standard") == {"recall@20": 0.375}
    with pytest.raises(ValueError, match="protocol='mean' is unknown: choose one of official, standard"):
        average(per_user, n_users=4, protocol="mean")
    assert average({"recall@20": np.zeros(0)}, n_users=3, protocol="standard") == {"recall@20": 0.0}


def test_lists_shorter_than_k_are_refused():
    with pytest.raises(ValueError, match="metrics at K=10 need a list of that length"):
        ranking_metrics(jnp.zeros((1, 5), bool), jnp.ones(1), (10,))
