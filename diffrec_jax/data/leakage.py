"""The leakage check: what train, valid and test of a split know of each other.

It runs on every split and is stated with it: shared pairs, users and items without training events, ties in time
across a cut, events out of order within a user, and how much of train lies after the first test event.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def check(train: Events, valid: Events, test: Events) -> Leakage:
    """Compare three logs over one vocabulary; sorts keys and scans times, nothing quadratic."""
    keys = [np.sort(pair_keys(log.users, log.items, log.n_items)) for log in (train, valid, test)]
    user_seen = np.bincount(train.users, minlength=train.n_users) > 0
    item_seen = np.bincount(train.items, minlength=train.n_items) > 0
    test_users = np.bincount(test.users, minlength=train.n_users) > 0
    test_items = np.bincount(test.items, minlength=train.n_items)
    counts = {
        "overlap_train_valid": n_shared(keys[0], keys[1]),
        "overlap_train_test": n_shared(keys[0], keys[2]),
        "overlap_valid_test": n_shared(keys[1], keys[2]),
        "cold_users": int((test_users & ~user_seen).sum()),
        "cold_items": int(((test_items > 0) & ~item_seen).sum()),
        "cold_item_events": int(test_items[~item_seen].sum()),
    }
    if train.times is None or valid.times is None or test.times is None:
        return Leakage(**counts, ties=None, out_of_order=None, valid_after_test=None, train_after_test=None)
    (_, train_last), (valid_first, valid_last), (test_first, _) = map(_spans, (train, valid, test))
    later = np.minimum(valid_first, test_first)
    return Leakage(
        **counts,
        ties=int(((train_last == later) | (valid_last == test_first)).sum()),
        out_of_order=int((train_last > later).sum()),
        valid_after_test=int((valid_last > test_first).sum()),
        train_after_test=int((train.times > test.times.min()).sum()) if len(test) else 0,
    )


def _spans(log: Events) -> tuple[np.ndarray, np.ndarray]:
    """Each user's first and last time, int64 [U]; users without events span (largest, smallest)."""
    limits = np.iinfo(np.int64)
    first, last = np.full(log.n_users, limits.max), np.full(log.n_users, limits.min)
    assert log.times is not None
    np.minimum.at(first, log.users, log.times)
    np.maximum.at(last, log.users, log.times)
    return first, last
