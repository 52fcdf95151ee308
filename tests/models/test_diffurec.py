"""DiffuRec: what was recorded of the authors' code, the principled form, and the causal one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffrec_jax.data.rows import make_rows
from diffrec_jax.data.windows import window
from diffrec_jax.diffusion.importance import LossHistory, probabilities, record
from diffrec_jax.diffusion.process import posterior_mean, q_sample
from diffrec_jax.diffusion.rescaled import rescaled_schedule
from diffrec_jax.models import Catalogue
from diffrec_jax.models.causal_diffurec import CausalDiffuRec
from diffrec_jax.models.denoiser import timestep_embedding
from diffrec_jax.models.diffurec import DiffuRec
from diffrec_jax.models.item_losses import softmax_cross_entropy
from diffrec_jax.testing import ModelSuite

N = 30  # items of the recordings, whose ids begin with 1; 0 is padding
I = 21
SMALL = DiffuRec(width=8, blocks=1, heads=2, length=6, steps=4)
CAUSAL = CausalDiffuRec(width=8, blocks=1, length=6, steps=4, packing=False)


class TestDiffuRec(ModelSuite):
    model = dataclasses.replace(SMALL, length=7)
    bad = (("steps", 0), ("noise_schedule", "cubic"), ("delta", -1.0), ("reverse_steps", 3), ("draws", 2), ("heads", 3))


class TestCausalDiffuRec(ModelSuite):
    model = dataclasses.replace(CAUSAL, length=7, noise_schedule="cosine")
    bad = (("delta", -0.5), ("lr", 0.0), ("embedding_dropout", 1.0))


@pytest.mark.long
class TestDiffuRecFromNoise(ModelSuite):
    model = dataclasses.replace(SMALL, length=7, reverse_steps=4, draws=2, positions=True)


@pytest.mark.long
class TestDiffuRecAsReleased(ModelSuite):
    model = dataclasses.replace(SMALL, length=7, reference=True)


# what was recorded


def dense(w, name, *, bias=True):
    return {"kernel": w[f"{name}.weight"].T, **({"bias": w[f"{name}.bias"]} if bias else {})}


def norm(w, name):
    return {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}


def params_of(w, dtype=jnp.float32):
    """Parameters of two blocks; row 0 of the recorded table is the last of ours, and keys have no bias."""
    w = {name: jnp.asarray(values, dtype) for name, values in w.items()}
    home, encoder = "diffu.xstart_model.", {}
    for b in range(2):
        block = f"{home}att.transformer_blocks.{b}."
        for n, name in enumerate(("linear_layers.0", "linear_layers.1", "linear_layers.2", "w_layer")):
            encoder[f"attention_{b}_{n}"] = dense(w, f"{block}attention.{name}", bias=n != 1)
        for n in range(2):
            encoder[f"dense_{b}_{n}"] = dense(w, f"{block}feed_forward.w_{n + 1}")
            encoder[f"norms_{b}_{n}"] = norm(w, f"{block}{('input', 'output')[n]}_sublayer.norm")
    encoder["last_norm"] = norm(w, f"{home}norm_diffu_rep")
    times = {"time_in": dense(w, f"{home}time_embed.0"), "time_out": dense(w, f"{home}time_embed.2")}
    network = {"history_norm": norm(w, "LayerNorm"), "encoder": encoder, **times}
    return {"items": jnp.roll(w["item_embeddings.weight"], -1, axis=0), "network": network}


def group(g, prefix):
    return {name[len(prefix) :]: values for name, values in g.items() if name.startswith(prefix)}


def ids(recorded):
    return jnp.asarray((np.asarray(recorded) - 1) % (N + 1), jnp.int32)


def released(heads=2, delta=0.001):
    sizes = {"width": 16, "blocks": 2, "length": 8, "dropout": 0.0, "embedding_dropout": 0.0}
    return DiffuRec(heads=heads, delta=delta, reference=True, **sizes)


def loss_of(model, params, g, t, noise, spread):
    """The loss of recorded draws, and everything on the way to it."""
    items, target, real = ids(g["seq"]), ids(g["target"]), jnp.asarray(g["seq"] > 0)
    h, x0 = model.history(params, items), params["items"][target]
    x = q_sample(model.schedule, x0, t, noise)
    found = model.approximate(params, h, real, x, t, model.delta + model.delta * spread)
    total = softmax_cross_entropy(found, params["items"], None, target, jnp.ones(len(target), found.dtype))
    return total / len(target), {"history_embedding": h, "x0_target": x0, "x_t": x, "x0_hat": found}


def agree(found, expected, within):
    """Trees of arrays that differ by a share of the largest entry at most."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=within * max(1.0, np.abs(b).max()), rtol=0), found, expected
    )


def test_schedules_are_the_recorded_ones_to_twelve_digits(golden):
    g = golden("diffurec_schedules")
    names = {name.split("/")[0] for name in g}
    assert len(names) == 25
    for name in sorted(names):
        kind, steps = name.rsplit("_", 1)
        ours = rescaled_schedule(kind, steps=int(steps))
        for table, expected in group(g, f"{name}/").items():
            if table == "reverse_log_variance":
                found = np.log(np.append(ours.posterior_variance[1], ours.betas[1:]))
            else:
                found = getattr(ours, table)
            np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=f"{name} {table}")


@pytest.mark.parametrize("kind, steps", [("linear", 19), ("pw_lin", 10), ("sqrt", 0)])
def test_a_schedule_of_too_few_steps_is_refused(kind, steps):
    with pytest.raises(ValueError, match=f"steps={steps} "):
        rescaled_schedule(kind, steps=steps)


def test_the_process_is_the_recorded_one(golden):
    g = golden("diffurec_process")
    schedule, t = rescaled_schedule("trunc_lin", steps=32), jnp.asarray(g["q_sample_t"])
    x = q_sample(schedule, jnp.asarray(g["q_sample_x0"]), t, jnp.asarray(g["q_sample_noise"]))
    agree(x, g["q_sample_xt"], 2e-6)
    agree(posterior_mean(schedule, jnp.asarray(g["q_sample_x0"]), x, t), g["posterior_mean_of_x0_xt"], 2e-6)
    rescaled = jnp.arange(32.0) * (1000.0 / 32)
    np.testing.assert_array_equal(rescaled, g["rescaled_t_32"])
    for size in (15, 16, 128):
        agree(
            timestep_embedding(rescaled, size), g[f"timestep_embedding_dim{size}"], 1e-4
        )  # angles up to 968, in float32


def test_prefixes_and_histories_are_the_recorded_ones(golden):
    g = golden("diffurec_batches")
    users = [g[f"user{n}"].tolist() for n in range(3)]
    parts = {
        "train": [(items[:m], items[m]) for items in users for m in range(1, len(items))],
        "valid": list(zip(users, g["valid_labels"].tolist())),
        "test": [([*items, seen], new) for items, seen, new in zip(users, g["valid_labels"], g["test_labels"])],
    }
    for part, examples in parts.items():
        padded = np.zeros((len(examples), 8), np.int32)
        for row, (prefix, _) in enumerate(examples):
            padded[row, : len(prefix)] = prefix
        lengths = jnp.asarray([len(prefix) for prefix, _ in examples])
        items, real = window(make_rows(jnp.asarray(padded), lengths, n_items=99), 4)
        ours = sorted(zip(np.where(real, items, 0).tolist(), [int(target) for _, target in examples]))
        assert ours == sorted(zip(g[f"{part}_tokens"].tolist(), g[f"{part}_labels"].tolist())), part


def test_the_sampler_of_steps_is_the_recorded_one(golden):
    g = golden("diffurec_process")
    history = LossHistory.create(8)
    fresh, warm = g["lossaware_weights_fresh"], g["lossaware_weights_warm"]
    np.testing.assert_allclose(probabilities(history), fresh / fresh.sum(), atol=1e-7)
    losses = jnp.asarray(g["lossaware_update_loss"], jnp.float32)
    history = record(history, jnp.asarray(g["lossaware_update_t"]), losses)
    kept = np.sort(np.asarray(history.history), axis=1)
    np.testing.assert_allclose(kept, np.sort(g["lossaware_history"], axis=1), rtol=1e-6)
    np.testing.assert_allclose(probabilities(history), warm / warm.sum(), rtol=1e-5)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(
    "name, heads, delta", [("heads2", 2, 0.001), ("heads4", 4, 0.001), ("heads2_lambda0.5", 2, 0.5)]
)
def test_forward_loss_and_gradients_are_the_recorded_ones(golden, name, heads, delta, double):
    g = golden("diffurec_forward")
    model, expected = released(heads, delta), group(g, f"{name}/")
    with jax.enable_x64(double):
        dtype = jnp.float64 if double else jnp.float32
        params = params_of(group(g, "w/"), dtype)
        t, noise, spread = jnp.asarray(g["t"]), jnp.asarray(g["noise"], dtype), jnp.asarray(g["z_lambda"], dtype)
        value = jax.jit(jax.value_and_grad(lambda p: loss_of(model, p, g, t, noise, spread), has_aux=True))
        (loss, way), gradient = value(params)
        agree(float(loss), float(expected["loss"]), 2e-5)
        agree(way, {part: expected[part] for part in way}, 2e-5)
        agree(way["x0_hat"] @ params["items"].T, np.roll(expected["scores"], -1, axis=1), 2e-5)
        agree(model.apply(params, t, method="at_step"), expected["time_embedding"], 2e-5)
        wanted = group(expected, "grad/")
        agree(gradient, params_of({k: wanted[k] if wanted[k].size else v for k, v in group(g, "w/").items()}), 1e-5)


def test_five_steps_of_adam_end_where_the_recorded_ones_do(golden):
    g, start = golden("diffurec_training"), golden("diffurec_forward")
    model, params = released(), params_of(group(start, "w/"))
    optimizer = optax.adam(1e-3)

    @jax.jit
    def step(params, state, draws):
        (loss, _), gradient = jax.value_and_grad(lambda p: loss_of(model, p, g, *draws), has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    state = optimizer.init(params)
    for n in range(5):
        draws = tuple(jnp.asarray(g[name][n]) for name in ("t", "noise", "z_lambda"))
        params, state, loss = step(params, state, draws)
        assert float(loss) == pytest.approx(float(g["losses"][n]), rel=2e-5)
    agree(params, params_of(group(g, "after5/")), 5e-5)


def test_the_whole_reverse_process_is_the_recorded_one(golden):
    g, start = golden("diffurec_reverse"), golden("diffurec_forward")
    model, params = released(), params_of(group(start, "w/"))
    h, real = model.history(params, ids(g["seq"])), jnp.asarray(g["seq"] > 0)
    step = jax.jit(lambda x, t, spread, noise: model.reverse_step(params, h, real, x, t, spread, noise))
    x = jnp.asarray(g["x_T"])
    for n, t in enumerate(g["steps"]):
        agree(x, g["x_t_before_step"][n], 2e-5)
        x = step(x, jnp.full(4, t, jnp.int32), jnp.asarray(g["z_lambda"][n]), jnp.asarray(g["step_noise"][n]))
    agree(x, g["x_0"], 2e-5)
    agree(x @ params["items"].T, np.roll(g["scores"], -1, axis=1), 2e-5)


# the principled form


def batch(lengths=(1, 4, 6, 7, 12, 0), users=None):
    rng = np.random.default_rng(0)
    items = np.stack([rng.permutation(I)[:12] for _ in lengths])
    users = jnp.arange(len(lengths)) if users is None else users
    return make_rows(jnp.asarray(items, jnp.int32), jnp.asarray(lengths), users, n_items=I)


def initial(model):
    params = model.init(jax.random.key(1), Catalogue(n_items=I, n_users=9))
    return jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), params)


def vectors(model, params, rows):
    return np.asarray(jax.jit(lambda r: model.user_vectors(params, r, key=jax.random.key(5)))(rows))


def test_order_before_the_last_event_counts_only_with_positions():
    rows = batch((6, 6))
    turned = rows.items.at[:, :5].set(rows.items[:, 4::-1])
    turned = make_rows(turned, rows.lengths, rows.users, n_items=I)
    for positions in (False, True):
        model = dataclasses.replace(SMALL, positions=positions)
        params = initial(model)
        differ = np.abs(vectors(model, params, rows) - vectors(model, params, turned)).max()
        assert (differ > 1e-3) == positions


def test_one_pass_without_a_factor_is_the_plain_encoder():
    rows, model = batch((4, 6)), dataclasses.replace(SMALL, delta=0.0)
    params = initial(model)
    items = np.asarray(rows.items)[0, :4][None]
    plain = model.apply(params, model.history(params, jnp.asarray(items)), jnp.ones((1, 4), bool))[:, -1]
    np.testing.assert_allclose(vectors(model, params, rows)[0, :-1], plain[0], atol=1e-5)


def test_a_small_factor_makes_noise_of_no_account():
    rows, one = batch((4, 6, 12)), dataclasses.replace(SMALL, steps=8)
    params = initial(one)
    through = dataclasses.replace(one, reverse_steps=8, draws=3)
    np.testing.assert_allclose(vectors(through, params, rows), vectors(one, params, rows), atol=0.02)
    again = vectors(through, params, batch((4, 6, 12, 3)))[:3]  # noise goes by user
    np.testing.assert_allclose(again, vectors(through, params, rows), atol=1e-6)


def test_a_wider_window_changes_nothing_but_in_the_released_form():
    rows = batch((4, 6))
    for model, differs in ((SMALL, False), (dataclasses.replace(SMALL, reference=True), True)):
        wide, params = dataclasses.replace(model, length=9), initial(model)
        assert (np.abs(vectors(model, params, rows) - vectors(wide, params, rows)).max() > 1e-4) == differs


def test_the_mean_over_cuts_is_the_objective_over_prefixes():
    model = dataclasses.replace(SMALL, dropout=0.0, embedding_dropout=0.0, delta=0.0)
    rows, params = batch((2, 5, 7)), initial(model)
    losses = jax.jit(jax.vmap(lambda key: model.loss(params, None, rows, key=key, step=0, epoch=0)[0]))
    found = np.mean(losses(jax.random.split(jax.random.key(0), 3000)))
    prefixes = [
        (np.asarray(rows.items)[u, :m], int(rows.items[u, m])) for u, n in enumerate((2, 5, 7)) for m in range(1, n)
    ]
    items = np.full((len(prefixes), 7), I, np.int32)
    for row, (prefix, _) in enumerate(prefixes):
        items[row, : len(prefix)] = prefix
    of = make_rows(jnp.asarray(items), jnp.asarray([len(p) for p, _ in prefixes]), n_items=I)
    shares = jax.nn.log_softmax(model.scores(params, of, key=jax.random.key(0)), axis=1)
    assert found == pytest.approx(-np.mean([shares[n, y] for n, (_, y) in enumerate(prefixes)]), rel=0.02)


# the causal form


def test_the_causal_form_without_noise_is_trained_on_what_it_ranks_by():
    model = dataclasses.replace(CAUSAL, delta=0.0, dropout=0.0, embedding_dropout=0.0, positions=False)
    rows, params = batch((1, 3, 5, 0)), initial(model)
    loss = float(model.loss(params, None, rows, key=jax.random.key(0), step=0, epoch=0)[0])
    prefixes = [(u, m) for u, n in enumerate((1, 3, 5, 0)) for m in range(1, n)]
    items = jnp.stack([rows.items[u] for u, _ in prefixes])
    of = make_rows(items, jnp.asarray([m for _, m in prefixes]), n_items=I)
    shares = jax.nn.log_softmax(model.scores(params, of, key=jax.random.key(0)), axis=1)
    assert loss == pytest.approx(-np.mean([shares[n, rows.items[u, m]] for n, (u, m) in enumerate(prefixes)]), rel=1e-5)


def test_packed_or_not_the_causal_form_is_trained_alike_and_draws_by_user():
    model = dataclasses.replace(CAUSAL, delta=0.5, dropout=0.0, embedding_dropout=0.0)
    params, rows = initial(model), batch((1, 4, 6, 7, 12, 0, 2, 2))
    packed = dataclasses.replace(model, packing=True)
    losses = [
        jax.jit(lambda m=m: m.loss(params, None, rows, key=jax.random.key(0), step=0, epoch=0)[0])()
        for m in (model, packed)
    ]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)
    keys, targets = jax.random.split(jax.random.key(2), 3), rows.items[:3, :6]
    guide = model.guide(params, targets, keys)
    np.testing.assert_allclose(model.guide(params, targets[:, 2:], keys), guide[:, 2:], atol=1e-6)
    assert np.abs(guide[0] - model.guide(params, targets[:1], keys[1:2])[0]).max() > 0.1
