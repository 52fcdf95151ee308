"""Preparation on a Spark cluster, or by Spark on this machine: DataFrames of Spark 3.5 and later, Java 17.

The steps are those of ``prepared.duck``, each written as Parquet beside the folder, so that a stage that fails is run
again and one that is done is not. Every executor writes parts of the folder, which all of them, and the driver, must
reach under the same path, and needs this package. The driver counts what was written, part by part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from diffrec_jax.data.events import FilterReport
from diffrec_jax.data.prepared.folder import WORK, Meta
from diffrec_jax.data.prepared.in_memory import Say, id_table
from diffrec_jax.data.prepared.moments import moments_of
from diffrec_jax.data.prepared.parts import PartWriter, Shard
from diffrec_jax.data.prepared.recipe import Recipe
from diffrec_jax.data.prepared.selection import report
from diffrec_jax.data.prepared.spark_log import read_log
from diffrec_jax.data.prepared.spark_stages import Stages, explained, session
from diffrec_jax.data.prepared.steps import Told, known, told
from diffrec_jax.data.preprocess import outweighed

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

LOCAL = 33  # bits of Spark's row numbers that count within a partition


def prepare(folder: Path, recipe: Recipe, *, name: str, titles: Mapping[str, str] | None, say: Say) -> Meta:
    """Read, filter, number and split a Parquet log, and write the folder.

    Raises:
      ValueError: as the readers and filters do; where Spark or Java is missing.
      OSError: if the folder cannot be written.
    """
    with explained(folder / WORK), session() as spark:
        steps = Stages(spark, folder / WORK / "spark")
        notes, reports = _read(steps, recipe, say)
        _code(steps, say)
        reports += _keep(steps, recipe, notes, say)
        reports += _select(steps, recipe, say)
        n_users, n_items = (_number(steps, kind, column, say) for kind, column in (("users", "u"), ("items", "i")))
        n_parts = recipe.n_parts(steps.table("alive").count())
        moments, note = _moments(steps, recipe)
        sizes = {"n_users": n_users, "n_items": n_items, "n_parts": n_parts}
        _write(steps, folder, recipe, sizes, moments, say)
        writer = PartWriter(folder, recipe, **sizes, moments=moments)
        missing = [part for part in range(n_parts) if not writer.done(part)]
        if missing:
            raise OSError(f"spark left {len(missing)} of {n_parts} parts unwritten: run the same command again")
        ids = {"users": _ids(steps, "users", None).to_reader(), "items": _ids(steps, "items", titles).to_reader()}
        return writer.finish(name=name, ids=ids, notes=notes, reports=reports, engine="spark", cut_note=note)


def _read(steps: Stages, recipe: Recipe, say: Say) -> tuple[list[str], list[FilterReport]]:
    """The table ``log``, of whole rows only."""
    say("reading the log")
    log, notes = read_log(steps.spark, recipe)
    whole = log.where("u IS NOT NULL AND i IS NOT NULL")

    def looked() -> Told:
        before = sizes_of(log)
        if before[0] == 0:
            raise ValueError(f"{recipe.path} has columns but no rows")
        after = sizes_of(steps.write("log", lambda: whole))
        dropped = [report("rows with a user and an item", before, after)] if after[0] < before[0] else []
        return told(notes=notes, reports=dropped)

    return known(steps.told("log", looked))


def sizes_of(table: DataFrame) -> tuple[int, int, int]:
    """Events, users and items of a table."""
    row = table.selectExpr("count(*)", "count(DISTINCT u)", "count(DISTINCT i)").first()
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2])


def _dense(steps: Stages, name: str, rows: Callable[[], DataFrame], order: Sequence[Column | str]) -> DataFrame:
    """A table in this order, with the place of each row as ``code``: sorted by ranges, counted, and put in one line."""
    from pyspark.sql import functions as sf

    sorted_ = steps.write(
        f"{name}_sorted", lambda: rows().orderBy(*order).withColumn("place", sf.monotonically_increasing_id())
    )
    counts = sorted_.groupBy(sf.shiftright("place", LOCAL).alias("part")).count().orderBy("part").collect()
    offsets, total = {}, 0
    for row in counts:
        offsets[row["part"]] = total
        total += row["count"]
    table = list(offsets.items()) or [(0, 0)]
    starts = steps.spark.createDataFrame(table, "part long, first long")
    local = sf.col("place").bitwiseAND(2**LOCAL - 1)
    return steps.write(
        name,
        lambda: (
            sorted_.withColumn("part", sf.shiftright("place", LOCAL))
            .join(sf.broadcast(starts), "part")
            .withColumn("code", (local + sf.col("first")).cast("int"))
            .drop("part", "place", "first")
        ),
    )


def _code(steps: Stages, say: Say) -> None:
    """``user_codes`` and ``item_codes``, in the order of the raw ids; ``events`` in codes."""
    log = steps.table("log")
    for kind, column in (("user", "u"), ("item", "i")):
        say(f"numbering {kind}s")
        _dense(steps, f"{kind}_codes", lambda column=column: log.select(log[column].alias("id")).distinct(), ["id"])  # type: ignore[misc]
    users = steps.table("user_codes").withColumnsRenamed({"id": "u", "code": "user"})
    items = steps.table("item_codes").withColumnsRenamed({"id": "i", "code": "item"})
    rest = [column for column in log.columns if column not in "ui"]
    steps.write(
        "events",
        lambda: (
            log.join(users, "u")
            .join(items, "i")
            .select("user", "item", *rest)
            .withColumnsRenamed({"user": "u", "item": "i"})
        ),
    )


def _keep(steps: Stages, recipe: Recipe, notes: list[str], say: Say) -> list[FilterReport]:
    """``kept``: events rated well enough, each pair once unless repeats are kept."""
    say("dropping repeated pairs and low ratings")
    events = steps.table("events")
    reports: list[FilterReport] = []
    if not recipe.repeats and recipe.duplicates == "last":
        events = _once(steps, events, "last", notes, reports)
    if recipe.min_rating is not None:
        before, threshold = sizes_of(events), np.float32(recipe.min_rating)
        rated = events
        events = steps.write("rated", lambda: rated.where(rated["r"] >= float(threshold)))
        reports.append(report(f"min_rating({recipe.min_rating:g})", before, sizes_of(events)))
    if not recipe.repeats and recipe.duplicates == "first":
        events = _once(steps, events, "first", notes, reports)
    steps.write("kept", lambda: events)
    return reports


def _once(steps: Stages, events: DataFrame, keep: str, notes: list[str], reports: list[FilterReport]) -> DataFrame:
    """One event of each pair: the first or last, of one moment the best rated, then the weightiest."""
    from pyspark.sql import functions as sf

    columns = [column for column in ("t", "r", "w") if column in events.columns]
    sign = -1 if keep == "first" else 1
    best = sf.min if keep == "first" else sf.max
    ranked = sf.struct(*((sf.col(c) if c == "t" else sign * sf.col(c)).alias(c) for c in columns))
    kept = [
        sf.col(f"s.{c}").alias(c) if c == "t" else (sign * sf.col(f"s.{c}")).cast("float").alias(c) for c in columns
    ]
    single = steps.write(
        "single", lambda: events.groupBy("u", "i").agg(best(ranked).alias("s")).select("u", "i", *kept)
    )
    if "w" in columns:
        lighter = single.select("u", "i", sf.col("w").alias("own"))
        notes += outweighed(events.join(lighter, ["u", "i"]).where("w > own").count(), keep)
    reports.append(report(f"deduplicate({keep})", sizes_of(events), sizes_of(single)))
    return single


def _select(steps: Stages, recipe: Recipe, say: Say) -> list[FilterReport]:
    """``alive``: what is left after the k-core and the least history."""
    say("choosing users and items")
    kept, reports = steps.table("kept"), []
    events = kept
    if recipe.core > 1:
        before, rounds = sizes_of(events), 0
        pairs = steps.write("pairs_0", lambda: kept.select("u", "i").distinct())
        n = pairs.count()
        while True:
            rounds += 1
            users, items = (
                pairs.groupBy(column).count().where(f"count >= {recipe.core}").select(column) for column in "ui"
            )
            last = pairs
            pairs = steps.write(
                f"pairs_{rounds}",
                lambda last=last, users=users, items=items: last.join(users, "u", "left_semi").join(  # type: ignore[misc]
                    items, "i", "left_semi"
                ),
            )
            left = pairs.count()
            say(f"{left:,} pairs are left")
            if left == n:
                break
            n = left
        cored = events
        events = steps.write("cored", lambda: cored.join(pairs.select("u", "i"), ["u", "i"], "left_semi"))
        reports.append(report(f"k_core({recipe.core})", before, sizes_of(events)))
    if recipe.history > 1:
        before, longer = sizes_of(events), events
        enough = events.select("u", "i").distinct().groupBy("u").count().where(f"count >= {recipe.history}").select("u")
        events = steps.write("longer", lambda: longer.join(enough, "u", "left_semi"))
        reports.append(report(f"min_history({recipe.history})", before, sizes_of(events)))
    steps.write("alive", lambda: events)
    return reports


def _number(steps: Stages, kind: str, column: str, say: Say) -> int:
    """``users`` or ``items``: code, raw id and events, in the order of the final numbers; how many there are."""
    from pyspark.sql import functions as sf

    say(f"counting {kind}")
    counts = steps.table("alive").groupBy(column).count().withColumnsRenamed({column: "old", "count": "events"})
    raw = steps.table(f"{kind[:-1]}_codes").withColumnsRenamed({"code": "old"})
    table = _dense(steps, kind, lambda: counts.join(raw, "old"), [sf.desc("events"), "old"])
    return int(table.count())


def _moments(steps: Stages, recipe: Recipe) -> tuple[tuple[int, ...], str]:
    """Where a split for everybody is cut; nothing for one by user."""
    if recipe.rule != "global_time":
        return (), ""
    alive = steps.table("alive")
    row = alive.selectExpr("count(*)", "min(t)", "max(t)").first()
    assert row is not None
    return moments_of(recipe, row[0], row[1], row[2], lambda moment: alive.where(f"t < {moment}").count())


def _write(
    steps: Stages, folder: Path, recipe: Recipe, sizes: Mapping[str, int], moments: tuple[int, ...], say: Say
) -> None:
    """The parts that are not there yet, each by the executor that holds its users."""
    from pyspark.sql import functions as sf

    say(f"writing {sizes['n_parts']} parts")
    users, items = (
        steps.table(kind).select(sf.col("old").alias(column), sf.col("code").alias(number))
        for kind, column, number in (("users", "u", "user"), ("items", "i", "item"))
    )
    rest = [column for column in steps.table("alive").columns if column not in "ui"]
    joined = steps.table("alive").join(users, "u").join(items, "i")
    joined = joined.withColumn("part", sf.col("user") % sizes["n_parts"])
    order: list[Column | str] = ["part", "user", "t", "i", *([sf.desc("w")] if "w" in rest else [])]
    chosen = ["part", "user", "item", *(column for column in rest if column in ("t", "w"))]
    ready = joined.repartition(sizes["n_parts"], "part").sortWithinPartitions(*order).select(*chosen)
    timed = recipe.timed

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        writer = PartWriter(folder, recipe, **sizes, moments=moments)
        whole = list(batches)
        table = pa.Table.from_batches(whole) if whole else None
        parts = [] if table is None else np.unique(np.asarray(table["part"])).tolist()
        for part in parts:
            assert table is not None
            own = table.filter(pa.compute.equal(table["part"], part))
            names = {"user": "user", "item": "item", "w": "weight", **({"t": "time"} if timed else {})}
            own = own.select([name for name in own.column_names if name in names])
            writer.write(part, Shard.of(own.rename_columns([names[name] for name in own.column_names])))
        yield pa.RecordBatch.from_pydict({"part": pa.array(parts, pa.int32())})

    written = {row["part"] for row in ready.mapInArrow(write, "part int").collect()}
    local = PartWriter(folder, recipe, **sizes, moments=moments)
    empty = Shard(
        np.zeros(0, np.int32),
        np.zeros(0, np.int32),
        np.zeros(0, np.int64) if timed else None,
        np.zeros(0, np.float32) if recipe.weighed else None,
    )
    for part in set(range(sizes["n_parts"])) - written:
        local.write(part, empty)


def _ids(steps: Stages, kind: str, titles: Mapping[str, str] | None) -> pa.Table:
    table = steps.table(kind).orderBy("code").select("id", "events")
    kind_of = pa.int64() if dict(table.dtypes)["id"] == "bigint" else pa.large_string()
    found = table.collect()
    ids, events = pa.array([row["id"] for row in found], kind_of), np.array([row["events"] for row in found], np.int64)
    return id_table(ids, events, titles)
