"""How fast a model of order trains: seconds per epoch, slots per second, padding, share of the matrix-product peak.

    python -m experiments.benchmarks.sequential --model=sasrec --data=ml-1m_sasrec.txt
    python -m experiments.benchmarks.sequential --model=sasrec --against_torch

Without ``--data``, a file of ``user item`` lines, the histories are made up in the shape of ML-1M with 3,416 items.
``--against_torch`` takes turns with SASRec in PyTorch (``in_torch``), with the number of threads that suits it best.
Products that count are those of positions with a next event; ``waste`` is the share of slots that hold none, padded
where every history has a row of its own.
"""

import argparse
import importlib.util
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.events import CSR
from diffrec_jax.data.packing import waste
from diffrec_jax.data.rows import device_csr
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue
from diffrec_jax.models.sasrec import SASRec
from diffrec_jax.training import Trainer
from experiments.benchmarks import in_torch, measure
from experiments.settings.config import configure

ML_1M = {"n_users": 6_040, "n_items": 3_416, "n_interactions": 987_531}
BATCH = 128


def main() -> None:
    """Time turns of a few steps each, and print one JSON object."""
    parser = argparse.ArgumentParser(description="Speed of training a sequential model.")
    parser.add_argument("--model", default="sasrec")
    parser.add_argument("--data", default="", help="file of `user item` lines, oldest first")
    parser.add_argument("--length", default=128, type=int)
    parser.add_argument("--turns", default=3, type=int)
    parser.add_argument("--steps", default=0, type=int, help="steps of a turn; 0: a whole epoch")
    parser.add_argument("--against_torch", action="store_true")
    args = parser.parse_args()
    csr = histories(args.data) if args.data else measure.interactions_like(**ML_1M)
    finished(csr, args.model, args.turns, args.steps, args.against_torch, length=args.length)


def finished(csr: CSR, name: str, turns: int, steps: int, against_torch: bool, **sizes: int) -> None:
    """Measure the model of this name and print."""
    if against_torch and name != "sasrec":
        raise SystemExit(f"--against_torch compares SASRec, and not {name}: add --model=sasrec")
    if against_torch and importlib.util.find_spec("torch") is None:
        raise SystemExit("--against_torch needs PyTorch: pip install torch")
    model: Any = configure(model=name, **sizes).model
    ours = Ours(csr, model)
    steps = min(steps or ours.steps_per_epoch, ours.steps_per_epoch)
    theirs = Theirs(csr, model) if against_torch else None
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for turn in range(turns):
        seconds["ours"].append(ours.seconds(turn, steps))
        if theirs is not None:
            seconds["theirs"].append(theirs.seconds(turn, steps))
    share = steps / ours.steps_per_epoch
    length = min(model.length, int(csr.lengths().max()) - 1)
    positions = np.minimum(csr.lengths() - 1, length).clip(0)
    median = float(np.median(seconds["ours"])) / share
    peak = measure.matmul_peak()
    found: dict[str, Any] = {
        "model": name,
        "length": length,
        "epoch_seconds": median,
        "positions": int(positions.sum()),
        "slots_per_second": float(positions.sum()) / median,
        "waste_padded": waste(positions, length, batch=BATCH, packed=False),
        "waste": waste(positions, length, batch=BATCH, packed=model.packing),
        "peak_gflops": peak / 1e9,
    }
    if name == "sasrec":
        needed = products(model, csr.n_items, positions)
        found["share_of_peak"] = needed / median / peak
    if theirs is not None:
        other = float(np.median(seconds["theirs"])) / share
        own_peak = in_torch.matmul_peak()
        found |= {
            "torch_epoch_seconds": other,
            "torch_threads": theirs.threads,
            "torch_peak_gflops": own_peak / 1e9,
            "torch_share_of_peak": needed / other / own_peak,
            "ratio": median / other,
        }
    measure.finish(**found)


class Ours:
    """A trainer, whose epochs are timed."""

    def __init__(self, csr: CSR, model: Any) -> None:
        catalogue = Catalogue(n_items=csr.n_items, n_users=csr.n_users)
        trainer = Trainer(model, catalogue, make_mesh(), 0, FitOptions(batch_size=BATCH))
        self.data = device_csr(csr)
        self.program, self.state = trainer.compile(self.data), trainer.init()
        self.steps_per_epoch = trainer.steps_per_epoch
        self.state = jax.block_until_ready(self.program(self.state, self.data, jnp.int32(0), jnp.int32(1)))

    def seconds(self, epoch: int, steps: int) -> float:
        """Of some steps of an epoch."""
        began = time.perf_counter()
        self.state = self.program(self.state, self.data, jnp.int32(epoch), jnp.int32(steps))
        jax.block_until_ready(self.state)
        return time.perf_counter() - began


class Theirs:
    """The same in PyTorch, with as many threads as suit it best."""

    def __init__(self, csr: CSR, model: SASRec) -> None:
        import torch

        self.network = in_torch.SASRec(
            n_items=csr.n_items,
            length=model.length,
            width=model.width,
            blocks=model.blocks,
            heads=model.heads,
            dropout=model.dropout,
        )
        self.windows, self.lengths = right_padded(csr, model.length + 1)
        self.threads = 1
        timed = {}
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            self.seconds(0, 2)
            timed[threads] = self.seconds(0, 6)
        self.threads = min(timed, key=lambda threads: timed[threads])
        torch.set_num_threads(self.threads)

    def seconds(self, epoch: int, steps: int) -> float:
        """Of some steps of an epoch."""
        order = np.random.default_rng(epoch).permutation(len(self.windows))
        return self.network.epoch(self.windows, self.lengths, batch=BATCH, order=order, steps=steps)


def products(model: SASRec, n_items: int, positions: np.ndarray) -> float:
    """Floating-point operations of an epoch's matrix products: forward, and both gradients."""
    inner = model.width if model.norm == "original" else 4 * model.width
    block = 4 * model.width**2 + 2 * model.width * inner
    attention = model.blocks * 2 * model.width * float(np.sum(positions * (positions + 1) / 2))
    return 6.0 * (float(positions.sum()) * (model.blocks * block + n_items * model.width) + attention)


def histories(path: str) -> CSR:
    """The training part of a file of ``user item`` lines: all but the last two events of each user."""
    users, items = np.loadtxt(path, dtype=np.int64).T
    users, items = (np.unique(a, return_inverse=True)[1] for a in (users, items))
    order = np.argsort(users, kind="stable")
    users, items = users[order], items[order]
    behind = np.bincount(users).cumsum()[users] - np.arange(len(users))
    kept = behind > 2
    n_users, n_items = int(users.max()) + 1, int(items.max()) + 1
    return CSR.from_pairs(users[kept], items[kept], n_users=n_users, n_items=n_items)


def right_padded(csr: CSR, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The last events of each history, ``[U, L]``, followed by zeros, and how many there are."""
    lengths = np.minimum(csr.lengths(), length)
    found = np.zeros((csr.n_users, length), np.int64)
    for user, n in enumerate(lengths):
        end = csr.indptr[user + 1]
        found[user, :n] = csr.indices[end - n : end]
    return found, lengths.astype(np.int64)


if __name__ == "__main__":
    main()
