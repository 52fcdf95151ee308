"""Computing in bfloat16: what is kept stays float32, and the loss stays near."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import quick

from diffrec_jax.data import synthetic
from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue, DiffRec, LatentDiffRec
from diffrec_jax.models.elsa import ELSA
from diffrec_jax.models.mult_vae import MultiDAE, MultVAE
from diffrec_jax.testing.suite import losses
from diffrec_jax.training import Trainer, TrainState, train_step
from diffrec_jax.training.moments import with_mu_dtype

N_ITEMS = 40
CLUSTERS = np.arange(N_ITEMS) % 2
MODELS = {
    "diffrec": DiffRec(dims=(6, 12), steps=3, noise_scale=0.1),
    "normalised": DiffRec(dims=(12,), steps=3, noise_scale=0.1, norm=True, mean_type="eps", reweight=False),
    "latent": LatentDiffRec(clusters=CLUSTERS, in_dims=(7,), mlp_dims=(6,), steps=5),
    "mirrored": LatentDiffRec(clusters=CLUSTERS, in_dims=(7, 9), out_dims=(7, 9), mlp_dims=(6,), norm=True, steps=5),
    "mult_vae": MultVAE(dims=(6, 12)),
    "multi_dae": MultiDAE(dims=(6, 12)),
    "elsa": ELSA(dim=8),
}


@pytest.fixture(scope="module")
def rows():
    data = synthetic.generate(n_users=32, n_items=N_ITEMS, seed=1)
    return take_rows(device_csr(data.csr()), jnp.arange(16, dtype=jnp.int32))


def matrix_products(jaxpr, found):
    """Shape and precision of every matrix product of a traced program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            found.append((equation.outvars[0].aval.shape, str(equation.outvars[0].aval.dtype)))
        for value in equation.params.values():
            inside = getattr(value, "jaxpr", value)
            if hasattr(inside, "eqns"):
                matrix_products(inside, found)
    return found


@pytest.mark.parametrize("name", quick(MODELS, "diffrec", "latent"))
def test_matrix_products_are_bfloat16_and_what_is_kept_is_float32(rows, name):
    model = MODELS[name]
    params = model.init(jax.random.key(0), Catalogue(n_items=N_ITEMS, n_users=32))
    optimizer = model.optimizer()
    state = TrainState.create(model, optimizer, params, ema=True)

    def step(state):
        return train_step(model, optimizer, state, rows, key=jax.random.key(1), dtype=jnp.bfloat16)

    traced, low = jax.make_jaxpr(step, return_shape=True)(state)
    products = matrix_products(traced.jaxpr, [])
    wide = [dtype for shape, dtype in products if N_ITEMS in shape or N_ITEMS // 2 in shape]
    assert name == "elsa" or (wide and set(wide) == {"bfloat16"})  # the Gram matrix of ELSA needs its digits
    kept = {str(leaf.dtype) for leaf in jax.tree.leaves(low) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert kept == {"float32"}
    high, low = losses(model, state, rows)
    assert low == pytest.approx(high, rel=0.05) and low != high


def test_the_trainer_passes_it_on_and_refuses_others():
    catalogue = Catalogue(n_items=N_ITEMS, n_users=32)
    with pytest.raises(ValueError, match=r"dtype='float16' is unknown: choose one of float32, bfloat16"):
        FitOptions(dtype="float16")
    data = synthetic.generate(n_users=32, n_items=N_ITEMS, seed=1)
    mesh = make_mesh(devices=jax.devices()[:1])
    trainer = Trainer(
        MODELS["diffrec"], catalogue, mesh, 0, FitOptions(batch_size=16, dtype="bfloat16", mu_dtype="bfloat16")
    )
    assert "bf16[16,40]" in str(trainer.trace(device_csr(data.csr(), mesh=mesh)).jaxpr)


def test_first_moments_in_bfloat16_learn_like_optax_with_the_same_option():
    params = {"w": jnp.linspace(-1.0, 1.0, 64)}
    ours, theirs = with_mu_dtype(optax.adamw(1e-2), jnp.bfloat16), optax.adamw(1e-2, mu_dtype=jnp.bfloat16)
    states = {"ours": (params, ours.init(params)), "theirs": (params, theirs.init(params))}
    for step in range(5):
        gradient = {"w": jax.random.normal(jax.random.key(step), (64,))}
        for name, optimizer in (("ours", ours), ("theirs", theirs)):
            now, state = states[name]
            updates, state = optimizer.update(gradient, state, now)
            states[name] = (optax.apply_updates(now, updates), state)
    moments = states["ours"][1][0]
    assert moments.mu["w"].dtype == jnp.bfloat16 and moments.nu["w"].dtype == jnp.float32
    np.testing.assert_allclose(states["ours"][0]["w"], states["theirs"][0]["w"], atol=5e-4)
