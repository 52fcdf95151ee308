"""The official trainer of GRU4Rec against its recording: lanes, draws, scores, losses, gradients, and its optimizer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import quick

from diffrec_jax.data import lanes
from diffrec_jax.data.rows import make_rows
from diffrec_jax.models import Catalogue
from diffrec_jax.models.gru4rec import TABLES, GRU4Rec
from diffrec_jax.models.in_lanes import bpr_max, cross_entropy, draw, probabilities, row_adagrad, scores
from diffrec_jax.testing import ModelSuite

LOSSES = {
    "cross-entropy_logq0.0": lambda r, log_p: cross_entropy(r, log_p, logq=0.0),
    "cross-entropy_logq1.0": lambda r, log_p: cross_entropy(r, log_p, logq=1.0),
    "bpr-max_elu_param0.5_bpreg1.95": lambda r, log_p: bpr_max(r, elu_param=0.5, bpreg=1.95),
    "bpr-max_elu_param0.0_bpreg1.0": lambda r, log_p: bpr_max(r, elu_param=0.0, bpreg=1.0),
}
TOLERANCES = {"float32": (2e-5, 2e-5), "float64": (2e-5, 1e-5)}  # of values and of gradients
PRECISE = pytest.mark.parametrize("dtype", TOLERANCES)


@pytest.mark.long
class TestSessionParallelGRU4Rec(ModelSuite):
    model = GRU4Rec(width=8, length=7, packing=False, session_parallel=True, lanes=3, n_sample=5)
    bad = (("lanes", 0), ("n_sample", 0), ("momentum", 1.0), ("loss_name", "gbce"), ("adagrad_lr", 0.0))


def in_our_layout(g, w, dtype):
    """Recorded parameters, or their gradients; where two tables are, z and 1 - z are the other way round."""

    def of(name):
        return np.asarray(g[f"{w}/{name}"], dtype)

    found = {"items": of("Wy.weight"), "item_bias": of("By.weight")[:, 0]}
    if f"{w}/GE.Bh0" not in g:
        names = {"input": "weight_ih", "state": "weight_hh", "input_bias": "bias_ih", "state_bias": "bias_hh"}
        layer = {ours: of(f"G.0.{theirs}").T for ours, theirs in names.items()}
    else:

        def turned(a, place):  # candidate, reset, update -> reset, update, candidate
            n, r, z = np.split(a, 3, axis=-1) if place == "read" else (a[..., 16:], a[..., :8], a[..., 8:16])
            return np.concatenate([r, -z, n], axis=-1)

        state = np.concatenate([of("GE.Wrz0"), of("GE.Wh0")], axis=1)
        layer = {"state": turned(state, "state"), "input_bias": turned(of("GE.Bh0"), "read")}
        found["read"] = turned(of("GE.Wx0.weight"), "read")
    return jax.tree.map(jnp.asarray, {**found, "layers": [layer]})


def close(found, wanted, tolerance):
    assert np.abs(np.asarray(found) - wanted).max() <= tolerance * max(1.0, np.abs(wanted).max())


def same_trees(found, wanted, tolerance):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(lambda a, b: close(a, np.asarray(b), tolerance), found, wanted)


def one_step(g, group, loss, params, alpha=0.5):
    """Loss of a step of three lanes and four drawn items, and what it is made of."""
    model, asked = GRU4Rec(width=8), g[f"{group}/Y"]
    state = model.step(params, jnp.asarray(g[f"{group}/H0"], params["items"].dtype)[None], g[f"{group}/X"])[0]
    r = scores(state, params["items"][asked], params["item_bias"][asked])
    log_p = np.log(g["P0"][asked]) * np.where(np.arange(7) < 3, 1.0, alpha)
    return jnp.mean(LOSSES[loss](r, jnp.asarray(log_p, r.dtype))), {"R": r, "H1": state}


@PRECISE
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("group", ["constrained", "gru_embedding"])
def test_a_step_is_the_recorded_one(golden, group, loss, dtype):
    g, (of_values, of_gradients) = golden("gru4rec_forward"), TOLERANCES[dtype]
    with jax.enable_x64(dtype == "float64"):
        params = in_our_layout(g, f"{group}/w", dtype)
        step = jax.jit(jax.value_and_grad(lambda p: one_step(g, group, loss, p), has_aux=True))
        (value, made), gradient = step(params)
        close(value, g[f"{group}/{loss}/loss"], of_values)
        for name, array in made.items():
            close(array, g[f"{group}/{loss}/{name}"], of_values)
        same_trees(gradient, in_our_layout(g, f"{group}/{loss}/grad", dtype), of_gradients)


@PRECISE
def test_two_steps_of_the_optimizer_are_the_recorded_ones(golden, dtype):
    g = golden("gru4rec_forward")
    g = {**g, "constrained/H0": np.zeros((3, 8), np.float32)}
    with jax.enable_x64(dtype == "float64"):
        params = in_our_layout(g, "constrained/w", dtype)
        params["item_bias"] = jnp.zeros_like(params["item_bias"])
        optimizer = row_adagrad(0.05, momentum=0.4, tables=TABLES)
        state = optimizer.init(params)
        gradient = jax.jit(jax.grad(lambda p: one_step(g, "constrained", "cross-entropy_logq1.0", p)[0]))
        for _ in range(2):
            updates, state = optimizer.update(gradient(params), state)
            params = optax.apply_updates(params, updates)
        same_trees(params, in_our_layout(g, "adagradm_after2", dtype), 2e-5)


def test_a_row_that_no_step_touches_stays_and_its_momentum_waits():
    optimizer, params = row_adagrad(0.1, momentum=0.5, tables=("items",)), {"items": jnp.zeros((3, 2))}
    params["w"], state, path = jnp.zeros(2), optimizer.init({**params, "w": jnp.zeros(2)}), []
    for rows in ([1.0, 0.0, 1.0], [0.0, 0.0, 2.0], [1.0, 0.0, 0.0]):
        gradient = {"items": jnp.asarray(rows)[:, None] * jnp.ones((1, 2)), "w": jnp.asarray(rows[:2])}
        updates, state = optimizer.update(gradient, state)
        path.append(updates["items"][:, 0])
    a = np.asarray(path)
    assert (a[:, 1] == 0).all() and a[1, 0] == a[2, 2] == 0
    first, second = -0.1 / np.sqrt(1 + 1e-6), -0.1 / np.sqrt(2 + 1e-6)
    np.testing.assert_allclose([a[0, 0], a[2, 0]], [first, 0.5 * first + second], rtol=1e-6)
    assert updates["w"][1] == 0 and float(state.mu["w"][0]) == pytest.approx(0.25 * first + second)  # it goes on


def test_the_lanes_are_those_of_the_recorded_iterator(golden):
    g = golden("gru4rec_forward")
    number = {item: n for n, item in enumerate(g["item_order"].tolist())}
    items, starts = np.array([number[i] for i in g["log_item"].tolist()]), np.unique(g["log_session"], True)[1]
    sessions = np.split(items, starts[1:])
    lengths = [len(session) - 1 for session in sessions]
    windows, real = np.full((7, 6), -1), np.zeros((7, 5), bool)
    for row, session in enumerate(sessions):
        windows[row, 6 - len(session) :] = session
        real[row, 5 - lengths[row] :] = True
    place = np.asarray(lanes.columns(jnp.asarray(real), 3))
    lane, first = (np.asarray(a) for a in lanes.assign(jnp.asarray(lengths), 3))
    ends = {(int(a), int(b) + n) for a, b, n in zip(lane, first, lengths)}
    assert (np.sort(place[place < 35]) == np.flatnonzero(real)).all() and (place[8:] == 35).all()
    resets, finished = [], []
    for column, slots in enumerate(place[:8]):
        alive = np.flatnonzero(slots < 35)  # whoever has ended leaves, and the rest close up
        row, at = np.divmod(slots[alive], 5)
        for recorded, values in ((g["iterator_in"], windows[row, at]), (g["iterator_out"], windows[row, at + 1])):
            np.testing.assert_array_equal(recorded[column], np.pad(values, (0, 3 - len(alive)), constant_values=-1))
        ended = [(int(n), column + 1) in ends for n in alive]
        if any(ended) and column < 7:
            resets.append(column + 1)
            finished.append(ended + [False] * (3 - len(ended)))
    np.testing.assert_array_equal(resets, g["iterator_reset_before_step"])
    np.testing.assert_array_equal(finished, g["iterator_finished"])


def test_items_are_drawn_as_recorded(golden):
    g = golden("gru4rec_forward")
    order, found = g["item_order"].tolist(), np.bincount(g["log_item"])
    np.testing.assert_array_equal(found[order], g["P0"])
    for alpha in (0.0, 0.5, 0.75, 1.0):
        np.testing.assert_allclose(probabilities(g["P0"], alpha), g[f"sampling_probability_alpha{alpha}"], rtol=1e-6)
    counts = jnp.asarray([0.0, 4.0, 0.0, 1.0, 0.0])
    for alpha, share in ((0.0, 0.5), (0.5, 2 / 3)):
        drawn = np.bincount(draw(jax.random.key(0), counts, alpha=alpha, number=20_000), minlength=5) / 20_000
        np.testing.assert_allclose(drawn, [0, share, 0, 1 - share, 0], atol=0.01)


I, MODEL = 21, GRU4Rec(width=8, length=6, dropout=0.0, packing=False, session_parallel=True, lanes=2, n_sample=4)


def batch(lengths=(3, 4, 1, 12, 0, 6), users=None):
    rng = np.random.default_rng(0)
    items = jnp.asarray(np.stack([rng.permutation(I)[:12] for _ in lengths]), jnp.int32)
    users = jnp.arange(len(lengths)) if users is None else users
    counts = jnp.asarray(rng.integers(1, 9, I), jnp.float32)
    return make_rows(items, jnp.asarray(lengths), users, n_items=I).replace(
        counts=jnp.arange(1.0, I + 1.0) + 0 * counts
    )


def initial(model):
    params = model.init(jax.random.key(1), Catalogue(n_items=I, n_users=9))
    return jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), params)


def loss_of(model, params, rows):
    return model.loss(params, None, rows, key=jax.random.key(5), step=jnp.asarray(0), epoch=jnp.asarray(0))[0]


@pytest.mark.long
@pytest.mark.parametrize(
    "changes", quick([{}, {"loss_name": "bpr_max"}, {"tied": False, "layers": 2}], {"loss_name": "bpr_max"}), ids=str
)
def test_the_loss_of_a_batch_is_that_of_its_columns_and_gradients_go_back_one_event(changes):
    model = dataclasses.replace(MODEL, **changes)
    params, rows = initial(model), batch()
    drawn = draw(jax.random.split(jax.random.key(5))[1], rows.counts, alpha=0.5, number=4)
    histories = [np.asarray(rows.items)[row, :n][-7:] for row, n in enumerate((3, 4, 1, 12, 0, 6))]
    step, states = jax.jit(model.step), {}  # of each event that is followed by another
    for row, history in enumerate(histories):
        state = model.initial_state(params, 1)
        for at, item in enumerate(history[:-1]):
            states[row, at] = state
            state = step(params, state, jnp.asarray([item]))
    queue, busy, found = [row for row, history in enumerate(histories) if len(history) > 1], [None, None], []
    while queue or any(busy):
        for lane in range(2):
            busy[lane] = busy[lane] or ((queue.pop(0), 0) if queue else None)
        found.append([now for now in busy if now])
        busy = [now and ((now[0], now[1] + 1) if now[1] + 2 < len(histories[now[0]]) else None) for now in busy]

    def by_hand(params):
        total, n = 0.0, 0
        for column in found:
            before = jnp.concatenate([states[now] for now in column], axis=1)
            items, targets = (jnp.asarray([histories[row][at + k] for row, at in column]) for k in (0, 1))
            h = model.step(params, before, items)[-1]
            asked = jnp.concatenate([targets, drawn])
            r = scores(h, params["items"][asked], params["item_bias"][asked])
            log_p = jnp.log(rows.counts)[asked] * jnp.where(jnp.arange(len(asked)) < len(column), 1.0, 0.5)
            if model.loss_name == "bpr_max":
                total += jnp.sum(bpr_max(r, elu_param=0.5, bpreg=1.0))
            else:
                total += jnp.sum(cross_entropy(r, log_p, logq=1.0))
            n += len(column)
        return total / n

    one = jax.jit(jax.value_and_grad(lambda p: loss_of(model, p, rows)))(params)
    other = jax.value_and_grad(by_hand)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)


def test_rows_of_padding_take_no_lane():
    params, padded = initial(MODEL), batch((4, 6, 12, 5), users=jnp.asarray([0, 1, -1, 3]))
    rows = batch((4, 6, 12, 5), users=jnp.asarray([0, 1, 2, 3]))
    rows = rows.replace(lengths=jnp.asarray([4, 6, 0, 5]))
    both = jax.jit(lambda p, r: loss_of(MODEL, p, r))
    assert float(both(params, rows)) == pytest.approx(float(both(params, padded)), rel=1e-5)
    nobody = batch((1, 0, 1, 1))
    assert float(both(params, nobody)) == 0.0


def test_what_session_parallel_cannot_do_is_said():
    with pytest.raises(ValueError, match="loss=gbce is none of session_parallel: choose softmax or bpr_max"):
        GRU4Rec(session_parallel=True, loss_name="gbce")
    with pytest.raises(ValueError, match="loss=bpr_max needs session_parallel: set it, or choose one of softmax, samp"):
        GRU4Rec(loss_name="bpr_max")
    with pytest.raises(ValueError, match="draws items as often as they occur, which these rows do not say: cut them"):
        loss_of(MODEL, initial(MODEL), batch().replace(counts=None))
