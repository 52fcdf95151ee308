"""How long a full-catalogue evaluation takes, and what the collapsed reverse process saves.

    python -m experiments.benchmarks.evaluate

ML-1M's shape: all 5,949 users with held-out items, T = 40, top-100, all metrics. Amazon-book's shape: scores of 400
users with random weights, by the collapsed process (its H×H product made once before, not counted) and the dense loop.
"""

import dataclasses

import jax
import numpy as np

from diffrec_jax.data.events import CSR
from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.evaluation import Evaluator
from diffrec_jax.evaluation.standing import Standing
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue, DiffRec
from experiments.benchmarks import measure


def last_of_each(csr: CSR, share: float) -> tuple[CSR, CSR]:
    """Every user's last ``share`` of items (at least one) as held-out, the rest as history."""
    lengths = csr.lengths()
    cut = lengths - np.maximum((lengths * share).astype(np.int64), 1)
    position = np.arange(csr.n_interactions) - np.repeat(csr.indptr[:-1], lengths)
    held_out = position >= np.repeat(cut, lengths)
    parts = []
    for mask in (~held_out, held_out):
        users, items = csr.users()[mask], csr.indices[mask]
        parts.append(CSR.from_pairs(users, items, n_users=csr.n_users, n_items=csr.n_items))
    return parts[0], parts[1]


def ml1m_seconds() -> float:
    """Median time of a whole evaluation at ML-1M's shape."""
    history, truth = last_of_each(measure.interactions_like(**measure.ML_1M), 0.15)
    model = DiffRec(dims=(200, 600), steps=40, noise_scale=0.005, noise_min=0.005, noise_max=0.01)
    mesh = make_mesh()
    params = model.init(jax.random.key(0), Catalogue(n_items=history.n_items, n_users=history.n_users))
    params = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.P()))
    evaluator = Evaluator(
        model,
        history=history,
        seen=history,
        truth=truth,
        standing=Standing.of(np.arange(history.n_items), history),
        mesh=mesh,
    )
    return measure.median_seconds(lambda: evaluator(params).per_user, repeats=5)


def amazon_seconds() -> dict[str, float]:
    """Median times of scoring 400 users at Amazon-book's shape."""
    csr = measure.interactions_like(**measure.AMAZON_BOOK)
    users = np.argsort(csr.lengths(), kind="stable")[csr.n_users // 2 :][:400].astype(np.int32)
    data, key = device_csr(csr), jax.random.key(1)
    model = DiffRec(dims=(1000,), steps=5, noise_scale=0.0001, noise_min=0.0005, noise_max=0.005)
    params = jax.jit(lambda k: model.init(k, Catalogue(n_items=csr.n_items, n_users=csr.n_users)))(jax.random.key(0))
    tables = jax.block_until_ready(jax.jit(model.prepare)(params))
    found: dict[str, float] = {}
    for steps in (5, 100):
        t_model = dataclasses.replace(model, steps=steps)

        @jax.jit
        def scores(params, tables, data, users, model=t_model):
            return model.scores(params, take_rows(data, users), key=key, tables=tables)

        run = lambda scores=scores: scores(params, tables, data, users)  # noqa: E731
        found[f"amazon_seconds_t{steps}"] = measure.median_seconds(run, repeats=5)

    @jax.jit
    def dense(params, data, users):
        return model.scores_by_dense_loop(params, take_rows(data, users), key=key)

    found["amazon_dense_seconds_t5"] = measure.median_seconds(lambda: dense(params, data, users), repeats=3)
    return found


def main() -> None:
    """Measure all."""
    found = {"ml1m_seconds_t40": ml1m_seconds(), **amazon_seconds()}
    peak = measure.matmul_peak()
    t5, t100 = found["amazon_seconds_t5"], found["amazon_seconds_t100"]
    saved = found["amazon_dense_seconds_t5"] / t5
    print(f"T = 100 takes {t100 / t5:.2f} x T = 5; T = 5 is {saved:.1f} x faster than the dense loop")
    measure.finish(**found, peak_gflops=peak / 1e9)


if __name__ == "__main__":
    main()
