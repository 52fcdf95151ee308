"""A Parquet log some rows at a time, with the columns and the meaning that ``data.readers`` give it in one piece.

Ids become int64 or text without spaces around them, times microseconds, ratings and weights float32; a log without
times has the place of each row instead. What cannot be read is refused by the sentences of the readers.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset

from diffrec_jax.data.columns import encode_ids, encode_ratings, encode_times, encode_weights
from diffrec_jax.data.naming import Names, resolve
from diffrec_jax.data.parquet import common_type, not_held, with_types
from diffrec_jax.data.times import (
    MODERN,
    SAMPLE,
    DoubtfulTimesWarning,
    check_calendar,
    describe_time,
    doubtful,
    early_times,
    in_micros,
    unit_of,
)

ROWS = 2**17  # at a time
ROLES = ("user", "item", "time", "rating", "weight")
NUMERIC = {"rating": encode_ratings, "weight": encode_weights}


class LogStream:
    """The rows of a Parquet file, a folder of them, or hive partitions.

    Attributes:
      n_rows: how many there are.
      names: column by role.
      notes: how the log was read; whole once all ``batches`` were taken.
    """

    def __init__(self, path: str | Path, columns: dict[str, str]) -> None:
        """Look at the schema and, for numbers that are times, at the column of times.

        Raises:
          ValueError: for what is no Parquet, lacks a column, or holds what cannot be read.
        """
        self.path = str(path)
        if not Path(path).exists():
            raise FileNotFoundError(f"no file or folder {path} (looked in {Path(path).parent.resolve()})")
        with _said(self.path):
            data = pa.dataset.dataset(path, format="parquet", partitioning="hive")
            if not data.files:
                raise ValueError(f"{path} holds no Parquet files; expected *.parquet in it or in hive partitions")
            self.names: Names = resolve(data.schema.names, {role: columns.get(role) for role in ROLES}, path)
            self._types = {role: common_type(data, name) for role, name in self.names.items()}
            self._data = with_types(data, {self.names[role]: kind for role, (kind, _) in self._types.items()})
            self.n_rows = data.count_rows()
        self._times = _Times(self.names["time"]) if "time" in self.names else None
        if self._times is not None and _is_number(self._types["time"][0]):
            self._times.recognise(batch.column(0) for batch in self._raw(["time"]))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how it was read."""
        if self._times is None:
            return ("times: no column named; file order stands for time order.",)
        return (self._times.note(),)

    def schema(self) -> pa.Schema:
        """Of the batches: the roles that the log has, and always a time."""
        fields = [(role, self._id_type(role)) for role in ("user", "item")]
        fields += [("time", pa.int64())]
        fields += [(role, pa.float32()) for role in NUMERIC if role in self.names]
        return pa.schema(fields)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows; ids may be missing in some."""
        schema, place = self.schema(), 0
        if self._times is not None:
            self._times.begin()
        for batch in self._raw([role for role in ROLES if role in self.names]):
            columns = {role: batch.column(self.names[role]) for role in self.names}
            whole = {role: self._ids(columns[role], role) for role in ("user", "item")}
            with _counted_from(place):
                whole["time"] = pa.array(
                    np.arange(place, place + len(batch)) if self._times is None else self._times.micros(columns["time"])
                )
                for role, encode in NUMERIC.items():
                    if role in columns:
                        whole[role] = pa.array(encode(pa.chunked_array([columns[role]]), self.names[role]))
            place += len(batch)
            yield pa.RecordBatch.from_arrays([whole[name] for name in schema.names], schema=schema)
        if self._times is not None:
            self._times.check()

    def _raw(self, roles: list[str]) -> Iterator[pa.RecordBatch]:
        columns = list(dict.fromkeys(self.names[role] for role in roles))
        how = {"batch_size": ROWS, "batch_readahead": 1, "fragment_readahead": 1, "use_threads": False}
        with _said(self.path):
            try:
                yield from self._data.to_batches(columns=columns, **how)
            except pa.ArrowInvalid as error:
                name = next((name for name in columns if name in str(error)), columns[0])
                kind, came = next(self._types[role] for role in roles if self.names[role] == name)
                raise not_held(name, came, kind, error) if " and " in came else error from error

    def _id_type(self, role: str) -> pa.DataType:
        kind = self._types[role][0]
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return pa.int64() if _is_number(kind) else pa.large_string()

    def _ids(self, column: pa.Array, role: str) -> pa.Array:
        """Ids as the readers have them: whole numbers, or text; missing where there is none."""
        kind, name = column.type, self.names[role]
        if pa.types.is_dictionary(kind):
            column, kind = column.dictionary_decode(), kind.value_type
        if pa.types.is_signed_integer(kind):
            return column.cast(pa.int64())
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
            return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.large_string()), column)
        codes, values = encode_ids(pa.chunked_array([column]), name, typed=True)
        found = pa.array(values if len(values) else [None], self._id_type(role))
        return found.take(pa.array(np.maximum(codes, 0), mask=codes < 0))


@dataclass
class _Times:
    """How a column of times is read, learnt from all of it, and what is seen of it on the way."""

    name: str
    factor: int | None = None  # microseconds of the unit of a column of numbers
    how: str = ""
    n: int = 0
    first: tuple[int, int] | None = None  # the least so far, and its row
    last: tuple[int, int] | None = None
    early: int = 0
    first_early: tuple[int, int] = (0, 0)
    _hows: set[str] = field(default_factory=set)

    def recognise(self, columns: Iterator[pa.Array]) -> None:
        """The unit of a column of numbers, from its extremes, the first of every unit's range, and a sample."""
        rows: list[np.ndarray] = []
        values: list[np.ndarray] = []
        extremes: dict[str, tuple[float, int]] = {}
        kept: dict[int, np.number] = {}
        units: set[str] = set()
        place, every = 0, 997  # a prime: no period of the log hides from it
        for column in columns:
            with _counted_from(place):
                numbers = _numbers(column, self.name)
            if not len(numbers):
                continue
            for word, at in (("low", int(np.argmin(numbers))), ("high", int(np.argmax(numbers)))):
                value, sign = float(numbers[at]), 1 if word == "low" else -1
                if word not in extremes or sign * value < sign * extremes[word][0]:
                    extremes[word] = value, place + at
                    kept[place + at] = numbers[at]
            for unit, start, stop in MODERN:
                inside = (numbers >= start) & (numbers < stop)
                if unit not in units and inside.any():
                    units.add(unit)
                    kept[place + int(np.argmax(inside))] = numbers[int(np.argmax(inside))]
            chosen = np.arange(-place % every, len(numbers), every)
            rows.append(place + chosen)
            values.append(numbers[chosen])
            place += len(numbers)
        if not place:
            self.factor, self.how = 1, "none"
            return
        step = max(1, sum(map(len, rows)) // SAMPLE)
        sample = dict(zip(np.concatenate(rows)[::step].tolist(), np.concatenate(values)[::step]))
        sample |= kept
        order = sorted(sample)
        self.factor, self.how = unit_of(np.array([sample[row] for row in order]), self.name, np.array(order))

    def begin(self) -> None:
        """Forget what was seen on the way."""
        self.n, self.first, self.last, self.early = 0, None, None, 0

    def micros(self, column: pa.Array) -> np.ndarray:
        """The times of some rows, int64 microseconds."""
        if self.factor is not None:
            found = in_micros(_numbers(column, self.name), self.factor)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DoubtfulTimesWarning)
                found, note = encode_times(pa.chunked_array([column]), self.name)
            self._hows.add(note.split(": ", 1)[1].split("; from ")[0])
        if len(found):
            low, high = int(np.argmin(found)), int(np.argmax(found))
            if self.first is None or found[low] < self.first[0]:
                self.first = int(found[low]), self.n + low
            if self.last is None or found[high] > self.last[0]:
                self.last = int(found[high]), self.n + high
            early, at = early_times(found)
            if early and not self.early:
                self.first_early = int(found[at]), self.n + at
            self.early += early
        self.n += len(found)
        return found

    def check(self) -> None:
        """Refuse years that no event has, and a column that is written in several ways."""
        if self.first is not None and self.last is not None:
            values, rows = zip(self.first, self.last)
            check_calendar(np.array(values), self.name, np.array(rows))
        if len(self._hows) > 1:
            raise ValueError(
                f"column {self.name!r} holds times of several kinds ({'; '.join(sorted(self._hows))}): write all of "
                "them one way"
            )

    def note(self) -> str:
        """How it was read, from when to when, and what is doubtful."""
        how = self.how or next(iter(self._hows), "")
        if self.first is None or self.last is None:
            return f"times ({self.name}): none."
        span = f"from {describe_time(self.first[0])} to {describe_time(self.last[0])} UTC"
        said = f"times ({self.name}): {how}; {span}."
        if not self.early or self.last[0] < 10**14:  # an order, as ``times.doubt`` has it
            return said
        return f"{said} {doubtful(self.early, self.n, self.first_early[1], self.first_early[0])}"


def _numbers(column: pa.Array, name: str) -> np.ndarray:
    if column.null_count:
        row = int(pc.index(pc.is_null(column), True).as_py())
        raise ValueError(f"row {row + 1:,} has no time in column {name!r}; fill it or drop the row")
    return np.asarray(column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


@contextlib.contextmanager
def _counted_from(place: int) -> Iterator[None]:
    """Sentences that name a row of a part name the row of the whole."""
    try:
        yield
    except ValueError as error:
        if not place:
            raise
        moved = re.sub(r"\brow ([\d,]+)", lambda m: f"row {int(m[1].replace(',', '')) + place:,}", str(error))
        raise ValueError(moved) from error


@contextlib.contextmanager
def _said(path: str) -> Iterator[None]:
    """Arrow's errors about a file, as one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error
