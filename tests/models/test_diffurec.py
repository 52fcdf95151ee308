"""DiffuRec against its recordings, and what order, padding, cuts and steps must and must not change."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sequences import batch, initial

from diffrec_jax.data.rows import make_rows
from diffrec_jax.data.windows import cut_at, window
from diffrec_jax.diffusion import LossHistory, importance, posterior_mean, q_sample, reverse
from diffrec_jax.evaluation import ranking_metrics
from diffrec_jax.models import Catalogue
from diffrec_jax.models.denoiser import timestep_embedding
from diffrec_jax.models.diffurec import DiffuRec
from diffrec_jax.models.item_losses import softmax_cross_entropy, softmax_losses
from diffrec_jax.testing import ModelSuite

SIZES = {"width": 8, "blocks": 1, "heads": 2, "length": 6, "steps": 5}
SMALL = DiffuRec(**SIZES, dropout=0.0, history_dropout=0.0, packing=False)
RELEASED = DiffuRec(width=16, blocks=2, heads=4, length=8, dropout=0.0, history_dropout=0.0, reference=True)


@pytest.mark.long
class TestReleasedDiffuRec(ModelSuite):
    model = DiffuRec(**SIZES, positions=True, reference=True)


def dense(g, name, bias=True):
    found = {"kernel": jnp.asarray(g[f"{name}.weight"]).T}
    return found | {"bias": jnp.asarray(g[f"{name}.bias"])} if bias else found


def norm(g, name):
    return {"scale": jnp.asarray(g[f"{name}.weight"]), "bias": jnp.asarray(g[f"{name}.bias"])}


def in_our_layout(g, w):
    """Recorded parameters, or their gradients: what is used of them, padding last, without the bias of keys."""
    inner, p = f"{w}/diffu.xstart_model", {}
    for n in range(2):
        block = f"{inner}.att.transformer_blocks.{n}"
        for i in range(3):
            p[f"attention_{n}_{i}"] = dense(g, f"{block}.attention.linear_layers.{i}", bias=i != 1)
        p[f"attention_{n}_3"] = dense(g, f"{block}.attention.w_layer")
        for i in range(2):
            p[f"dense_{n}_{i}"] = dense(g, f"{block}.feed_forward.w_{i + 1}")
            p[f"norms_{n}_{i}"] = norm(g, f"{block}.{('input', 'output')[i]}_sublayer.norm")
    p["last_norm"] = norm(g, f"{inner}.norm_diffu_rep")
    return {
        "items": jnp.asarray(np.roll(g[f"{w}/item_embeddings.weight"], -1, axis=0)),
        "norm": norm(g, f"{w}/LayerNorm"),
        "time": {"up": dense(g, f"{inner}.time_embed.0"), "down": dense(g, f"{inner}.time_embed.2")},
        "encoder": p,
    }


def ours(ids):
    """Ids that count from 1, with 0 for padding, as ours."""
    return np.where(ids > 0, ids - 1, 30)


def close(found, wanted, tolerance):
    assert np.abs(np.asarray(found) - wanted).max() <= tolerance * max(1.0, np.abs(wanted).max())


def same_trees(found, wanted, tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: close(a, np.asarray(b), tolerance), found, wanted)


def forward(model, params, seq, target, t, noise, share):
    """What a training pass of the reference computes, by name."""
    items, real = ours(seq), jnp.asarray(seq > 0)
    h, x0 = model.history(params, items), params["items"][ours(target)]
    x = q_sample(model.schedule, x0, jnp.asarray(t), jnp.asarray(noise))
    x0_hat = model.denoise(params, h, real, x[:, None], jnp.asarray(t)[:, None], jnp.asarray(share))
    return {"history_embedding": h, "x0_target": x0, "x_t": x, "all_positions": x0_hat, "x0_hat": x0_hat[:, -1]}


def loss_of_recording(model, params, seq, target, t, noise, share):
    x0_hat = forward(model, params, seq, target, t, noise, share)["x0_hat"]
    weights = jnp.full(len(seq), 1.0 / len(seq))
    return softmax_cross_entropy(x0_hat, params["items"], None, jnp.asarray(ours(target)), weights)


@pytest.mark.parametrize(
    "variant, dtype",
    [
        ("heads4", "float32"),
        pytest.param("heads4", "float64", marks=pytest.mark.long),
        *(
            pytest.param(variant, dtype, marks=pytest.mark.long)
            for variant, dtype in itertools.product(("heads2", "heads2_lambda0.5"), ("float32", "float64"))
        ),
    ],
)
def test_the_released_network_equals_the_recorded_one(golden, variant, dtype):
    with jax.enable_x64(dtype == "float64"):
        g = golden("diffurec_forward")
        g = {k: v.astype(dtype) if v.dtype == np.float32 else v for k, v in g.items()}
        model = dataclasses.replace(RELEASED, heads=4 if variant == "heads4" else 2)
        params = in_our_layout(g, "w")
        share = g["lambda_big" if variant.endswith("0.5") else "lambda"]
        said = (g["seq"], g["target"], g["t"], g["noise"], share)
        found = forward(model, params, *said)
        found["scaled_t"] = g["t"] * (1000.0 / model.steps)
        found["time_embedding"] = model.step_vectors(params)[g["t"]]
        scores = found["scores"] = np.roll(found["x0_hat"] @ params["items"].T, 1, axis=1)
        table = np.asarray(g["w/item_embeddings.weight"])
        squares = np.square(found["x0_hat"]).sum(1)[:, None] + np.square(table).sum(1)
        found["scores_neg_sq_distance"] = 2.0 * scores - squares
        z = found["history_embedding"] + share * (found["x_t"] + found["time_embedding"])[:, None]
        encoder = {"params": params["encoder"]}
        _, shares = model.encoder.apply(encoder, z, jnp.asarray(g["seq"] > 0), mutable=["intermediates"])
        for n, each in enumerate(shares["intermediates"]["shares"]):
            found[f"block{n}_attention_probs"] = each
        value, gradient = jax.jit(jax.value_and_grad(lambda p: loss_of_recording(model, p, *said)))(params)
        found["loss"] = value
        recorded = {k.partition("/")[2] for k in g if k.startswith(f"{variant}/") and "/grad/" not in k}
        assert recorded == found.keys()
        for name, values in found.items():
            assert dtype == "float32" or name == "scaled_t" or values.dtype == np.float64, name
            close(values, g[f"{variant}/{name}"], 2e-5)
        same_trees(gradient, in_our_layout(g, f"{variant}/grad"), 2e-5 if dtype == "float32" else 1e-5)


def test_five_steps_of_adam_equal_the_recorded_ones(golden):
    g, recorded = golden("diffurec_forward"), golden("diffurec_training")
    model = dataclasses.replace(RELEASED, heads=2)
    params, optimizer = in_our_layout(g, "w"), model.optimizer()
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, t, noise, share):
        said = (recorded["seq"], recorded["target"], t, noise, share)
        value, gradient = jax.value_and_grad(lambda p: loss_of_recording(model, p, *said))(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    for n, wanted in enumerate(recorded["losses"]):
        share = model.delta * (1.0 + recorded["z_lambda"][n])
        params, state, value = step(params, state, recorded["t"][n], recorded["noise"][n], share)
        close(value, wanted, 2e-5)
    same_trees(params, in_our_layout(recorded, "after5"), 2e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_whole_reverse_equals_the_recorded_one(golden, dtype):
    with jax.enable_x64(dtype == "float64"):
        weights, g = (
            {k: v.astype(dtype) if v.dtype == np.float32 else v for k, v in golden(f"diffurec_{name}").items()}
            for name in ("forward", "reverse")
        )
        model, params, seen = dataclasses.replace(RELEASED, heads=2), in_our_layout(weights, "w"), []
        h, real = model.history(params, ours(g["seq"])), jnp.asarray(g["seq"] > 0)
        share, noise = (jnp.asarray(g[name]) for name in ("z_lambda", "step_noise"))

        def denoise(x, t):
            now = model.delta * (1.0 + share[model.steps - 1 - t[0]])
            found = model.denoise(params, h, real, *model.placed(params, None, x, t), now)[:, -1]
            jax.debug.callback(lambda *values: seen.append(values), t[0], x, found, ordered=True)
            return found

        x_0 = reverse(
            model.schedule,
            denoise,
            jnp.asarray(g["x_T"]),
            sampling_noise=lambda t: noise[model.steps - 1 - t],
            variance=model.schedule.large_variance,
        )
        jax.effects_barrier()
        for name, values in zip(("steps", "x_t_before_step", "x0_hat_at_step"), zip(*seen)):
            close(np.stack(values), g[name], 2e-5)
        close(x_0, g["x_0"], 2e-5)
        scores = np.roll(x_0 @ params["items"].T, 1, axis=1)
        close(scores, g["scores"], 2e-5)
        lists = np.argsort(-scores, axis=1)
        np.testing.assert_array_equal(lists[:, :10], g["top10"])
        hits = jnp.asarray(lists[:, :20] == weights["target"][:, None])
        for name, values in ranking_metrics(hits, jnp.ones(4, jnp.int32), (5, 10, 20)).items():
            if (recorded := f"metric/{name.replace('hit', 'HR').replace('ndcg', 'NDCG')}") in g:
                assert float(jnp.mean(values)) == pytest.approx(float(g[recorded]), abs=1e-6)


def test_steps_and_their_tables_equal_the_recorded_ones(golden):
    g = golden("diffurec_process")
    t = np.arange(32) * 1000.0 / 32
    np.testing.assert_array_equal(t.astype(np.float32), g["rescaled_t_32"])
    for size in (15, 16, 128):
        close(timestep_embedding(jnp.asarray(t), size, rounded=True), g[f"timestep_embedding_dim{size}"], 2e-5)
    now = jnp.asarray(g["q_sample_t"])
    x = q_sample(RELEASED.schedule, jnp.asarray(g["q_sample_x0"]), now, jnp.asarray(g["q_sample_noise"]))
    close(x, g["q_sample_xt"], 2e-5)
    close(posterior_mean(RELEASED.schedule, jnp.asarray(g["q_sample_x0"]), x, now), g["posterior_mean_of_x0_xt"], 2e-5)
    with jax.enable_x64(True):
        for name, weights in (("fixstep", "fixstep_weights_8"), ("uniform", "uniform_weights_8")):
            p = np.asarray(DiffuRec(steps=8, t_sampling=name).step_probabilities())
            np.testing.assert_allclose(p, g[weights] / g[weights].sum(), rtol=1e-12)
        memory = LossHistory(history=jnp.zeros((8, 10)), count=jnp.zeros(8, jnp.int32))
        np.testing.assert_allclose(importance.probabilities(memory) * 8, g["lossaware_weights_fresh"], rtol=1e-12)
        memory = importance.record(
            memory, jnp.asarray(g["lossaware_update_t"]), jnp.asarray(g["lossaware_update_loss"])
        )
        np.testing.assert_allclose(memory.history, g["lossaware_history"], rtol=1e-12)
        wanted = g["lossaware_weights_warm"] / g["lossaware_weights_warm"].sum()
        np.testing.assert_allclose(importance.probabilities(memory), wanted, rtol=1e-12)


def test_prefixes_and_windows_are_those_recorded(golden):
    g = golden("diffurec_batches")

    def rows_of(more):
        histories = [np.append(g[f"user{n}"], more[n]).astype(int) - 1 for n in range(3)]
        items = np.stack([np.pad(h, (0, 8 - len(h)), constant_values=30) for h in histories])
        return make_rows(jnp.asarray(items), jnp.asarray([*map(len, histories)]), n_items=30)

    def recorded(items, real):
        return np.where(real, np.asarray(items) + 1, 0)

    rows = rows_of([[], [], []])
    tokens, labels = [], []
    for user in range(3):
        for place in range(1, int(rows.lengths[user])):
            items, real, target = cut_at(rows, jnp.full(3, place), 4)
            tokens.append(recorded(items, real)[user])
            labels.append(int(target[user]) + 1)
    np.testing.assert_array_equal(tokens, g["train_tokens"])
    np.testing.assert_array_equal(labels, g["train_labels"])
    np.testing.assert_array_equal(recorded(*window(rows, 4)), g["valid_tokens"])
    np.testing.assert_array_equal(recorded(*window(rows_of(g["valid_labels"][:, None]), 4)), g["test_tokens"])
    np.testing.assert_array_equal(g["test_labels"] - g["valid_labels"], 3)  # what is told of them is what comes next


def test_the_released_network_has_the_parameters_it_is_said_to_have():
    for n_items, wanted in ((12_101, 2_474_368), (11_924, 2_451_712), (3_416, 1_362_688), (13_044, 2_595_072)):
        model = DiffuRec(reference=True)
        shapes = model.shapes(Catalogue(n_items=n_items, n_users=9))
        keys = model.blocks * model.width  # biases that cancel
        assert sum(a.size for a in jax.tree.leaves(shapes)) + keys == wanted
    params = jax.jit(lambda: RELEASED.init(jax.random.key(0), Catalogue(n_items=400, n_users=9)))()
    layers = {"attention_0_0": 16**-0.5 / 3**0.5, "dense_1_0": (2 / 80) ** 0.5, "attention_1_3": 0.25}
    for name, wanted in layers.items():
        assert float(jnp.std(params["encoder"][name]["kernel"])) == pytest.approx(wanted, rel=0.15)
    assert float(jnp.std(params["items"])) == pytest.approx(1.0, rel=0.05)


def loss_of(model, params, rows, key=5, memory=None):
    now = {"key": jax.random.key(key), "step": jnp.asarray(0), "epoch": jnp.asarray(0)}
    return model.loss(params, memory, rows, **now)


vectors = jax.jit(lambda model, params, rows: model.now(params, rows, key=jax.random.key(3)), static_argnums=0)


def test_the_order_before_the_last_event_is_seen_with_positions_only():
    rows = batch()
    shuffled = rows.replace(items=rows.items.at[3, 1:6].set(rows.items[3, jnp.asarray([3, 1, 5, 2, 4])]))
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), rows, shuffled)
    for positions in (False, True):
        model = dataclasses.replace(SMALL, positions=positions, delta=0.5)
        found = vectors(model, initial(model), both)
        difference = jnp.abs(found[3] - found[9]).max()
        assert (float(difference) > 1e-3) == positions


def test_without_noise_it_is_a_plain_encoder_however_many_steps():
    plain = dataclasses.replace(SMALL, delta=0.0)
    params, rows = initial(plain), batch()
    items, real = window(rows, 6)
    alone = plain.encoder.apply({"params": params["encoder"]}, plain.history(params, items), real)[:, -1]
    for changes in ({}, {"reverse_steps": 5, "draws": 2}):
        found = vectors(dataclasses.replace(plain, **changes), params, rows)
        np.testing.assert_allclose(found, alone, atol=1e-5)
    step_alone = vectors(dataclasses.replace(SMALL, delta=0.5, carries_target=False), params, rows)
    assert np.abs(step_alone - alone).max() > 1e-3


@pytest.mark.parametrize(
    "model",
    [pytest.param(SMALL, marks=pytest.mark.long), dataclasses.replace(SMALL, reverse_steps=3, draws=2, delta=0.2)],
)
def test_no_vector_depends_on_padding_or_on_who_else_is_asked(model):
    model = dataclasses.replace(model, positions=True)
    params, rows = initial(model), batch()
    wide = dataclasses.replace(model, length=13)
    longer = {**params, "positions": jnp.pad(params["positions"], ((7, 0), (0, 0)), constant_values=3.0)}
    short = np.asarray(rows.lengths) <= model.length
    one, two = vectors(model, params, rows), vectors(wide, longer, rows)
    assert np.isfinite(one).all() and one.shape == (6, 8)
    np.testing.assert_allclose(one[short], two[short], atol=1e-5)
    backwards = jax.tree.map(lambda a: a[::-1], rows)
    np.testing.assert_allclose(vectors(model, params, backwards)[::-1], one, atol=1e-5)
    np.testing.assert_allclose(
        model.user_vectors(params, rows, key=jax.random.key(3)) @ model.item_vectors(params).T,
        model.scores(params, rows, key=jax.random.key(3)),
        atol=1e-5,
    )


@pytest.mark.long
def test_more_draws_come_closer_to_their_mean_and_steps_of_the_reverse_matter_with_delta():
    model = dataclasses.replace(SMALL, delta=0.3, reverse_steps=5)
    params, rows = initial(model), batch()
    one, many = (vectors(dataclasses.replace(model, draws=n), params, rows) for n in (1, 60))
    other = jax.jit(lambda: dataclasses.replace(model, draws=60).now(params, rows, key=jax.random.key(4)))()
    assert np.abs(other - many).mean() < 0.4 * np.abs(one - many).mean()
    still, one_pass = (vectors(dataclasses.replace(model, reverse_steps=n), params, rows) for n in (5, None))
    assert np.abs(still - one_pass).max() > 1e-3
    with pytest.raises(ValueError, match="draws=1 of noise when ranking need a key: pass one, or draws=0"):
        dataclasses.replace(SMALL, draws=1).now(params, rows)


@pytest.mark.long
def test_the_mean_over_cuts_is_the_objective_over_prefixes():
    model = dataclasses.replace(SMALL, delta=0.0)
    params, rows = initial(model), batch()
    expected = []
    for row in range(6):
        for place in range(1, int(rows.lengths[row])):
            items, real, target = cut_at(rows, jnp.full(6, place), model.length)
            f = model.denoise(params, model.history(params, items), real, 0.0, jnp.zeros((6, 1), int), 0.0)
            logits = np.asarray(f[row, -1] @ params["items"].T, np.float64)
            expected.append(np.log(np.exp(logits).sum()) - logits[int(target[row])])
    drawn = jax.jit(jax.vmap(lambda key: loss_of(model, params, rows, key)[0]))(jnp.arange(1500))
    assert float(jnp.mean(drawn)) == pytest.approx(np.mean(expected), rel=0.01)


@pytest.mark.long
def test_losses_of_steps_are_remembered():
    model = dataclasses.replace(SMALL, delta=0.5, t_sampling="lossaware")
    params, rows = initial(model), batch()
    after = jax.jit(lambda: loss_of(model, params, rows, memory=model.init_memory(params))[1].memory)()
    assert int(after.count.sum()) == 4  # of six histories one is empty and one has no prefix
    assert model.watched(after)["importance"].shape == (5,) and SMALL.watched(None) == {}
    v, table = jax.random.normal(jax.random.key(0), (3, 8)), params["items"]
    targets = jnp.asarray([4, 0, 20])
    found = softmax_losses(v, table, None, targets, 7)
    np.testing.assert_allclose(found, -jax.nn.log_softmax(v @ table.T)[jnp.arange(3), targets], rtol=1e-5)


@pytest.mark.long
def test_the_way_steps_are_drawn_leaves_the_mean_of_the_loss_as_it_is():
    model = dataclasses.replace(SMALL, delta=0.5)
    params, rows = initial(model), batch()
    memory = LossHistory(history=jnp.ones((5, 10)) * jnp.asarray([9.0, 1, 1, 3, 1])[:, None], count=jnp.full(5, 10))
    means = []
    for name, now in (("uniform", None), ("fixstep", None), ("lossaware", memory)):
        named = dataclasses.replace(model, t_sampling=name)
        of = jax.vmap(lambda key, named=named, now=now: loss_of(named, params, rows, key, now)[0])
        means.append(float(jnp.mean(jax.jit(of)(jnp.arange(3000)))))
    assert means[1:] == pytest.approx([means[0]] * 2, rel=0.02)


@pytest.mark.long
def test_rows_of_padding_weigh_nothing():
    model = dataclasses.replace(SMALL, delta=0.5)
    params, rows = initial(model), batch((4, 6, 12))
    padded = batch((4, 6, 12, 5), users=jnp.asarray([0, 1, 2, -1]))
    both = jax.jit(jax.value_and_grad(lambda p, r: loss_of(model, p, r)[0]))
    (one, its), (other, others) = both(params, rows), both(params, padded)
    assert float(one) == pytest.approx(float(other), rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), its, others)


@pytest.mark.long
def test_short_prefixes_share_rows_and_nothing_changes():
    plain = dataclasses.replace(SMALL, delta=0.0, positions=True)
    params, rows = initial(plain), batch((1, 4, 6, 7, 12, 0, 2, 2))
    packed = dataclasses.replace(plain, packing=True)
    one, other = (jax.jit(jax.value_and_grad(lambda p, m=m: loss_of(m, p, rows)[0]))(params) for m in (packed, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, other)


@pytest.mark.long
def test_dropout_falls_where_it_is_said_to():
    params, rows = initial(SMALL), batch()
    loss = jax.jit(lambda model, params, rows: loss_of(model, params, rows)[0], static_argnums=0)
    still = loss(SMALL, params, rows)
    for changes in ({"dropout": 0.4}, {"history_dropout": 0.4}):
        assert abs(loss(dataclasses.replace(SMALL, **changes), params, rows) - still) > 1e-3
    ours, theirs = (dataclasses.replace(SMALL, dropout=0.9, reference=r).encoder.clone(blocks=0) for r in (False, True))
    x, real, key = jnp.ones((1, 400, 8)) * jnp.arange(8.0)[None, None], jnp.ones((1, 400), bool), jax.random.key(0)
    params = {"params": {"last_norm": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}}
    for encoder in (ours, theirs):  # of no blocks: behind the last one, or of inputs
        assert float(jnp.std(encoder.apply(params, x, real, key=key)[0, :, 7])) > 0.1


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: DiffuRec(width=65), "width=65 does not divide by heads=4: choose a multiple of 4, or other heads"),
        (lambda: DiffuRec(reverse_steps=33), "reverse_steps=33 must be at most steps=32, all of them"),
        (lambda: DiffuRec(noise_schedule="linear", steps=8), "steps=8 is too few for noise_schedule=linear: choose 20"),
        (lambda: DiffuRec(length=1), "length=1 must be at least 2: one event has no order"),
    ],
)
def test_bad_hyper_parameters_are_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()
