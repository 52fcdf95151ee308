"""A Spark session, and tables that are each written once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diffrec_jax.data.prepared.steps import Told

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

MISSING = "the engine spark needs a package and Java 17: pip install 'diffrec_jax[spark]', or say --engine=duckdb"


@contextlib.contextmanager
def session() -> Iterator[SparkSession]:
    """The Spark session that is there, or one of this process, which ends with it.

    Raises:
      ValueError: where the package or Java is missing.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise ValueError(MISSING) from None
    there = SparkSession.getActiveSession()
    if there is not None:
        yield there
        return
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        raise ValueError(f"no Java is found: {MISSING}")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("diffrec_jax").config("spark.sql.session.timeZone", "UTC")
    if "SPARK_MASTER" not in os.environ and "SPARK_HOME" not in os.environ:  # this machine
        builder = builder.master("local[*]").config("spark.driver.bindAddress", "127.0.0.1")
        builder = builder.config("spark.driver.host", "127.0.0.1")
        builder = builder.config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", "8")
        builder = builder.config("spark.ui.showConsoleProgress", "false")
    try:
        spark = builder.getOrCreate()
    except Exception as error:  # whatever the gateway to Java raises
        raise ValueError(f"Spark does not start ({str(error).splitlines()[0]}): {MISSING}") from error
    spark.sparkContext.setLogLevel("OFF")  # what fails is raised, and said in a sentence
    try:
        yield spark
    finally:
        spark.stop()


@contextlib.contextmanager
def explained(work: Path) -> Iterator[None]:
    """What Spark or its gateway to Java raises, as a sentence."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("pyspark", "py4j")):
            raise
        line = next((line for line in str(error).splitlines() if "Exception" in line), str(error).splitlines()[0])
        raise OSError(
            f"spark failed ({line.strip()[:300]}): what is finished stays in {work}, and the same command goes on; "
            "give it more memory or disk if it lacked them (spark-defaults.conf)"
        ) from error


class Stages:
    """Tables on disk, each written once."""

    def __init__(self, spark: SparkSession, folder: Path) -> None:
        self.spark, self.folder = spark, folder
        folder.mkdir(parents=True, exist_ok=True)

    def table(self, name: str) -> DataFrame:
        """A table that is written."""
        return self.spark.read.parquet(str(self.folder / name))

    def write(self, name: str, make: Callable[[], DataFrame]) -> DataFrame:
        """Write a table unless it is there."""
        if not (self.folder / name / "_SUCCESS").exists():
            make().write.mode("overwrite").parquet(str(self.folder / name))
        return self.table(name)

    def told(self, name: str, make: Callable[[], Told]) -> Told:
        """What a step left to know, computed once."""
        place = self.folder / f"{name}.json"
        if not place.exists():
            place.write_text(json.dumps(make()))
        found: Told = json.loads(place.read_text())
        return found
