"""What a person sees, and a run folder keeps, while a model trains."""

import contextlib
import signal
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from diffrec_jax.processes import is_writer
from diffrec_jax.training import EpochReport, Observer, Plan
from experiments.running.curves import Curves
from experiments.running.run_folder import RunFolder
from experiments.running.trackers import Tracking
from experiments.settings import selection
from experiments.settings.config import Config


class RunObserver(Observer):
    """Prints the memory a run will take, shows a live line on a terminal, records every epoch, listens for Ctrl-C
    and SIGTERM.
    """

    def __init__(self, config: Config, folder: RunFolder, console: Console, tracking: Tracking | None = None) -> None:
        self.config, self.folder, self.console = config, folder, console
        self._tracking = Tracking(None, console) if tracking is None else tracking
        self.asked_by: int | None = None  # the signal that asked to stop
        self._previous: dict[int, Any] = {}
        self._curves: Curves | None = None
        self._protocol, self._metric = selection.parse(config.evaluation.select)
        self._line = Progress(
            TextColumn("epoch {task.completed}"),
            BarColumn(bar_width=8),
            TextColumn(f"loss {{task.fields[loss]}} valid {self._metric} {{task.fields[valid]}} {{task.fields[best]}}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=console.quiet or not console.is_terminal,
            transient=True,
        )
        self._task = self._line.add_task("", total=None, loss="-", valid="-", best="(compiling)")

    def __enter__(self) -> "RunObserver":
        self._line.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._line.stop()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._curves is not None:
            with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
                self._curves.close()
        if self.asked_by is not None and kind is None:  # too late to stop training, but not what comes after it
            signal.raise_signal(self.asked_by)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.asked_by is None:
            with contextlib.suppress(OSError):  # the terminal may be gone
                self.console.print("stopping after this dispatch, to save the state ...")
        if number == signal.SIGINT:  # a second Ctrl-C ends it at once
            signal.signal(number, self._previous[number])
        self.asked_by = number if self.asked_by is None else self.asked_by

    def interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM came."""
        return self.asked_by is not None

    def decided(self, sentence: str) -> None:
        """Say what was chosen, and why."""
        self.console.print(f"  {sentence}", highlight=False)

    def planned(self, plan: Plan) -> None:
        """Say what the run will take before it takes it."""

        def size(count: int) -> str:
            return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.0f} MiB"

        self.console.print(
            f"memory per device: {size(plan.state_bytes)} parameters and optimizer state ({plan.parameters:,} "
            f"parameters), {size(plan.data_bytes)} interactions, {size(plan.temporary_bytes)} temporaries of a step: "
            f"{size(plan.total_bytes)} in all, and {size(plan.state_bytes)} on the host while a checkpoint is written",
            highlight=False,
        )

    def started(self, *, epoch: int, step: int, warnings: list[str]) -> None:
        """Take the records back to where the state stands."""
        for number in (signal.SIGINT, signal.SIGTERM):  # until now there was nothing to save
            self._previous[number] = signal.signal(number, self._stop)
        if not is_writer():
            return
        for sentence in warnings:
            self.console.print(f"warning: {sentence}", highlight=False)
        if step:
            self.console.print(f"going on after epoch {epoch}, step {step}", highlight=False)
        self._line.update(self._task, best="")
        self.folder.cut_metrics(epoch)
        self._curves = self.folder.curves(step)

    def epoch(self, report: EpochReport) -> None:
        """Record the epoch and move the live line."""
        if self._curves is None:  # another process keeps the records
            return
        self.folder.record(report)
        points = {"train/loss": report.loss, "train/seconds": report.seconds}
        for protocol, metrics in (report.valid or {}).items():
            points |= {f"valid_{protocol}/{name}": value for name, value in metrics.items()}
        self._curves.add(report.step, points)
        self._tracking.scalars(report.step, points)
        if report.valid is not None:
            drawn = report.watched.get("importance", ())
            self._curves.add(report.step, {f"importance/step_{t}": float(p) for t, p in enumerate(drawn)})
            self._curves.flush()
        last_epoch = min(self.config.fit.epochs, max(report.progress.best_epoch, 0) + self.config.fit.patience - 1)
        fields: dict[str, Any] = {"loss": f"{report.loss:.4f}"}
        if report.valid is not None:
            fields["valid"] = f"{report.valid[self._protocol][self._metric]:.4f}"
        if report.progress.best_value is not None:
            fields["best"] = f"(best {report.progress.best_value:.4f} at {report.progress.best_epoch})"
        self._line.update(self._task, completed=report.epoch, total=max(last_epoch, report.epoch), **fields)
