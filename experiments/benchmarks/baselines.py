"""Benchmark: a baseline at the shape of ML-1M or Amazon-book: time to fit, time to score, memory beside the prediction.

    python -m experiments.benchmarks.baselines --model=item_knn --shape=amazon-book

Closed-form models are fitted; of the trained ones a step is timed, with the product of the batch and the catalogue's
largest matrix at the peak of this process as the limit. The last line is one JSON object.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue
from diffrec_jax.training import Trainer
from experiments.benchmarks import measure
from experiments.settings.config import configure

BATCH = 400
SHAPES = {"ml-1m": measure.ML_1M, "amazon-book": measure.AMAZON_BOOK}


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description="Time and memory of a baseline.")
    parser.add_argument("--model", default="item_knn")
    parser.add_argument("--shape", default="ml-1m", choices=SHAPES)
    args = parser.parse_args()
    model = configure(model=args.model).model
    csr = measure.interactions_like(**SHAPES[args.shape])
    before = measure.peak_bytes()
    found: dict[str, Any] = {"model": args.model, "shape": args.shape}
    if model.trained is None:
        began = time.perf_counter()
        params = jax.block_until_ready(model.assemble(csr, None))
        found["fit_seconds"] = time.perf_counter() - began
        found["peak_fit_gib"] = (measure.peak_bytes() - before) / 2**30
        if model.bytes_needed(csr.n_items):
            found["predicted_gib"] = model.bytes_needed(csr.n_items) / 2**30
    else:
        params = model.trained.init(jax.random.key(0), Catalogue(n_items=csr.n_items, n_users=csr.n_users))
        found |= step(model, csr)
    users = jnp.asarray(np.argsort(csr.lengths(), kind="stable")[-2 * BATCH : -BATCH], jnp.int32)
    score = jax.jit(lambda params, csr: model.scores(params, take_rows(csr, users), key=jax.random.key(0)))
    on_device = device_csr(csr)
    found["score_users_per_second"] = BATCH / measure.median_seconds(lambda: score(params, on_device), repeats=3)
    measure.finish(**found)


def step(model: Any, csr: Any) -> dict[str, float]:
    """Milliseconds of a training step, and of its two products with the widest matrix at the peak."""
    trainer = Trainer(
        model, Catalogue(n_items=csr.n_items, n_users=csr.n_users), make_mesh(), 0, FitOptions(batch_size=BATCH)
    )
    on_device = device_csr(csr)
    program = trainer.compile(on_device)
    state = program(trainer.init(), on_device, jnp.int32(0), jnp.int32(1))
    n = min(trainer.steps_per_epoch - 1, 10)
    began = time.perf_counter()
    jax.block_until_ready(program(state, on_device, jnp.int32(0), jnp.int32(n)))
    seconds = (time.perf_counter() - began) / n
    widest = max(leaf.size for leaf in jax.tree.leaves(trainer.abstract_state().params))
    return {"step_ms": 1e3 * seconds, "limit_ms": 1e3 * 2 * 2.0 * BATCH * widest / measure.matmul_peak()}


if __name__ == "__main__":
    main()
