"""The leakage check: what train, valid and test of a split know of each other.

It runs on every split and is stated with it: shared pairs, users and items without training events, ties in time
across a cut, events out of order within a user, and how much of train lies after the first test event.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from diffrec_jax.data.events import Events
from diffrec_jax.data.order import n_shared, pair_keys

LEAKS_FUTURE = (
    "Its validation events are later than its test events: "
    "feeding validation into the test history would tell the model the future."
)


@dataclass(frozen=True)
class Leakage:
    """Counts; fields about time are None where the log has no times. ``str()`` is one sentence."""

    overlap_train_valid: int  # (user, item) pairs of valid that are in train
    overlap_train_test: int
    overlap_valid_test: int
    cold_users: int  # users with test events and no training event
    cold_items: int  # items with test events and no training event
    cold_item_events: int  # test events on those items
    ties: int | None  # users whose last event before a cut and first after it have the same time
    out_of_order: int | None  # users with a training event later than one of their valid or test events
    valid_after_test: int | None  # users with a validation event later than one of their test events
    train_after_test: int | None  # training events later than the earliest test event of anybody

    def __str__(self) -> str:
        found = [
            f"pairs shared: {self.overlap_train_valid:,} train/valid, {self.overlap_train_test:,} train/test, "
            f"{self.overlap_valid_test:,} valid/test",
            f"cold in train: {self.cold_users:,} users, {self.cold_items:,} items "
            f"({self.cold_item_events:,} test events)",
        ]
        if self.ties is None:
            found.append("no times, so order cannot be checked")
        else:
            found.append(
                f"users with ties in time across a cut: {self.ties:,}; with training later than evaluation: "
                f"{self.out_of_order:,}; with validation later than test: {self.valid_after_test:,}; "
                f"training events after the first test event of anybody: {self.train_after_test:,}"
            )
        return f"Leakage check: {'; '.join(found)}."


class Part(NamedTuple):
    """The events of one part of a split, for some people or for all."""

    users: np.ndarray  # [N]
    items: np.ndarray  # [N]
    times: np.ndarray | None  # [N] microseconds


class LeakageCount:
    """Counts what the parts of a split know of each other, some people at a time."""

    def __init__(self, n_items: int) -> None:
        self.in_train, self.in_test = np.zeros(n_items, bool), np.zeros(n_items, np.int64)
        self.first_test: int | None = None  # the earliest test event of anybody
        self._counts = dict.fromkeys(_OF_PEOPLE, 0)

    def add(self, train: Part, valid: Part, test: Part, n_users: int) -> None:
        """The events of ``n_users`` people, numbered from 0; nobody is added twice."""
        n_items, counts = len(self.in_train), self._counts
        keys = [np.sort(pair_keys(part.users, part.items, n_items)) for part in (train, valid, test)]
        for name, a, b in (("train_valid", 0, 1), ("train_test", 0, 2), ("valid_test", 1, 2)):
            counts[f"overlap_{name}"] += n_shared(keys[a], keys[b])
        in_train, in_test = (np.bincount(part.users, minlength=n_users) > 0 for part in (train, test))
        counts["cold_users"] += int((in_test & ~in_train).sum())
        self.in_train[train.items] = True
        self.in_test += np.bincount(test.items, minlength=n_items)
        if train.times is None or valid.times is None or test.times is None:
            return
        (_, train_last), (valid_first, valid_last), (test_first, _) = (
            _spans(part, n_users) for part in (train, valid, test)
        )
        later = np.minimum(valid_first, test_first)
        counts["ties"] += int(((train_last == later) | (valid_last == test_first)).sum())
        counts["out_of_order"] += int((train_last > later).sum())
        counts["valid_after_test"] += int((valid_last > test_first).sum())
        if len(test.times):
            first = int(test.times.min())
            self.first_test = first if self.first_test is None else min(first, self.first_test)

    def found(self, train_after_test: int | None) -> Leakage:
        """The report; ``train_after_test`` events of train are later than ``first_test``, None: there are no times."""
        counts: dict[str, int | None] = {**self._counts, "train_after_test": train_after_test}
        if train_after_test is None:
            counts |= {"ties": None, "out_of_order": None, "valid_after_test": None}
        cold = (self.in_test > 0) & ~self.in_train
        return Leakage(cold_items=int(cold.sum()), cold_item_events=int(self.in_test[cold].sum()), **counts)  # type: ignore[arg-type]


_OF_PEOPLE = (
    "overlap_train_valid",
    "overlap_train_test",
    "overlap_valid_test",
    "cold_users",
    "ties",
    "out_of_order",
    "valid_after_test",
)


def check(train: Events, valid: Events, test: Events) -> Leakage:
    """Compare three logs over one vocabulary; sorts keys and scans times, nothing quadratic."""
    logs = (train, valid, test)
    count = LeakageCount(train.n_items)
    of_train, of_valid, of_test = (Part(log.users, log.items, log.times) for log in logs)
    count.add(of_train, of_valid, of_test, train.n_users)
    later = None
    if all(log.times is not None for log in logs):
        first = count.first_test
        later = 0 if first is None or train.times is None else int((train.times > first).sum())
    return count.found(later)


def _spans(part: Part, n_users: int) -> tuple[np.ndarray, np.ndarray]:
    """Each user's first and last time, int64 [U]; users without events span (largest, smallest)."""
    limits = np.iinfo(np.int64)
    first, last = np.full(n_users, limits.max), np.full(n_users, limits.min)
    assert part.times is not None
    np.minimum.at(first, part.users, part.times)
    np.maximum.at(last, part.users, part.times)
    return first, last
