"""The people and items that a command line names, by flags and in files; read and checked before a model is loaded."""

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffrec_jax.data.events import Events
from diffrec_jax.serving.vocabulary import Vocabulary, exact_in_javascript
from experiments.reporting import id_files

SHOWN = 5


@dataclass(frozen=True, eq=False)
class Named:
    """Ids as they were typed or read; None: not named. A table has rows of a user and an item."""

    users: list[str] | None = None
    history: list[str] | None = None
    candidates: list[str] | Events | None = None
    exclude: list[str] | Events | None = None
    pairs: Events | None = None

    @property
    def tables(self) -> list[Events]:
        """The tables among them."""
        return [each for each in (self.candidates, self.exclude, self.pairs) if isinstance(each, Events)]


def read(args: argparse.Namespace) -> Named:
    """What ``--users``, ``--history``, ``--candidates``, ``--exclude``, ``--pairs`` and the files of them name.

    Raises:
      ValueError: for flags that exclude each other, files that cannot be read, and lists without ids.
    """
    named = Named(
        users=_plain(args, "users", "user"),
        history=_listed(args.history, "--history"),
        candidates=_of_items(args, "candidates"),
        exclude=_of_items(args, "exclude"),
        pairs=_table(args, "pairs") if args.pairs else None,
    )
    if named.history and (args.users or args.users_file):
        raise ValueError("--history is for somebody who is no user of the model: leave out --users and --users_file")
    if named.history and named.tables:
        raise ValueError("a table of users and items is for users: leave out --history, or name a file of items alone")
    if (args.user_col or args.item_col) and not named.tables:
        raise ValueError("--user_col and --item_col name columns of a table: give --pairs, or a table of candidates")
    return named


def people(named: Named, vocabulary: Vocabulary) -> list[Any] | np.ndarray:
    """The users to recommend to, each once: those named, those with candidates of their own, or all.

    Raises:
      ValueError: if none of those named is in the model.
    """
    if named.users is not None:
        numbers, unknown = vocabulary.users(named.users)
        _some_known(numbers, unknown, "users", vocabulary.user_ids)
        known = vocabulary.user_ids[list(dict.fromkeys(numbers[numbers >= 0].tolist()))]
        return [*known.tolist(), *dict.fromkeys(unknown)]
    if isinstance(named.candidates, Events):
        table = named.candidates
        in_its_order = table.users[np.sort(np.unique(table.users, return_index=True)[1])]
        numbers, unknown = vocabulary.users(table.user_ids[in_its_order])
        _some_known(numbers, unknown, "users", vocabulary.user_ids)
        return [*vocabulary.user_ids[numbers[numbers >= 0]].tolist(), *unknown]
    return vocabulary.user_ids


def options(named: Named, vocabulary: Vocabulary, users: list[Any] | np.ndarray | None) -> dict[str, Any]:
    """``candidates`` and ``exclude`` of ``Recommender.recommend``, for these users.

    Raises:
      ValueError: if none of the candidates is in the model.
    """
    found: dict[str, Any] = {}
    if named.candidates is not None:
        ids = named.candidates.item_ids if isinstance(named.candidates, Events) else named.candidates
        _some_known(*vocabulary.items(ids), "candidates", vocabulary.item_ids)
    for name, given in (("candidates", named.candidates), ("exclude", named.exclude)):
        if isinstance(given, Events):
            assert users is not None
            found[name] = _of_each(given, vocabulary, users)
        elif given is not None:
            found[name] = given
    return found


def check_pairs(pairs: Events, vocabulary: Vocabulary) -> None:
    """Refuse pairs of which no user, or no item, is in the model."""
    _some_known(*vocabulary.users(pairs.user_ids), "users", vocabulary.user_ids)
    _some_known(*vocabulary.items(pairs.item_ids), "items", vocabulary.item_ids)


def beyond_javascript(vocabulary: Vocabulary, *, users: bool) -> frozenset[str]:
    """Columns of ids that JavaScript, whose numbers are floats, would not read exactly."""
    names = [] if exact_in_javascript(vocabulary.item_ids) else ["item", "because"]
    return frozenset(names + (["user"] if users and not exact_in_javascript(vocabulary.user_ids) else []))


def _some_known(numbers: np.ndarray, unknown: list[Any], what: str, ids: np.ndarray) -> None:
    if len(numbers) and not (numbers >= 0).any():
        shown = ", ".join(map(str, unknown[:SHOWN])) + (", …" if len(unknown) > SHOWN else "")
        like = ", ".join(map(repr, ids[:2].tolist()))
        raise ValueError(f"none of the {len(numbers):,} {what} is in the model ({shown}): its ids are like {like}")


def _of_each(table: Events, vocabulary: Vocabulary, users: list[Any] | np.ndarray) -> list[np.ndarray]:
    """The items of each of ``users`` in a table; none for who isn't there."""
    numbers = vocabulary.users(table.user_ids)[0][table.users]
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(vocabulary.n_users + 1))
    items = table.item_ids[table.items[order]]
    lists = [items[bounds[n] : bounds[n + 1]] if n >= 0 else items[:0] for n in vocabulary.users(users)[0].tolist()]
    return lists


def _of_items(args: argparse.Namespace, name: str) -> list[str] | Events | None:
    """Items for everybody, or a table of them for each user."""
    path = getattr(args, f"{name}_file")
    if path and not getattr(args, name) and id_files.is_table(path):
        return _table(args, f"{name}_file")
    return _plain(args, name, "item")


def _plain(args: argparse.Namespace, name: str, kind: str) -> list[str] | None:
    typed, path = getattr(args, name), getattr(args, f"{name}_file")
    if typed and path:
        raise ValueError(f"give --{name} or --{name}_file, not both")
    return id_files.read_ids(path, f"--{name}_file", kind) if path else _listed(typed, f"--{name}")


def _listed(text: str, flag: str) -> list[str] | None:
    ids = [part.strip() for part in text.split(",") if part.strip()]
    if text and not ids:
        raise ValueError(f"{flag}={text} names no id: separate ids by commas")
    return ids or None


def _table(args: argparse.Namespace, name: str) -> Events:
    return id_files.read_table(getattr(args, name), f"--{name}", user_col=args.user_col, item_col=args.item_col)
