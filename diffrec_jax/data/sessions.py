"""Sessions: a log without people, of which whole sessions are trained on, or validated, or tested.

Sessions stand where users do elsewhere. A session belongs to the part in which it ends, so that nothing is trained on
that happened after a tested session. Of each validated or tested session the last event is to be told from those before
it, which are the *context*: shown when that session is ranked, never trained on.

Source: the protocol is that of Hidasi et al., *Session-based Recommendations with Recurrent Neural Networks* (ICLR
2016), which also asks for every event after the first; here each session is asked once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diffrec_jax.data.cuts import cut_moments, parts_at, share_values
from diffrec_jax.data.events import Events
from diffrec_jax.data.order import row_order
from diffrec_jax.data.preprocess import without_repeats
from diffrec_jax.data.splits import Split, leakage_report


def by_session(
    data: Events,
    *,
    train: float = 0.7,
    valid: float = 0.1,
    test: float = 0.2,
    cuts: Sequence[object] | None = None,
    name: str = "log",
) -> Split:
    """Whole sessions, in the order of their ends: the first share to train, then valid, then test.

    Sessions that end at one moment are not parted: they go to the later part.

    Args:
      data: the log; its users are sessions.
      train: share of sessions; likewise ``valid`` and ``test``.
      cuts: one or two moments in place of shares, see ``cut_moments``.
      name: of the dataset.

    Raises:
      ValueError: for cuts without times, and where train or test would be empty, or no test session has two events.
    """
    shares = share_values((train, valid, test))
    if cuts is not None and data.times is None:
        raise ValueError("cuts of sessions need times and this log has none; name the time column")
    data = without_repeats(data)
    order = row_order(data.users, data.items, data.times)
    data = data if order is None else data.select(order)
    present, lengths = np.unique(data.users, return_counts=True)
    last = np.cumsum(lengths) - 1  # rows
    when = (np.arange(len(data)) if order is None else order) if data.times is None else data.times
    ends = np.maximum.reduceat(when, last - lengths + 1) if len(last) else when
    extra: tuple[str, ...] = ()
    if cuts is not None:
        part, said = parts_at(ends, cut_moments(cuts), "sessions")
        extra = (said,)
    else:
        part = _by_share(ends, shares)
    of_event = np.repeat(part, lengths)
    is_asked = np.zeros(len(data), bool)
    is_asked[last] = lengths > 1
    asked = is_asked & (of_event > 0)
    rows = {"train": of_event == 0, "valid": asked & (of_event == 1), "test": asked & (of_event == 2)}
    empty = [part for part in ("train", "test") if not rows[part].any()]
    if empty:
        raise ValueError(
            f"split 'sessions' leaves {' and '.join(empty)} empty ({len(present):,} sessions): a tested session needs "
            "two events, and sessions that end at one moment are not parted"
        )
    logs = {part: data.select(np.flatnonzero(mask)) for part, mask in rows.items()}
    order_of = "time" if data.times is not None else "the file (the log has no times)"
    split = Split(
        name,
        logs["train"],
        logs["valid"],
        logs["test"],
        rule="sessions",
        guarantee="Whole sessions are trained on, or validated, or tested, by the order of their ends in "
        f"{order_of}; of a validated or tested session the last event is asked for, and those before it are shown.",
        context=data.select(np.flatnonzero((of_event > 0) & ~asked)),
    )
    counts = np.bincount(part, minlength=3)
    said = f"Sessions: {counts[0]:,} train, {counts[1]:,} valid, {counts[2]:,} test"
    short = int((lengths[part > 0] < 2).sum())
    said += f"; {short:,} of valid and test have one event and are not asked for." if short else "."
    notes = (*data.notes, *map(str, data.provenance), *extra, said, str(leakage_report(split)))
    return replace(split, notes=notes)


def _by_share(ends: np.ndarray, shares: tuple[float, float, float]) -> np.ndarray:
    """Which part each session falls in, by where its end lies among all, int8 [S]."""
    ordered = np.sort(ends)
    n = len(ordered)
    first, second = (ordered[min(n - 1, round(n * share))] for share in (shares[0], shares[0] + shares[1]))
    part: np.ndarray = (ends >= first).astype(np.int8) + (ends >= second)
    if shares[1] == 0:
        part[part == 1] = 2
    return part
