"""The loop: exact resume, one program, many devices, early stopping, trouble."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffrec_jax import api
from diffrec_jax.data import synthetic
from diffrec_jax.data.interactions import Interactions
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import device_csr, take_rows
from diffrec_jax.diffusion.importance import LossHistory
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue, DiffRec
from diffrec_jax.models.elsa import ELSA
from diffrec_jax.serving import load
from diffrec_jax.training import (
    Checkpoints,
    InterruptedRunError,
    NonFiniteLossError,
    Observer,
    Trainer,
    TrainState,
    loop,
    train_step,
)

MODEL = DiffRec(dims=(16,), steps=3, noise_scale=0.1, lr=1e-2)


@pytest.fixture(scope="module")
def split():
    return synthetic.generate(n_users=90, n_items=40, seed=1).k_core(3).split_by_time(0.7, 0.1, 0.2)


@pytest.fixture(scope="module")
def one_device():
    return make_mesh(devices=jax.devices()[:1])


class Recorder(Observer):
    """Keeps the reports, and asks to stop after some dispatches."""

    def __init__(self, stop_after=None):
        self.reports, self.asked, self.stop_after, self.starts = [], 0, stop_after, []

    def epoch(self, report):
        self.reports.append((report.epoch, report.loss, json.dumps(report.valid, sort_keys=True)))

    def started(self, *, epoch, step, warnings):
        self.starts.append((epoch, step, list(warnings)))

    def interrupted(self):
        self.asked += 1
        return self.stop_after is not None and self.asked >= self.stop_after


def fit(split, mesh, observer=None, model=MODEL, **options):
    defaults = {"batch_size": 32, "epochs": 7, "eval_every": 2, "patience": 50, "seed": 3}
    return api.fit(model, split.train, split.valid, mesh=mesh, observer=observer, **{**defaults, **options})


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


@pytest.fixture(scope="module")
def uninterrupted(split, one_device, tmp_path_factory):
    """What a run left alone ends with, and what it reported."""
    whole = Recorder()
    return fit(split, one_device, whole, workdir=tmp_path_factory.mktemp("whole")), whole


@pytest.mark.parametrize("stop_after", [1, 2, 4, 5, 10, 13])  # 4 and 10: during a validation; 13: after the last
def test_a_run_stopped_anywhere_ends_bit_for_bit_like_an_uninterrupted_one(
    split, one_device, uninterrupted, tmp_path, stop_after
):
    expected, whole = uninterrupted
    first, second = Recorder(stop_after), Recorder()
    with pytest.raises(InterruptedRunError):
        fit(split, one_device, first, workdir=tmp_path / "stopped")
    resumed = fit(split, one_device, second, workdir=tmp_path / "stopped")
    assert same(expected.params, resumed.params)
    assert (resumed.result.earlier_seconds > 0.0) == (stop_after > 1)  # a part of an epoch counts
    epoch = second.starts[0][0]
    assert [r for r in first.reports if r[0] <= epoch] + second.reports == whole.reports
    assert dataclasses.replace(resumed.result.progress, train_seconds=0, evaluate_seconds=0) == dataclasses.replace(
        expected.result.progress, train_seconds=0, evaluate_seconds=0
    )


def test_the_whole_state_resumes_bit_for_bit(split, one_device, tmp_path):
    def last_state(folder):
        model = dataclasses.replace(MODEL)
        catalogue = Catalogue(n_items=split.train.n_items, n_users=split.train.n_users)
        checkpoints = Checkpoints(folder / "checkpoints")
        found = checkpoints.restore(
            Trainer(model, catalogue, one_device, 3, FitOptions(batch_size=32)).abstract_state()
        )
        checkpoints.close()
        return found[0]

    fit(split, one_device, workdir=tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        fit(split, one_device, Recorder(6), workdir=tmp_path / "stopped")
    fit(split, one_device, workdir=tmp_path / "stopped")
    a, b = last_state(tmp_path / "whole"), last_state(tmp_path / "stopped")
    assert int(a.step) == 7 * 3 and int(a.history.count.min()) == 10
    assert same(a, b)


def test_checkpoints_from_when_every_model_had_a_memory_are_taken_up(split, one_device, tmp_path):
    model, how = ELSA(dim=8), {"batch_size": 32, "eval_every": 1}
    whole = api.fit(model, split.train, mesh=one_device, epochs=2, seed=3, **how)
    api.fit(model, split.train, mesh=one_device, epochs=1, seed=3, workdir=tmp_path, **how)
    catalogue = Catalogue(n_items=split.train.n_items, n_users=split.train.n_users)
    abstract = Trainer(model, catalogue, one_device, 3, FitOptions(batch_size=32)).abstract_state()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state, progress = checkpoints.restore(abstract)
    assert state.history is None
    idle = state.replace(history=LossHistory.create(1))
    checkpoints.save(idle, progress, is_best=True, step=int(state.step))
    again = checkpoints.restore(abstract)
    checkpoints.close()
    assert not checkpoints.warnings and same(again[0], state) and again[0].history is None
    observer = Recorder()
    resumed = api.fit(model, split.train, mesh=one_device, epochs=2, seed=3, workdir=tmp_path, observer=observer, **how)
    assert observer.starts == [(1, int(state.step), [])] and same(resumed.params, whole.params)


def test_more_epochs_go_on_from_the_last_state_and_fewer_are_refused(split, one_device, tmp_path):
    whole, first, more = Recorder(), Recorder(), Recorder()
    fit(split, one_device, whole, epochs=5)
    fit(split, one_device, first, epochs=3, workdir=tmp_path)
    longer = fit(split, one_device, more, epochs=5, workdir=tmp_path)
    assert more.starts[0][0] == 3 and longer.result.epochs_run == 5
    assert [loss for _, loss, _ in first.reports + more.reports] == [loss for _, loss, _ in whole.reports]
    with pytest.raises(ValueError, match="epochs=4: the run found here has 5 epochs behind it already"):
        fit(split, one_device, epochs=4, workdir=tmp_path)
    assert fit(split, one_device, epochs=5, workdir=tmp_path).result.progress == longer.result.progress


def test_without_a_workdir_the_result_is_the_same(split, one_device, tmp_path):
    in_memory = fit(split, one_device)
    assert same(in_memory.params, fit(split, one_device, workdir=tmp_path).params)
    assert in_memory.result.progress.best_epoch in (2, 4, 6, 7)


def test_training_ends_with_its_time_and_the_last_epoch_is_validated(split, one_device, tmp_path):
    whole, short, again = Recorder(), Recorder(), Recorder()
    fit(split, one_device, whole, train_minutes=1e6)
    assert [report[0] for report in whole.reports] == [1, 2, 3, 4, 5, 6, 7]
    fitted = fit(split, one_device, short, train_minutes=1e-9, workdir=tmp_path)  # eval_every=2
    assert [report[0] for report in short.reports] == [1] and short.reports[0][1] == whole.reports[0][1]
    assert short.reports[0][2] != "null" and fitted.result.progress.best_epoch == fitted.result.epochs_run == 1
    resumed = fit(split, one_device, again, train_minutes=1e-9, workdir=tmp_path)
    assert not again.reports and again.starts[0][0] == 1 and same(fitted.params, resumed.params)
    with pytest.raises(InterruptedRunError):
        fit(split, one_device, Recorder(5), workdir=tmp_path / "stopped", eval_every=1)  # within the second epoch
    again = Recorder()
    resumed = fit(split, one_device, again, workdir=tmp_path / "stopped", eval_every=1, train_minutes=1e-9)
    assert [report[0] for report in again.reports] == [2] and again.reports[0][2] != "null"  # it is not thrown away
    with pytest.raises(ValueError, match="train_minutes=-1 must not be negative: 15, say, or 0 for no limit"):
        fit(split, one_device, train_minutes=-1)


def test_only_the_last_two_and_the_best_checkpoints_are_kept(split, one_device, tmp_path):
    fitted = fit(split, one_device, workdir=tmp_path, epochs=14)
    steps = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    per_epoch = 3
    assert steps[-2:] == [12 * per_epoch, 14 * per_epoch]
    assert fitted.result.progress.best_epoch * per_epoch in steps and len(steps) <= 4


def test_a_truncated_checkpoint_is_passed_over_with_a_sentence(split, one_device, tmp_path):
    expected = fit(split, one_device, workdir=tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        fit(split, one_device, Recorder(11), workdir=tmp_path / "damaged")
    folder = tmp_path / "damaged" / "checkpoints"
    steps = sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())
    assert len(steps) >= 2
    damage(folder / str(steps[-1]))
    observer = Recorder()
    resumed = fit(split, one_device, observer, workdir=tmp_path / "damaged")
    _, step, warnings = observer.starts[0]
    assert step == steps[-2] and "cannot be read and is left out" in warnings[0] and str(steps[-1]) in warnings[0]
    assert same(expected.params, resumed.params)


def test_patience_ends_training_as_the_authors_count_it(split, one_device):
    class Constant(Observer):
        epochs = 0

        def epoch(self, report):
            self.epochs = report.epoch

    observer = Constant()
    frozen = dataclasses.replace(MODEL, lr=1e-12)  # validation never improves after the first time
    fitted = fit(split, one_device, observer, model=frozen, epochs=50, eval_every=2, patience=6)
    assert fitted.result.progress.best_epoch == 2 and observer.epochs == 2 + 6 - 1


def test_a_loss_that_is_not_finite_stops_the_run_naming_the_step(split, one_device, tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Explodes(DiffRec):
        def loss(self, params, history, rows, *, key, step, epoch):
            loss, aux = super().loss(params, history, rows, key=key, step=step, epoch=epoch)
            return jnp.where(step >= 10, jnp.nan, loss), aux

    bad = Explodes(dims=(16,), steps=3)
    with pytest.raises(NonFiniteLossError, match=r"not finite at step 10 \(epoch 4\): lower the learning rate"):
        fit(split, one_device, model=bad, workdir=tmp_path, epochs=20)
    steps = [int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    assert steps == [6]  # the last one before


def test_one_program_serves_any_number_of_steps(split, one_device):
    traces = 0

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Counts(DiffRec):
        def loss(self, *args, **kwargs):
            nonlocal traces
            traces += 1
            return super().loss(*args, **kwargs)

    fit(split, one_device, model=Counts(dims=(16,), steps=3), epochs=5)
    assert traces == 1


def test_every_user_is_visited_once_in_every_epoch(one_device):
    trainer = Trainer(MODEL, Catalogue(n_items=5, n_users=11), one_device, 0, FitOptions(batch_size=4))
    orders = [np.asarray(trainer.order(jnp.int32(epoch))) for epoch in range(3)]
    for order in orders:
        assert order.shape == (12,) and sorted(order) == [-1, *range(11)]
    assert not np.array_equal(orders[0], orders[1])


def test_a_step_inside_somebody_elses_pipeline_with_their_optimizer(split, one_device):
    csr = device_csr(split.train.csr(), mesh=one_device)
    catalogue = Catalogue(n_items=split.train.n_items, n_users=split.train.n_users)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))
    params = MODEL.init(jax.random.key(0), catalogue)

    @jax.jit
    def theirs(state, users):
        return train_step(MODEL, optimizer, state, take_rows(csr, users), key=jax.random.key(1))

    state = TrainState.create(MODEL, optimizer, params)
    for i in range(4):
        state = theirs(state, jnp.arange(8, dtype=jnp.int32) + 8 * i)
    assert int(state.step) == 4 and float(state.loss_rows) == 32 and int(state.bad_step) == -1
    assert int(state.history.count.sum()) > 0 and not same(state.params, params)


def test_a_kernel_may_weigh_only_the_histories_that_are_scored(split, one_device):
    plain = fit(split, one_device, epochs=1)
    scored = dataclasses.replace(MODEL, recency=Recency(kernel="power"), fit_weighted=False)
    weighted = fit(split, one_device, epochs=1, model=scored)
    assert same(plain.params, weighted.params)
    assert api.evaluate(plain, split.test).means() != api.evaluate(weighted, split.test).means()


def test_the_moving_average_of_the_parameters_follows_its_definition(split, one_device):
    csr = device_csr(split.train.csr(), mesh=one_device)
    optimizer = MODEL.optimizer()
    state = TrainState.create(
        MODEL, optimizer, MODEL.init(jax.random.key(0), Catalogue(csr.n_items, csr.n_users)), ema=True
    )
    step = jax.jit(lambda state, rows: train_step(MODEL, optimizer, state, rows, key=jax.random.key(1), ema_decay=0.3))
    rows = take_rows(csr, jnp.arange(16, dtype=jnp.int32))
    expected = np.asarray(state.params["params"]["out_bias"])
    for n in range(5):
        state = step(state, rows)
        decay = min(0.3, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * np.asarray(state.params["params"]["out_bias"])
    np.testing.assert_allclose(state.ranking_params["params"]["out_bias"], expected, rtol=1e-5)
    assert not same(state.params, state.ema)


def test_the_moving_average_is_what_is_validated_kept_and_served(split, one_device, tmp_path):
    whole = fit(split, one_device, ema_decay=0.9)
    with pytest.raises(InterruptedRunError):
        fit(split, one_device, Recorder(5), workdir=tmp_path, ema_decay=0.9)
    with pytest.raises(ValueError, match=r"another run \(ema_decay: 0.9 there, None now\)"):
        fit(split, one_device, workdir=tmp_path)
    resumed = fit(split, one_device, workdir=tmp_path, ema_decay=0.9)
    assert same(whole.params, resumed.params) and same(whole.params, load(tmp_path).ranker.params)
    best = whole.result.progress.best_value
    assert best == api.evaluate(whole, split.valid).mean("official")["recall@20"]
    with pytest.raises(ValueError, match=r"ema_decay=1.0 must lie in \[0, 1\): 0 for none, or .99, say"):
        fit(split, one_device, ema_decay=1.0)


@pytest.mark.parametrize("name", ["batch_size", "epochs", "eval_every", "patience"])
def test_counts_below_one_are_refused(split, one_device, name):
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        fit(split, one_device, **{name: 0})


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"a mesh of users:3,items:2 does not fit 8 device\(s\)"):
        make_mesh(users=3, items=2)


def test_a_folder_of_another_run_is_refused_and_nothing_in_it_is_lost(split, one_device, tmp_path):
    expected = fit(split, one_device, workdir=tmp_path)
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    record = tmp_path / "checkpoints" / "run.json"
    for change, difference in (
        ({"model": dataclasses.replace(MODEL, lr=0.5)}, f"model.lr: {MODEL.lr} there, 0.5 now"),
        ({"batch_size": 16}, "batch_size: "),
        ({"seed": 4}, "seed: "),
    ):
        with pytest.raises(ValueError, match=rf"holds the checkpoints of another run \({difference}"):
            fit(split, one_device, workdir=tmp_path, **change)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == before
    older = {name: value for name, value in json.loads(record.read_text()).items() if name != "model.guidance"}
    record.write_text(json.dumps(older))  # by a version without this hyper-parameter: its default held
    with pytest.raises(ValueError, match=r"another run \(model.guidance: 0.0 there, 0.5 now"):
        fit(split, one_device, workdir=tmp_path, model=dataclasses.replace(MODEL, guidance=0.5))
    assert same(expected.params, fit(split, one_device, workdir=tmp_path).params)


def damage(folder):
    """Cut the largest data file of a checkpoint in half."""
    files = [f for f in (folder / "state").rglob("*") if f.is_file() and "d" in f.parent.name]
    largest = max(files, key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def test_a_lost_best_checkpoint_means_training_anew_with_the_same_end(split, one_device, tmp_path):
    expected = fit(split, one_device, workdir=tmp_path, epochs=14)
    best = expected.result.progress.best_epoch * 3
    last = 14 * 3
    if best == last:
        pytest.skip("the best is the last")
    damage(tmp_path / "checkpoints" / str(best))
    observer = Recorder()
    again = fit(split, one_device, observer, workdir=tmp_path, epochs=14)
    epoch, step, warnings = observer.starts[0]
    assert (epoch, step) == (0, 0) and "training begins anew" in warnings[-1]
    assert same(expected.params, again.params)


def test_when_nothing_can_be_read_nothing_is_deleted(split, one_device, tmp_path):
    fit(split, one_device, workdir=tmp_path)
    steps = [p for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    for folder in steps:
        damage(folder)
    with pytest.raises(OSError, match=r"none of the checkpoints in .* can be read: delete that folder to train anew"):
        fit(split, one_device, workdir=tmp_path)
    assert all(folder.exists() for folder in steps)


def test_the_validation_data_is_recognised_and_foreign_ids_are_refused(split, one_device):
    fitted = fit(split, one_device, epochs=2)
    by_interactions = api.evaluate(fitted, split.valid).mean("official")
    assert by_interactions == api.evaluate(fitted, fitted.valid).mean("official") and by_interactions["recall@50"] > 0
    foreign = Interactions.from_arrays(["somebody"], ["something"])
    with pytest.raises(ValueError, match=r"1 users of truth are not in the training data, 'somebody' for one: split"):
        api.evaluate(fitted, foreign)
    with pytest.raises(ValueError, match=r"1 users of valid are not in the training data"):
        api.fit(MODEL, split.train, foreign)
    with pytest.raises(ValueError, match=r"selection=\('official', 'recall@25'\) is unknown"):
        fit(split, one_device, selection=("official", "recall@25"))


def test_a_run_that_memory_does_not_hold_is_refused_before_it_takes_any(split, one_device, monkeypatch):
    monkeypatch.setattr(loop, "free_memory", lambda: 1000)
    monkeypatch.setattr(Trainer, "init", lambda _: pytest.fail("taken"))
    with pytest.raises(ValueError, match=r"training takes 0\.0 GB on each device, .* 0\.0 GB are free: make"):
        fit(split, one_device)
