"""Preparation of large logs: seconds and peak memory of an engine, in a process of its own.

    python -m experiments.benchmarks.ingest log --folder=/tmp/in --events=20000000      (made up, text ids, in files)
    python -m experiments.benchmarks.ingest prepare --folder=/tmp/in --engine=duckdb --memory=1GB
    python -m experiments.benchmarks.ingest prepare --folder=/tmp/in --engine=arrow

Users and items are drawn with a popularity that falls off; one user and one item for every 13 and every 50 events.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffrec_jax.data.prepared import ENGINES, Meta
from experiments.benchmarks import measure

AT_ONCE = 1_000_000  # events
EVENTS_PER_FILE = 20_000_000


def main() -> None:
    """Make a log, or prepare it."""
    parser = argparse.ArgumentParser(description="Preparation of large logs.")
    parser.add_argument("what", choices=("log", "prepare"))
    parser.add_argument("--folder", required=True, help="of the made-up log, and of what it is prepared to")
    parser.add_argument("--events", default=20_000_000, type=int)
    parser.add_argument("--engine", default="duckdb", choices=ENGINES)
    parser.add_argument("--memory", default="", help="that the engine may take, such as 1GB")
    args = parser.parse_args()
    if args.what == "log":
        measure.finish(**write_log(Path(args.folder), events=args.events))
    else:
        measure.finish(**prepared(Path(args.folder), engine=args.engine, memory=args.memory))


def write_log(folder: Path, *, events: int, seed: int = 0) -> dict[str, Any]:
    """A log with text ids and times, in files of at most ``EVENTS_PER_FILE`` events."""
    rng = np.random.default_rng(seed)
    place = folder / "log"
    place.mkdir(parents=True, exist_ok=True)
    users, items = max(events // 13, 1), max(events // 50, 1)
    schema = pa.schema([("user", pa.string()), ("item", pa.string()), ("time", pa.int64())])
    for number, first in enumerate(range(0, events, EVENTS_PER_FILE)):
        with pq.ParquetWriter(place / f"part-{number:03d}.parquet", schema) as writer:
            for start in range(first, min(first + EVENTS_PER_FILE, events), AT_ONCE):
                n = min(AT_ONCE, events - start)
                user = (rng.random(n) ** 2 * users).astype(np.int64)
                item = (rng.random(n) ** 3 * items).astype(np.int64)
                when = 1_500_000_000 + rng.integers(0, 10**8, n)
                columns = [_named("user", user), _named("sku", item), pa.array(when)]
                writer.write_table(pa.table(columns, schema=schema))
    return {"events": events, "bytes": sum(file.stat().st_size for file in place.iterdir())}


def _named(word: str, numbers: np.ndarray) -> pa.Array:
    return pa.array(np.char.add(f"{word}-", numbers.astype("U")), pa.string())


def prepared(folder: Path, *, engine: str, memory: str) -> dict[str, Any]:
    """The command that prepares the log, 5-core, 70/10/20 by user."""
    out = folder / f"prepared-{engine}"
    shutil.rmtree(out, ignore_errors=True)
    flags = {
        "data": folder / "log", "user_col": "user", "item_col": "item", "time_col": "time", "engine": engine,
        "out": out, **({"memory": memory} if memory else {}),
    }  # fmt: skip
    found = measure.command(["experiments.prepare", *(f"--{name}={value}" for name, value in flags.items())])
    meta = Meta.read(out)
    return {
        "seconds": found["seconds"],
        "peak_bytes": found["peak_bytes"],
        "events": sum(meta.n_events.values()),
        "users": meta.n_users,
        "items": meta.n_items,
        "parts": meta.n_parts,
        "checksum": meta.checksum,
    }


if __name__ == "__main__":
    main()
