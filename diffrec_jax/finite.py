"""What is no number never becomes a result: parameters and scores that are NaN or infinite are said, not ranked.

A sort has no place for NaN: it puts it first or last, by its sign bit, and a search by maxima may lose it. So scores
are made ``rankable`` before they are sorted: NaN becomes +inf, and the head of each list shows it.

Letters: B users, I items, K list length.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.types import PyTree

ADVICE = "lower the learning rate, or look at the data and the hyper-parameters, and train it again"


Array = TypeVar("Array", jax.Array, np.ndarray)


class NonFiniteParametersError(ArithmeticError):
    """Parameters became NaN or infinite."""


class NonFiniteScoresError(ArithmeticError):
    """A model gives scores that are NaN or infinite."""


@jax.jit
def _finite(tree: PyTree) -> jax.Array:
    found = jnp.ones((), bool)
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            found &= jnp.all(jnp.isfinite(leaf))
    return found


def all_finite(tree: PyTree) -> bool:
    """Whether every number of the arrays of a tree is finite; one pass over them, on their devices."""
    return bool(_finite(tree))


def check_parameters(params: PyTree, model: object) -> None:
    """Refuse parameters that are not finite.

    Args:
      params: a tree of arrays.
      model: whose they are; named in the sentence.

    Raises:
      NonFiniteParametersError: if one of them is NaN or infinite.
    """
    if not all_finite(params):
        raise NonFiniteParametersError(f"the parameters of {_name(model)} are not finite, so it cannot rank: {ADVICE}")


def rankable(scores: jax.Array) -> jax.Array:
    """``scores [B, I]`` with +inf in place of NaN, which ``top_k`` then puts first on every machine."""
    return jnp.where(jnp.isnan(scores), jnp.inf, scores)


def unranked(values: Array, n_left: Array | None = None) -> Array:
    """``[B]`` bool: whose scores are no numbers, on the device or on the host.

    Args:
      values: ``[B, K]`` of ``top_k`` of ``rankable`` scores, best first.
      n_left: ``[B]`` int, how many items were not masked; given, a list without any number is seen too.
    """
    bad: Array = values[:, 0] == jnp.inf
    if n_left is not None:
        bad = bad | ((values[:, 0] == -jnp.inf) & (n_left > 0))
    return bad


def check_scores(bad: np.ndarray, model: object) -> None:
    """Refuse lists by scores that are no numbers.

    Args:
      bad: ``[n]`` bool, of ``unranked``.
      model: whose they are; named in the sentence.

    Raises:
      NonFiniteScoresError: if there are any.
    """
    count = int(np.sum(bad))
    if count:
        raise NonFiniteScoresError(
            f"{_name(model)} gives scores that are no numbers (NaN or infinite) to {count:,} of {len(bad):,} users, so "
            f"there is nothing to rank by: {ADVICE}"
        )


def _name(model: object) -> str:
    return model if isinstance(model, str) else type(model).__name__
