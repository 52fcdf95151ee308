"""Ranking the whole catalogue, and how good the ranking is."""

from diffrec_jax.evaluation.beyond import BEYOND, beyond_accuracy
from diffrec_jax.evaluation.evaluator import KS, Evaluator
from diffrec_jax.evaluation.lists import evaluate_lists
from diffrec_jax.evaluation.metrics import METRICS, PROTOCOLS, average, ranking_metrics
from diffrec_jax.evaluation.outcome import Evaluation
from diffrec_jax.evaluation.ranking import hits, mask_seen, top_k
from diffrec_jax.evaluation.standing import Standing

__all__ = [
    "BEYOND",
    "KS",
    "METRICS",
    "PROTOCOLS",
    "Evaluation",
    "Evaluator",
    "Standing",
    "average",
    "beyond_accuracy",
    "evaluate_lists",
    "hits",
    "mask_seen",
    "ranking_metrics",
    "top_k",
]
