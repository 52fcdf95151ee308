"""A run that is killed again and again (kill -9), and the same run left alone: is there any difference at the end?

Half of the kills come at a random moment, half as soon as a checkpoint is half written. Compared are the metrics of
``result.json``, the lines of ``metrics.jsonl`` (durations aside) and the arrays of every checkpoint, bit for bit.

python -m experiments.benchmarks.faults [--kills=20] [--seed=0] [--workdir=DIR] [flags of experiments.run]
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from experiments.benchmarks import measure

RUN = ("--dataset=synthetic", "--dims=[64]", "--steps=5", "--epochs=150", "--eval_every=1", "--patience=1000",
       "--baselines=false")  # fmt: skip
CACHE_ALL = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
HALF_WRITTEN = "*.orbax-checkpoint-tmp*"
DURATIONS = ("seconds", "peak_host_bytes")


def main(argv: list[str]) -> None:
    """Kill, compare, report; exits with 1 if there is a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path)
    options, flags = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.workdir or Path(temporary)
        outcome = torment(folder, flags or list(RUN), kills=options.kills, seed=options.seed)
    measure.finish(**outcome)
    if outcome["differences"] or outcome["kills"] < options.kills:
        raise SystemExit(1)


def torment(folder: Path, flags: list[str], *, kills: int, seed: int) -> dict[str, Any]:
    """Run once in peace and once with ``kills``, below ``folder``; what was done and what differs."""
    peaceful, killed = folder / "peaceful", folder / "killed"
    began = time.monotonic()
    alone = _start(flags, peaceful)
    rng = random.Random(seed)
    half_written = done = 0
    while done < kills:
        process = _start(flags, killed)
        if not _kill(process, killed, rng=rng, aimed=done % 2 == 1):
            break  # it ended before it could be killed
        done += 1
        half_written += any(killed.glob(f"checkpoints/{HALF_WRITTEN}"))
    for process in (_start(flags, killed), alone):
        if process.wait() != 0:
            raise SystemExit(f"exit code {process.returncode}: see the folders below {folder}")
    return {
        "kills": done,
        "of_these_during_a_save": half_written,
        "differences": differences(peaceful, killed),
        "seconds": time.monotonic() - began,
    }


def differences(one: Path, other: Path) -> list[str]:
    """In what the ends of two runs differ; empty if in nothing."""
    found = []
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    for name in {**results[0], **results[1]}:
        if name not in DURATIONS and results[0].get(name) != results[1].get(name):
            found.append(f"result.json: {name}")
    lines = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (one, other)
    ]
    if len(lines[0]) != len(lines[1]):
        found.append(f"metrics.jsonl: {len(lines[0])} and {len(lines[1])} lines")
    for a, b in zip(*lines):
        if {k: v for k, v in a.items() if k not in DURATIONS} != {k: v for k, v in b.items() if k not in DURATIONS}:
            found.append(f"metrics.jsonl: epoch {a['epoch']}")
    states = [_states(folder / "checkpoints") for folder in (one, other)]
    if list(states[0]) != list(states[1]):
        found.append(f"checkpoints: steps {list(states[0])} and {list(states[1])}")
    for step in states[0].keys() & states[1].keys():
        same = jax.tree.map(
            lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), states[0][step], states[1][step]
        )
        if not jax.tree.all(same):
            found.append(f"checkpoint {step}: {sum(not leaf for leaf in jax.tree.leaves(same))} arrays")
    return found


def _states(folder: Path) -> dict[int, Any]:
    """All arrays of all checkpoints, by step."""
    warnings.filterwarnings("ignore", "Sharding info not provided")
    with ocp.training.Checkpointer(folder.absolute()) as checkpointer:
        return {checkpoint.step: checkpointer.load(checkpoint) for checkpoint in checkpointer.checkpoints}


def _start(flags: list[str], workdir: Path) -> "subprocess.Popen[bytes]":
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir.with_suffix(".log"), "ab") as log:
        argv = [sys.executable, "-m", "experiments.run", *flags, f"--workdir={workdir}"]
        cache = {"JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"), **CACHE_ALL}
        return subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, **cache})


def _kill(process: "subprocess.Popen[bytes]", workdir: Path, *, rng: random.Random, aimed: bool) -> bool:
    """Kill the process: at a random moment of its training, or once a checkpoint is half written."""
    checkpoints, metrics = workdir / "checkpoints", workdir / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns if metrics.is_file() else 0
    while process.poll() is None:  # until it trains
        if metrics.is_file() and metrics.stat().st_mtime_ns != before:
            break
        time.sleep(0.002)
    if aimed:
        for _ in range(rng.randrange(5)):
            _next_save(process, checkpoints)
        _next_save(process, checkpoints)
    else:
        time.sleep(rng.uniform(0.0, 1.0))
    os.kill(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def _next_save(process: "subprocess.Popen[bytes]", checkpoints: Path) -> None:
    """Wait until a save that has not begun yet begins."""
    for wanted in (False, True):
        while process.poll() is None and any(checkpoints.glob(HALF_WRITTEN)) != wanted:
            time.sleep(0.0002)


if __name__ == "__main__":
    main(sys.argv[1:])
