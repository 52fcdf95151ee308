"""The folder of a run, which explains itself and is never overwritten by another run.

``flags.txt`` (a flag file), ``config.json``, ``metrics.jsonl`` (one line per epoch), ``tensorboard/``,
``checkpoints/`` and, when the run is finished, ``result.json``.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from diffrec_jax.training import EpochReport
from experiments.config import Config, as_flags, as_json


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Reads and writes one run folder."""

    path: Path

    def claim(self, config: Config, fingerprint: str) -> None:
        """Make the folder, or take up the run that it holds.

        Raises:
          ValueError: if it holds a run with another configuration or other data.
          OSError: if it cannot be written.
        """
        recorded_file = self.path / "config.json"
        try:
            if recorded_file.is_file():
                recorded = json.loads(recorded_file.read_text())
                differences = config.differences(recorded["config"])
                if differences:
                    listed = "; ".join(f"{k}: {a!r} there, {b!r} now" for k, (a, b) in differences.items())
                    raise ValueError(
                        f"{self.path} holds a run with another configuration ({listed}): choose another --workdir, or "
                        "the flags of that run"
                    )
                if recorded["data"] != fingerprint:
                    raise ValueError(
                        f"{self.path} holds a run on other interactions (checksum {recorded['data']}, now "
                        f"{fingerprint}): the data has changed since; choose another --workdir"
                    )
                return
            if (self.path / "checkpoints").exists():
                raise ValueError(f"{self.path} holds checkpoints but no config.json: choose another --workdir")
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "flags.txt", as_flags(config))
            document = {"config": as_json(config), "data": fingerprint}
            write_atomically(recorded_file, json.dumps(document, indent=2) + "\n")
        except json.JSONDecodeError as error:
            raise ValueError(f"{recorded_file} is damaged ({error}): choose another --workdir") from None
        except OSError as error:
            raise OSError(
                f"cannot write the run folder {self.path} ({error.strerror}): choose another --workdir"
            ) from None

    def result(self) -> dict[str, Any] | None:
        """What a finished run found; None if it isn't finished."""
        file = self.path / "result.json"
        return json.loads(file.read_text()) if file.is_file() else None

    def finish(self, result: dict[str, Any]) -> None:
        """Record the result, which marks the run as finished."""
        write_atomically(self.path / "result.json", json.dumps(result, indent=2) + "\n")

    def cut_metrics(self, epoch: int) -> list[dict[str, Any]]:
        """Drop lines of ``metrics.jsonl`` after ``epoch``, written by a process that died later; return the rest."""
        file = self.path / "metrics.jsonl"
        if not file.is_file():
            return []
        kept = []
        for line in file.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the last line of a process that was killed while writing
                continue
            if entry["epoch"] <= epoch:
                kept.append(entry)
        write_atomically(file, "".join(json.dumps(entry) + "\n" for entry in kept))
        return kept

    def record(self, report: EpochReport) -> None:
        """Append one epoch to ``metrics.jsonl``."""
        entry = {
            "epoch": report.epoch,
            "step": report.step,
            "loss": report.loss,
            "valid": report.valid,
            "best_epoch": report.progress.best_epoch,
            "seconds": {"train": round(report.seconds, 4), "evaluate": round(report.evaluate_seconds, 4)},
        }
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def curves(self, from_step: int) -> SummaryWriter:
        """A TensorBoard writer; what an earlier process wrote after ``from_step`` is hidden."""
        return SummaryWriter(str(self.path / "tensorboard"), purge_step=from_step + 1)


def write_atomically(path: Path, text: str) -> None:
    """Write to a temporary name and rename, so that a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)
