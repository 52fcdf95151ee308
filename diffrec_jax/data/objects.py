"""What Python programs hold (lists, arrays, data frames) -> Arrow columns, one at a time.

Only the columns that are asked for are converted, so that what nobody reads can hold anything.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

Values: TypeAlias = "Iterable[object]"  # one for each event: a list, an array, a series or an Arrow column
Column = Callable[[str], pa.ChunkedArray]
_TROUBLE = (pa.ArrowException, TypeError, ValueError, OverflowError)


def as_column(values: Any, what: str) -> pa.ChunkedArray:
    """A list, array, series or Arrow column as one Arrow column.

    Whole numbers beyond 64 bits and uuids become text.

    Raises:
      ValueError: naming ``what``, for anything that is no flat sequence of values of one kind.
    """
    if isinstance(values, str | bytes) or not (hasattr(values, "__len__") or hasattr(values, "__iter__")):
        raise ValueError(f"{what}: {values!r} is one value; pass a list or an array, [{values!r}] say")
    if isinstance(values, Set | Mapping):
        raise ValueError(f"{what} come in a {type(values).__name__}; pass them in the order of events, as a list")
    if getattr(values, "ndim", 1) != 1:
        raise ValueError(f"{what} come in {values.ndim} dimensions; pass one value for each event, a flat array")
    if isinstance(values, pa.ChunkedArray):
        return values
    pandas = hasattr(values, "iloc")  # PyArrow knows its missing values
    if hasattr(values, "__array__") and not (pandas or isinstance(values, pa.Array)):
        if not (hasattr(values, "__arrow_c_stream__") or isinstance(values, np.ndarray)):  # masked ones keep their mask
            values = np.asarray(values)  # JAX and others
    elif not hasattr(values, "__getitem__"):
        values = list(values)
    column: pa.Array | pa.ChunkedArray | None
    try:
        if hasattr(values, "__arrow_c_stream__") and not pandas:  # a column of polars, say
            column = pa.chunked_array(values)
        else:
            column = pa.array(values, from_pandas=True)
    except _TROUBLE as error:
        column = _as_text(values)
        if column is None:
            said = str(error).splitlines()[0].rstrip(".")
            raise ValueError(
                f"{what} mix types or hold what is neither text nor number ({said}); ids are all text or all whole "
                "numbers"
            ) from error
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def frame_columns(frame: Any) -> tuple[list[str], Column]:
    """The names of a data frame's columns, and a function that converts one of them.

    Takes anything with the Arrow C stream interface, pandas and polars among them.

    Raises:
      ValueError: for anything else.
    """
    if hasattr(frame, "iloc") and hasattr(frame, "columns"):  # pandas: each column by itself, also of a name twice
        names = [str(name) for name in frame.columns]
        return names, lambda name: as_column(frame.iloc[:, names.index(name)], f"values of column {name!r}")
    if hasattr(frame, "get_column") and hasattr(frame, "columns"):  # polars likewise
        names = list(frame.columns)
        return names, lambda name: _stream(frame.select(name), name).column(0)
    if isinstance(frame, pa.RecordBatch):
        frame = pa.Table.from_batches([frame])
    if not (isinstance(frame, pa.Table) or hasattr(frame, "__arrow_c_stream__")):
        import narwhals

        try:  # frames older than the interface
            frame = narwhals.from_native(frame, eager_only=True).to_arrow()
        except TypeError as error:
            raise ValueError(
                f"{type(frame).__name__} is not a data frame with the Arrow interface; pass a pandas, polars or "
                "PyArrow table, or use from_arrays"
            ) from error
    table = frame if isinstance(frame, pa.Table) else _stream(frame, None)
    return table.column_names, table.column


def _stream(frame: Any, name: str | None) -> pa.Table:
    try:
        return pa.table(frame)
    except _TROUBLE as error:
        what = "a column" if name is None else f"column {name!r}"
        raise ValueError(f"{what} cannot be read ({error}); ids must be all text or all whole numbers") from error


def _as_text(values: Iterable[object]) -> pa.Array | None:
    """Whole numbers of any size, or uuids, as text; None for anything else."""
    for kind in (int, uuid.UUID):
        if all(value is None or (isinstance(value, kind) and not isinstance(value, bool)) for value in values):
            return pa.array([None if value is None else str(value) for value in values], pa.string())
    return None
