"""Benchmark: a vector index in the place of the whole catalogue: recall and speed of faiss at 38 k and 1 M items.

    python -m experiments.benchmarks.vector_index                # L-DiffRec's width, 300
    python -m experiments.benchmarks.vector_index --items=38048 --width=1000

The vectors are made up: a user and an item are mixtures of 64 topics and some noise of their own, the item's popularity
is its bias. How much an approximate index finds depends on such structure, so measure it on your own export too. The
last line is one JSON object; recall is the share of the exact top-20 that the index finds.
"""

import argparse
import json
import time
from typing import Any

import numpy as np

TOPICS, K, LISTS_PER_ROOT = 64, 20, 4
PROBES = (1, 4, 16, 64)


def main() -> None:
    """Measure every size, print."""
    parser = argparse.ArgumentParser(description="Exact and approximate search among item vectors.")
    parser.add_argument("--items", type=int, nargs="+", default=[38_048, 1_000_000])
    parser.add_argument("--width", type=int, default=300)
    parser.add_argument("--users", type=int, default=1024)
    args = parser.parse_args()
    found = {str(n): measure(n, args.width, args.users) for n in args.items}
    print(json.dumps({"width": args.width, "users": args.users, "k": K, "by_items": found}))


def measure(n_items: int, width: int, n_users: int) -> dict[str, Any]:
    """Exact search, then an inverted file at several numbers of lists looked into."""
    import faiss

    rng = np.random.default_rng(0)
    topics = rng.normal(size=(TOPICS, width)).astype(np.float32)
    items = np.empty((n_items, width + 1), np.float32)
    for start in range(0, n_items, 65_536):  # in pieces, for memory
        rows = slice(start, min(start + 65_536, n_items))
        items[rows] = vectors(rng, rows.stop - rows.start, topics, last=None)
    users = vectors(rng, n_users, topics, last=1.0)
    exact = faiss.IndexFlatIP(width + 1)
    exact.add(items)
    truth, seconds = search(exact, users)
    result: dict[str, Any] = {"exact_users_per_second": round(n_users / seconds, 1)}
    print(f"{n_items:,} items, exact: {n_users / seconds:,.0f} users/s")
    lists = int(LISTS_PER_ROOT * n_items**0.5)
    began = time.perf_counter()
    index: Any = faiss.index_factory(width + 1, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(items[rng.permutation(n_items)[: 40 * lists]])
    index.add(items)
    result["build_seconds"] = round(time.perf_counter() - began, 1)
    result["lists"] = lists
    for probes in PROBES:
        index.nprobe = probes
        got, seconds = search(index, users)
        recall = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(truth, got)])
        result[f"probe_{probes}"] = {
            "recall": round(float(recall), 4),
            "users_per_second": round(n_users / seconds, 1),
        }
        print(f"{n_items:,} items, {probes} of {lists} lists: recall {recall:.3f}, {n_users / seconds:,.0f} users/s")
    return result


def vectors(rng: np.random.Generator, n: int, topics: np.ndarray, *, last: float | None) -> np.ndarray:
    """``[n, width + 1]``: sparse mixtures of topics, noise, and a last column (an item's bias if None)."""
    mixture = rng.dirichlet(np.full(len(topics), 0.05), n).astype(np.float32)
    noise = 0.3 * rng.standard_normal((n, topics.shape[1]), np.float32)
    bias = rng.pareto(3.0, n).astype(np.float32) if last is None else np.full(n, last, np.float32)
    return np.concatenate([mixture @ topics + noise, bias[:, None]], axis=1)


def search(index: Any, users: np.ndarray) -> tuple[np.ndarray, float]:
    """Item numbers and seconds, the better of two."""
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        _, items = index.search(users, K)
        seconds.append(time.perf_counter() - began)
    return items, min(seconds)


if __name__ == "__main__":
    main()
