"""The training loop: epochs in a few dispatches each, validation, early stopping, checkpoints, exact resume."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.rows import DeviceCSR
from diffrec_jax.finite import NonFiniteParametersError, all_finite
from diffrec_jax.fit_options import SELECTION
from diffrec_jax.memory import free_memory
from diffrec_jax.mesh import bytes_per_device
from diffrec_jax.models.contract import Params
from diffrec_jax.processes import agree
from diffrec_jax.training.checkpoint import Checkpoints, Progress
from diffrec_jax.training.observer import EpochReport, InterruptedRunError, Metrics, Observer, Plan
from diffrec_jax.training.profile import Profile
from diffrec_jax.training.step import Trainer, TrainState

BATCHES_PER_AGREEMENT = 16  # of validation, when several processes must agree whether to stop
Validate = Callable[[Params, Callable[[], None]], Metrics]
SECONDS_PER_DISPATCH = 5.0  # how long an interruption may have to wait


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite."""


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
    validate: Validate | None = None,
    selection: tuple[str, str] = SELECTION,
    checkpoints: Checkpoints | None = None,
    observer: Observer | None = None,
    profile: Profile | None = None,
) -> FitResult:
    """Train until the epochs are done, the time is over, or validation has not improved for ``patience`` epochs.

    Args:
      trainer: the model and how it is trained.
      csr: the training interactions on the device(s).
      validate: (parameters, look_up) -> metrics by protocol, where ``look_up()`` is called now and then and raises if
        the run is asked to stop; None trains to the end and keeps the last parameters.
      selection: protocol and metric that choose the best epoch; higher is better.
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
    _check_epochs(trainer, checkpoints)
    start = time.perf_counter()
    program = trainer.compile(csr)
    plan = _plan(trainer, csr, program, time.perf_counter() - start)
    observer.planned(plan)
    check_room(plan)
    state, progress, best_params = _begin(trainer, checkpoints)
    run = _Run(
        trainer=trainer,
        program=program,
        csr=csr,
        validate=validate,
        selection=selection,
        checkpoints=checkpoints,
        observer=observer,
        profile=Profile.none() if profile is None else profile,
        state=state,
        progress=progress,
        best_params=best_params,
        step=int(state.step),
    )
    epoch, warnings = run.step // trainer.steps_per_epoch, checkpoints.warnings if checkpoints else []
    observer.started(epoch=epoch, step=run.step, warnings=warnings)
    run.is_last = run.step % trainer.steps_per_epoch == 0 and progress.best_epoch > 0 and run.time_is_over()
    while run.goes_on():
        if not run.progress.epoch_is_open:
            run.train_epoch()
        run.end_epoch()
    run.look_up()
    return FitResult(
        params=run.best(),
        progress=run.progress,
        epochs_run=run.epoch,
        parameters=plan.parameters,
        compile_seconds=plan.compile_seconds,
        earlier_seconds=progress.train_seconds + progress.evaluate_seconds,
    )


@dataclasses.dataclass
class _Run:
    """A run while it goes on: what ``fit`` was given, and what changes from epoch to epoch."""

    trainer: Trainer
    program: Callable[[TrainState, DeviceCSR, np.int32, np.int32], TrainState]  # ``Trainer.compile``
    csr: DeviceCSR
    validate: Validate | None
    selection: tuple[str, str]
    checkpoints: Checkpoints | None
    observer: Observer
    profile: Profile

    state: TrainState
    progress: Progress
    best_params: Params | None  # of the best epoch, where no checkpoint keeps them
    step: int  # steps done
    is_last: bool = False  # whether no epoch comes after this one
    seconds: float = 0.0  # of training in this epoch
    epoch_began: float | None = None  # the clock when this epoch began; None between epochs
    steps_per_dispatch: int = 1
    batches: int = 0  # of validation, between which the run may be asked to stop

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self.trainer.steps_per_epoch

    def goes_on(self) -> bool:
        """Whether there is an epoch to end or to begin."""
        options, over = self.trainer.options, False
        if self.validate is not None and self.progress.best_value is not None:  # never before the first validation
            over = self.epoch + 1 - self.progress.best_epoch >= options.patience
        return self.progress.epoch_is_open or (self.epoch < options.epochs and not over and not self.is_last)

    def train_epoch(self) -> None:
        """The steps of one epoch, in a few dispatches."""
        self.epoch_began, epoch = time.perf_counter(), self.epoch
        per_epoch = self.trainer.steps_per_epoch
        end = (epoch + 1) * per_epoch
        while self.step < end:
            self.profile.at(self.step, self.state)
            n_steps = self.look_up(min(self.steps_per_dispatch, end - self.step, self.profile.room(self.step)))
            dispatched = time.perf_counter()
            self.state = self.program(self.state, self.csr, np.int32(epoch), np.int32(n_steps))
            self.step += n_steps
            if n_steps < per_epoch:  # a long epoch: look up between dispatches, which last seconds each
                jax.block_until_ready(self.state.step)
            took = time.perf_counter() - dispatched
            self.steps_per_dispatch = _steps_within(SECONDS_PER_DISPATCH, n_steps, took)
        jax.block_until_ready(self.state.step)
        self.profile.at(self.step, self.state)
        self.seconds, self.epoch_began = time.perf_counter() - self.epoch_began, None
        self._spend(train_seconds=self.seconds)
        self.progress = dataclasses.replace(self.progress, epoch_is_open=True)

    def end_epoch(self) -> None:
        """Validate if it is time, tell the observer, and save."""
        options, epoch = self.trainer.options, self.epoch
        loss = _finite_loss(self.state, self.trainer.steps_per_epoch, self.trainer.model.advice)
        self.is_last = epoch == options.epochs or self.time_is_over()
        valid, seconds, improved = None, 0.0, False
        if epoch % options.eval_every == 0 or self.is_last:
            _check_finite(self.state, self.step, epoch, self.trainer.model.advice)
            valid, seconds = self._validated()
            improved = self._keep_if_better(valid)
        self.progress = dataclasses.replace(self.progress, epoch_is_open=False)
        watched = jax.device_get(self.trainer.model.watched(self.state.history))
        self.observer.epoch(EpochReport(epoch, self.step, loss, self.seconds, valid, seconds, self.progress, watched))
        if self.checkpoints is not None and (epoch % options.eval_every == 0 or self.is_last):
            # after the record, which a resume cuts back
            self.checkpoints.save(self.state, self.progress, is_best=improved, step=self.step)

    def _validated(self) -> tuple[Metrics | None, float]:
        """The metrics, and the seconds that they took."""
        if self.validate is None:
            return None, 0.0
        began = time.perf_counter()
        valid = self.validate(self.state.ranking_params, self.between_batches)
        seconds = time.perf_counter() - began
        self._spend(evaluate_seconds=seconds)
        self.is_last = self.is_last or self.time_is_over()
        return valid, seconds

    def _keep_if_better(self, valid: Metrics | None) -> bool:
        """Whether this epoch is the best so far; then its parameters are kept. Without validation, the last one is."""
        protocol, metric = self.selection
        value = None if valid is None else valid[protocol][metric]
        if value is not None and self.progress.best_value is not None and value <= self.progress.best_value:
            return False
        self.progress = dataclasses.replace(self.progress, best_epoch=self.epoch, best_value=value)
        if self.checkpoints is None:
            self.best_params = jax.tree.map(jnp.copy, self.state.ranking_params)
        return True

    def look_up(self, n_steps: int = 0) -> int:
        """Stop if any process is asked to; otherwise as many steps as the first process says."""
        said = agree(self.trainer.mesh, self.observer.interrupted(), n_steps)
        if said[:, 0].any():
            jax.block_until_ready(self.state.step)
            if self.epoch_began is not None:  # a part of an epoch
                self._spend(train_seconds=time.perf_counter() - self.epoch_began)
            _stop_here(self.state, self.step, self.progress, self.checkpoints)
        return int(said[0, 1])

    def between_batches(self) -> None:
        """``look_up`` between batches of validation; of several processes only now and then."""
        if not self.trainer.mesh.is_multi_process or self.batches % BATCHES_PER_AGREEMENT == 0:
            self.look_up()
        self.batches += 1

    def time_is_over(self) -> bool:
        """Whether another epoch would take too long; processes do as the first one says, since clocks differ."""
        minutes, progress = self.trainer.options.train_minutes, self.progress
        if not minutes:
            return False
        next_epoch = self.trainer.steps_per_epoch * progress.train_seconds / self.step
        spent = progress.train_seconds + progress.evaluate_seconds
        return bool(agree(self.trainer.mesh, spent + next_epoch > 60.0 * minutes)[0, 0])

    def best(self) -> Params:
        """The parameters of the best epoch."""
        if self.checkpoints is None:
            return self.best_params
        step, last = self.progress.best_epoch * self.trainer.steps_per_epoch, self.state.ranking_params
        del self.state  # make room for the best one
        if step == self.step:
            return last
        del last
        best = self.checkpoints.restore(self.trainer.abstract_state(), step=step)
        if best is None:
            raise OSError(
                f"the best checkpoint, of epoch {self.progress.best_epoch}, cannot be read: "
                f"{self.checkpoints.warnings[-1]}"
            )
        return best[0].ranking_params

    def _spend(self, *, train_seconds: float = 0.0, evaluate_seconds: float = 0.0) -> None:
        self.progress = dataclasses.replace(
            self.progress,
            train_seconds=self.progress.train_seconds + train_seconds,
            evaluate_seconds=self.progress.evaluate_seconds + evaluate_seconds,
        )


def _check_epochs(trainer: Trainer, checkpoints: Checkpoints | None) -> None:
    """Refuse a run that has more behind it than is allowed."""
    behind = max(checkpoints.steps(), default=0) / trainer.steps_per_epoch if checkpoints is not None else 0.0
    if behind > trainer.options.epochs:
        raise ValueError(
            f"epochs={trainer.options.epochs}: the run found here has {behind:.4g} epochs behind it already: allow as "
            "many, or more to go on, or choose another workdir"
        )


def _plan(trainer: Trainer, csr: DeviceCSR, program: Any, compile_seconds: float) -> Plan:
    memory = program.memory_analysis()
    return Plan(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(trainer.shapes)),
        state_bytes=bytes_per_device(trainer.abstract_state()),
        data_bytes=bytes_per_device(csr),
        temporary_bytes=0 if memory is None else memory.temp_size_in_bytes,
        compile_seconds=compile_seconds,
    )


def check_room(plan: Plan) -> None:
    """Refuse a run that the memory of this machine does not hold, where its devices are CPUs.

    Raises:
      ValueError: with the numbers.
    """
    free = free_memory() if jax.default_backend() == "cpu" else None
    if free is not None and plan.total_bytes > free:
        raise ValueError(
            f"training takes {plan.total_bytes / 1e9:.1f} GB on each device, {plan.state_bytes / 1e9:.1f} of them for "
            f"{plan.parameters:,} parameters and the state of the optimizer, and {free / 1e9:.1f} GB are free: make "
            "the model narrower, the batch smaller, or take a larger machine"
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


def _steps_within(seconds: float, n_steps: int, took: float) -> int:
    """How many steps a dispatch should have, given how long ``n_steps`` took; at most 16 times as many."""
    return max(1, min(int(seconds * n_steps / max(took, 1e-6)), 16 * n_steps))


def _finite_loss(state: TrainState, per_epoch: int, advice: str) -> float:
    """The mean loss of the epoch."""
    loss, bad_step = float(state.loss_sum / state.loss_rows), int(state.bad_step)
    if bad_step >= 0 or not math.isfinite(loss):
        raise NonFiniteLossError(
            f"the loss is not finite at step {bad_step} (epoch {bad_step // per_epoch + 1}): {advice}; the last "
            "checkpoint is from before that step"
        )
    return loss


def _check_finite(state: TrainState, step: int, epoch: int, advice: str) -> None:
    """Refuse parameters that the last step spoiled: its loss is from before it."""
    if not all_finite((state.params, state.ema)):
        raise NonFiniteParametersError(
            f"the parameters are not finite after step {step} (epoch {epoch}): {advice}; the last checkpoint is from "
            "before that step"
        )


def _stop_here(state: TrainState, step: int, progress: Progress, checkpoints: Checkpoints | None) -> None:
    """Save what is new and leave; a state whose loss or parameters are not finite is not worth saving."""
    if checkpoints is not None:
        fine = int(state.bad_step) < 0 and all_finite((state.params, state.ema))
        if step and step not in checkpoints.steps() and fine:
            checkpoints.save(state, progress, is_best=False, step=step)
        checkpoints.wait()
    raise InterruptedRunError(step)
