"""Where a log is cut: how many events of each user a part gets, which moments begin one, and what each cut promises.

All in whole numbers, so that every engine that cuts a log (``data.prepared``) cuts it at the same events.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from diffrec_jax.data.columns import encode_times
from diffrec_jax.data.times import describe_time


def cut_moments(cuts: Sequence[object]) -> list[int]:
    """One or two moments as unix microseconds, in order: ISO 8601 text (without a zone: UTC), datetimes, unix times.

    Raises:
      ValueError: for another number of them, for what is no time, and for a second one that is not later.
    """
    if isinstance(cuts, str) or len(cuts) not in (1, 2):
        raise ValueError(f"cuts={cuts!r}: give one moment, which begins test, or two, which begin valid and test")
    moments = []
    for cut in cuts:
        try:
            moments.append(int(encode_times(pa.chunked_array([pa.array([cut])]), "cuts")[0][0]))
        except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
            raise ValueError(
                f"the cut {str(cut)!r} is no time: write it like 2020-01-31 or 2020-01-31T10:00:00Z"
            ) from error
    if sorted(set(moments)) != moments:
        raise ValueError(f"the cuts {cuts[0]} and {cuts[1]} are not in order: validation begins before test")
    return moments


def parts_at(times: np.ndarray, moments: Sequence[int], what: str = "events") -> tuple[np.ndarray, str]:
    """Which of train, valid and test (0, 1, 2) each event falls in, int8 [N], and a sentence; at a cut: the later part.

    Raises:
      ValueError: with the span of the log, where a part that is asked for would be empty.
    """
    part = np.searchsorted(moments, times, side="right").astype(np.int8) * np.int8(3 - len(moments))
    sizes = np.bincount(part, minlength=3).tolist()
    sizes = sizes if len(moments) == 2 else [sizes[0], sizes[2]]
    first, last = (int(times.min()), int(times.max())) if len(times) else (0, 0)
    return part, said_at(moments, sizes, first, last, what)


def said_at(moments: Sequence[int], sizes: Sequence[int], first: int, last: int, what: str = "events") -> str:
    """A sentence on where a log from ``first`` to ``last`` was cut, ``sizes`` of ``what`` before, between and after.

    Raises:
      ValueError: with the span of the log, where a part is empty.
    """
    said = " and ".join(map(describe_time, moments))
    if sum(sizes) and not all(sizes):
        train, *valid, test = sizes
        raise ValueError(
            f"split 'global_time' at {said} UTC leaves {train:,} {what} to train, {sum(valid):,} to valid and "
            f"{test:,} to test: cut within the log, from {describe_time(first)} to {describe_time(last)} UTC"
        )
    return f"Cut at {said} UTC{'; one cut leaves no validation part' if len(moments) == 1 else ''}."


_PARTS = 1_000_000  # shares are counted in millionths


def share_values(shares: Sequence[float]) -> tuple[float, float, float]:
    """Shares of train, valid and test, which must add up to 1."""
    train, valid, test = map(float, shares)
    if min(train, valid, test) < 0 or train <= 0 or test <= 0 or abs(train + valid + test - 1) > 1e-6:
        raise ValueError(
            f"split shares {train:g}, {valid:g}, {test:g}: train and test must be positive and the three add up to 1, "
            "like 0.7, 0.1, 0.2"
        )
    return train, valid, test


def of_shares(n: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Of every n things the first of valid and of test by ``shares``, rounded half up: int64 [2, ...]."""
    train, valid, _ = share_values(shares)
    cuts = [round(train * _PARTS), round((train + valid) * _PARTS)]
    return np.stack([(2 * cut * n.astype(np.int64) + _PARTS) // (2 * _PARTS) for cut in cuts])


def share_bounds(n: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """The same of users with ``n [U]`` events: under three all are for training, and of more at least the first is."""
    return np.where(n < 3, n, np.clip(of_shares(n, shares), 1, n))


def last_two_bounds(n: np.ndarray) -> np.ndarray:
    """Of users with ``n [U]`` events, valid has the last but one and test the last; under three: all for training."""
    return np.where(n < 3, n, np.stack([n - 2, n - 1]))


def promise(rule: str, *, timed: bool) -> str:
    """What a cut of that name promises, in a sentence; ``timed``: the log has times."""
    if rule == "temporal":
        order = "time order" if timed else "file order (the log has no times)"
        return (
            f"For every user, train comes before validation and validation before test, in {order}; "
            "one user's training events may be later than another's test events."
        )
    if rule == "leave_one_out":
        order = "time" if timed else "the file (the log has no times)"
        return (
            f"For every user, test is the last event in {order} and validation the one before; "
            "one user's training events may be later than another's test events."
        )
    if rule == "global_time":
        return "No training event is later than any validation or test event, across all users."
    raise ValueError(f"no promise is known of split {rule!r}")


def short_users(few: int, n_users: int) -> tuple[str, ...]:
    """Says that ``few`` users have too little to be divided; nothing where there are none."""
    return (f"{few:,} of {n_users:,} users have fewer than 3 events; all of theirs are in train.",) if few else ()
