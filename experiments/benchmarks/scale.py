"""Training without the catalogue: a step at 100 thousand to 3 million items, an epoch of a million users.

    python -m experiments.benchmarks.scale steps            (a step of ``output=ridge`` at several catalogues)
    python -m experiments.benchmarks.scale log --folder=/tmp/big     (writes a made-up log as Parquet)
    python -m experiments.benchmarks.scale epoch --folder=/tmp/big   (from that log to lists, command by command)
    python -m experiments.benchmarks.scale shapes           (dense, gram and ridge side by side at Amazon-book's shape)

The made-up log has clusters of items, popularity within them, users who like two clusters, one early and one late
(drift), and a tenth of noise: what is popular in a user's clusters is to be learned.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffrec_jax.data.events import CSR
from diffrec_jax.data.rows import device_csr
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue, DiffRec
from diffrec_jax.training import Trainer
from experiments.benchmarks import measure

STEPS = {"100k": 100_000, "1m": 1_000_000, "3m": 3_000_000}  # items
BATCH, WIDTH, LENGTH = 2048, 200, 50
CLUSTER = 1_000  # items of one
USERS_AT_A_TIME = 100_000
DAY = 86_400


def main() -> None:
    """One of four measurements."""
    parser = argparse.ArgumentParser(description="Training without the catalogue.")
    parser.add_argument("what", choices=("steps", "log", "epoch", "shapes"))
    parser.add_argument("--folder", default="", help="of the made-up log and its run")
    parser.add_argument("--users", default=1_000_000, type=int)
    parser.add_argument("--items", default=1_000_000, type=int)
    parser.add_argument("--width", default=128, type=int, help="of the hidden layer, for epoch and shapes")
    parser.add_argument("--lists", default=100_000, type=int, help="users who get lists, for epoch")
    args = parser.parse_args()
    if args.what == "steps":
        measure.finish(**steps(STEPS))
    elif args.what == "shapes":
        measure.finish(**shapes(args.width))
    elif not args.folder:
        parser.error("--folder says where the made-up log is: --folder=/tmp/big")
    elif args.what == "log":
        measure.finish(**write_log(Path(args.folder), users=args.users, items=args.items))
    else:
        measure.finish(**epoch(Path(args.folder), width=args.width, lists=args.lists))


def steps(catalogues: dict[str, int], *, turns: int = 7, batch: int = BATCH, width: int = WIDTH) -> dict[str, Any]:
    """The median time of a step at each catalogue, one after the other in each turn, and its temporaries in bytes."""
    users = 10 * batch
    programs, found = {}, {}
    for name, n_items in catalogues.items():
        rng = np.random.default_rng(0)
        lengths = rng.integers(LENGTH // 2, LENGTH * 3 // 2 + 1, users)
        items = (n_items * rng.random(lengths.sum()) ** 2).astype(np.int64)
        csr = CSR.from_pairs(np.repeat(np.arange(users), lengths), items, n_users=users, n_items=n_items)
        mesh = make_mesh(devices=jax.devices()[:1])
        model = DiffRec(dims=(width,), output="ridge")
        trainer = Trainer(model, Catalogue(n_items, users), mesh, 0, FitOptions(batch_size=batch))
        device = device_csr(csr, mesh=mesh)
        program = trainer.compile(device)
        programs[name] = [program, program(trainer.init(), device, np.int32(0), np.int32(1)), device]
        found[f"temporaries_{name}"] = program.memory_analysis().temp_size_in_bytes
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(turns):
        for name, held in programs.items():
            program, state, device = held
            start = time.perf_counter()
            held[1] = program(state, device, np.int32(0), np.int32(1))
            jax.block_until_ready(held[1].step)
            taken[name].append(time.perf_counter() - start)
    found |= {f"seconds_{name}": float(np.median(times)) for name, times in taken.items()}
    medians = [found[f"seconds_{name}"] for name in programs]
    return {**found, "largest_by_smallest": max(medians) / min(medians), "peak_gflops": measure.matmul_peak() / 1e9}


def shapes(width: int, *, turns: int = 3, sizes: dict[str, int] | None = None) -> dict[str, Any]:
    """Seconds per epoch at Amazon-book's shape, extrapolated from a few steps, of each way with the batch it suits."""
    csr = measure.interactions_like(**(measure.AMAZON_BOOK if sizes is None else sizes))
    mesh, found = make_mesh(devices=jax.devices()[:1]), {}
    for output, batch in (("dense", 400), ("gram", 400), ("gram", 2048), ("ridge", 400), ("ridge", 2048)):
        model = DiffRec(dims=(width,), output=output)
        trainer = Trainer(model, Catalogue(csr.n_items, csr.n_users), mesh, 0, FitOptions(batch_size=batch))
        device = device_csr(csr, mesh=mesh)
        program = trainer.compile(device)
        held = [program(trainer.init(), device, np.int32(0), np.int32(1))]

        def step(program: Any = program, device: Any = device, held: list[Any] = held) -> Any:
            held[0] = program(held[0], device, np.int32(0), np.int32(1))
            return held[0].step

        seconds = measure.median_seconds(step, repeats=turns)
        found[f"{output}_{batch}"] = seconds * trainer.steps_per_epoch
    best = min(value for name, value in found.items() if not name.startswith("dense"))
    return {**found, "dense_by_best": found["dense_400"] / best, "peak_gflops": measure.matmul_peak() / 1e9}


def write_log(folder: Path, *, users: int, items: int, seed: int = 0) -> dict[str, Any]:
    """A made-up log of about 50 events for each user, in ``folder/log.parquet``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    rng, clusters = np.random.default_rng(seed), max(items // CLUSTER, 2)
    of_rank = np.cumsum((np.arange(CLUSTER) + 3.0) ** -0.9)
    number = rng.permutation(clusters * CLUSTER) % items  # items of a cluster lie anywhere
    schema, total = pa.schema([("user", pa.int32()), ("item", pa.int32()), ("time", pa.int64())]), 0
    with pq.ParquetWriter(folder / "log.parquet", schema) as writer:
        for first in range(0, users, USERS_AT_A_TIME):
            n = min(USERS_AT_A_TIME, users - first)
            lengths = rng.integers(LENGTH // 2, LENGTH * 3 // 2 + 1, n)
            user = np.repeat(np.arange(first, first + n, dtype=np.int32), lengths)
            when = np.sort(rng.random(len(user)).astype(np.float32) + (user - first)) - (user - first)
            early, late = (np.repeat(rng.integers(0, clusters, n), lengths) for _ in range(2))
            cluster = np.where(rng.random(len(user)) < when, late, early)
            cluster = np.where(rng.random(len(user)) < 0.1, rng.integers(0, clusters, len(user)), cluster)
            rank = np.searchsorted(of_rank, rng.random(len(user)) * of_rank[-1])
            item = number[cluster * CLUSTER + rank].astype(np.int32)
            seconds = 1_600_000_000 + (np.maximum(when, 0) * 365 * DAY).astype(np.int64)
            writer.write_table(pa.table([user, item, seconds], schema=schema))
            total += len(user)
    return {"events": total, "bytes": (folder / "log.parquet").stat().st_size}


def epoch(folder: Path, *, width: int, lists: int, sample: int = 10_000) -> dict[str, Any]:
    """The commands from a log to lists: an epoch of training, a validation on a sample, lists for many users."""
    run = folder / "run"
    flags = {
        "data": folder / "log.parquet", "user_col": "user", "item_col": "item", "time_col": "time", "k_core": 1,
        "split": "temporal", "model": "diffrec", "output": "ridge", "dims": f"[{width}]", "batch_size": BATCH,
        "epochs": 1, "eval_every": 1, "valid_users": sample, "test_users": sample, "workdir": run,
    }  # fmt: skip
    trained = measure.command(["experiments.run", *(f"--{name}={value}" for name, value in flags.items())])
    result = json.loads((run / "result.json").read_text())
    asked = folder / "users.txt"
    asked.write_text("".join(f"{user}\n" for user in range(lists)))
    out = folder / "lists.parquet"
    listed = measure.command(
        ["experiments.recommend", f"--workdir={run}", f"--users_file={asked}", "--k=20", f"--out={out}"]
    )
    ours = result["test"]["official"]["recall@20"]
    popularity = result["baselines"]["popularity"]["official"]["recall@20"]
    return {
        "epoch_seconds": result["seconds"]["train"],
        "peak_bytes": trained["peak_bytes"],
        "recall@20": ours,
        "popularity_recall@20": popularity,
        "times_popularity": ours / popularity,
        "run_seconds": trained["seconds"],
        "lists_seconds": listed["seconds"],
        "lists_peak_bytes": listed["peak_bytes"],
        "all_seconds": trained["seconds"] + listed["seconds"],
    }


if __name__ == "__main__":
    main()
