"""Histories on the host, ragged, and their way into the padded arrays that a compiled program takes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from diffrec_jax.data.columns import encode_times, encode_weights
from diffrec_jax.data.events import CSR, taken
from diffrec_jax.data.times import MICROSECONDS_PER_DAY
from diffrec_jax.serving import asked_ids
from diffrec_jax.serving.vocabulary import Vocabulary, lists_to_codes


@dataclass(frozen=True, eq=False)
class Histories:
    """Item numbers of n people, one after the other, each oldest first and without repetition."""

    items: np.ndarray  # int32 [N]
    offsets: np.ndarray  # int64 [n + 1]
    users: np.ndarray  # int32 [n], -1: nobody known
    days: np.ndarray | None = None  # float32 [N], days since each person's first event
    weights: np.ndarray | None = None  # float32 [N], what each event counts by the log; None: all 1

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Items of each history, ``[n]``."""
        return np.diff(self.offsets)

    def row(self, i: int) -> np.ndarray:
        """The items of one history."""
        return self.items[self.offsets[i] : self.offsets[i + 1]]

    def take(self, rows: np.ndarray) -> "Histories":
        """Some of the histories, in the order of ``rows``."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        place = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Histories(
            self.items[place], offsets, self.users[rows], taken(self.days, place), taken(self.weights, place)
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Histories"]) -> "Histories":
        """One after the other; days are kept if all have them, and where only some have weights the others weigh 1."""
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))]).astype(np.int64)
        days = [part.days for part in parts if part.days is not None]
        weighed = any(part.weights is not None for part in parts)
        weights = [np.ones(len(p.items), np.float32) if p.weights is None else p.weights for p in parts]
        return cls(
            np.concatenate([part.items for part in parts]),
            offsets,
            np.concatenate([part.users for part in parts]),
            np.concatenate(days) if len(days) == len(parts) else None,
            np.concatenate(weights) if weighed else None,
        )

    def keys(self, n_items: int) -> np.ndarray:
        """One number for each (person, item), ``[N] int64``."""
        keys: np.ndarray = np.repeat(np.arange(len(self), dtype=np.int64), self.lengths) * n_items + self.items
        return keys

    def padded(self, values: np.ndarray, rows: int, width: int, fill: float) -> np.ndarray:
        """A column of the histories, such as ``items``, as ``[rows, width]``, padded with ``fill``."""
        row = np.repeat(np.arange(len(self)), self.lengths)
        column = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], self.lengths)
        padded = np.full((rows, width), fill, values.dtype)
        padded[row, column] = values
        return padded


@dataclass(frozen=True, eq=False)
class Asked:
    """The people a question is about."""

    histories: Histories  # what is scored
    seen: Histories  # what they already have
    names: np.ndarray  # [n] raw user ids, or numbers of histories
    unknown_users: tuple[object, ...] = ()
    unknown_items: tuple[object, ...] = ()
    rows: np.ndarray | None = None  # [n] which of those asked for each is; None: all are here
    n_asked: int = 0  # people asked for, the unknown ones included

    def places(self) -> np.ndarray:
        """For everybody asked for, the number among these people, -1 where unknown: ``[n_asked]``."""
        if self.rows is None:
            return np.arange(self.n_asked)
        places = np.full(self.n_asked, -1)
        places[self.rows] = np.arange(len(self.rows))
        return places


def of_pairs(rows: np.ndarray, items: np.ndarray, n: int, n_items: int) -> Histories:
    """Items of n people from pairs in any order, by number and each once; nobody's history, and without order."""
    keys = np.unique(rows.astype(np.int64) * n_items + items)
    rows, items = np.divmod(keys, n_items)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))]).astype(np.int64)
    return Histories(items.astype(np.int32), offsets, np.full(n, -1, np.int32))


def united(a: Histories, b: Histories, n_items: int) -> Histories:
    """What each of the same people has in either."""
    rows, items = np.divmod(np.concatenate([a.keys(n_items), b.keys(n_items)]), n_items)
    return of_pairs(rows, items, len(a), n_items)


def of_csr(csr: CSR) -> Histories:
    """The histories of all known users."""
    indptr = csr.indptr.astype(np.int64)
    days = None
    if csr.times is not None:
        first = csr.times[np.repeat(indptr[:-1], np.diff(indptr))]
        days = ((csr.times - first) / MICROSECONDS_PER_DAY).astype(np.float32)
    return Histories(csr.indices, indptr, np.arange(csr.n_users, dtype=np.int32), days, csr.weights)


def of_lists(
    vocabulary: Vocabulary,
    lists: object,
    times: object = None,
    weights: object = None,
    *,
    repeats: bool = False,
) -> tuple[Histories, list[object]]:
    """Histories from raw item ids: unknown items are left out, the first of a repeated item is kept.

    Args:
      vocabulary: of the model.
      lists: raw item ids of each person, in any form that ``asked_ids.lists`` reads; without ``times``, oldest first.
      times: of each item, in any form that ``data.columns.encode_times`` reads; decides the order.
      weights: of each item, what it counts; None counts all 1.
      repeats: keep all of a repeated item.

    Returns:
      The histories and the ids that are no item of the model.

    Raises:
      ValueError: for a history that isn't a list of ids, or times or weights that don't fit the histories.
    """
    lists = [asked_ids.plain(given, "histories") for given in asked_ids.lists(lists, "histories")]
    items, lengths, unknown = lists_to_codes(vocabulary, lists)
    row = np.repeat(np.arange(len(lists)), lengths)
    counts = None if weights is None else _counts(lists, weights)
    micros = None
    if times is not None:
        micros = _micros(lists, times)
        worth = np.zeros(len(items)) if counts is None else -counts
        order = np.lexsort((worth, items, micros, row))  # of one moment by item, as rows are
        items, row, micros, counts = items[order], row[order], micros[order], taken(counts, order)
    first = np.full(len(items), repeats)
    first[np.unique(row * np.int64(vocabulary.n_items + 1) + items, return_index=True)[1]] = True
    keep = first & (items >= 0)
    items, row, counts = items[keep], row[keep], taken(counts, keep)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(lists)))]).astype(np.int64)
    days = None
    if micros is not None:
        micros = micros[keep]
        days = ((micros - micros[offsets[row]]) / MICROSECONDS_PER_DAY).astype(np.float32)
    return Histories(items, offsets, np.full(len(lists), -1, np.int32), days, counts), unknown


def _flat(lists: Sequence[Sequence[object]], given: object, what: str) -> list[object]:
    """The values that go with the items of all histories, such as their ``times``, one after the other."""
    name = f"history_{what}"
    values = asked_ids.lists(given, name)
    if len(values) != len(lists):
        raise ValueError(f"{name} has {len(values)} lists for {len(lists)} histories: give one per history")
    for i, (items, own) in enumerate(zip(lists, values)):
        if len(own) != len(items):
            raise ValueError(f"{name}[{i}] must be a list of {len(items)} {what}, one per item of history {i}")
    return [value for own in values for value in own]


def _counts(lists: Sequence[Sequence[object]], weights: object) -> np.ndarray:
    flat = _flat(lists, weights, "weights")
    try:
        column = pa.chunked_array([pa.array(flat, pa.float64())])
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError) as error:
        raise ValueError(f"history_weights cannot be read as numbers ({error}): give numbers above 0") from None
    return encode_weights(column, "history_weights")


def _micros(lists: Sequence[Sequence[object]], times: object) -> np.ndarray:
    flat = _flat(lists, times, "times")
    if not flat:
        return np.zeros(0, np.int64)
    try:
        column = pa.chunked_array([pa.array(flat)])
        return encode_times(column, "history_times")[0]
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, OverflowError) as error:
        raise ValueError(
            f"history_times cannot be read as times ({error}): use unix seconds, milliseconds or microseconds, or ISO "
            "8601 text, one kind throughout"
        ) from None
