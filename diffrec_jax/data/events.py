"""Events: who met what, when, and how it was rated; and the row view of it that models read.

Two containers hold everything between a log file and the device:

* ``Events``: one event per entry, coded ids beside the vocabularies that turn them back into the ids people use;
  ``Interactions`` are events that people read and prepare by methods;
* ``CSR``: the same events grouped by user, in time order, as two int32 arrays.

Letters: N events, U users, I items. Times are unix **microseconds** (int64). Nothing here is ever of size U x I.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from diffrec_jax.data.order import first_occurrences, id_order, n_shared, pair_keys, row_order

INT32_MAX = np.iinfo(np.int32).max
EventsT = TypeVar("EventsT", bound="Events")  # what comes in as a subclass of ``Events`` goes out as the same


@dataclass(frozen=True)
class FilterReport:
    """What one preparation step did: events, users and items before and after."""

    name: str
    rows_before: int
    rows_after: int
    users_before: int
    users_after: int
    items_before: int
    items_after: int

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.rows_before:,} -> {self.rows_after:,} events, "
            f"{self.users_before:,} -> {self.users_after:,} users, {self.items_before:,} -> {self.items_after:,} items"
        )


@dataclass(frozen=True, eq=False)
class CSR:
    """Events grouped by user; a user's events in time order, equal times by item (file order where there are no times).

    An item appears at most once in a row, the first of repeated events, unless the rows are said to keep repeats.
    """

    indptr: np.ndarray  # int32 [U + 1]
    indices: np.ndarray  # int32 [N]
    n_items: int
    times: np.ndarray | None = None  # int64 [N], microseconds, aligned with ``indices``
    weights: np.ndarray | None = None  # float32 [N], what the log says an event counts; None counts all 1
    repeats: bool = False  # whether a row may hold an item several times

    @property
    def n_users(self) -> int:
        """Number of rows, users without events included."""
        return len(self.indptr) - 1

    @property
    def n_interactions(self) -> int:
        """Number of stored events."""
        return len(self.indices)

    def lengths(self) -> np.ndarray:
        """Events per user, int32 [U]."""
        return np.diff(self.indptr)

    def users(self) -> np.ndarray:
        """The user of every stored event, int32 [N]."""
        return np.repeat(np.arange(self.n_users, dtype=np.int32), self.lengths())

    @classmethod
    def from_pairs(
        cls,
        users: np.ndarray,
        items: np.ndarray,
        *,
        n_users: int,
        n_items: int,
        times: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        repeats: bool = False,
    ) -> CSR:
        """Group events by user, each user's in time order and equal times by item (without times: in file order).

        Of one item at one moment the weightiest event comes first.

        Raises:
          ValueError: for ids outside ``[0, n_users)`` or ``[0, n_items)``, and for more than 2^31 - 1 events.
        """
        users, items = np.asarray(users), np.asarray(items)
        if users.shape != items.shape or users.ndim != 1:
            raise ValueError(f"users and items must be flat and equally long: {users.shape} and {items.shape}")
        _check_range("user", users, n_users)
        _check_range("item", items, n_items)
        if len(users) > INT32_MAX:
            raise ValueError(f"{len(users):,} events do not fit int32 row offsets (at most {INT32_MAX:,})")
        users, items = users.astype(np.int32, copy=False), items.astype(np.int32, copy=False)
        order = row_order(users, items, times, weights)
        if order is not None:
            users, items, times, weights = users[order], items[order], taken(times, order), taken(weights, order)
        keep = None if repeats else first_occurrences(users, items, n_items)
        if keep is not None:
            users, items, times, weights = users[keep], items[keep], taken(times, keep), taken(weights, keep)
        indptr = np.zeros(n_users + 1, np.int32)
        np.cumsum(np.bincount(users, minlength=n_users), out=indptr[1:])
        times = None if times is None else np.asarray(times, np.int64)
        return cls(indptr, items, n_items, times, weights, repeats)

    def event_weights(self) -> np.ndarray:
        """What every stored event counts, float32 [N]."""
        return np.ones(len(self.indices), np.float32) if self.weights is None else self.weights

    def once(self) -> CSR:
        """The same rows with each item once, the first."""
        if not self.repeats:
            return self
        return CSR.from_pairs(
            self.users(),
            self.indices,
            n_users=self.n_users,
            n_items=self.n_items,
            times=self.times,
            weights=self.weights,
        )


def checksum(rows: CSR | None) -> str:
    """Tells whether two row views hold the same events; 16 hexadecimal digits, or '-' for None."""
    if rows is None:
        return "-"
    digest = hashlib.sha256(str(rows.n_items).encode())
    weighed = () if rows.weights is None else (rows.weights,)
    for array in (rows.indptr, rows.indices, rows.times, *weighed):
        digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def overlap(a: CSR, b: CSR) -> int:
    """How many of ``b``'s (user, item) pairs are in ``a`` too."""
    few, many = (pair_keys(rows.users(), rows.indices, rows.n_items) for rows in (b, a))
    return n_shared(np.sort(many), np.sort(few))


def merge(a: CSR, b: CSR) -> CSR:
    """Per user ``a``'s events, then ``b``'s, in time order (stable) if both know times; repeated items once, the first,
    unless one of the two keeps repeats. Where only one of them has weights, the events of the other weigh 1.

    Used to fold validation into a test history.

    Raises:
      ValueError: if the two do not share users and items.
    """
    if a.n_users != b.n_users or a.n_items != b.n_items:
        raise ValueError(
            f"cannot merge rows of {a.n_users:,} users x {a.n_items:,} items with {b.n_users:,} x {b.n_items:,}: "
            "both sides must share one vocabulary"
        )
    times = np.concatenate([a.times, b.times]) if a.times is not None and b.times is not None else None
    weighed = a.weights is not None or b.weights is not None
    return CSR.from_pairs(
        np.concatenate([a.users(), b.users()]),
        np.concatenate([a.indices, b.indices]),
        n_users=a.n_users,
        n_items=a.n_items,
        times=times,
        weights=np.concatenate([a.event_weights(), b.event_weights()]) if weighed else None,
        repeats=a.repeats or b.repeats,
    )


def taken(values: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """``values[rows]`` of a column that a log may lack."""
    return None if values is None else values[rows]


@dataclass(frozen=True, eq=False, repr=False)
class Events:
    """A log of events in file order, with integer codes inside and raw ids outside.

    ``users[n]`` and ``items[n]`` index ``user_ids`` and ``item_ids``, which hold what the person's files hold: strings
    (object arrays of ``str``) or int64. The vocabularies are always in ascending order, so that no number depends on
    the order of rows; a log that is made with others is renumbered. ``provenance`` lists the filters that were applied,
    ``notes`` what a person should know about how the log was read (recognised time unit, dropped rows, …); both are
    shown where a log is (``repr``).
    """

    users: np.ndarray  # int32 [N]
    items: np.ndarray  # int32 [N]
    user_ids: np.ndarray  # [U] raw ids
    item_ids: np.ndarray  # [I] raw ids
    times: np.ndarray | None = None  # int64 [N], unix microseconds
    ratings: np.ndarray | None = None  # float32 [N]
    weights: np.ndarray | None = None  # float32 [N], above 0: what an event counts; None counts all 1
    item_titles: np.ndarray | None = None  # [I] str
    provenance: tuple[FilterReport, ...] = ()
    notes: tuple[str, ...] = ()
    repeats: bool = False  # whether rows keep repeated pairs, see ``preprocess.keep_repeats``
    distinct: bool = False  # known to hold every (user, item) pair at most once
    in_order: tuple[np.ndarray, ...] = ()  # vocabularies known to ascend: a log made from another need not look again

    def __post_init__(self) -> None:
        for name in ("items", "times", "ratings", "weights"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.users):
                raise ValueError(f"{name} has {len(values):,} entries for {len(self.users):,} events; they must agree")
        if self.item_titles is not None and len(self.item_titles) != len(self.item_ids):
            raise ValueError(f"{len(self.item_titles):,} titles for {len(self.item_ids):,} items; they must agree")
        _check_range("user", self.users, self.n_users)
        _check_range("item", self.items, self.n_items)
        for role in ("user", "item"):
            if all(getattr(self, f"{role}_ids") is not known for known in self.in_order):
                self._renumber(role)
        object.__setattr__(self, "in_order", (self.user_ids, self.item_ids))

    def _renumber(self, role: str) -> None:
        """Bring one vocabulary into ascending order, and the codes with it."""
        ids = getattr(self, f"{role}_ids")
        order = id_order(ids, role)
        if order is None:
            return
        number = np.empty(len(order), np.int32)
        number[order] = np.arange(len(order), dtype=np.int32)
        changed = {f"{role}_ids": ids[order], f"{role}s": number[getattr(self, f"{role}s")]}
        if role == "item" and self.item_titles is not None:
            changed["item_titles"] = self.item_titles[order]
        for name, values in changed.items():
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.users)

    def __str__(self) -> str:
        return f"{len(self):,} events of {self.n_users:,} users and {self.n_items:,} items"

    def __repr__(self) -> str:
        return "\n  ".join((f"{type(self).__name__}: {self}", *self.notes, *map(str, self.provenance)))

    @property
    def n_users(self) -> int:
        """Size of the user vocabulary."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Size of the item vocabulary."""
        return len(self.item_ids)

    def csr(self) -> CSR:
        """The events grouped by user, each user's in time order, repeated items once unless they are kept."""
        return CSR.from_pairs(
            self.users,
            self.items,
            n_users=self.n_users,
            n_items=self.n_items,
            times=self.times,
            weights=self.weights,
            repeats=self.repeats,
        )

    def select(self: EventsT, rows: np.ndarray) -> EventsT:
        """The events at ``rows`` (mask or indices), in that order; the vocabularies stay as they are."""
        return replace(
            self,
            users=self.users[rows],
            items=self.items[rows],
            times=taken(self.times, rows),
            ratings=taken(self.ratings, rows),
            weights=taken(self.weights, rows),
        )


def _check_range(what: str, ids: np.ndarray, size: int) -> None:
    if not len(ids):
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size:
        raise ValueError(f"{what} ids must lie in [0, {size:,}); found {low if low < 0 else high:,}")
