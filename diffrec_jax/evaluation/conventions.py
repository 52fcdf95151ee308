"""The same scores ranked otherwise: with what a person has left out or not, and with ties shared.

``masked`` leaves out what a person has, ``unmasked`` ranks every item; of equal scores the key of ``standing`` decides.
Where one item is held out of each user, the literature shares ties instead (``mid-rank``)::

    rank   = 1 + #better + #equal / 2                                                      (1)
    hit@K  = rank < K + 1,  ndcg@K = hit@K / log2(rank + 1)                                (2)

with #equal not counting the item itself: a constant score wins nothing. A rank between two places counts as the upper.

Letters: B users, I items.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from diffrec_jax.data.events import CSR
from diffrec_jax.data.rows import Rows
from diffrec_jax.evaluation.metrics import ranking_metrics
from diffrec_jax.evaluation.ranking import hits

MASKED, UNMASKED = "masked", "unmasked"
MID_RANK = "mid-rank"
BETWEEN = "|"  # the name of a ranking and a metric in one name, while they are on the device


def with_mid_rank(name: str) -> str:
    """What a ranking is called when its ties are shared."""
    return f"{name}, {MID_RANK}"


def judged(seen: CSR, truth: CSR, *, mask_seen: bool, others: bool) -> tuple[str, ...]:
    """The rankings there are, by name: the one that is asked for, and the ``others`` of the same scores.

    Masked or not makes a difference where anything is ``seen``; ties are shared where ``truth`` is one item each.
    """
    twofold = seen.n_interactions > 0
    first = MASKED if mask_seen and twofold else UNMASKED
    if not others:
        return (first,)
    by_key = [first, *(name for name in (MASKED, UNMASKED) if twofold and name != first)]
    of_one = int(truth.lengths().max(initial=0)) == 1
    return (*by_key, *(with_mid_rank(name) for name in by_key if of_one))


def metrics(
    name: str,
    lists: Mapping[str, tuple[jax.Array, jax.Array]],
    scores: Mapping[str, jax.Array],
    truth: Rows,
    ks: Sequence[int],
) -> dict[str, jax.Array]:
    """The metrics ``[B]`` of a ranking, given lists and scores, masked and unmasked; ``"unmasked|ndcg@10"`` and so on.

    Lists are ``(values [B, K], items [B, K])``, best first.
    """
    by_key = name.partition(",")[0]
    found = _by_key(*lists[name], truth, ks) if name == by_key else mid_rank_metrics(scores[by_key], truth, ks)
    return {f"{name}{BETWEEN}{metric}": values for metric, values in found.items()}


def _by_key(values: jax.Array, items: jax.Array, truth: Rows, ks: Sequence[int]) -> dict[str, jax.Array]:
    """All metrics of the lists by score and key, each ``[B]``; what scores -inf is in no list."""
    longest = max(ks)
    found = (hits(items, truth) & (values > -jnp.inf))[:, :longest]
    return ranking_metrics(jnp.pad(found, ((0, 0), (0, longest - found.shape[1]))), truth.lengths, ks)


def mid_rank_metrics(scores: jax.Array, truth: Rows, ks: Sequence[int]) -> dict[str, jax.Array]:
    """Eq. 1 and 2 of ``truth``, which holds one item for each user: ``{"hit@10": [B], "ndcg@10": [B], …}``.

    An item that is not ranked (-inf) is no hit.
    """
    own = jnp.max(jnp.where(truth.dense() > 0, scores, -jnp.inf), axis=1, keepdims=True)
    better = jnp.sum(scores > own, axis=1)
    equal = jnp.sum(scores == own, axis=1) - 1
    before = jnp.where(own[:, 0] > -jnp.inf, better + equal / 2.0, jnp.inf)
    gain = 1.0 / jnp.log2(before + 2.0)
    found: dict[str, jax.Array] = {}
    for k in ks:
        hit = before < k
        found |= {f"hit@{k}": hit.astype(jnp.float32), f"ndcg@{k}": jnp.where(hit, gain, 0.0)}
    return found
