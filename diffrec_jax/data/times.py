"""Unix times by their size, and what makes a time implausible.

Numbers carry no unit, so one is recognised for a whole column, by its largest value. What cannot be times of events is
refused in words: units that are mixed, dates written as numbers (20200131), moments before 1900 or after 2200. Small
numbers (0, 1, 2, …) are legitimate: they are an order, and are read as seconds since 1970, which keeps it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

# Unix times are told apart by size: the limits are the year 5138 read as seconds and 1973 read as milliseconds.
_UNITS = (("seconds", 1e11, 1_000_000), ("milliseconds", 1e14, 1_000), ("microseconds", 1e17, 1))
# The years 1973 to 2286 in each unit. These ranges do not meet: a column with values in two of them mixes units.
MODERN = tuple((name, 1e8 * scale, 1e10 * scale) for name, scale in
                (("seconds", 1), ("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9)))  # fmt: skip
MICROSECONDS_PER_DAY = 86_400e6
_SECOND = 1_000_000  # microseconds
_YEAR_1900, _YEAR_2200 = -2_208_988_800 * _SECOND, 7_258_118_400 * _SECOND
_YEAR_1980 = 315_532_800 * _SECOND
_ORDER_BELOW = 1e8  # seconds: numbers that end before 1973 are an order rather than dates
ORDINAL = (
    "small numbers, taken as an order and read as unix seconds (if they count days or minutes, write dates instead)"
)
SAMPLE = 1000  # values looked at to recognise dates written as numbers
_WRITTEN = ("yyyy", "yyyymm", "yyyymmdd", "yyyymmddhh", "yyyymmddhhmm", "yyyymmddhhmmss")
_LIMITS = ((1, 12), (1, 31), (0, 23), (0, 59), (0, 59))  # of the two digits each after the year


class DoubtfulTimesWarning(UserWarning):
    """Some times of a log can hardly be when its events happened."""


def unix_micros(values: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    """Numbers as unix microseconds, int64 [N], and how they were read: ``unix seconds``, or as an order.

    Raises:
      ValueError: as ``unit_of``.
    """
    factor, how = unit_of(values, name)
    return in_micros(values, factor), how


def in_micros(values: np.ndarray, factor: int) -> np.ndarray:
    """Numbers [N] of a unit of ``factor`` microseconds, as int64 microseconds."""
    if values.dtype.kind == "f":
        return np.rint(values.astype(np.float64) * factor).astype(np.int64)
    return values.astype(np.int64) * factor


def unit_of(values: np.ndarray, name: str, rows: np.ndarray | None = None) -> tuple[int, str]:
    """How many microseconds the unit of these numbers has, and how they are read.

    Args:
      values: all of a column, or a sample that holds its least, its largest, and of every unit's range the first.
      name: of the column.
      rows: where the values of a sample stand in the column.

    Raises:
      ValueError: naming the row (counted from 1) for values that are not finite, too large, in several units, dates
        written as numbers, or outside the years 1900 to 2200.
    """
    if not len(values):
        return _SECOND, "unix seconds"
    rows = np.arange(len(values)) if rows is None else rows
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"row {rows[at] + 1:,}: {values[at]} in column {name!r} is not a time")
    low, high = int(np.argmin(values)), int(np.argmax(values))
    least, most = float(values[low]), float(values[high])
    _refuse_mixed_units(values, name, least, most, rows)
    _refuse_written_dates(values, name, rows)
    size = max(abs(least), abs(most))
    fitting = [(unit, factor) for unit, limit, factor in _UNITS if size < limit]
    if not fitting:
        at = high if abs(most) == size else low
        raise ValueError(
            f"row {rows[at] + 1:,}: {values[at]} in column {name!r} is too large for unix time, even in microseconds; "
            "divide nanoseconds by 1,000"
        )
    unit, factor = fitting[0]
    if unit == "seconds" and size < _ORDER_BELOW:
        return factor, ORDINAL
    if values.dtype.kind == "f" and values.dtype.itemsize < 8:
        return factor, f"unix {unit}, rounded: they came as {values.dtype}, which holds about seven digits"
    return factor, f"unix {unit}"


def check_calendar(micros: np.ndarray, name: str, rows: np.ndarray | None = None) -> tuple[int, int]:
    """The first and the last of the times [N >= 1]; ``rows`` says where those of a sample stand.

    Raises:
      ValueError: naming a row before 1900 or after 2200.
    """
    low, high = int(np.argmin(micros)), int(np.argmax(micros))
    for row in (low, high):
        if not _YEAR_1900 <= micros[row] < _YEAR_2200:
            raise ValueError(
                f"row {(row if rows is None else rows[row]) + 1:,} in column {name!r} has the time "
                f"{describe_time(micros[row])}, which no event has: give its real time (unix seconds, milliseconds or "
                "microseconds, or ISO 8601), or drop the row"
            )
    return int(micros[low]), int(micros[high])


def doubt(micros: np.ndarray, first: int, last: int) -> str | None:
    """A sentence about times [N] before 1980 beside later ones, which often stand for none; None without any."""
    if last < _ORDER_BELOW * _SECOND or first >= _YEAR_1980:
        return None
    early, row = early_times(micros)
    return doubtful(early, len(micros), row, int(micros[row]))


def early_times(micros: np.ndarray) -> tuple[int, int]:
    """How many of the times [N >= 1] lie before 1980, and the place of the first of them."""
    early = micros < _YEAR_1980
    return int(early.sum()), int(np.argmax(early))


def doubtful(early: int, n: int, row: int, micros: int) -> str:
    """The sentence about ``early`` of n times, the first of them, ``micros``, in ``row``."""
    return (
        f"{early:,} of {n:,} times lie before 1980, the first in row {row + 1:,} "
        f"({describe_time(micros)}): if they stand for no time, fill them or drop these rows."
    )


def describe_time(micros: int | np.integer) -> str:
    """A unix time in microseconds as ISO 8601, to the second; out-of-calendar values as the number itself."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(micros))
    except OverflowError:
        return f"{int(micros)} us"
    return f"{moment.year:04d}{moment:-%m-%dT%H:%M:%S}"


def _refuse_mixed_units(values: np.ndarray, name: str, least: float, most: float, rows: np.ndarray) -> None:
    """Values in two of the modern ranges; a column whose extremes share one, as nearly all do, costs no pass."""
    at_most = next((n for n, (_, start, stop) in enumerate(MODERN) if start <= most < stop), None)
    if at_most is None or least >= MODERN[at_most][1]:
        return
    found: dict[str, int] = {}  # unit -> the first row that fits it
    for unit, start, stop in MODERN[: at_most + 1]:
        inside = (values >= start) & (values < stop)
        if inside.any():
            found[unit] = int(np.argmax(inside))
    if len(found) > 1:
        held = " and row ".join(f"{rows[at] + 1:,} {values[at]}" for at in found.values()).replace(" ", " holds ", 1)
        raise ValueError(
            f"column {name!r} mixes units: row {held} ({' and '.join(found)}); write all times in one unit"
        )


def _refuse_written_dates(values: np.ndarray, name: str, rows: np.ndarray) -> None:
    """Dates and moments written as numbers, which as unix times would lie in 1970 or in another century.

    A sample tells: four and six digits must all be dates, since positions may have as many; of more, half are enough.
    """
    looked_at = np.arange(0, len(values), max(1, len(values) // SAMPLE))
    sample = values[looked_at].astype(np.float64)
    digits = np.where((np.abs(sample) < 1e15) & (sample == np.floor(sample)), sample, 0).astype(np.int64)
    before, year_last = np.divmod(np.where(digits < 10**8, digits, 0), 10_000)
    first_two, next_two = np.divmod(before, 100)
    said = [(form, form, digits) for form in _WRITTEN]
    said += [("ddmmyyyy", "yyyymmdd", year_last * 10_000 + next_two * 100 + first_two)]
    said += [("mmddyyyy", "yyyymmdd", year_last * 10_000 + before)]
    for written, form, moments in said:
        year, rest = np.divmod(moments, 10 ** (len(form) - 4))
        fits = (year >= 1900) & (year <= 2100)
        for (first, last), at in zip(_LIMITS, range(len(form) - 6, -1, -2)):
            part = rest // 10**at % 100
            fits &= (part >= first) & (part <= last)
        if fits.all() if len(form) < 8 else 2 * fits.sum() >= len(fits):
            at = int(looked_at[np.argmax(fits)])
            raise ValueError(
                f"row {rows[at] + 1:,}: {values[at]} in column {name!r} is a date written as a number ({written}), not "
                "a unix time: write it as ISO 8601 text, such as 2020-01-31 or 2020-01-31T10:00:00, or as unix seconds"
            )
