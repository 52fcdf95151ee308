"""A Parquet log as a Spark table with the columns and the meaning that ``data.readers`` give it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from diffrec_jax.data.naming import resolve
from diffrec_jax.data.prepared.recipe import Recipe
from diffrec_jax.data.times import MODERN, SAMPLE, check_calendar, describe_time, unit_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

SHORT = {"user": "u", "item": "i", "time": "t", "rating": "r", "weight": "w"}
WHOLE = ("tinyint", "smallint", "int", "bigint")


def read_log(spark: SparkSession, recipe: Recipe) -> tuple[DataFrame, list[str]]:
    """The columns u, i, t (microseconds; the place of each row where there are no times), and r and w where named.

    Raises:
      ValueError: for columns that are missing, or hold what cannot be read.
    """
    from pyspark.sql import functions as sf

    raw = spark.read.parquet(recipe.path)
    names = resolve(raw.columns, {role: recipe.columns.get(role) for role in SHORT}, recipe.path)
    kinds = dict(raw.dtypes)
    columns: list[Column] = [_ids(raw, names[role], kinds).alias(SHORT[role]) for role in ("user", "item")]
    notes = ["times: no column named; file order stands for time order."]
    if "time" in names:
        micros, note = _times(raw, names["time"], kinds[names["time"]])
        columns.append(micros.alias("t"))
        notes = [note]
    else:
        columns.append(sf.monotonically_increasing_id().alias("t"))
    for role, what in (("rating", "a rating (a number)"), ("weight", "a weight (a number above 0)")):
        if role not in names:
            continue
        column = raw[names[role]].cast("float")
        bad = column.isNull() | sf.isnan(column) | ((column <= 0) if role == "weight" else sf.lit(False))
        wrong = raw.where(bad).select(names[role]).first()
        if wrong is not None:
            raise ValueError(f"a row: {wrong[0]!r} in column {names[role]!r} is not {what}")
        columns.append(column.alias(SHORT[role]))
    return raw.select(*columns), notes


def _ids(raw: DataFrame, name: str, kinds: dict[str, str]) -> Column:
    """Whole numbers, or text without spaces around it; missing where there is none."""
    from pyspark.sql import functions as sf

    if kinds[name] in WHOLE:
        return raw[name].cast("long")
    if kinds[name] == "string":
        trimmed = sf.trim(raw[name])
        return sf.when(trimmed != "", trimmed)
    raise ValueError(
        f"column {name!r} is {kinds[name]}, and engine=spark takes ids that are text or whole numbers: cast it first"
    )


def _times(raw: DataFrame, name: str, kind: str) -> tuple[Column, str]:
    """Microseconds, and how the times were read, from when to when."""
    from pyspark.sql import functions as sf

    if raw.where(raw[name].isNull()).first() is not None:
        raise ValueError(f"a row has no time in column {name!r}; fill it or drop the row")
    if kind.startswith("timestamp") or kind == "date":
        micros = sf.unix_micros(raw[name].cast("timestamp"))
        how = f"{kind}, {'no zone given, taken as UTC' if kind != 'timestamp' else 'zone given'}"
    elif kind in (*WHOLE, "float", "double"):
        number = raw[name]
        inside = [number.between(start, np.nextafter(stop, 0)) for _, start, stop in MODERN]
        row = raw.agg(
            sf.min(number), sf.max(number), *(sf.first(sf.when(fits, number), True) for fits in inside)
        ).first()
        assert row is not None
        n = raw.count()
        sample = [
            each[0] for each in raw.select(name).sample(min(1.0, 2 * SAMPLE / max(n, 1)), 0).limit(SAMPLE).collect()
        ]
        values = np.array([*(value for value in row if value is not None), *sample])
        factor, how = unit_of(values, name)
        micros = sf.rint(number * factor).cast("long") if kind in ("float", "double") else number.cast("long") * factor
    else:
        raise ValueError(
            f"column {name!r} is {kind}, and engine=spark takes times that are numbers or timestamps: cast it first"
        )
    row = raw.agg(sf.min(micros), sf.max(micros)).first()
    assert row is not None
    first, last = check_calendar(np.array([row[0], row[1]]), name)
    return micros, f"times ({name}): {how}; from {describe_time(first)} to {describe_time(last)} UTC."
