"""An evaluation as text and as HTML."""

import re

from diffrec_jax.evaluation.shown import evaluation_html, evaluation_text

MEANS = {"official": {"recall@10": 0.125, "ndcg@10": 0.0625}, "standard": {"recall@10": 0.25, "ndcg@10": 0.125}}


def test_an_evaluation_shows_both_protocols():
    counts = {"n_users": 8, "n_truth": 4, "beyond": {"coverage@10": 0.5}}
    text = evaluation_text(MEANS, **counts)
    assert text.splitlines()[:3] == [
        "Evaluation of 4 users",
        "metric     official  standard",
        "recall@10    0.1250    0.2500",
    ]
    assert "official divides by all 8 users, standard by the 4 users" in text and "coverage@10 0.5000" in text
    html = evaluation_html(MEANS, **counts)
    assert re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", html) == [
        "metric",
        "official",
        "standard",
        "recall@10",
        "0.1250",
        "0.2500",
        "ndcg@10",
        "0.0625",
        "0.1250",
    ]
    assert "nothing is held out" in evaluation_text({}, n_users=3, n_truth=0)
    assert "1 user<" in evaluation_html(MEANS, n_users=1, n_truth=1)
