"""What a list may hold: candidates and excluded items, for everybody or for each person, beside what was seen."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diffrec_jax.serving import asked_ids
from diffrec_jax.serving.histories import Asked, Histories, of_pairs, united
from diffrec_jax.serving.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Choice:
    """What the lists of n people may hold."""

    hidden: Histories | None  # items that must not appear, of each person
    allowed: np.ndarray | None = None  # [I] bool, the only items that may appear
    own: Histories | None = None  # the only items that may appear, of each person, without the hidden ones
    unknown: tuple[object, ...] = ()  # ids that are no item


def choose(vocabulary: Vocabulary, asked: Asked, *, exclude_seen: bool, candidates: object, exclude: object) -> Choice:
    """Read what a caller passes.

    Args:
      vocabulary: of the model.
      asked: the people.
      exclude_seen: leave out what each has.
      candidates: raw item ids for everybody, or one list for each person asked for; None: every item.
      exclude: likewise, what must not appear.

    Raises:
      ValueError: for what is no list of ids, or another number of lists than people.
    """
    hidden = asked.seen if exclude_seen else None
    allowed, own, unknown = None, None, list[object]()
    if candidates is not None:
        rows, items, missing = items_for(vocabulary, asked, candidates, "candidates")
        unknown += missing
        if rows is None:
            allowed = np.zeros(vocabulary.n_items, bool)
            allowed[items] = True
        else:
            own = of_pairs(rows, items, len(asked.histories), vocabulary.n_items)
    if exclude is not None:
        rows, items, missing = items_for(vocabulary, asked, exclude, "exclude")
        unknown += missing
        if rows is None:
            allowed = np.ones(vocabulary.n_items, bool) if allowed is None else allowed
            allowed[items] = False
        else:
            excluded = of_pairs(rows, items, len(asked.histories), vocabulary.n_items)
            hidden = excluded if hidden is None else united(hidden, excluded, vocabulary.n_items)
    if own is not None:
        own, allowed = _left(own, hidden, allowed, vocabulary.n_items), None
    return Choice(hidden, allowed, own, tuple(unknown))


def items_for(
    vocabulary: Vocabulary, asked: Asked, given: object, name: str
) -> tuple[np.ndarray | None, np.ndarray, list[object]]:
    """Known items for everybody, or of each person.

    Returns:
      ``(rows [N], the numbers of the people, or None: for everybody; item numbers [N]; the ids that are no item)``.
    """
    column, nested = asked_ids.per_person(given, name)
    if not nested:
        numbers, unknown = asked_ids.look_up(vocabulary.items, column, name)
        return None, numbers[numbers >= 0], unknown
    if len(column) != asked.n_asked:
        raise ValueError(f"{len(column):,} lists of {name} for {asked.n_asked:,} people: give one for each")
    rows, numbers, unknown = numbers_of(vocabulary, asked_ids.lists(column, name), name)
    place = asked.places()[rows]
    known = (numbers >= 0) & (place >= 0)
    return place[known], numbers[known], unknown


def numbers_of(
    vocabulary: Vocabulary, lists: Sequence[list[object]], name: str
) -> tuple[np.ndarray, np.ndarray, list[object]]:
    """``(list [N], item number [N] or -1, the ids that are no item)`` of the ids in some lists."""
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    numbers, unknown = asked_ids.look_up(vocabulary.items, [id_ for ids in lists for id_ in ids], name)
    return np.repeat(np.arange(len(lists)), lengths), numbers, unknown


def _left(own: Histories, hidden: Histories | None, allowed: np.ndarray | None, n_items: int) -> Histories:
    """Candidates of each person without what is hidden."""
    keep = np.ones(len(own.items), bool) if allowed is None else allowed[own.items]
    if hidden is not None:
        keep &= ~np.isin(own.keys(n_items), hidden.keys(n_items))
    rows = np.repeat(np.arange(len(own)), own.lengths)[keep]
    return of_pairs(rows, own.items[keep], len(own), n_items)


def known_pairs(
    vocabulary: Vocabulary,
    ask: Callable[..., Asked],
    users: object,
    items: object,
    histories: object,
    history_times: object,
    history_weights: object,
) -> tuple[Asked, np.ndarray, np.ndarray, list[object]]:
    """The known pairs of people and items that a caller names.

    Args:
      vocabulary: of the model.
      ask: ``Recommender.ask``.
      users, items, histories, history_times, history_weights: as in ``Recommender.score``.

    Returns:
      ``(people; rows [N], their numbers; item numbers [N]; the ids that are no item)``; a user is there once.
    """
    if items is None:
        raise ValueError("give items=[…]: one item for each user or history, or one list of items for each")
    column, nested = asked_ids.per_person(items, "items")
    if users is None or histories is not None:
        asked = ask(users, histories, history_times, history_weights)
        place = asked.places()
    else:
        given, unknown_users = asked_ids.look_up(vocabulary.users, users, "users")
        distinct, place = np.unique(given, return_inverse=True)
        place = place - np.count_nonzero(distinct < 0)  # -1: unknown
        asked = ask(vocabulary.user_ids[distinct[distinct >= 0]], None, history_times, history_weights)
        asked = replace(asked, unknown_users=tuple(unknown_users))
    if len(column) != len(place):
        what = "lists of items" if nested else "items"
        raise ValueError(
            f"{len(column):,} {what} for {len(place):,} people: give one item, or one list of items, for each user or "
            "history"
        )
    if nested:
        rows, numbers, unknown = numbers_of(vocabulary, asked_ids.lists(column, "items"), "items")
        rows = place[rows]
    else:
        numbers, unknown = asked_ids.look_up(vocabulary.items, column, "items")
        rows = place
    known = (rows >= 0) & (numbers >= 0)
    return asked, rows[known], numbers[known], unknown


def chunks(n: int, size: int, options: dict[str, Any]) -> Iterator[tuple[slice, dict[str, Any]]]:
    """Consecutive parts of n people, each with the options of ``recommend`` for these people alone.

    Raises:
      ValueError: for parts of less than one, or another number of lists than people.
    """
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"chunk={size!r} must be a whole number of at least 1")
    shared, own = dict(options), {}
    for name in ("candidates", "exclude"):
        if shared.get(name) is None:
            continue
        shared[name], nested = asked_ids.per_person(shared[name], name)
        if nested:
            own[name] = shared.pop(name)
            if len(own[name]) != n:
                raise ValueError(f"{len(own[name]):,} lists of {name} for {n:,} users: give one for each")
    for start in range(0, n, size):
        part = slice(start, start + size)
        yield part, {**shared, **{name: lists[part] for name, lists in own.items()}}
