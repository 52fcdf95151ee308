"""Readers: csv, tsv, Parquet, RecBole `.inter`, data frames and arrays -> `Interactions`.

PyArrow does all parsing. Columns are named by the caller; the user and item column may be left out where exactly one
column bears a usual name. Times and ratings are read only if named (RecBole's typed header names them itself). Rows
without a user or an item are dropped and reported; everything else that cannot be read raises `ValueError` with one
sentence. Parquet columns are encoded one at a time, so the texts of a log are never in memory together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset

from diffrec_jax.data.columns import encode_ids, encode_ratings, encode_times, times_array
from diffrec_jax.data.interactions import Interactions
from diffrec_jax.data.preprocess import keep_events
from diffrec_jax.data.released import is_released, read_released

__all__ = ["from_arrays", "from_frame", "read_csv", "read_inter", "read_log", "read_parquet", "read_released"]

USUAL_NAMES = {
    "user": ("user", "user_id", "userid", "uid", "customer_id", "visitor_id"),
    "item": ("item", "item_id", "itemid", "iid", "movie_id", "movieid", "product_id", "sku", "venue"),
}
TEXT_SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".inter": "\t"}
Names = dict[str, str]  # role ('user', 'item', 'time', 'rating') -> column


def read_log(
    path: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
) -> Interactions:
    """A log of any kind, by its name: `.csv .tsv .txt` (`.gz` too), `.inter`, `.parquet`, a Parquet folder."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path} (looked in {path.parent.resolve()}).")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if path.is_dir():
        if is_released(path):
            raise ValueError(f"{path} is a released split, not a log; read it with read_released (--dataset).")
        return read_parquet(path, user=user, item=item, time=time, rating=rating)
    if suffix in (".parquet", ".pq"):
        return read_parquet(path, user=user, item=item, time=time, rating=rating)
    if suffix == ".inter":
        if user or item or time or rating:
            raise ValueError(f"{path} names its own columns (user_id, item_id, …): name none, or save it as .tsv.")
        return read_inter(path)
    if suffix in TEXT_SUFFIXES:
        return read_csv(path, user=user, item=item, time=time, rating=rating)
    raise ValueError(
        f"{path}: cannot tell the format from its name; use .csv, .tsv, .txt (each may end in .gz), .inter, .parquet "
        "or a folder of Parquet files."
    )


def read_csv(
    path: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    delimiter: str | None = None,
    columns: Sequence[str] | None = None,
) -> Interactions:
    """A delimited text file with a header line; `.gz` is unpacked while reading.

    Args:
      path: the file.
      user: column of user ids; may be left out where one column has a usual name. The same holds for `item`.
      item: column of item ids.
      time: column of times (unix s/ms/us or ISO 8601), or None: file order stands for time order.
      rating: column of ratings, or None.
      delimiter: one character; None takes `,` for `.csv` and a tab for the rest.
      columns: names for a file that has no header line.
    """
    path = _existing(path)
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    delimiter = delimiter or TEXT_SUFFIXES.get(suffix, ",")
    check_memory(path.stat().st_size * (5 if path.suffix == ".gz" else 1) * 2, path)
    read = pa.csv.ReadOptions(column_names=list(columns) if columns else None)
    parse = pa.csv.ParseOptions(delimiter=delimiter)
    try:
        with pa.csv.open_csv(path, read_options=read, parse_options=parse) as head:
            present = list(columns) if columns else head.schema.names
        names = _resolve(present, {"user": user, "item": item, "time": time, "rating": rating}, path)
        convert = pa.csv.ConvertOptions(
            include_columns=list(dict.fromkeys(names.values())),
            column_types=dict.fromkeys(names.values(), pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        )
        table = pa.csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read as text divided by {delimiter!r}: {error}") from error
    return _build(table.column, names)


def read_inter(path: str | Path) -> Interactions:
    """A RecBole `.inter` file: tab-separated, its header naming `user_id:token`, `item_id:token` and other fields."""
    path = _existing(path)
    try:
        with pa.csv.open_csv(path, parse_options=pa.csv.ParseOptions(delimiter="\t")) as head:
            present = {name.split(":")[0]: name for name in head.schema.names}
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read as tab-separated text: {error}") from error
    if "user_id" not in present or "item_id" not in present:
        raise ValueError(
            f"{path} has columns {_listed(present.values())}; a .inter file needs user_id:token and item_id:token."
        )
    return read_csv(
        path,
        user=present["user_id"],
        item=present["item_id"],
        time=present.get("timestamp"),
        rating=present.get("rating"),
        delimiter="\t",
    )


def read_parquet(
    path: str | Path,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
) -> Interactions:
    """A Parquet file, a folder of them (in name order), or hive partitions (`day=…/`); columns as in `read_csv`."""
    path = _existing(path)
    try:
        data = pa.dataset.dataset(path, format="parquet", partitioning="hive")
        if not data.files:
            raise ValueError(f"{path} holds no Parquet files; expected *.parquet in it or in hive partitions under it.")
        names = _resolve(data.schema.names, {"user": user, "item": item, "time": time, "rating": rating}, path)
        wanted = list(names.values())
        for fragment in data.get_fragments():
            inside = {field.name: field.type for field in fragment.physical_schema}
            for name in wanted:
                if name in inside and _loose(inside[name]) != _loose(data.schema.field(name).type):
                    raise ValueError(
                        f"column {name!r} is {data.schema.field(name).type} in one file and {inside[name]} in "
                        f"{fragment.path}; write it one way in all files."
                    )
        check_memory(data.count_rows() * 120, path)
        return _build(lambda name: data.to_table(columns=[name]).column(name), names)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {error}") from error


def from_frame(
    frame: Any,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
) -> Interactions:
    """Any data frame with the Arrow C stream interface (pandas, polars, PyArrow, …); columns as in `read_csv`."""
    if not (isinstance(frame, pa.Table) or hasattr(frame, "__arrow_c_stream__")):
        import narwhals

        try:  # frames older than the interface
            frame = narwhals.from_native(frame, eager_only=True).to_arrow()
        except TypeError as error:
            raise ValueError(
                f"{type(frame).__name__} is not a data frame with the Arrow interface; pass a pandas, polars or "
                "PyArrow table, or use from_arrays."
            ) from error
    try:
        table = frame if isinstance(frame, pa.Table) else pa.table(frame)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"a column mixes types ({error}); ids must be all text or all whole numbers.") from error
    names = _resolve(
        table.column_names, {"user": user, "item": item, "time": time, "rating": rating}, f"the {type(frame).__name__}"
    )
    return _build(table.column, names)


def from_arrays(
    users: Sequence[Any] | np.ndarray,
    items: Sequence[Any] | np.ndarray,
    *,
    times: Any = None,
    ratings: Any = None,
    item_titles: Mapping[Any, str] | None = None,
) -> Interactions:
    """Equally long arrays or lists of raw ids, and optional times and ratings; titles by raw item id."""
    given = {"user": users, "item": items, "time": times, "rating": ratings}
    columns = {}
    for role, values in given.items():
        if values is None:
            continue
        try:
            columns[role] = pa.chunked_array([times_array(values) if role == "time" else pa.array(values)])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise ValueError(f"{role} values mix types ({error}); ids are all text or all whole numbers.") from error
        if len(columns[role]) != len(columns["user"]):
            raise ValueError(f"{len(columns['user']):,} users but {len(columns[role]):,} {role} values.")
    return with_titles(_build(columns.__getitem__, {role: role for role in columns}), item_titles)


def with_titles(data: Interactions, titles: Mapping[Any, str] | None) -> Interactions:
    """The log with a title for every item: from `titles` by raw id, else the raw id itself."""
    if titles is None:
        return data
    from dataclasses import replace

    return replace(data, item_titles=np.array([titles.get(i, str(i)) for i in data.item_ids.tolist()], object))


def check_memory(needed: int, path: str | Path) -> None:
    """Raise `ValueError` with the estimate if reading will need more memory than this machine has free."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with open("/proc/meminfo") as lines:  # counts reclaimable caches as free, which they are
            free = max(free, next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")))
    except (OSError, ValueError, StopIteration, AttributeError):
        return
    if needed > free:
        raise ValueError(
            f"reading {path} needs about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; "
            "use a larger machine, or cut the log by time or by users first."
        )


def _build(column: Callable[[str], pa.ChunkedArray], names: Names) -> Interactions:
    """Encode the named columns one after the other; rows without user or item go, with a report."""
    users, user_ids = encode_ids(column(names["user"]), names["user"])
    items, item_ids = encode_ids(column(names["item"]), names["item"])
    times, ratings, notes = None, None, []
    if "time" in names:
        times, note = encode_times(column(names["time"]), names["time"])
        notes.append(note)
    else:
        notes.append("times: no column named; file order stands for time order.")
    if "rating" in names:
        ratings = encode_ratings(column(names["rating"]), names["rating"])
    if not len(users):
        raise ValueError(f"the log has columns {_listed(names.values())} but no rows.")
    whole = (users >= 0) & (items >= 0)
    if whole.all():
        return Interactions(users, items, user_ids, item_ids, times, ratings, notes=tuple(notes))
    padded = Interactions(  # code 0 stands in for a missing id until its row is dropped
        np.maximum(users, 0),
        np.maximum(items, 0),
        _not_empty(user_ids),
        _not_empty(item_ids),
        times,
        ratings,
        notes=tuple(notes),
    )
    return keep_events(padded, whole, "rows with a user and an item")


def _not_empty(ids: np.ndarray) -> np.ndarray:
    return ids if len(ids) else np.array([""], object)


def _resolve(present: Sequence[str], asked: Mapping[str, str | None], where: object) -> Names:
    """Role -> column; raises `ValueError` listing what is present for missing or ambiguous columns."""
    names: Names = {}
    for role, wanted in asked.items():
        if wanted is None:
            usual = [name for name in present if name.lower() in USUAL_NAMES.get(role, ())]
            if role not in USUAL_NAMES:
                continue
            if len(usual) != 1:
                problem = "several could be" if usual else "none is known as"
                raise ValueError(
                    f"{where}: which column is the {role}? Of {_listed(present)} {problem} it; "
                    f"name it ({role}=…, --{role}_col=…)"
                )
            names[role] = usual[0]
        elif present.count(wanted) != 1:
            problem = "no column" if wanted not in present else "more than one column"
            raise ValueError(f"{where} has {problem} {wanted!r} for the {role}; present are {_listed(present)}.")
        else:
            names[role] = wanted
    if names["user"] == names["item"]:
        raise ValueError(f"{where}: {names['user']!r} cannot be both user and item; present are {_listed(present)}.")
    return names


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))


def _loose(kind: pa.DataType) -> str:
    """Types that mean the same kind of id or time share a word."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return "number" if pa.types.is_integer(kind) else "text" if "string" in str(kind) else str(kind)


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path} (looked in {path.parent.resolve()}).")
    return path
