"""Logs in the numbers of the training data, and what of them may be recommended."""

import functools
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from diffrec_jax.data.events import CSR, Events, merge, overlap
from diffrec_jax.data.ordered import check_order
from diffrec_jax.models.contract import Scorer
from diffrec_jax.serving.vocabulary import Vocabulary

Log = CSR | Events


def checked_log(data: object, name: str) -> Log:
    """``data``, if it is a log.

    Raises:
      ValueError: for anything else, such as a whole split.
    """
    if isinstance(data, CSR | Events):
        return data
    hint = ": take it apart, train, valid, test = split" if hasattr(data, "train") else ""
    raise ValueError(f"{name} is a {type(data).__name__} and must be an Interactions or a CSR{hint}")


def vocabulary_of(data: Log) -> Vocabulary:
    """The raw ids of a log; those of rows without raw ids are their numbers."""
    if isinstance(data, Events):
        return Vocabulary(data.user_ids, data.item_ids, data.item_titles)
    return Vocabulary.numbers(data.n_users, data.n_items)


def numbered(vocabulary: Vocabulary, data: Log, name: str) -> CSR:
    """The rows of a log, numbered as the training data is; ``name`` is what an error calls it.

    Raises:
      ValueError: if it holds users or items that are not in the vocabulary, or is no log.
    """
    data = checked_log(data, name)
    n_users, n_items = vocabulary.n_users, vocabulary.n_items
    if isinstance(data, CSR):
        if (data.n_users, data.n_items) != (n_users, n_items):
            raise ValueError(
                f"{name} has rows of {data.n_users:,} users and {data.n_items:,} items, the training data of "
                f"{n_users:,} and {n_items:,}: split one log, or bring the logs together with splits.as_given"
            )
        return data
    users = _renumbered(data.users, data.user_ids, vocabulary.user_ids, vocabulary.users, f"users of {name}")
    items = _renumbered(data.items, data.item_ids, vocabulary.item_ids, vocabulary.items, f"items of {name}")
    columns = {"times": data.times, "weights": data.weights}
    return CSR.from_pairs(users, items, n_users=n_users, n_items=n_items, **columns, repeats=data.repeats)


def read_by(model: Scorer, vocabulary: Vocabulary, data: Log, name: str) -> CSR:
    """The rows of a log as a model reads them: repeated items, where they are kept, only if it reads their order."""
    rows = numbered(vocabulary, data, name)
    return rows if model.needs_order else rows.once()


def trained_on(model: Scorer, train: Log) -> tuple[Vocabulary, CSR]:
    """The ids and the rows that a model is fitted to; of weights that mean nothing to it, a warning says so.

    Raises:
      ValueError: for what is no log, and for one without order where the model is to learn it.
    """
    vocabulary = vocabulary_of(checked_log(train, "train"))
    rows = read_by(model, vocabulary, train, "train")
    if model.needs_order:
        check_order(rows)
    if rows.weights is not None and not model.weighs:
        said = f"{type(model).__name__} does not weigh events: the weights of train are left aside"
        warnings.warn(said, stacklevel=3)
    return vocabulary, rows


def joined(*parts: CSR | None) -> CSR:
    """The rows of several logs together, those that are None aside."""
    return functools.reduce(merge, (part for part in parts if part is not None))


def _renumbered(
    codes: np.ndarray,
    ids: np.ndarray,
    ours: np.ndarray,
    look_up: Callable[[np.ndarray], tuple[np.ndarray, list[object]]],
    what: str,
) -> np.ndarray:
    if len(ids) == len(ours) and np.array_equal(ids, ours):
        return codes
    found: np.ndarray = look_up(ids)[0][codes]
    absent = np.unique(codes[found < 0])
    if len(absent):
        raise ValueError(
            f"{len(absent):,} {what} are not in the training data, {ids[absent[:1]].tolist()[0]!r} for one: split one "
            "log, or bring the logs together with splits.as_given"
        )
    return found


def masked(train: CSR, valid: CSR | None, truth: CSR) -> CSR:
    """What is not recommended to those whose held-out interactions are ``truth``, as it follows from the pairs.

    Truth that all is validation data is ranked with the training data masked, as in training; truth that all is
    training data with nothing masked; any other with both.
    """
    if valid is not None and is_part(truth, valid):
        return train
    if is_part(truth, train):
        return nothing(truth)
    return train if valid is None else merge(train, valid)


def is_part(rows: CSR, of: CSR) -> bool:
    """Whether all (user, item) pairs of ``rows`` are in ``of``."""
    return overlap(of, rows) == rows.n_interactions


def union(vocabulary: Vocabulary, logs: Log | Sequence[Log], name: str) -> CSR:
    """The rows of one log or several together; errors as in ``numbered``."""
    parts = list(logs) if isinstance(logs, Iterable) and not hasattr(logs, "train") else [checked_log(logs, name)]
    empty = nothing(CSR(np.zeros(vocabulary.n_users + 1, np.int32), np.zeros(0, np.int32), vocabulary.n_items))
    return functools.reduce(merge, (numbered(vocabulary, part, name) for part in parts), empty)


def nothing(like: CSR) -> CSR:
    """Rows of the same users and items without interactions."""
    return CSR(np.zeros(like.n_users + 1, np.int32), np.zeros(0, np.int32), like.n_items)
