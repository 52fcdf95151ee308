"""The training loop: epochs in a few dispatches each, validation, early stopping, checkpoints, exact resume."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.rows import DeviceCSR
from diffrec_jax.finite import NonFiniteParametersError, all_finite
from diffrec_jax.mesh import bytes_per_device
from diffrec_jax.processes import agree
from diffrec_jax.training.checkpoint import Checkpoints, Progress
from diffrec_jax.training.profile import Profile
from diffrec_jax.training.step import Trainer, TrainState

BATCHES_PER_AGREEMENT = 16  # of validation, when several processes must agree whether to stop
SECONDS_PER_DISPATCH = 5.0  # how long an interruption may have to wait


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite."""


class InterruptedRunError(KeyboardInterrupt):
    """The run was asked to stop, and did so after saving its state."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """What happened in one epoch."""

    epoch: int  # epochs completed
    step: int
    loss: float
    seconds: float  # of this epoch's training in this process
    valid: dict[str, dict[str, float]] | None  # by protocol, when the epoch ended with a validation
    evaluate_seconds: float
    progress: Progress
    watched: Mapping[str, np.ndarray]  # what the model wants recorded of its memory (``Model.watched``)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What training will take on each device, known before any of it is taken."""

    parameters: int  # how many numbers the model learns
    state_bytes: int  # parameters, their moving average, optimizer state and memory
    data_bytes: int  # the interactions
    temporary_bytes: int  # gradients, the dense batch and what is computed from it
    compile_seconds: float

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.state_bytes + self.data_bytes + self.temporary_bytes


class Observer:
    """Is told what happens in ``fit``; this one ignores it all. The command line and tests override what they need."""

    def planned(self, plan: Plan) -> None:
        """The step is compiled; nothing has been allocated yet."""

    def started(self, *, epoch: int, step: int, warnings: list[str]) -> None:
        """Training begins after ``epoch`` epochs and ``step`` steps, both 0 for a new run."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch is over."""

    def interrupted(self) -> bool:
        """Asked between dispatches and batches of validation: True saves the state and raises
        ``InterruptedRunError``.
        """
        return False


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The outcome of training."""

    params: Any  # of the best epoch, as they lie on the mesh (``Trainer.layout``)
    progress: Progress
    epochs_run: int
    parameters: int  # how many numbers were learned
    compile_seconds: float = 0.0
    earlier_seconds: float = 0.0  # training and evaluation by the processes this one took over from


def fit(
    trainer: Trainer,
    csr: DeviceCSR,
    *,
    epochs: int,
    validate: Callable[[Any, Callable[[], None]], dict[str, dict[str, float]]] | None = None,
    selection: tuple[str, str] = ("official", "recall@20"),
    eval_every: int = 5,
    patience: int = 20,
    train_minutes: float = 0.0,
    checkpoints: Checkpoints | None = None,
    observer: Observer | None = None,
    profile: Profile | None = None,
) -> FitResult:
    """Train until the epochs are done, the time is over, or validation has not improved for ``patience`` epochs.

    Args:
      trainer: the model and how it is trained.
      csr: the training interactions on the device(s).
      epochs: at most this many.
      validate: (parameters, look_up) -> metrics by protocol, where ``look_up()`` is called now and then and raises if
        the run is asked to stop; None trains to the end and keeps the last parameters.
      selection: protocol and metric that choose the best epoch; higher is better.
      eval_every: epochs between validations; each is followed by a checkpoint.
      patience: epochs without improvement before training ends, as the authors count them: epoch e does not begin if
        the best one lies ``patience`` or more epochs before it.
      train_minutes: of training and validation; an epoch that would end after them does not begin, and the one before
        it is validated. 0: no limit. How far a run gets then depends on the machine.
      checkpoints: where the run lives; a run found there goes on where it was. None keeps everything in memory.
      observer: is told what happens, and may ask to stop.
      profile: of a few steps.

    Raises:
      ValueError: if the run found there has more than ``epochs`` behind it.
      NonFiniteLossError: with the step whose loss was not finite; the last checkpoint is from before it.
      NonFiniteParametersError: if the parameters are not, though every loss was; likewise.
      InterruptedRunError: if asked to stop.
      OSError: if a checkpoint cannot be written; the earlier ones are kept.
    """
    observer = Observer() if observer is None else observer
    profile = Profile.none() if profile is None else profile
    per_epoch = trainer.steps_per_epoch
    behind = max(checkpoints.steps(), default=0) / per_epoch if checkpoints is not None else 0.0
    if behind > epochs:
        raise ValueError(
            f"epochs={epochs}: the run found here has {behind:.4g} epochs behind it already: allow as many, or more to "
            "go on, or choose another workdir"
        )
    start = time.perf_counter()
    program = trainer.compile(csr)
    compile_seconds = time.perf_counter() - start
    plan = _plan(trainer, csr, program, compile_seconds)
    observer.planned(plan)

    state, progress, best_params = _begin(trainer, checkpoints)
    earlier_seconds = progress.train_seconds + progress.evaluate_seconds
    step = int(state.step)
    observer.started(epoch=step // per_epoch, step=step, warnings=checkpoints.warnings if checkpoints else [])
    steps_per_dispatch, seconds, epoch_began = 1, 0.0, 0.0

    def look_up(n_steps: int = 0) -> int:
        """Stop if any process is asked to; otherwise as many steps as the first process says."""
        said = agree(trainer.mesh, observer.interrupted(), n_steps)
        if said[:, 0].any():
            jax.block_until_ready(state.step)
            trained = time.perf_counter() - epoch_began if epoch_began else 0.0  # a part of an epoch
            stopped = dataclasses.replace(progress, train_seconds=progress.train_seconds + trained)
            _stop_here(state, step, stopped, checkpoints)
        return int(said[0, 1])

    batches = itertools.count()

    def between_batches() -> None:
        if not trainer.mesh.is_multi_process or next(batches) % BATCHES_PER_AGREEMENT == 0:
            look_up()

    def time_is_over() -> bool:
        """Whether another epoch would take too long; processes do as the first one says, since clocks differ."""
        if not train_minutes:
            return False
        per_step = progress.train_seconds / step
        spent = progress.train_seconds + progress.evaluate_seconds
        return bool(agree(trainer.mesh, spent + per_epoch * per_step > 60.0 * train_minutes)[0, 0])

    is_last = step % per_epoch == 0 and progress.best_epoch > 0 and time_is_over()  # of an earlier process

    def goes_on() -> bool:
        patient = validate is None or not _patience_is_over(step // per_epoch + 1, progress, patience)
        return progress.epoch_is_open or (step < epochs * per_epoch and patient and not is_last)

    while goes_on():
        if not progress.epoch_is_open:
            epoch_began, epoch = time.perf_counter(), step // per_epoch
            while step < (epoch + 1) * per_epoch:
                profile.at(step, state)
                n_steps = look_up(min(steps_per_dispatch, (epoch + 1) * per_epoch - step, profile.room(step)))
                dispatched = time.perf_counter()
                state = program(state, csr, np.int32(epoch), np.int32(n_steps))
                step += n_steps
                if n_steps < per_epoch:  # a long epoch: look up between dispatches, which last seconds each
                    jax.block_until_ready(state.step)
                steps_per_dispatch = _steps_within(SECONDS_PER_DISPATCH, n_steps, time.perf_counter() - dispatched)
            jax.block_until_ready(state.step)
            profile.at(step, state)
            seconds, epoch_began = time.perf_counter() - epoch_began, 0.0
            progress = dataclasses.replace(progress, train_seconds=progress.train_seconds + seconds, epoch_is_open=True)
        epoch, loss = step // per_epoch, _finite_loss(state, per_epoch)
        is_last = epoch == epochs or time_is_over()

        valid, evaluate_seconds, improved = None, 0.0, False
        if epoch % eval_every == 0 or is_last:
            _check_finite(state, step, epoch)
            improved = validate is None
            if validate is not None:
                began = time.perf_counter()
                valid = validate(state.ranking_params, between_batches)
                evaluate_seconds = time.perf_counter() - began
                value = valid[selection[0]][selection[1]]
                improved = progress.best_value is None or value > progress.best_value
                progress = dataclasses.replace(progress, evaluate_seconds=progress.evaluate_seconds + evaluate_seconds)
                is_last = is_last or time_is_over()
            if improved:
                best_value = valid[selection[0]][selection[1]] if valid else None
                progress = dataclasses.replace(progress, best_epoch=epoch, best_value=best_value)
                best_params = jax.tree.map(jnp.copy, state.ranking_params) if checkpoints is None else None
        progress = dataclasses.replace(progress, epoch_is_open=False)
        watched = jax.device_get(trainer.model.watched(state.history))
        observer.epoch(EpochReport(epoch, step, loss, seconds, valid, evaluate_seconds, progress, watched))
        if checkpoints is not None and (epoch % eval_every == 0 or is_last):
            checkpoints.save(state, progress, is_best=improved, step=step)  # after the record, which a resume cuts back
    look_up()

    if checkpoints is not None:
        del state  # make room for the best one
        best = checkpoints.restore(trainer.abstract_state(), step=progress.best_epoch * per_epoch)
        if best is None:
            raise OSError(
                f"the best checkpoint, of epoch {progress.best_epoch}, cannot be read: {checkpoints.warnings[-1]}"
            )
        best_params = best[0].ranking_params
    return FitResult(best_params, progress, step // per_epoch, plan.parameters, compile_seconds, earlier_seconds)


def _plan(trainer: Trainer, csr: DeviceCSR, program: Any, compile_seconds: float) -> Plan:
    memory = program.memory_analysis()
    return Plan(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(trainer.shapes)),
        state_bytes=bytes_per_device(trainer.abstract_state()),
        data_bytes=bytes_per_device(csr),
        temporary_bytes=0 if memory is None else memory.temp_size_in_bytes,
        compile_seconds=compile_seconds,
    )


def _begin(trainer: Trainer, checkpoints: Checkpoints | None) -> tuple[TrainState, Progress, Any]:
    """The state to go on from: of the last readable checkpoint, or a new one."""
    if checkpoints is not None and checkpoints.steps():
        found = checkpoints.restore(trainer.abstract_state())
        if found is None:
            raise OSError(
                f"none of the checkpoints in {checkpoints.folder} can be read: delete that folder to train anew, or "
                f"choose another workdir ({checkpoints.warnings[-1]})"
            )
        state, progress = found
        best_step = progress.best_epoch * trainer.steps_per_epoch
        if best_step in (0, int(state.step)) or checkpoints.restore(trainer.abstract_state(), step=best_step):
            checkpoints.forget_after(int(state.step))
            return state, progress, None
        checkpoints.warnings.append("the best checkpoint is lost: training begins anew, and ends as it would have")
        checkpoints.forget_after(-1)
    state = trainer.init()
    return state, Progress(), (jax.tree.map(jnp.copy, state.params) if checkpoints is None else None)


def _patience_is_over(epoch: int, progress: Progress, patience: int) -> bool:
    """Whether ``epoch`` (1-based) should not begin; never before the first validation."""
    return progress.best_value is not None and epoch - progress.best_epoch >= patience


def _steps_within(seconds: float, n_steps: int, took: float) -> int:
    """How many steps a dispatch should have, given how long ``n_steps`` took; at most 16 times as many."""
    return max(1, min(int(seconds * n_steps / max(took, 1e-6)), 16 * n_steps))


def _finite_loss(state: TrainState, per_epoch: int) -> float:
    """The mean loss of the epoch."""
    loss, bad_step = float(state.loss_sum / state.loss_rows), int(state.bad_step)
    if bad_step >= 0 or not math.isfinite(loss):
        raise NonFiniteLossError(
            f"the loss is not finite at step {bad_step} (epoch {bad_step // per_epoch + 1}): lower the learning "
            "rate, or look at the data; the last checkpoint is from before that step"
        )
    return loss


def _check_finite(state: TrainState, step: int, epoch: int) -> None:
    """Refuse parameters that the last step spoiled: its loss is from before it."""
    if not all_finite((state.params, state.ema)):
        raise NonFiniteParametersError(
            f"the parameters are not finite after step {step} (epoch {epoch}): lower the learning rate, or look at the "
            "data; the last checkpoint is from before that step"
        )


def _stop_here(state: TrainState, step: int, progress: Progress, checkpoints: Checkpoints | None) -> None:
    """Save what is new and leave; a state whose loss or parameters are not finite is not worth saving."""
    if checkpoints is not None:
        fine = int(state.bad_step) < 0 and all_finite((state.params, state.ema))
        if step and step not in checkpoints.steps() and fine:
            checkpoints.save(state, progress, is_best=False, step=step)
        checkpoints.wait()
    raise InterruptedRunError(step)
