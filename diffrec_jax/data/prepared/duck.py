"""Preparation of a log that memory does not hold, by DuckDB, within a stated amount of it.

Each step is one table in a file beside the folder; joins, groups and sorts go to disk where they must. A step that is
done is done: the same command goes on after it. What DuckDB cannot do within its memory it says, and so do we.

Steps: ``log`` (as read), ``users`` and ``items`` (raw ids in their order; a row's place is its code),
``events`` (codes), ``kept`` (each pair once, unless repeats are kept), the selection (``selection``, by counts),
``numbered`` (final numbers, by part, user, time and item), and the parts (``parts``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from diffrec_jax.data.events import FilterReport
from diffrec_jax.data.prepared.folder import WORK, Meta
from diffrec_jax.data.prepared.in_memory import Say, titles_of
from diffrec_jax.data.prepared.moments import moments_of
from diffrec_jax.data.prepared.parts import PartWriter, Shard
from diffrec_jax.data.prepared.recipe import Recipe
from diffrec_jax.data.prepared.selection import Alive, by_count, report, select
from diffrec_jax.data.prepared.steps import LEAST, Steps, Told, database, known, told
from diffrec_jax.data.prepared.stream import LogStream
from diffrec_jax.data.preprocess import outweighed


def prepare(
    folder: Path, recipe: Recipe, *, name: str, titles: Mapping[str, str] | None, say: Say, memory: int
) -> Meta:
    """Read, filter, number and split a Parquet log within ``memory`` bytes, and write the folder.

    Raises:
      ValueError: as the readers and filters do; for too little memory.
      OSError: if the folder, or what lies beside it meanwhile, cannot be written.
    """
    if memory < LEAST:
        raise ValueError(f"memory={memory / 1e6:.0f}MB is too little for duckdb: give at least {LEAST / 1e6:.0f}MB")
    stream = LogStream(recipe.path, dict(recipe.columns))
    with database(folder / WORK, memory) as steps:
        notes, reports = _read(steps, stream, say)
        sizes = _code(steps, say)
        kept_notes, kept_reports = _keep(steps, recipe, say)
        alive, core_reports = _select(steps, folder / WORK, sizes, recipe, say)
        n_parts = recipe.n_parts(int(alive.per_user.sum()))
        users, items = _number(steps, alive, n_parts, say)
        moments, note = _moments(steps, recipe)
        writer = PartWriter(folder, recipe, n_users=len(users), n_items=len(items), n_parts=n_parts, moments=moments)
        _write(steps, writer, timed=recipe.timed, say=say)
        ids = {
            "users": _ids(steps, "users", users, alive.per_user, None),
            "items": _ids(steps, "items", items, alive.per_item, titles),
        }
        return writer.finish(
            name=name,
            ids=ids,
            notes=[*notes, *kept_notes],
            reports=[*reports, *kept_reports, *core_reports],
            engine="duckdb",
            cut_note=note,
        )


def _read(steps: Steps, stream: LogStream, say: Say) -> tuple[list[str], list[FilterReport]]:
    """The table ``log``, of whole rows only; how it was read, and how many rows were not whole."""

    def make() -> Told:
        say(f"reading {stream.n_rows:,} rows")
        failed: list[BaseException] = []

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                yield from stream.batches()
            except Exception as error:  # crosses DuckDB as text alone
                failed.append(error)
                raise

        short = {"user": "u", "item": "i", "time": "t", "rating": "r", "weight": "w"}
        columns = ", ".join(f'"{name}" AS {short[name]}' for name in stream.schema().names)
        try:
            steps.run(
                f"CREATE TABLE log AS SELECT {columns} FROM batches",
                batches=pa.RecordBatchReader.from_batches(stream.schema(), batches()),
            )
        except Exception:
            if failed:
                raise failed[0] from None
            raise
        pa.default_memory_pool().release_unused()
        reports = []
        whole = steps.number("SELECT count(*) FROM log WHERE u IS NOT NULL AND i IS NOT NULL")
        if not stream.n_rows:
            raise ValueError(f"{stream.path} has columns but no rows")
        if whole < stream.n_rows:
            before = steps.sizes("log")
            steps.run("DELETE FROM log WHERE u IS NULL OR i IS NULL")
            reports.append(report("rows with a user and an item", before, steps.sizes("log")))
        return told(notes=stream.notes, reports=reports)

    return known(steps.once("log", make))


def _code(steps: Steps, say: Say) -> dict[str, int]:
    """The tables ``users`` and ``items``, whose rows are the raw ids in order, and their sizes; ``events`` in codes."""
    sizes = {}
    for kind, column in (("users", "u"), ("items", "i")):

        def make(kind: str = kind, column: str = column) -> Told:
            say(f"numbering {kind}")
            steps.run(f"CREATE TEMP TABLE found AS SELECT DISTINCT {column} AS id FROM log")
            steps.run(f"CREATE TABLE {kind} AS SELECT id FROM found ORDER BY id")
            steps.run("DROP TABLE found")
            return told(n=steps.number(f"SELECT count(*) FROM {kind}"))

        sizes[kind] = steps.once(kind, make)["n"]

    def encode() -> Told:
        say("writing numbers in place of ids")
        columns = steps.columns("log", "trw")
        steps.run(
            "CREATE TABLE events AS SELECT CAST(users.rowid AS INTEGER) AS u, CAST(items.rowid AS INTEGER) AS i, "
            + ", ".join(f"log.{column}" for column in columns)
            + " FROM log JOIN users ON log.u = users.id JOIN items ON log.i = items.id"
        )
        steps.run("DROP TABLE log")
        return told()

    steps.once("events", encode)
    return sizes


def _keep(steps: Steps, recipe: Recipe, say: Say) -> tuple[list[str], list[FilterReport]]:
    """The table ``kept``: events rated well enough, each pair once unless repeats are kept; see ``preprocess``."""

    def make() -> Told:
        say("dropping repeated pairs and low ratings")
        notes: list[str] = []
        reports = []
        if not recipe.repeats and recipe.duplicates == "last":
            reports.append(_each_once(steps, recipe.duplicates, notes))
        if recipe.min_rating is not None:
            before = steps.sizes("events")
            steps.run(f"CREATE TABLE rated AS SELECT * FROM events WHERE r >= CAST({recipe.min_rating!r} AS FLOAT)")
            _replace(steps, "rated")
            reports.append(report(f"min_rating({recipe.min_rating:g})", before, steps.sizes("events")))
        if not recipe.repeats and recipe.duplicates == "first":
            reports.append(_each_once(steps, recipe.duplicates, notes))
        steps.run("ALTER TABLE events RENAME TO kept")
        return told(notes=notes, reports=reports)

    return known(steps.once("kept", make))


def _each_once(steps: Steps, keep: str, notes: list[str]) -> FilterReport:
    """One event of each pair: the first or last, of one moment the best rated, then the weightiest."""
    before, columns = steps.sizes("events"), steps.columns("events", "trw")
    best, turned = ("min", "-") if keep == "first" else ("max", "")  # the best of the first moment, or of the last
    signs = {column: "" if column == "t" else turned for column in columns}
    if columns == ["t"]:
        chosen, kept = f"{best}(t) AS t", "t"
    else:
        fields = ", ".join(f"'{column}': {signs[column]}{column}" for column in columns)
        chosen = f"{best}({{{fields}}}) AS s"
        kept = ", ".join(f"{signs[column]}s.{column} AS {column}" for column in columns)
    steps.run(f"CREATE TABLE single AS SELECT u, i, {kept} FROM (SELECT u, i, {chosen} FROM events GROUP BY u, i)")
    if "w" in columns:
        heavier = "SELECT count(*) FROM events e JOIN single s USING (u, i) WHERE e.w > s.w"
        notes += outweighed(steps.number(heavier), keep)
    _replace(steps, "single")
    return report(f"deduplicate({keep})", before, steps.sizes("events"))


def _replace(steps: Steps, table: str) -> None:
    steps.run("DROP TABLE events")
    steps.run(f"ALTER TABLE {table} RENAME TO events")


def _select(
    steps: Steps, work: Path, sizes: Mapping[str, int], recipe: Recipe, say: Say
) -> tuple[Alive, list[FilterReport]]:
    """The k-core and the least history, by counts; kept in a file beside the database."""

    def make() -> Told:
        say("choosing users and items")
        pairs, events = "kept", None
        if recipe.repeats:
            steps.run("CREATE TEMP TABLE pairs AS SELECT DISTINCT u, i FROM kept")
            pairs, events = "pairs", lambda: steps.pairs("kept")
        alive, reports = select(lambda: steps.pairs(pairs), sizes["users"], sizes["items"], recipe, events=events)
        steps.run("DROP TABLE IF EXISTS pairs")
        np.savez(work / "selection.npz", **dataclasses.asdict(alive))
        return told(reports=reports)

    _, reports = known(steps.once("selection", make))
    with np.load(work / "selection.npz") as arrays:
        return Alive(**arrays), reports


def _number(steps: Steps, alive: Alive, n_parts: int, say: Say) -> tuple[np.ndarray, np.ndarray]:
    """The table ``numbered``; the codes of users and items in the order of their numbers."""
    users, items = by_count(alive.per_user), by_count(alive.per_item)

    def make() -> Told:
        say("sorting by user and time")
        maps = {
            name: pa.table({"code": pa.array(order.astype(np.int32)), "number": pa.array(number[order])})
            for name, (number, order) in (("to_user", users), ("to_item", items))
        }
        columns = steps.columns("kept", "tw")
        rest = "".join(f", kept.{column}" for column in columns)
        steps.run(
            f"CREATE TEMP TABLE renumbered AS SELECT to_user.number AS u, to_item.number AS i, kept.i AS code{rest} "
            "FROM kept JOIN to_user ON kept.u = to_user.code JOIN to_item ON kept.i = to_item.code",
            **maps,
        )
        heaviest = ", w DESC" if "w" in columns else ""
        steps.run(
            f"CREATE TABLE numbered AS SELECT u % {n_parts} AS part, u, i, {', '.join(columns)} FROM renumbered "
            f"ORDER BY part, u, t, code{heaviest}"
        )
        steps.run("DROP TABLE renumbered")
        return told()

    steps.once("numbered", make)
    return users[1], items[1]


def _ids(
    steps: Steps, kind: str, codes: np.ndarray, counts: np.ndarray, titles: Mapping[str, str] | None
) -> pa.RecordBatchReader:
    """The file of users or items, some rows at a time: raw ids in the order of their numbers, and their events."""
    numbers = np.arange(len(codes), dtype=np.int32)
    table = pa.table({"code": codes.astype(np.int32), "number": numbers, "events": counts[codes].astype(np.int64)})
    text = steps.run(f"DESCRIBE {kind}")[0][1] == "VARCHAR"
    fields = {"number": pa.int32(), "id": pa.large_string() if text else pa.int64(), "events": pa.int64()}
    schema = pa.schema(fields if titles is None else {**fields, "title": pa.large_string()})

    def whole() -> Iterator[pa.RecordBatch]:
        steps.run("CREATE OR REPLACE TEMP TABLE numbers AS SELECT * FROM given", given=table)
        rows = steps.batches(
            f"SELECT numbers.number AS number, {kind}.id AS id, numbers.events AS events FROM {kind} "
            f"JOIN numbers ON {kind}.rowid = numbers.code ORDER BY number"
        )
        for batch in rows:
            columns = [batch.column(name).cast(kind_of) for name, kind_of in fields.items()]
            columns += [] if titles is None else [titles_of(columns[1], titles)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, whole())


def _moments(steps: Steps, recipe: Recipe) -> tuple[tuple[int, ...], str]:
    """Where a split for everybody is cut; nothing for one by user."""
    if recipe.rule != "global_time":
        return (), ""
    ((n, first, last),) = steps.run("SELECT count(*), min(t), max(t) FROM numbered")
    return moments_of(
        recipe, n, first, last, lambda moment: steps.number(f"SELECT count(*) FROM numbered WHERE t < {moment}")
    )


def _write(steps: Steps, writer: PartWriter, *, timed: bool, say: Say) -> None:
    """The parts that are not there yet, in one pass over ``numbered``."""
    missing = [part for part in range(writer.n_parts) if not writer.done(part)]
    if not missing:
        return
    columns = steps.columns("numbered", "uitw" if timed else "uiw")
    names = {"u": "user", "i": "item", "t": "time", "w": "weight"}
    chosen = ", ".join(["part", *(f'{column} AS "{names[column]}"' for column in columns)])
    schema = steps.connection.sql(f"SELECT {chosen} FROM numbered LIMIT 0").to_arrow_table().schema
    waiting: list[pa.RecordBatch] = []

    def flush(part: int) -> None:
        writer.write(part, Shard.of(pa.Table.from_batches(waiting, schema).drop_columns(["part"])))
        waiting.clear()
        say(f"part {part + 1} of {writer.n_parts} written")

    todo = iter(missing)
    current = next(todo)
    listed = ", ".join(map(str, missing))
    for batch in steps.batches(f"SELECT {chosen} FROM numbered WHERE part IN ({listed})"):
        parts = np.asarray(batch.column("part"))
        start = 0
        while start < len(batch):
            while parts[start] != current:
                flush(current)
                current = next(todo)
            stop = int(np.searchsorted(parts, current, side="right"))
            waiting.append(batch.slice(start, stop - start))
            start = stop
    flush(current)
    for part in todo:
        flush(part)
