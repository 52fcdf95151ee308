"""How near the ML-1M training step comes to the matrix-product peak of this machine.

    python -m experiments.benchmarks.train_step

Counted are matrix products only: forward, and both gradients of every layer but the first, whose input needs none.
"""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.rows import device_csr
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue, DiffRec
from diffrec_jax.training import Trainer
from experiments.benchmarks import measure

BATCH = 400


def flops_per_step(model: DiffRec, n_items: int) -> float:
    """Floating-point operations of the matrix products of one step."""
    widths = [n_items, *reversed(model.dims), *model.dims[1:], n_items]
    layers = [a * b for a, b in itertools.pairwise(widths)]
    return 2.0 * BATCH * (3 * sum(layers) - layers[0])


def main() -> None:
    """Time epochs of 15 steps, and the peak before and after each."""
    csr = measure.interactions_like(**measure.ML_1M)
    model = DiffRec(dims=(200, 600), steps=40, noise_scale=0.005, noise_min=0.005, noise_max=0.01)
    mesh = make_mesh()
    trainer = Trainer(model, Catalogue(n_items=csr.n_items, n_users=csr.n_users), mesh, 0, FitOptions(batch_size=BATCH))
    data = device_csr(csr, mesh=mesh)
    program, state = trainer.compile(data), trainer.init()
    steps = trainer.steps_per_epoch
    times, peaks = [], []
    for epoch in range(9):
        peaks.append(measure.matmul_peak(repeats=3))
        start = time.perf_counter()
        state = program(state, data, jnp.int32(epoch), jnp.int32(steps))
        jax.block_until_ready(state)
        times.append((time.perf_counter() - start) / steps)
    seconds, peak = float(np.median(times[1:])), float(np.median(peaks))
    achieved = flops_per_step(model, csr.n_items) / seconds
    print(f"{seconds * 1e3:.1f} ms per step of {BATCH} users, {steps} steps per epoch, {csr.n_interactions:,} events")
    measure.finish(
        gflops=achieved / 1e9,
        peak_gflops=peak / 1e9,
        ratio=achieved / peak,
        step_ms=seconds * 1e3,
        epoch_seconds=seconds * steps,
    )


if __name__ == "__main__":
    main()
