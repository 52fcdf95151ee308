"""What the benchmarks share: blocking medians, the matrix-product peak, data of a given shape, one JSON line."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.events import CSR
from diffrec_jax.memory import peak_memory

ML_1M = {"n_users": 5_949, "n_items": 2_810, "n_interactions": 403_277}
AMAZON_BOOK = {"n_users": 108_822, "n_items": 94_949, "n_interactions": 3_146_256}


def median_seconds(function: Callable[[], Any], *, repeats: int = 7) -> float:
    """Median time of a call, until its result is on the device; the first call is left out."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def matmul_peak(*, size: int = 2048, repeats: int = 11) -> float:
    """FLOP/s of a large float32 matrix product in this process, the fastest of several: the limit to compare with."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(a, a))
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(product(a, a))
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def interactions_like(*, n_users: int, n_items: int, n_interactions: int, seed: int = 0) -> CSR:
    """Made-up interactions of about this shape: log-normal history lengths, popularity falling as a power of rank."""
    rng = np.random.default_rng(seed)
    lengths = np.exp(rng.normal(0.0, 1.0, n_users))
    lengths = np.maximum((lengths / lengths.sum() * n_interactions * 1.25).astype(np.int64), 3)
    users = np.repeat(np.arange(n_users), lengths)
    weights = (np.arange(n_items) + 10.0) ** -0.8
    items = rng.choice(n_items, size=len(users), p=weights / weights.sum())
    csr = CSR.from_pairs(users, items, n_users=n_users, n_items=n_items)
    if csr.n_interactions <= n_interactions:
        return csr
    keep = np.sort(rng.permutation(csr.n_interactions)[:n_interactions])
    return CSR.from_pairs(csr.users()[keep], csr.indices[keep], n_users=n_users, n_items=n_items)


def peak_bytes() -> int:
    """Peak memory of this process."""
    return peak_memory()


def finish(**values: Any) -> None:
    """Print the result: one JSON object, the last line."""
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}))


def command(words: list[str]) -> dict[str, Any]:
    """Run a module of this project; its time, and the most memory it had."""
    code = (
        "import json, runpy, sys\n"
        "from diffrec_jax.memory import peak_memory\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n    runpy.run_module(sys.argv[0], run_name='__main__')\n"
        "finally:\n    print(json.dumps(peak_memory()), file=sys.stderr)\n"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return {"seconds": time.perf_counter() - start, "peak_bytes": int(done.stderr.split()[-1])}
