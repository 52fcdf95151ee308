"""Training that begins where another run ended: its parameters, matched by the raw ids of the items.

Items that the other run did not know begin as any model does, those that are gone are left behind. Nothing else of the
other run is taken over: not its optimizer, nor how far it came.
"""

from collections.abc import Callable, Hashable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.tree_util import KeyPath

from diffrec_jax.models.contract import Catalogue, Model, Params, Scorer
from diffrec_jax.serving import Recommender, Vocabulary
from diffrec_jax.serving.loading import load
from diffrec_jax.types import PathLike, PyTree

Start = str | Path | Recommender  # a run folder, an exported model, or what was loaded from one


def beginning(
    start: Start | None,
    model: Model,
    catalogue: Catalogue,
    vocabulary: Vocabulary,
    *,
    workdir: PathLike | None,
    say: Callable[[str], None],
) -> Callable[[Params], Params] | None:
    """From the parameters as they are drawn to those that training begins with; None without ``start``.

    A run in ``workdir`` that has begun goes on where it was, so nothing is read for it unless it must begin anew.

    Raises:
      ValueError: for a run that this one cannot begin from.
    """
    if start is None:
        return None

    def taken(other: Recommender, drawn: Params) -> Params:
        say(said(other, vocabulary))
        return begun_from(other, model, drawn, vocabulary)

    if workdir is not None and (epath.Path(workdir) / "checkpoints").exists():
        return lambda drawn: taken(opened(start, model), drawn)
    other = opened(start, model)
    check_widths(other, model, model.shapes(catalogue), vocabulary)
    return lambda drawn: taken(other, drawn)


def refuse_for(model: Scorer, start: Start | None) -> None:
    """Refuse to begin from anything where nothing is trained."""
    if start is not None:
        name = type(model).__name__
        raise ValueError(f"warm_start means nothing to {name}, which is computed in one go: leave it out")


def opened(start: Start, model: Model) -> Recommender:
    """The run to begin from.

    Raises:
      ValueError: if it is no run, or one of another model, or of a model that cannot begin from another.
    """
    if model.needs_clusters:
        raise ValueError(
            f"warm_start means nothing to {type(model).__name__}, whose weights go by clusters of items, which change "
            "with the data: train it anew"
        )
    other = start if isinstance(start, Recommender) else load(start)
    theirs = other.content.model.trained
    if type(theirs) is not type(model):
        named = "the recommender" if isinstance(start, Recommender) else start
        raise ValueError(
            f"warm_start={named} is a {type(other.content.model).__name__}, and a {type(model).__name__} is to be "
            "trained: begin from a run of the same model"
        )
    return other


def check_widths(other: Recommender, model: Model, ours: PyTree, vocabulary: Vocabulary) -> None:
    """Refuse a run whose parameters, items aside, have other shapes than ``ours``.

    Raises:
      ValueError: with the first that differs.
    """
    theirs = dict(jax.tree_util.tree_leaves_with_path(trained_params(other)))
    for path, mine in jax.tree_util.tree_leaves_with_path(ours):
        old, (axis, of) = theirs.get(path), _entries(model, path)
        here, there = list(mine.shape), None if old is None else list(old.shape)
        if there is not None and axis is not None:
            here[axis] -= _size(vocabulary, of)
            there[axis] -= _size(other.vocabulary, of)
        if here != there:
            shown = "missing" if old is None else str(list(old.shape))
            raise ValueError(
                f"warm_start: {_name(path)} is {shown} there and {list(mine.shape)} here: give both runs the same "
                "widths"
            )


def begun_from(other: Recommender, model: Model, drawn: Params, vocabulary: Vocabulary) -> Params:
    """The parameters to begin with: those of ``other``, and as ``drawn`` where it does not know an item.

    Args:
      other: of the same class of model.
      model: what is to be trained.
      drawn: its parameters as they begin otherwise.
      vocabulary: of the new data.
    """
    theirs = dict(jax.tree_util.tree_leaves_with_path(trained_params(other)))
    number = _numbers(other, vocabulary)

    def taken(path: KeyPath[Hashable], mine: jax.Array) -> jax.Array:
        old, (axis, of) = theirs[path], _entries(model, path)
        if axis is None:
            return jnp.asarray(old)
        ours, before = np.array(jnp.moveaxis(mine, axis, 0)), np.moveaxis(np.asarray(old), axis, 0)
        known = np.flatnonzero(number[of] >= 0)
        ours[known] = before[number[of][known]]
        ours[_size(vocabulary, of) :] = before[_size(other.vocabulary, of) :]  # what stands for none: a mask, say
        return jnp.asarray(np.moveaxis(ours, 0, axis))

    return jax.tree_util.tree_map_with_path(taken, drawn)


def said(other: Recommender, vocabulary: Vocabulary) -> str:
    """How many items and users the other run knows, in a sentence."""
    parts = []
    for what, number in _numbers(other, vocabulary).items():
        known = int((number >= 0).sum())
        new, gone = len(number) - known, _size(other.vocabulary, what) - known
        parts.append(f"of {len(number):,} {what} it knows {known:,}, {new:,} are new, {gone:,} are gone")
    return f"warm start: {'; '.join(parts)}"


def trained_params(other: Recommender) -> Params:
    """The parameters of the part that was trained."""
    return next(params for part, params in other.content.model.by_part(other.ranker.params) if isinstance(part, Model))


def _name(path: KeyPath[Hashable]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _entries(model: Model, path: KeyPath[Hashable]) -> tuple[int | None, str]:
    """Which axis of a parameter has an entry for every one of what."""
    last = _name(path).rsplit(".", 1)[-1]
    if last in model.user_axes:
        return model.user_axes[last], "users"
    return model.item_axes.get(last), "items"


def _size(vocabulary: Vocabulary, of: str) -> int:
    return vocabulary.n_users if of == "users" else vocabulary.n_items


def _numbers(other: Recommender, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """The numbers that the other run has of these items and users, -1 where it knows none."""
    items, _ = other.vocabulary.items(vocabulary.item_ids)
    users, _ = other.vocabulary.users(vocabulary.user_ids)
    return {"items": items, "users": users}
