"""Moments that somebody names, as cuts of a log: what begins valid and test, and which part every event falls in."""

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
    sizes = np.bincount(part, minlength=3)
    said = " and ".join(map(describe_time, moments))
    asked = (0, 2) if len(moments) == 1 else (0, 1, 2)
    if len(times) and not sizes[list(asked)].all():
        raise ValueError(
            f"split 'global_time' at {said} UTC leaves {sizes[0]:,} {what} to train, {sizes[1]:,} to valid and "
            f"{sizes[2]:,} to test: cut within the log, from {describe_time(times.min())} to "
            f"{describe_time(times.max())} UTC"
        )
    return part, f"Cut at {said} UTC{'; one cut leaves no validation part' if len(moments) == 1 else ''}."
