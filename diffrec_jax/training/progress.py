"""Lines of progress for a notebook or a script: one for each validation."""

from rich.console import Console

from diffrec_jax.processes import is_writer
from diffrec_jax.training.observer import EpochReport, Observer, Plan


class ProgressLines(Observer):
    """Prints a line for each validation (without validation data, for each epoch that would have one), and tells
    another observer everything.
    """

    def __init__(self, selection: tuple[str, str], eval_every: int, epochs: int, told: Observer | None = None) -> None:
        """Print to the standard output, or into the notebook.

        Args:
          selection: protocol and metric that choose the epoch.
          eval_every: epochs between validations.
          epochs: at most this many.
          told: the other observer; None is nobody.
        """
        self._by, self._metric = selection
        self._eval_every, self._epochs = eval_every, epochs
        self._told = Observer() if told is None else told
        self._console = Console(highlight=False, soft_wrap=True, quiet=not is_writer())
        self._seconds = 0.0  # since the last line

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False)

    def decided(self, sentence: str) -> None:
        """Say what was chosen, and why."""
        self.say(sentence)
        self._told.decided(sentence)

    def planned(self, plan: Plan) -> None:
        """Say how much there is to learn."""
        self.say(f"compiled in {plan.compile_seconds:.1f} s: {plan.parameters:,} parameters")
        self._told.planned(plan)

    def started(self, *, epoch: int, step: int, warnings: list[str]) -> None:
        """Say where an earlier process had come to."""
        for sentence in warnings:
            self.say(f"warning: {sentence}")
        if step:
            self.say(f"going on after epoch {epoch}, step {step}")
        self._told.started(epoch=epoch, step=step, warnings=warnings)

    def epoch(self, report: EpochReport) -> None:
        """Print the line of an epoch, if it has one."""
        self._seconds += report.seconds + report.evaluate_seconds
        if report.valid is not None or report.epoch % self._eval_every == 0 or report.epoch == self._epochs:
            self.say(self._line(report))
            self._seconds = 0.0
        self._told.epoch(report)

    def interrupted(self) -> bool:
        """What the other observer says."""
        return self._told.interrupted()

    def _line(self, report: EpochReport) -> str:
        parts = [f"epoch {report.epoch} of at most {self._epochs}: loss {report.loss:.4f}"]
        if report.valid is not None:
            best = report.progress
            parts.append(
                f"validation {self._metric} {report.valid[self._by][self._metric]:.4f} "
                f"(best {best.best_value:.4f}, epoch {best.best_epoch})"
            )
        return ", ".join([*parts, f"{self._seconds:.1f} s"])
