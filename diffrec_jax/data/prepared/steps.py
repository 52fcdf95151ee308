"""A DuckDB database that does each step once, whole, within a stated amount of memory."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pyarrow as pa

from diffrec_jax.data.events import FilterReport
from diffrec_jax.data.prepared.stream import ROWS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MISSING = "the engine duckdb needs a package: pip install 'diffrec_jax[large]', or say --engine=arrow"
LEAST = 300_000_000  # bytes
PER_THREAD = 200_000_000  # below which DuckDB runs out where it could spill (its documents: 125 MB and more)
OWN = 0.6  # share of the memory that is DuckDB's; it takes a third more, and counts and parts in hand take the rest


class Told(TypedDict):
    """What a step leaves to know."""

    notes: list[str]
    reports: list[list[str | int]]  # the fields of ``FilterReport``
    n: int  # rows of its table, where that matters


def told(*, notes: Sequence[str] = (), reports: Sequence[FilterReport] = (), n: int = 0) -> Told:
    """What a step leaves to know."""
    return {"notes": list(notes), "reports": [list(dataclasses.astuple(each)) for each in reports], "n": n}


def known(step: Told) -> tuple[list[str], list[FilterReport]]:
    """Notes and reports of a step."""
    return step["notes"], [FilterReport(*each) for each in step["reports"]]  # type: ignore[arg-type]


class Steps:
    """The database, and which steps are done."""

    def __init__(self, connection: DuckDBPyConnection) -> None:
        self.connection = connection
        self.run("CREATE TABLE IF NOT EXISTS done (step VARCHAR PRIMARY KEY, told VARCHAR)")

    def run(self, sql: str, **tables: pa.Table | pa.RecordBatchReader) -> list[tuple[Any, ...]]:
        """The rows of one statement; ``tables`` are what it may name besides."""
        for name, table in tables.items():
            self.connection.register(name, table)
        try:
            return list(self.connection.execute(sql).fetchall())
        finally:
            for name in tables:
                self.connection.unregister(name)

    def number(self, sql: str) -> int:
        """The one number that a statement gives."""
        return int(self.run(sql)[0][0])

    def columns(self, table: str, among: str) -> list[str]:
        """The columns of a table that are among these letters."""
        return [row[0] for row in self.run(f"DESCRIBE {table}") if row[0] in among]

    def once(self, step: str, make: Callable[[], Told]) -> Told:
        """Do a step, whole or not at all, unless it is done; what it left to know."""
        rows = self.run(f"SELECT told FROM done WHERE step = '{step}'")
        if rows:
            found: Told = json.loads(rows[0][0])
            return found
        self.run("BEGIN")
        try:
            found = make()
            self.connection.execute("INSERT INTO done VALUES (?, ?)", [step, json.dumps(found)]).fetchall()
            self.run("COMMIT")
        except BaseException:
            with contextlib.suppress(Exception):
                self.run("ROLLBACK")
            raise
        return found

    def sizes(self, table: str) -> tuple[int, int, int]:
        """Events, users and items of a table."""
        ((n, users, items),) = self.run(f"SELECT count(*), count(DISTINCT u), count(DISTINCT i) FROM {table}")
        return n, users, items

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """The rows of a statement, some at a time."""
        yield from self.connection.sql(sql).to_arrow_reader(ROWS)

    def pairs(self, table: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """User and item codes of a table, some at a time."""
        for batch in self.batches(f"SELECT u, i FROM {table}"):
            yield np.asarray(batch.column(0)), np.asarray(batch.column(1))


@contextlib.contextmanager
def database(work: Path, memory: int) -> Iterator[Steps]:
    """The database of one preparation, within ``memory`` bytes; DuckDB's errors become sentences."""
    try:
        import duckdb
    except ImportError:
        raise ValueError(MISSING) from None
    threads = max(1, min(os.cpu_count() or 1, int(memory * OWN) // PER_THREAD))
    work.mkdir(parents=True, exist_ok=True)
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory * OWN / 1e6:.0f}MB",
        "threads": threads,
        "temp_directory": str(work / "spill"),
        "preserve_insertion_order": True,
        "autoinstall_known_extensions": False,
    }
    try:
        with duckdb.connect(str(work / "log.duckdb"), config=config) as connection:
            connection.execute("SET enable_progress_bar = false")
            yield Steps(connection)
    except duckdb.OutOfMemoryException as error:
        raise ValueError(
            f"duckdb does not get by with memory={memory / 1e6:.0f}MB here ({str(error).splitlines()[0]}): say more, "
            f"such as --memory={2 * memory / 1e6:.0f}MB; what is finished stays"
        ) from error
    except duckdb.IOException as error:
        raise OSError(
            f"duckdb cannot read or write {work} ({str(error).splitlines()[0]}): make room there, and run the same "
            "command again; what is finished stays"
        ) from error
