"""Lists for everybody as a folder of parts: several processes at once, part by part, and what is written stays.

::

    lists/
      part-00003-of-00064.parquet   the lists of one slice of the users
      manifest.json                 what the lists are, and the rows and users of each part
      _SUCCESS                      there when all parts are

The same command, started several times, here or on machines that share the folder, divides the parts between them; run
again, it makes those that are missing. ``nested`` has one row per user, with lists of items and scores.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np
import pyarrow as pa
from rich.console import Console

from diffrec_jax.files import write_atomically
from diffrec_jax.serving import Recommender, choices
from diffrec_jax.serving.table import Table
from experiments.reporting.table_files import SUFFIXES, TableFile

LAYOUTS = ("long", "nested")
FORMATS = tuple(suffix[1:] for suffix in SUFFIXES)
USERS_PER_PART = 100_000
MANIFEST, SUCCESS = "manifest.json", "_SUCCESS"


class ListParts:
    """A folder of lists, and which of its parts are there."""

    def __init__(self, folder: str | Path, *, layout: str, kind: str, n_parts: int, what: Mapping[str, Any]) -> None:
        """Take a folder up, or begin it; ``what`` tells these lists from any others.

        Raises:
          ValueError: for csv of lists, and for a folder that holds other lists.
        """
        if layout == "nested" and kind == "csv":
            raise ValueError("--layout=nested makes lists of items, and csv has none: say --format=parquet or jsonl")
        self.folder, self.layout, self.kind, self.n_parts = Path(folder), layout, kind, n_parts
        self.what = {**what, "layout": layout, "format": kind, "parts": n_parts}
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.folder / MANIFEST
        with filelock.FileLock(self.folder / ".lock"):
            if not place.exists():
                if any(not file.name.startswith(".") for file in self.folder.iterdir()):
                    raise ValueError(f"--out={folder} holds files already, and no lists: name another folder")
                write_atomically(place, json.dumps({"lists": self.what}, indent=1) + "\n")
            known = json.loads(place.read_text())["lists"]
        if known != self.what:
            other = next(name for name in {**self.what, **known} if known.get(name) != self.what.get(name))
            raise ValueError(
                f"--out={folder} holds other lists ({other} is {known.get(other)} there, {self.what.get(other)} here): "
                "name another folder, or remove it first"
            )

    def path(self, part: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{part:05d}-of-{self.n_parts:05d}.{self.kind}"

    def mine(self) -> Iterator[int]:
        """Parts that are missing and that nobody else is at, one after the other; each is this process's until the
        next is asked for.
        """
        for part in range(self.n_parts):
            lock = filelock.FileLock(self.folder / f".{part:05d}.lock", timeout=0)
            with contextlib.suppress(filelock.Timeout), lock:
                if not self.there(part):
                    for left in self.folder.glob(f".{self.path(part).name}.*"):  # by a process that was killed
                        left.unlink()
                    yield part

    def wrote(self, part: int, *, rows: int, users: int, notes: Sequence[str]) -> None:
        """Remember a part that is written."""
        record = {"rows": rows, "users": users, "notes": list(notes)}
        write_atomically(self._record(part), json.dumps(record))

    def finish(self) -> list[dict[str, Any]]:
        """What is known of the parts that are there; with the last of them, the manifest is whole, and ``_SUCCESS``."""
        records = [json.loads(self._record(part).read_text()) for part in range(self.n_parts) if self.there(part)]
        if len(records) == self.n_parts:
            files = {self.path(part).name: record for part, record in enumerate(records)}
            whole = {"lists": self.what, "rows": sum(each["rows"] for each in records), "files": files}
            write_atomically(self.folder / MANIFEST, json.dumps(whole, indent=1) + "\n")
            write_atomically(self.folder / SUCCESS, "")
        return records

    def there(self, part: int) -> bool:
        """Whether a part is written."""
        return self._record(part).exists() and self.path(part).exists()

    def _record(self, part: int) -> Path:
        return self.folder / f".{part:05d}.json"


def write_parts(
    recommender: Recommender,
    users: Sequence[Any] | np.ndarray,
    options: dict[str, Any],
    parts: ListParts,
    console: Console,
    *,
    as_text: frozenset[str],
    users_at_once: int,
) -> None:
    """Write the parts that are missing, some thousands of users at a time."""
    pieces = list(choices.chunks(len(users), size_of(len(users), parts.n_parts), options))
    for part in parts.mine():
        piece, chosen = pieces[part]
        people = users[piece]
        notes: dict[str, None] = {}
        with TableFile(parts.path(part)) as out:
            out.as_text = as_text
            for some, given in choices.chunks(len(people), users_at_once, chosen):
                table = recommender.recommend(users=people[some], **given)
                out.write(laid_out(table, parts.layout))
                notes |= dict.fromkeys(table.notes)
        parts.wrote(part, rows=out.rows, users=len(people), notes=list(notes))
        console.print(f"part {part + 1} of {parts.n_parts}: {out.rows:,} rows", highlight=False)
    records = parts.finish()
    if len(records) < parts.n_parts:
        left = parts.n_parts - len(records)
        console.print(f"{left:,} of {parts.n_parts:,} parts are with other processes, or still to be made")
        return
    rows, people_there = (sum(each[name] for each in records) for name in ("rows", "users"))
    console.print(
        f"{rows:,} rows for {people_there:,} users in {parts.folder}, {parts.n_parts:,} parts", highlight=False
    )
    for sentence in dict.fromkeys(note for each in records for note in each["notes"]):
        console.print(sentence, highlight=False, markup=False)


def size_of(n_users: int, n_parts: int) -> int:
    """Users of each of so many parts, or fewer parts."""
    return -(-n_users // n_parts)


def laid_out(table: Table, layout: str) -> pa.Table:
    """Rows of user, item, score and rank, or one row per user with lists of items and scores, best first."""
    rows = table.to_arrow()
    if layout == "long":
        return rows
    starts = np.flatnonzero(np.asarray(table["rank"]) == 1)
    offsets = pa.array(np.append(starts, len(rows)).astype(np.int32))
    lists = {f"{name}s": pa.ListArray.from_arrays(offsets, rows[name].combine_chunks()) for name in ("item", "score")}
    return pa.table({"user": rows["user"].take(pa.array(starts)), **lists})


def digest(value: Any) -> str:
    """Tells apart what is asked for, however many ids are in it; 16 hexadecimal digits."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, list | tuple | np.ndarray):
            found.update(f"[{len(value)}".encode())
            for each in value.tolist() if isinstance(value, np.ndarray) else value:
                add(each)
        else:
            found.update(f"{value!r},".encode())

    add(value)
    return found.hexdigest()[:16]


def identity(recommender: Recommender) -> str:
    """Tells models apart by their parameters; 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(recommender.ranker.params):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
