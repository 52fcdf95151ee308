"""A prepared folder: a log that was filtered, numbered and split once, on disk, whatever engine wrote it.

::

    prepared/
      meta.json                                        what it is; written last, so that a folder with it is whole
      users/part-00000-of-00001.parquet                number, id, events, in the order of number
      items/part-00000-of-00001.parquet                number, id, events, title (where there are any)
      events/train/part-00017-of-00256.parquet         user, item, time, weight (the last two where the log has them)
      events/train/part-00017-of-00256+1.parquet       what was added later, where anything was (``prepared.append``)
      events/valid/…, events/test/…

Ids are numbered by their number of events, most first, then by the id itself. Part p of P holds the users whose number
leaves p when divided by P, whole; its rows go by user, then time, then the raw id of the item (a log without times: by
user, then their order in the log). Times are int64 unix microseconds. Checksums are of the values of each column, so
that folders of different engines can be compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffrec_jax._version import __version__
from diffrec_jax.data.events import Events
from diffrec_jax.data.splits import Split
from diffrec_jax.files import cannot_write, write_atomically

META, WORK, LOCK, KEY = "meta.json", ".work", ".lock", "key"
FORMAT, VERSION = "diffrec_jax prepared", 1
PARTS = ("train", "valid", "test")
MEANING = {
    "user": "number of the user, a row of users/",
    "item": "number of the item, a row of items/",
    "time": "unix microseconds",
    "weight": "what the event counts",
}


class Described(TypedDict):
    """What is known of one file."""

    rows: int
    sha256: dict[str, str]  # by column, of its values


@dataclasses.dataclass(frozen=True)
class Meta:
    """What ``meta.json`` says of a folder."""

    name: str
    rule: str
    guarantee: str
    notes: tuple[str, ...]
    n_users: int
    n_items: int
    n_events: Mapping[str, int]  # by part of the split
    n_parts: int
    timed: bool
    weighed: bool
    files: Mapping[str, Described]  # path -> rows, and a checksum for each column
    recipe: Mapping[str, object]
    engine: str = ""
    source: str = ""  # tells whether a log and what becomes of it are those the folder was made of
    moments: tuple[int, ...] = ()  # of a split at moments: where valid and test begin, microseconds
    history: tuple[str, ...] = ()  # what was added later, in sentences
    generation: int = 0  # how often something was added
    appended: tuple[str, ...] = ()  # tells the logs that were added

    @property
    def checksum(self) -> str:
        """Of all values of the folder; equal for equal data, whatever wrote it. 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(dict(self.files), sort_keys=True).encode()).hexdigest()[:16]

    def write(self, folder: Path) -> None:
        """Into ``meta.json``."""
        there = {"user": True, "item": True, "time": self.timed, "weight": self.weighed}
        meaning = {name: text for name, text in MEANING.items() if there[name]}
        values = {"format": FORMAT, "version": VERSION, "written_by": f"diffrec_jax {__version__}"}
        values |= dataclasses.asdict(self) | {"checksum": self.checksum, "columns": meaning}
        write_atomically(folder / META, json.dumps(values, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> Meta:
        """Of a folder.

        Raises:
          ValueError: for a folder that is none, is not whole, or is of a later version.
        """
        place = Path(folder) / META
        try:
            values = json.loads(place.read_text())
        except FileNotFoundError:
            state = "was not finished: run the same prepare command again" if (Path(folder) / WORK).exists() else ""
            raise ValueError(f"{folder} {state or 'is no prepared folder: it has no meta.json'}") from None
        except (ValueError, OSError) as error:
            raise ValueError(f"{place} cannot be read ({error}): prepare the folder again") from error
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f"{place} does not describe a prepared folder of diffrec_jax")
        if values.get("version", 0) > VERSION:
            raise ValueError(
                f"{folder} is of version {values['version']} of prepared folders, and this diffrec_jax reads up to "
                f"{VERSION}: use the diffrec_jax that wrote it ({values.get('written_by')}), or prepare it again"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if n in known}
        return cls(**given)


def is_prepared(path: str | Path) -> bool:
    """Whether a path is a prepared folder, whole or not."""
    folder = Path(path)
    if (folder / WORK / KEY).is_file():
        return True
    try:
        return f'"{FORMAT}"' in (folder / META).read_text()[:200]
    except (OSError, UnicodeDecodeError):
        return False


def part_file(kind: str, part: int, n_parts: int, generation: int = 0) -> str:
    """The path of a part within its folder; ``kind`` is ``events/train``, ``users`` and so on."""
    return f"{kind}/part-{part:05d}-of-{n_parts:05d}{f'+{generation}' if generation else ''}.parquet"


def files_of(meta: Meta, kind: str, part: int = 0) -> list[str]:
    """The files of a part, of all generations, in their order."""
    start = f"{kind}/part-{part:05d}-of-"

    def generation(name: str) -> int:
        return int(name.partition("+")[2].removesuffix(".parquet") or 0)

    return sorted((name for name in meta.files if name.startswith(start)), key=generation)


def write_table(folder: Path, name: str, table: pa.Table) -> Described:
    """Write one file whole or not at all; its rows and checksums."""
    return write_batches(folder, name, table.schema, table.to_batches())


def write_batches(folder: Path, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Described:
    """The same of rows that come some at a time.

    Raises:
      OSError: if it cannot be written, with what to do.
    """
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.new")
    checksums = _Checksums(schema)
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd", compression_level=1) as writer:
            for batch in batches:
                writer.write_batch(batch)
                checksums.add(batch)
        os.replace(temporary, place)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if error.errno is None:
            raise OSError(f"cannot write {place} ({error}): make room, and run the same command again") from error
        raise OSError(cannot_write(place, error.errno, resumes="what is finished")) from error
    return checksums.described()


def described(table: pa.Table) -> Described:
    """Rows, and a checksum of the values of each column."""
    checksums = _Checksums(table.schema)
    for batch in table.to_batches():
        checksums.add(batch)
    return checksums.described()


class _Checksums:
    """SHA-256 of the values of columns, however they are divided: of numbers as bytes, of text as UTF-8 and lengths."""

    def __init__(self, schema: pa.Schema) -> None:
        self.rows = 0
        self._of = {name: (hashlib.sha256(), hashlib.sha256()) for name in schema.names}

    def add(self, batch: pa.RecordBatch) -> None:
        """Some more rows."""
        self.rows += len(batch)
        for name, (values, lengths) in self._of.items():
            column = batch.column(name)
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                values.update(np.ascontiguousarray(np.asarray(column)).tobytes())
                continue
            column = column.cast(pa.large_string())
            lengths.update(np.asarray(pc.binary_length(column)).astype("<i8").tobytes())
            if len(column):
                offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
                values.update(memoryview(column.buffers()[2] or b"")[offsets[0] : offsets[-1]])

    def described(self) -> Described:
        """Rows, and 16 hexadecimal digits for each column."""
        digests = {}
        for name, (values, lengths) in self._of.items():
            whole = values.copy()
            whole.update(lengths.digest())
            digests[name] = whole.hexdigest()[:16]
        return {"rows": self.rows, "sha256": digests}


def read_table(folder: Path, meta: Meta, name: str, *, columns: Sequence[str] | None = None) -> pa.Table:
    """One file of a folder, checked against ``meta.json``.

    Raises:
      ValueError: if it is missing, cannot be read, or holds something else than was written.
    """
    place, told = folder / name, meta.files.get(name)
    again = "copy it again, or prepare the folder again"
    if told is None:
        raise ValueError(f"{place} is not among the files of {META}: {again}")
    try:
        table = pq.ParquetFile(place).read(columns=columns)
    except FileNotFoundError:
        raise ValueError(f"{place} is missing: {again}") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{place} cannot be read ({str(error).splitlines()[0]}): {again}") from error
    found = described(table)
    expected = {column: told["sha256"][column] for column in table.column_names if column in told["sha256"]}
    if found["rows"] != told["rows"] or found["sha256"] != expected:
        raise ValueError(f"{place} does not hold what {META} says (its checksum differs): {again}")
    return table


def read(folder: str | Path, *, name: str | None = None) -> Split:
    """The split that a folder holds, with the raw ids; equal to that of the same log prepared in memory.

    Raises:
      ValueError: for a folder that is none, is not whole or was damaged.
    """
    folder = Path(folder)
    meta = Meta.read(folder)
    users, items = (read_table(folder, meta, files_of(meta, kind)[0]) for kind in ("users", "items"))
    titles = items.column("title").to_numpy(zero_copy_only=False) if "title" in items.column_names else None
    logs = []
    for part in PARTS:
        files = [file for number in range(meta.n_parts) for file in files_of(meta, f"events/{part}", number)]
        table = pa.concat_tables([read_table(folder, meta, file) for file in files])
        columns = {column: table.column(column).to_numpy() for column in table.column_names}
        logs.append(
            Events(
                columns["user"],
                columns["item"],
                raw_ids(users),
                raw_ids(items),
                columns.get("time"),
                weights=columns.get("weight"),
                item_titles=None if titles is None else np.asarray(titles, object),
                repeats=bool(meta.recipe.get("repeats")),
                distinct=not meta.recipe.get("repeats"),
            )
        )
    train, valid, test = logs
    notes = (*meta.notes, *meta.history)
    return Split(name or meta.name, train, valid, test, rule=meta.rule, guarantee=meta.guarantee, notes=notes)


def raw_ids(table: pa.Table) -> np.ndarray:
    """The ids of a file of users or items, in the order of their numbers."""
    column = table.column("id")
    if pa.types.is_integer(column.type):
        return np.asarray(column)
    return np.asarray(column.to_numpy(zero_copy_only=False), object)


def state_of(path: str | Path) -> str:
    """Tells a log by the sizes and times of its files; 16 hexadecimal digits."""
    place = Path(path)
    found = sorted(place.rglob("*")) if place.is_dir() else [place]
    states = [(str(file.resolve()), *_size_and_time(file)) for file in found if file.is_file()]
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


def _size_and_time(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer at a time.

    Raises:
      ValueError: if another one is at work, and for a folder of other files.
    """
    if folder.is_dir() and not is_prepared(folder) and any(file.name != LOCK for file in folder.iterdir()):
        raise ValueError(f"{folder} holds files already, and is no prepared folder: name another --out")
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        with lock:
            yield
    except filelock.Timeout:
        raise ValueError(f"{folder} is being written by another process: wait for it, or name another --out") from None
