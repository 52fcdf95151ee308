"""Benchmark: item embeddings by LightGCN, their clusters beside those of TruncatedSVD, and LightGCN as a recommender.

    python -m experiments.benchmarks.lightgcn --dataset=yelp2018 --data_dir=data

The last line is one JSON object: `seconds` of each way (compilation included), milliseconds of one smoothing over the
graph by neighbour lists and by a segment sum over the edges, cluster sizes, and the recommender's metrics.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from diffrec_jax import api
from diffrec_jax.data import datasets
from diffrec_jax.models.clustering import k_means, svd_embeddings
from diffrec_jax.models.lightgcn import Graph, LightGCN


def milliseconds(function: Callable[..., jax.Array], *arguments: Any, repeats: int = 5) -> float:
    """Median of several calls, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - began)
    return round(1e3 * float(np.median(seconds)), 2)


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description="Item embeddings by LightGCN.")
    parser.add_argument("--dataset", default="ml-1m_clean")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=LightGCN.updates)
    parser.add_argument("--n_cate", type=int, default=2)
    args = parser.parse_args()
    split = datasets.load(args.dataset, data_dir=args.data_dir)
    train = split.train.csr()

    graph = Graph.create(train)
    x = jax.random.normal(jax.random.key(0), (split.n_items, LightGCN.dim))
    by_lists = jax.jit(lambda graph, x: graph.of_users.sum(x))
    by_segments = jax.jit(
        lambda graph, x: jax.ops.segment_sum(x[graph.items], graph.users, split.n_users, indices_are_sorted=True)
    )
    smoothing = {"lists": milliseconds(by_lists, graph, x), "segment_sum": milliseconds(by_segments, graph, x)}

    began = time.perf_counter()
    fitted = api.fit(LightGCN(seed=args.seed, updates=args.updates), split.train, split.valid)
    embeddings = {"lightgcn": np.asarray(fitted.params["items"])}
    seconds = {"lightgcn": time.perf_counter() - began}
    began = time.perf_counter()
    embeddings["svd"] = svd_embeddings(train, seed=args.seed)
    seconds["svd"] = time.perf_counter() - began
    clusters = {
        name: k_means(found, args.n_cate, n_items=split.n_items, seed=args.seed).sizes
        for name, found in embeddings.items()
    }
    metrics = {}
    if fitted.valid is not None:
        metrics["valid"] = api.evaluate(fitted, fitted.valid).mean("official")
    metrics["test"] = api.evaluate(fitted, split.test).mean("official")
    kept = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
    print(
        json.dumps(
            {
                "dataset": split.name,
                "seed": args.seed,
                "updates": args.updates,
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
                "smoothing_ms": smoothing,
                "clusters": clusters,
                **{part: {name: round(values[name], 4) for name in kept} for part, values in metrics.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
