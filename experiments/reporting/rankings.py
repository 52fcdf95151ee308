"""All rankings of a result as a table: masked and unmasked, ties by a key or shared (``evaluation.conventions``)."""

from collections.abc import Mapping
from typing import Any

from diffrec_jax.evaluation.conventions import MASKED, MID_RANK, with_mid_rank
from experiments.reporting.published import columns
from experiments.reporting.sheet import Sheet

NOTE = "masked: without what somebody has. "
OF_ONE = (
    f"One item is held out of each user. {MID_RANK}: behind what scores better and half of what scores the same, as in "
    "the literature; else a fixed key decides ties. "
)


def sheet(result: Mapping[str, Any], titles: Mapping[str, str], *, protocol: str) -> Sheet:
    """Every ranking of the model and of the baselines of a result, by one protocol.

    Shown at the K of the main table: recall and NDCG; hits and NDCG where one item is held out of each user, since
    recall and precision say no more there.
    """
    first = result.get("ranking", MASKED)
    found = {result["model"]: {first: result["test"], **result["rankings"]}}
    for name, others in result["baseline_rankings"].items():
        if name != result["model"] and others:
            found[name] = {first: result["baselines"][name], **others}
    shown = columns(*(of[first][protocol] for of in found.values()))
    of_one = with_mid_rank(first) in result["rankings"]
    if of_one:
        shown = tuple(name.replace("recall@", "hit@") for name in shown)
    rows = []
    for model, rankings in found.items():
        for name in sorted(rankings):
            cells = (f"{rankings[name][protocol][column]:.4f}" for column in shown)
            rows.append((titles.get(model, model), name, *cells))
    return Sheet(
        f"Rankings of the same scores, {protocol} protocol", ("model", "ranking", *shown), tuple(rows),
        note=f"Test history: {result['eval_history']}. {OF_ONE if of_one else ''}{NOTE}".rstrip(), n_text=2,
    )  # fmt: skip
