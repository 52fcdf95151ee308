"""Benchmark: top-20 lists for everybody, from safetensors to Parquet, for DiffRec and for L-DiffRec.

    python -m experiments.benchmarks.recommend_all                   # 200,000 histories, 38,048 items: minutes
    python -m experiments.benchmarks.recommend_all --users=20000

It measures ``python -m experiments.recommend`` as a whole, in a process of its own: start, load, compilation, ranking,
writing. Beside it stands the limit of this machine, measured in the same run: the product of user vectors and item
vectors alone, and product and top-20. The last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

TARGETS = {"diffrec_users_per_second": 2500, "latent_users_per_second": 4500, "peak_bytes": 3 * 2**30}
DIFFREC_WIDTH, LATENT_WIDTH = 1000, 300


def main() -> None:
    """Make the models, run the command on each, measure the limits, print."""
    parser = argparse.ArgumentParser(description="Lists for everybody.")
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=38_048)
    parser.add_argument("--history", type=int, default=30)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--stage", choices=("make", "limit"), default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.stage == "make":
        make(args, Path(args.folder))
        return
    if args.stage == "limit":
        print(json.dumps({str(w): limit(w, args.items, args.k) for w in (DIFFREC_WIDTH, LATENT_WIDTH)}))
        return
    result: dict[str, Any] = {"users": args.users, "items": args.items}
    with tempfile.TemporaryDirectory() as folder:
        child(["experiments.benchmarks.recommend_all", "--stage=make", f"--folder={folder}", *shape(args)])
        peak = 0
        for name in ("diffrec", "latent"):
            out = Path(folder) / f"{name}.parquet"
            began = time.perf_counter()
            command = ["experiments.recommend", f"--workdir={folder}/{name}", f"--k={args.k}", f"--out={out}"]
            peak = max(peak, child(command)[1])
            seconds = time.perf_counter() - began
            rows = pq.read_metadata(out).num_rows
            result |= {f"{name}_seconds": round(seconds, 1), f"{name}_users_per_second": round(args.users / seconds, 1)}
            print(
                f"{name}: {rows:,} rows in {seconds:.1f} s, {args.users / seconds:,.0f} users/s, {peak / 2**30:.2f} GiB"
            )
        result["peak_bytes"] = peak
        limits = json.loads(child(["experiments.benchmarks.recommend_all", "--stage=limit", *shape(args)])[0])
    result["limits_users_per_second"] = {"diffrec": limits[str(DIFFREC_WIDTH)], "latent": limits[str(LATENT_WIDTH)]}
    print(json.dumps({**result, "targets": TARGETS}))


def shape(args: argparse.Namespace) -> list[str]:
    """The sizes as flags."""
    return [f"--{name}={getattr(args, name)}" for name in ("users", "items", "history", "k")]


def make(args: argparse.Namespace, folder: Path) -> None:
    """Export both models."""
    from experiments.benchmarks import made_up

    rows = made_up.random_rows(np.random.default_rng(0), users=args.users, items=args.items, length=args.history)
    made_up.export(made_up.diffrec(steps=5, dims=(DIFFREC_WIDTH,)), rows, folder / "diffrec")
    made_up.export(made_up.latent(items=args.items, width=LATENT_WIDTH), rows, folder / "latent")


def limit(width: int, items: int, k: int, batch: int = 256) -> dict[str, float]:
    """Users per second of the product alone, and of product and top-K, the best of a few."""
    import jax
    import jax.numpy as jnp

    users, vectors = (
        jnp.asarray(np.random.default_rng(0).normal(size=s), jnp.float32) for s in ((batch, width), (width, items))
    )
    found = {}
    for name, function in (("product", jnp.matmul), ("product_and_top_k", lambda u, v: jax.lax.top_k(u @ v, k))):
        program = jax.jit(function)
        jax.block_until_ready(program(users, vectors))
        seconds = []
        for _ in range(9):
            began = time.perf_counter()
            jax.block_until_ready(program(users, vectors))
            seconds.append(time.perf_counter() - began)
        found[name] = round(batch / float(np.median(seconds)), 1)
    return found


def child(command: list[str]) -> tuple[str, int]:
    """Run a module in a process of its own: the last line it printed, and its largest resident size in bytes."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    lines = process.stdout.read().strip().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return (lines or [""])[-1], usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
