"""STOSA against its recording, with the released code's slip and without, and what it must not depend on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import quick
from sequences import I, batch, initial, loss_of

from diffrec_jax.models.item_losses import softmax_losses
from diffrec_jax.models.stosa import STOSA, distance

SIZES = {"width": 16, "blocks": 2, "heads": 2, "length": 8, "dropout": 0.0}
SMALL = STOSA(width=8, heads=2, length=6, dropout=0.0, packing=False)
TABLES = {
    "items": "item_mean_embeddings",
    "item_variances": "item_cov_embeddings",
    "positions": "position_mean_embeddings",
    "position_variances": "position_cov_embeddings",
}


def in_our_layout(g, group, dtype):
    """Recorded parameters, or gradients, of which some are none: items are numbered from 0, and padding has no row."""

    def of(name):
        return jnp.asarray(g[f"{group}/{name}"], dtype) if f"{group}/{name}" in g else None

    def dense(name):
        weight = of(f"{name}.weight")
        return {} if weight is None else {"kernel": weight.T, "bias": of(f"{name}.bias")}

    def norm(name):
        return {} if of(f"{name}.weight") is None else {"scale": of(f"{name}.weight"), "bias": of(f"{name}.bias")}

    encoder = {"first_norm": norm("LayerNorm")}
    for n in range(2):
        layer = f"item_encoder.layer.{n}"
        kinds = [f"{stream}_{what}" for stream in ("mean", "cov") for what in ("query", "key", "value")]
        for i, kind in enumerate(kinds):
            encoder[f"read_{n}_{i}"] = dense(f"{layer}.attention.{kind}")
        encoder[f"norms_{n}_0"] = norm(f"{layer}.attention.LayerNorm")
        for i, stream in enumerate(("mean", "cov")):
            encoder[f"out_{n}_{i}"] = dense(f"{layer}.attention.{stream}_dense")
            encoder[f"up_{n}_{i}"] = dense(f"{layer}.{stream}_intermediate.dense_1")
            encoder[f"down_{n}_{i}"] = dense(f"{layer}.{stream}_intermediate.dense_2")
            encoder[f"norms_{n}_{i + 1}"] = norm(f"{layer}.{stream}_intermediate.LayerNorm")
    tables = {ours: of(f"{theirs}.weight") for ours, theirs in TABLES.items()}
    return {"encoder": encoder} | {k: v[1:] if k.startswith("item") else v for k, v in tables.items()}


def close(ours, theirs, tolerance=2e-5):
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * max(1.0, np.abs(theirs).max())


@pytest.mark.parametrize("dtype", quick(["float32", "float64"], "float32"))
@pytest.mark.parametrize("group", ["reference", "intended"])
def test_it_equals_the_recorded_one(golden, group, dtype):
    g, model = golden("stosa_forward"), STOSA(**SIZES, reference=group == "reference")
    seq, pos, neg = (g[name] for name in ("seq", "pos", "neg"))
    real, items, targets, others = seq > 0, seq - 1, pos - 1, neg - 1
    with jax.enable_x64(dtype == "float64"):
        params = in_our_layout(g, "w", dtype)
        weights = jnp.asarray(real, dtype) / real.sum()

        @jax.jit
        def encode(params):
            at = jnp.where(real, items, params["items"].shape[0])
            found, noted = model.encoder.apply(
                {"params": params["encoder"]},
                model.sums(params, at),
                jnp.asarray(real),
                mutable=["intermediates"],
            )
            return found, noted["intermediates"]["shares"]

        def loss(params):
            states = encode(params)[0].vectors
            order, spread = model.terms(model.vectors(params), states, targets, others)
            terms = jnp.sum(weights * order), model.pvn * jnp.sum(weights * spread)
            return sum(terms), terms

        (_, (bpr, pvn)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        close(bpr, g[f"{group}/bpr"])
        close(pvn, g[f"{group}/pvn_weighted"])
        states, shares = encode(params)
        close(np.asarray(states.mean)[real], g[f"{group}/mean"][real])
        close(np.asarray(states.variance)[real], g[f"{group}/cov"][real])
        asking = np.broadcast_to(real[:, None], (4, 2, 8))
        close(np.asarray(shares[-1])[asking], g[f"{group}/attention_last_layer"][asking])
        u, v = states.vectors, model.vectors(params)
        near, far = distance(u, v[targets]), distance(u, v[others])
        close(np.mean(np.asarray(far > near)[real]), g[f"{group}/auc"])
        scores = u[:, -1] @ model.table(params).T + model.item_bias(params)[None]
        close(jnp.sum(jnp.square(u[:, -1]), axis=1)[:, None] - scores, g[f"{group}/distance_all_items"][:, 1:])
        recorded = in_our_layout(g, f"{group}/grad", dtype)
    tolerance = 1e-5 if dtype == "float64" else 2e-5
    for (path, ours), known in zip(
        jax.tree_util.tree_leaves_with_path(gradients), of_same_shape(recorded, gradients), strict=True
    ):
        if known is None:
            assert not np.any(ours), f"{path} has a gradient, and the recorded one has none"
        else:
            close(ours, np.asarray(known), tolerance)


def of_same_shape(tree, like):
    """The leaves of ``tree`` where ``like`` has some, None where it lacks them."""
    if not isinstance(like, dict):
        return [tree]
    return [leaf for name in sorted(like) for leaf in of_same_shape((tree or {}).get(name), like[name])]


def test_the_loss_is_that_of_pairs_and_what_the_window_holds_is_no_other():
    params, rows = initial(SMALL), batch()
    items, inputs, targets, weights = SMALL.examples(rows)
    states = SMALL.features(params, inputs, weights > 0).vectors
    far = np.asarray(jnp.sum(jnp.square(states[:, :, None] - SMALL.vectors(params)[None, None]), axis=3))
    key = jax.random.split(jax.random.key(5))[1]
    total = count = 0.0
    for row, user in enumerate(np.asarray(rows.users)):
        others = np.asarray(jax.random.randint(jax.random.fold_in(key, user), targets.shape[1:], 0, I))[::-1]
        for j, (target, other) in enumerate(zip(np.asarray(targets[row]), others)):
            if weights[row, j] and other not in np.asarray(items[row]):
                near = far[row, j, target]
                total += np.log1p(np.exp(near - far[row, j, other]))
                v, w = np.asarray(SMALL.vectors(params))[[target, other]]
                apart = np.square(v - w).sum()
                total += SMALL.pvn * max(near - apart, 0.0)
                count += 1
    assert float(loss_of(SMALL, params, rows)) == pytest.approx(total / count, rel=1e-5)


def test_its_softmax_is_the_cross_entropy_of_what_it_scores():
    model = dataclasses.replace(SMALL, loss_name="softmax")
    params, rows = initial(model), batch()
    _, inputs, targets, weights = model.examples(rows)
    states = model.features(params, inputs, weights > 0).vectors
    found = softmax_losses(states.reshape(-1, 16), model.table(params), model.item_bias(params), targets.reshape(-1))
    mean = jnp.sum(found * weights.reshape(-1)) / weights.sum()
    assert float(loss_of(model, params, rows)) == pytest.approx(float(mean), rel=1e-5)


@pytest.mark.long
def test_short_histories_share_rows_and_nothing_changes():
    params, rows = initial(SMALL), batch((1, 4, 6, 7, 12, 0, 2, 2))
    packed = dataclasses.replace(SMALL, packing=True)
    one, other = (jax.jit(jax.value_and_grad(lambda p, m=m: loss_of(m, p, rows)))(params) for m in (packed, SMALL))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)


def test_an_event_never_changes_what_stands_before_it():
    params, rows = initial(SMALL), batch()
    items, real = rows.items[2:5, :6], jnp.ones((3, 6), bool)
    encode = jax.jit(lambda items: SMALL.features(params, items, real))
    one, other = encode(items), encode(items.at[:, 4].set((items[:, 4] + 1) % I))
    for ours, theirs in zip(one, other):
        np.testing.assert_array_equal(ours[:, :4], theirs[:, :4])
        assert np.any(ours[:, 4:] != theirs[:, 4:])
