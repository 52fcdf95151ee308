"""From Arrow columns to codes: raw ids to int32, times in any usual spelling to int64 microseconds.

Ids are dictionary-encoded by Arrow (one hash per value, no Python object per event); spaces around them do not count.
Text of a typed source stays text. In a text file, which has no types, a column in which every value is a canonically
written integer of 64 bits becomes integer ids, so that ``12`` in a csv and 12 in a Parquet file are the same id while
``007`` stays text.
"""

from __future__ import annotations

import warnings

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffrec_jax.data.times import DoubtfulTimesWarning, check_calendar, describe_time, doubt, unix_micros

_UNUSUAL_UNITS = ("[Y]", "[M]", "[W]", "[h]", "[m]")  # of NumPy's datetimes, which Arrow does not know


def encode_ids(column: pa.ChunkedArray, name: str, *, typed: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Codes int32 [N] in order of first appearance (-1 where the id is missing), and the raw ids [V] (int64 or str).

    Takes text, bytes that are text, uuids (as text), integers, and floats and decimals without fractions (those beyond
    64 bits as text). Text that is empty but for spaces is missing. ``typed`` says that the source tells text from
    numbers.

    Raises:
      ValueError: for anything else, and for floats so large that neighbouring integers are one.
    """
    if pa.types.is_dictionary(column.type):  # may hold unused or repeated values: encode anew
        column = _plain(column)
    kind = column.type
    if kind == pa.uuid():
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], pa.binary(16))
    elif not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind) or _is_binary(kind)):
        column = _whole_numbers(column, name)
    column = column.dictionary_encode()
    if not _one_dictionary(column):
        column = column.unify_dictionaries()
    values = column.chunk(0).dictionary if column.num_chunks else pa.array([], pa.string())
    codes = np.concatenate(
        [np.asarray(pc.fill_null(chunk.indices, -1)).astype(np.int32, copy=False) for chunk in column.chunks]
        or [np.empty(0, np.int32)]
    )
    values = _uuid_text(values) if kind == pa.uuid() else _numbers_or_text(values, name)
    if _is_text(values.type):
        values = values.cast(pa.large_string())  # polars' string views have few kernels
        codes, values = _trimmed(codes, values)
        as_numbers = None if typed else _canonical_integers(values)
        values = values if as_numbers is None else as_numbers
    if pa.types.is_integer(values.type):
        try:
            return codes, np.asarray(values.cast(pa.int64()))
        except pa.ArrowInvalid as error:
            raise ValueError(f"column {name!r} holds ids beyond 64 bits ({error}); write them as text") from error
    return codes, np.asarray(values.to_numpy(zero_copy_only=False), dtype=object)


def encode_times(column: pa.ChunkedArray, name: str) -> tuple[np.ndarray, str]:
    """Times as int64 unix microseconds [N], and a note that says how they were read, and what is doubtful about them.

    Accepts unix seconds, milliseconds or microseconds (integers, floats, or digits as text), ISO 8601 text with or
    without a zone (``Z``, ``UTC``, ``+01:00``; without: UTC), Arrow dates and timestamps. Small numbers are an order.

    Raises:
      ValueError: naming the row (counted from 1, header excluded) and the value that cannot be read or be the time of
        an event: units that are mixed, a date written as a number, years before 1900 or after 2200.
    """
    column = _plain(column)
    kind = column.type
    if column.null_count:
        row = int(pc.index(pc.is_null(column), True).as_py())
        raise ValueError(f"row {row + 1:,} has no time in column {name!r}; fill it or drop the row")
    if _is_text(kind):
        column, kind, how = _parse_text(column, name)
    else:
        how = str(kind)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zoned = pa.types.is_timestamp(kind) and kind.tz is not None
        micros = _timestamps(column, kind, name)
        how = f"{how}, {'zone given' if zoned else 'no zone given, taken as UTC'}"
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        micros, how = unix_micros(_to_numpy(column.cast(pa.float64()) if pa.types.is_decimal(kind) else column), name)
    else:
        raise ValueError(
            f"column {name!r} is of type {kind}, which is no time; use unix seconds, milliseconds or microseconds, "
            "or ISO 8601 text"
        )
    if not len(micros):
        return micros, f"times ({name}): none."
    first, last = check_calendar(micros, name)
    doubts = doubt(micros, first, last)
    if doubts:
        warnings.warn(f"times ({name}): {doubts}", DoubtfulTimesWarning, stacklevel=5)  # where a log is asked for
    span = f"from {describe_time(first)} to {describe_time(last)} UTC"
    return micros, " ".join(filter(None, (f"times ({name}): {how}; {span}.", doubts)))


def times_array(values: object) -> object:
    """Times that came as a list or an array, in Arrow, and any others as they are.

    Raises:
      ValueError: for what cannot be times.
    """
    if not isinstance(values, list | tuple | np.ndarray):
        return values
    if isinstance(values, np.ndarray) and values.dtype.kind == "M" and values.dtype.str[3:] in _UNUSUAL_UNITS:
        values = values.astype("datetime64[s]")
    try:
        return pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"times cannot be read ({str(error).splitlines()[0]}): write all of them one way, as unix seconds, ISO "
            "8601 text or datetimes, with a zone or all without"
        ) from error


def encode_ratings(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Ratings as float32 [N].

    Raises:
      ValueError: naming the row that is not a finite number.
    """
    return _finite(column, name, "a rating (a number)")


def encode_weights(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """Weights of events as float32 [N], above 0.

    Raises:
      ValueError: naming the row that has none, or none that an event can count.
    """
    weights = _finite(column, name, "a weight (a number above 0)")
    low = np.flatnonzero(weights <= 0)
    if len(low):
        raise ValueError(
            f"row {low[0] + 1:,}: weight {weights[low[0]]:g} in column {name!r} must be above 0: drop the "
            f"{len(low):,} events that count for nothing, or give them a weight"
        )
    return weights


def _finite(column: pa.ChunkedArray, name: str, what: str) -> np.ndarray:
    """Finite numbers as float32 [N]; ``what`` is what a sentence says a value is not."""
    column = _plain(column)
    if _is_text(column.type):
        column = pc.utf8_trim_whitespace(column)
    row = _first_failure(column, pa.float64())
    if row is None:
        values = _to_numpy(pc.fill_null(column.cast(pa.float64()), float("nan"))).astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(values))
        row = int(bad[0]) if len(bad) else None
    if row is not None:
        raise ValueError(f"row {row + 1:,}: {column[row].as_py()!r} in column {name!r} is not {what}")
    return values


def _is_text(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _to_numpy(column: pa.ChunkedArray) -> np.ndarray:
    return np.concatenate([np.asarray(chunk) for chunk in column.chunks] or [np.empty(0, np.int64)])


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dictionaries and string views as what they stand for."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = pa.large_string() if _is_text(kind.value_type) else kind.value_type
        return pa.chunked_array([c.dictionary.cast(kind).take(c.indices) for c in column.chunks], kind)
    return column.cast(pa.large_string()) if _is_text(kind) else column


def _one_dictionary(column: pa.ChunkedArray) -> bool:
    """Whether all chunks share one dictionary in memory, as Arrow's own encoding leaves them (unifying is slow)."""
    places = {tuple(None if b is None else b.address for b in chunk.dictionary.buffers()) for chunk in column.chunks}
    return len(places) <= 1


def _is_binary(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind) for is_kind in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    )


def _whole_numbers(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Ids that came as floats (pandas turns integers with gaps into those) back to integers; anything else refused."""
    kind = column.type
    if pa.types.is_floating(kind):
        exact = {16: 2**11, 32: 2**24, 64: 2**53}[kind.bit_width]
        column = column.cast(pa.float64())
        column = pc.if_else(pc.is_nan(column), None, column)
        largest = pc.max(pc.abs(column)).as_py()
        if largest == float("inf"):
            raise ValueError(f"column {name!r} holds infinity; ids are whole numbers or text")
        if largest is not None and largest >= exact:
            raise ValueError(
                f"column {name!r} holds ids as {kind} up to {largest:.17g}: from {exact} on several whole numbers are "
                "one such float, so different ids may have become one; read the column as text or as int64"
            )
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise ValueError(f"column {name!r} holds fractions ({error}); ids are whole numbers or text") from error
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    raise ValueError(f"column {name!r} is of type {kind}; ids are whole numbers or text")


def _numbers_or_text(values: pa.Array, name: str) -> pa.Array:
    """Decimals as int64, or as text where 64 bits are too few; bytes as the text that they spell."""
    if pa.types.is_decimal(values.type):
        try:
            whole = values.cast(pa.decimal256(76, 0))
        except pa.ArrowInvalid as error:
            raise ValueError(f"column {name!r} holds fractions ({error}); ids are whole numbers or text") from error
        try:
            return whole.cast(pa.int64())
        except pa.ArrowInvalid:
            return whole.cast(pa.string())
    if _is_binary(values.type):
        try:
            return values.cast(pa.large_binary()).cast(pa.large_string())
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"column {name!r} holds bytes that are no UTF-8 text ({values.type}); write such ids as text, in "
                "hexadecimal say"
            ) from error
    return values


def _uuid_text(values: pa.Array) -> pa.Array:
    """The 16 bytes of uuids as text, ``8-4-4-4-12`` hexadecimal digits."""
    digits = (value.hex() for value in values.to_pylist())
    return pa.array([f"{d[:8]}-{d[8:12]}-{d[12:16]}-{d[16:20]}-{d[20:]}" for d in digits], pa.string())


def _trimmed(codes: np.ndarray, values: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Ids without spaces around them, those that become equal made one; what is empty is missing."""
    trimmed = pc.utf8_trim_whitespace(values)
    if trimmed.equals(values) and not pc.any(pc.equal(values, "")).as_py():
        return codes, values
    encoded = pc.if_else(pc.equal(trimmed, ""), None, trimmed).dictionary_encode()
    new = np.append(np.asarray(pc.fill_null(encoded.indices, -1)), np.int32(-1))  # the last one is for missing ids
    return new[codes], encoded.dictionary


def _canonical_integers(values: pa.Array) -> pa.Array | None:
    """The integers that the texts spell, or None where any is not written the way an integer of 64 bits prints."""
    if not len(values):
        return None
    if not pc.all(pc.match_substring_regex(values, r"^(0|-?[1-9][0-9]{0,18})$")).as_py():
        return None
    try:
        return values.cast(pa.int64())
    except pa.ArrowInvalid:  # 19 digits may be too many
        return None


def _timestamps(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> np.ndarray:
    """Arrow's dates and timestamps as microseconds; what is finer is cut off, what does not fit is refused."""
    target = pa.timestamp("us", tz=kind.tz if pa.types.is_timestamp(kind) else None)
    try:
        stamps = column.cast(options=pc.CastOptions(target, allow_time_truncate=True))
    except pa.ArrowInvalid as error:
        raise ValueError(f"column {name!r} holds a time beyond all calendars ({error}); drop its row") from error
    return _to_numpy(stamps.cast(pa.int64()))


def _parse_text(column: pa.ChunkedArray, name: str) -> tuple[pa.ChunkedArray, pa.DataType, str]:
    column = said = pc.utf8_trim_whitespace(column)
    first = column[0].as_py() if len(column) else "0"
    targets: list[tuple[pa.DataType, str]]
    if _reads(column.slice(0, 1), pa.float64()):
        targets = [(pa.int64(), "unix"), (pa.float64(), "unix")]
    else:
        iso = "ISO 8601 text"
        targets = [(pa.timestamp(unit, zone), iso) for zone in (None, "UTC") for unit in ("us", "ns")]
        if not any(_reads(column, target) for target, _ in targets):
            column = _zones_respelled(column)
    targets = [(target, how) for target, how in targets if _reads(column.slice(0, 1), target)]
    row = 0
    for target, how in targets:
        failure = _first_failure(column, target)
        if failure is None:
            return column.cast(target), target, how
        row = max(row, failure)
    value = said[row].as_py()
    hint = f"the rows before it are like {first!r}" if row else "times may be unix numbers or ISO 8601 text"
    raise ValueError(f"row {row + 1:,}: cannot read {value!r} in column {name!r} as a time; {hint}")


def _zones_respelled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """``10:00:00 UTC``, ``2020-01-31 UTC`` and ``10:00:00 +01:00``, as databases and version control write them, in the
    way that Arrow reads.
    """
    column = pc.replace_substring_regex(column, r"(?i)^([0-9]{4}-[0-9]{2}-[0-9]{2}) *(UTC|GMT|Z)$", r"\1T00:00:00Z")
    column = pc.replace_substring_regex(column, r"(?i)(:[0-9.]+) *(UTC|GMT|Z)$", r"\1Z")
    return pc.replace_substring_regex(column, r"(:[0-9.]+) +([+-][0-9]{2}:?[0-9]{2})$", r"\1\2")


def _reads(column: pa.ChunkedArray, target: pa.DataType) -> bool:
    try:
        column.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _first_failure(column: pa.ChunkedArray, target: pa.DataType) -> int | None:
    """The first row that cannot be cast, found by halving; None where all can."""
    if _reads(column, target):
        return None
    low, high = 0, len(column)  # rows before ``low`` are fine, the first bad one is before ``high``
    while high - low > 1:
        middle = (low + high) // 2
        if _reads(column.slice(low, middle - low), target):
            low = middle
        else:
            high = middle
    return low
