"""Preparation by Spark against preparation in memory; Spark is started and stopped here."""

import dataclasses
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_prepared import recipe_for, table

from diffrec_jax.data.prepared import Recipe, prepare, spark

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java, and there is none on this machine"),
]


@pytest.fixture(scope="module")
def one_session():
    """One Spark for all tests of this file."""
    pytest.importorskip("pyspark")
    with spark.session() as session:
        yield session


RECIPES = [
    {},
    {"rule": "global_time", "duplicates": "last", "min_rating": 2.0, "history": 5},
    {"repeats": True, "rule": "leave_one_out", "columns": {"user": "user", "item": "item", "time": "at"}},
]


@pytest.mark.parametrize("changes", RECIPES, ids=str)
@pytest.mark.parametrize("text", [True, False])
def test_a_folder_by_spark_is_that_by_memory(one_session, tmp_path, changes, text):
    pq.write_table(table(np.random.default_rng(0), 900, text=text, missing=text), tmp_path / "log.parquet")
    recipe = recipe_for(tmp_path / "log.parquet", **changes)
    found, expected = (
        dataclasses.asdict(prepare(tmp_path / engine, recipe, engine=engine)) | {"engine": ""}
        for engine in ("spark", "arrow")
    )
    assert found == expected


def test_what_it_has_written_it_does_not_write_again(one_session, tmp_path, monkeypatch):
    pq.write_table(table(np.random.default_rng(0)), tmp_path / "log.parquet")
    recipe = recipe_for(tmp_path / "log.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(spark, "_write", lambda *given: (_ for _ in ()).throw(OSError("the disk is full")))
        with pytest.raises(OSError, match="the disk is full"):
            prepare(tmp_path / "out", recipe, engine="spark")
    states = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / ".work" / "spark").rglob("*.parquet")}
    assert states
    seen = []

    def look(*given):
        seen.append({file: file.stat().st_mtime_ns for file in states})
        return write(*given)

    write = spark._write
    monkeypatch.setattr(spark, "_write", look)
    meta = prepare(tmp_path / "out", recipe, engine="spark")
    assert seen == [states] and meta.checksum == prepare(tmp_path / "arrow", recipe, engine="arrow").checksum


@pytest.mark.parametrize(
    "column, values, said",
    [
        ("at", ["2020-01-01"] * 600, "engine=spark takes times that are numbers or timestamps: cast it first"),
        ("user", [0.5] * 600, "engine=spark takes ids that are text or whole numbers: cast it first"),
        ("worth", [1.0] * 599 + [-1.0], "a row: -1.0 in column 'worth' is not a weight"),
        ("at", [1.6e9] * 599 + [1.6e12], "column 'at' mixes units"),
        ("at", [1.6e9] * 599 + [None], "a row has no time in column 'at'"),
    ],
)
def test_what_it_cannot_read_is_said(one_session, tmp_path, column, values, said):
    whole = table(np.random.default_rng(0))
    whole = whole.set_column(whole.column_names.index(column), column, pa.array(values))
    pq.write_table(whole, tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=said):
        prepare(tmp_path / "out", recipe_for(tmp_path / "log.parquet"), engine="spark")


def test_without_java_it_says_what_to_do(tmp_path, monkeypatch):
    pytest.importorskip("pyspark")
    pq.write_table(table(np.random.default_rng(0)), tmp_path / "log.parquet")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    from pyspark.sql import SparkSession

    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    with pytest.raises(ValueError, match=r"no Java is found: the engine spark needs a package and Java 17"):
        prepare(tmp_path / "out", Recipe(path=str(tmp_path / "log.parquet")), engine="spark")
