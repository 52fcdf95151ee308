"""Readers: csv, tsv, Parquet, RecBole ``.inter``, data frames and arrays -> ``Events``.

PyArrow does all parsing. Columns are named by the caller; the user and item column may be left out where exactly one
column bears a usual name. Times, ratings and weights are read only if named (RecBole's typed header names the first two
itself). Rows without a user or an item are dropped and reported; everything else that cannot be read raises
``ValueError`` with one sentence. Parquet columns are encoded one at a time, so the texts of a log are never in memory
together.

Ids: spaces around them do not count. What comes as text from a typed source (arrays, frames, Parquet) stays text;
text files have no types, so there a column of nothing but whole numbers holds whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset

from diffrec_jax.data.columns import encode_ids, encode_ratings, encode_times, encode_weights, times_array
from diffrec_jax.data.delimited import TEXT_SUFFIXES, TextFile, holds_pairs
from diffrec_jax.data.events import Events
from diffrec_jax.data.naming import Names, listed, resolve
from diffrec_jax.data.objects import Values, as_column, frame_columns
from diffrec_jax.data.parquet import read_column
from diffrec_jax.data.preprocess import keep_events
from diffrec_jax.data.released import is_released, read_released
from diffrec_jax.data.titles import Titles, read_titles, with_titles
from diffrec_jax.memory import free_memory

__all__ = [
    "from_arrays",
    "from_frame",
    "read_csv",
    "read_inter",
    "read_log",
    "read_parquet",
    "read_released",
    "read_titles",
    "with_titles",
]


def read_log(
    path: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    weight: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    header: bool = True,
) -> Events:
    """A log of any kind, by its name: ``.csv .tsv .txt`` (``.gz`` too), ``.inter``, ``.parquet``, a Parquet folder.

    Columns are named as in ``read_csv``, as are ``delimiter``, ``encoding`` and ``header``, which are for text files.
    With a ``delimiter``, a file of any other name is read as text.
    """
    path = _existing(path)
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    named = {"user": user, "item": item, "time": time, "rating": rating, "weight": weight}
    if not is_text(path):
        if path.is_dir() and is_released(path):
            raise ValueError(f"{path} is a released split, not a log; read it with read_released (--dataset)")
        for option, given in (("delimiter", delimiter), ("encoding", encoding), ("header", not header)):
            if given:
                raise ValueError(f"{option} means nothing to {path}, which is read as Parquet: drop it")
        return read_parquet(path, **named)
    if suffix == ".inter" and header:
        return read_inter(path, **named, delimiter=delimiter, encoding=encoding)
    if suffix in TEXT_SUFFIXES or delimiter:
        return read_csv(path, **named, delimiter=delimiter, encoding=encoding, header=header)
    raise ValueError(
        f"{path}: cannot tell the format from its name; use .csv, .tsv, .txt (each may end in .gz), .inter, .parquet "
        "or a folder of Parquet files, or say which delimiter= divides it"
    )


def is_text(path: str | Path) -> bool:
    """Whether a log is read as text: it is neither a folder nor named as Parquet."""
    return not (Path(path).is_dir() or Path(path).suffix.lower() in (".parquet", ".pq"))


def read_csv(
    path: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    weight: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    columns: Sequence[str] | None = None,
    header: bool = True,
) -> Events:
    """A delimited text file; ``.gz`` is unpacked while reading. What quotes mean is told in ``delimited``.

    Args:
      path: the file.
      user: column of user ids; may be left out where one column has a usual name. The same holds for ``item``.
      item: column of item ids.
      time: column of times (unix s/ms/us or ISO 8601), or None: file order stands for time order.
      rating: column of ratings, or None.
      weight: column of what an event counts, above 0, or None: all count 1.
      delimiter: one character; None takes ``,`` for ``.csv`` and a tab for the rest. A ``.txt`` file of two whole
        numbers on each line, ``user item`` with one space between, needs neither this nor names (``delimited``).
      encoding: of the text; None is UTF-8.
      columns: names for a file that has no header line.
      header: whether the first line names the columns; without, and without ``columns``, they are '0', '1', ….
    """
    path = _existing(path)
    notes: tuple[str, ...] = ()
    if delimiter is None and encoding is None and columns is None and header and holds_pairs(path):
        delimiter, columns, notes = " ", ("user", "item"), ("columns: none named; each line is a user and an item.",)
    file = TextFile.of(path, delimiter=delimiter, encoding=encoding, columns=columns, header=header)
    names = resolve(file.names(), {"user": user, "item": item, "time": time, "rating": rating, "weight": weight}, path)
    return _read_text(file, names, notes=notes)


def read_inter(
    path: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    weight: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Events:
    """A RecBole ``.inter`` file: tab-separated, its header naming ``user_id:token``, ``item_id:token`` and others.

    Columns may be named with or without their type. Those left out are ``user_id`` and ``item_id`` (or the one with a
    usual name), ``timestamp`` and ``rating``, where there are such; a ``rating`` that nobody named and that is not a
    number in every row is left out, with a note.
    """
    path = _existing(path)
    file = TextFile.of(path, delimiter=delimiter or "\t", encoding=encoding)
    present = file.names()
    asked = {"user": user, "item": item, "time": time, "rating": rating, "weight": weight}
    fields = [name.split(":")[0] for name in present]
    for role, field in (("user", "user_id"), ("item", "item_id"), ("time", "timestamp"), ("rating", "rating")):
        if asked[role] is None and field in fields:
            asked[role] = field
    try:
        names = resolve(present, asked, path, typed=True)
    except ValueError as error:
        if user is None and item is None and "which column" in str(error):
            raise ValueError(
                f"{path} has columns {listed(present)}; a .inter file needs user_id:token and item_id:token, or name "
                "what stands for them (user=…, item=…, --user_col=…, --item_col=…)"
            ) from error
        raise
    return _read_text(file, names, optional=() if rating else ("rating",))


def read_parquet(
    path: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    weight: str | None = None,
) -> Events:
    """A Parquet file, a folder of them (in name order), or hive partitions (``day=…/``); columns as in ``read_csv``."""
    path = _existing(path)
    try:
        data = pa.dataset.dataset(path, format="parquet", partitioning="hive")
        if not data.files:
            raise ValueError(f"{path} holds no Parquet files; expected *.parquet in it or in hive partitions under it")
        names = resolve(
            data.schema.names, {"user": user, "item": item, "time": time, "rating": rating, "weight": weight}, path
        )
        check_memory(data.count_rows() * 120, path)
        return _build(lambda name: read_column(data, name), names, typed=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error


def from_frame(
    frame: object,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    weight: str | None = None,
) -> Events:
    """Any data frame with the Arrow C stream interface (pandas, polars, PyArrow, …); columns as in ``read_csv``.

    Only the columns asked for are converted.
    """
    present, column = frame_columns(frame)
    names = resolve(
        present,
        {"user": user, "item": item, "time": time, "rating": rating, "weight": weight},
        f"the {type(frame).__name__}",
    )
    return _build(column, names, typed=True)


def from_arrays(
    users: Values,
    items: Values,
    *,
    times: Values | None = None,
    ratings: Values | None = None,
    weights: Values | None = None,
    item_titles: Titles | None = None,
) -> Events:
    """Equally long arrays or lists of raw ids, and optional times, ratings and weights (above 0; what an event counts);
    titles by raw item id.
    """
    given = {"user": users, "item": items, "time": times, "rating": ratings, "weight": weights}
    columns = {
        role: as_column(times_array(values) if role == "time" else values, f"{role} values")
        for role, values in given.items()
        if values is not None or role in ("user", "item")
    }
    for role, column in columns.items():
        if len(column) != len(columns["user"]):
            raise ValueError(f"{len(columns['user']):,} users but {len(column):,} {role} values")
    return with_titles(_build(columns.__getitem__, {role: role for role in columns}, typed=True), item_titles)


def bytes_to_read(path: str | Path) -> int:
    """About how much memory it takes to read a log in one piece."""
    path = _existing(path)
    if is_text(path):
        return path.stat().st_size * (5 if path.suffix == ".gz" else 1) * 2
    return int(pa.dataset.dataset(path, format="parquet", partitioning="hive").count_rows()) * 120


def check_memory(needed: int, path: str | Path) -> None:
    """Raise ``ValueError`` with the estimate if reading will need more memory than this machine has free."""
    free = free_memory()
    if free is not None and needed > free:
        raise ValueError(
            f"reading {path} needs about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; "
            "use a larger machine, or cut the log by time or by users first"
        )


def _read_text(file: TextFile, names: Names, *, optional: tuple[str, ...] = (), notes: tuple[str, ...] = ()) -> Events:
    check_memory(bytes_to_read(file.path), file.path)
    table, found = file.read(list(dict.fromkeys(names.values())))
    return _build(table.column, names, typed=False, optional=optional, notes=(*notes, *found))


def _build(
    column: Callable[[str], pa.ChunkedArray],
    names: Names,
    *,
    typed: bool,
    optional: tuple[str, ...] = (),
    notes: Sequence[str] = (),
) -> Events:
    """Encode the named columns one after the other; rows without user or item go, with a report.

    Of the ``optional`` roles, what cannot be read is left out with a note.
    """
    users, user_ids = encode_ids(column(names["user"]), names["user"], typed=typed)
    items, item_ids = encode_ids(column(names["item"]), names["item"], typed=typed)
    times, ratings, notes = None, None, list(notes)
    if "time" in names:
        times, note = encode_times(column(names["time"]), names["time"])
        notes.append(note)
    else:
        notes.append("times: no column named; file order stands for time order.")
    if "rating" in names:
        try:
            ratings = encode_ratings(column(names["rating"]), names["rating"])
        except ValueError as error:
            if "rating" not in optional:
                raise
            notes.append(f"ratings: left out, for nobody named them and {str(error).rstrip('.')}.")
    weights = encode_weights(column(names["weight"]), names["weight"]) if "weight" in names else None
    if not len(users):
        raise ValueError(f"the log has columns {listed(names.values())} but no rows")
    whole = (users >= 0) & (items >= 0)
    if whole.all():
        return Events(users, items, user_ids, item_ids, times, ratings, weights, notes=tuple(notes))
    padded = Events(  # code 0 stands in for a missing id until its row is dropped
        np.maximum(users, 0),
        np.maximum(items, 0),
        _not_empty(user_ids),
        _not_empty(item_ids),
        times,
        ratings,
        weights,
        notes=tuple(notes),
    )
    return keep_events(padded, whole, "rows with a user and an item")


def _not_empty(ids: np.ndarray) -> np.ndarray:
    return ids if len(ids) else np.array([""], object)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path} (looked in {path.parent.resolve()})")
    return path
