"""Where a team keeps its runs: MLflow or Weights & Biases, beside what every run folder holds; off unless asked.

A tracker that fails (no network, no server, a full disk of its own) is said once, and the run goes on without it. A run
that is taken up again goes on in the same place: its number there is in ``tracking.json`` of the run folder.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from etils import epath
from rich.console import Console

from diffrec_jax import files

TRACKERS = ("mlflow", "wandb")
RECORD = "tracking.json"


class Tracker(Protocol):
    """What a run tells another place of itself."""

    def begin(self, project: str, name: str, config: Mapping[str, Any], known: str | None) -> str:
        """A new run there, or the one that is ``known``; its number."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each of several curves."""

    def keep(self, paths: Sequence[Path]) -> None:
        """Files of the run that are worth keeping."""

    def finish(self, *, failed: bool) -> None:
        """The end of this process' part of the run."""


class MLflow:
    """Parameters, metrics and artifacts of MLflow, wherever ``MLFLOW_TRACKING_URI`` says."""

    def __init__(self) -> None:
        import mlflow

        self._mlflow = mlflow

    def begin(self, project: str, name: str, config: Mapping[str, Any], known: str | None) -> str:
        """See ``Tracker``."""
        self._mlflow.set_experiment(project)
        run = self._mlflow.start_run(run_id=known, run_name=None if known else name)
        if known is None:
            self._mlflow.log_params({key: str(value)[:6000] for key, value in config.items()})
        return str(run.info.run_id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Tracker``; MLflow takes no @ in a name."""
        self._mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in values.items()}, step=step)

    def keep(self, paths: Sequence[Path]) -> None:
        """See ``Tracker``."""
        for path in paths:
            self._mlflow.log_artifact(str(path))

    def finish(self, *, failed: bool) -> None:
        """See ``Tracker``."""
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


class WandB:
    """Config, history and files of Weights & Biases; ``WANDB_MODE=offline`` keeps them on this machine."""

    def __init__(self) -> None:
        import wandb

        self._wandb = wandb
        self._run: Any = None

    def begin(self, project: str, name: str, config: Mapping[str, Any], known: str | None) -> str:
        """See ``Tracker``."""
        self._run = self._wandb.init(project=project, name=name, config=dict(config), id=known, resume="allow")
        return str(self._run.id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._run.log(dict(values), step=step)

    def keep(self, paths: Sequence[Path]) -> None:
        """See ``Tracker``."""
        for path in paths:
            self._run.save(str(path), base_path=str(path.parent), policy="now")

    def finish(self, *, failed: bool) -> None:
        """See ``Tracker``."""
        self._run.finish(exit_code=int(failed))


class Tracking:
    """A tracker that may fail, or none; the run goes on."""

    def __init__(self, tracker: Tracker | None, console: Console, name: str = "") -> None:
        self._tracker, self._console, self._name, self._step = tracker, console, name, 0

    @classmethod
    def of(cls, name: str, console: Console) -> "Tracking":
        """The tracker of that name; without a name none.

        Raises:
          ValueError: if its package is missing.
        """
        if not name:
            return cls(None, console)
        try:
            tracker: Tracker = MLflow() if name == "mlflow" else WandB()
            return cls(tracker, console, name)
        except ImportError:
            raise ValueError(f"--track={name} needs a package: pip install 'diffrec_jax[{name}]'") from None

    def begin(self, folder: epath.Path, project: str, config: Mapping[str, Any]) -> None:
        """A run there for this run folder, or the one that it had."""
        if self._tracker is None:
            return
        place = folder / RECORD
        known = json.loads(place.read_text()).get(self._name) if place.exists() else None
        tracker = self._tracker
        number = self._tried(lambda: tracker.begin(project, folder.name, config, known))
        if number is not None and number != known:
            files.write_atomically(place, json.dumps({self._name: number}) + "\n")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One point of each of several curves."""
        if self._tracker is not None:
            tracker, self._step = self._tracker, step
            self._tried(lambda: tracker.scalars(step, values))

    def result(self, values: Mapping[str, float]) -> None:
        """What the run found, behind the last point of its curves."""
        self.scalars(self._step, values)

    def finish(self, paths: Sequence[Path] = (), *, failed: bool = False) -> None:
        """Keep these files, and end."""
        if self._tracker is not None:
            tracker = self._tracker
            self._tried(lambda: tracker.keep([path for path in paths if path.exists()]))
        if self._tracker is not None:
            tracker, self._tracker = self._tracker, None
            with contextlib.suppress(Exception):
                tracker.finish(failed=failed)

    def _tried(self, call: Callable[[], Any]) -> Any:
        """What a call gives; where it fails, this is said, and nothing more is told to the tracker."""
        try:
            return call()
        except Exception as error:  # whatever a client of a server raises
            line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            self._console.print(
                f"warning: {self._name} does not take what it is told ({line}): the run goes on without it",
                highlight=False,
                markup=False,
            )
            self._tracker = None
            return None
