"""Peak host memory of training at Amazon-book's size: three steps and one evaluation batch.

python -m experiments.benchmarks.memory
"""

import jax
import jax.numpy as jnp

from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.evaluation import mask_seen, top_k
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue
from diffrec_jax.training import Trainer
from experiments.benchmarks import measure
from experiments.settings import cli


def main() -> None:
    """Train and evaluate a little; report the most memory this process ever had."""
    config = cli.parse(["memory", "--flagfile=amazon.flags"], usage="")
    model = config.model.trained
    assert model is not None
    csr = measure.interactions_like(**measure.AMAZON_BOOK)
    print(f"{csr.n_users:,} users x {csr.n_items:,} items, {csr.n_interactions:,} interactions")
    mesh = make_mesh()
    data = device_csr(csr, mesh=mesh)
    trainer = Trainer(model, Catalogue(n_items=csr.n_items, n_users=csr.n_users), mesh, 0, config.fit)
    program = trainer.compile(data)
    memory = program.memory_analysis()
    predicted = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    print(f"predicted: {predicted / 2**30:.2f} GiB of arguments and temporaries")
    state = program(trainer.init(), data, jnp.int32(0), jnp.int32(3))
    loss = float(state.loss_sum / state.loss_rows)
    params = state.params
    del state

    @jax.jit
    def evaluate(params, data, users):
        rows = take_rows(data, users, mesh=mesh)
        scores = model.scores(params, rows, key=jax.random.key(0), tables=model.prepare(params))
        return top_k(mask_seen(scores, rows), 100, mesh=mesh)

    users = jnp.arange(config.fit.batch_size, dtype=jnp.int32)
    jax.block_until_ready(evaluate(params, data, users))
    measure.finish(peak_bytes=measure.peak_bytes(), predicted_bytes=predicted, loss=loss)


if __name__ == "__main__":
    main()
