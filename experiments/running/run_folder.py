"""The folder of a run, which explains itself and is never overwritten by another run.

``flags.txt`` (a flag file), ``config.json``, ``metrics.jsonl`` (one line per epoch), ``tensorboard/``,
``checkpoints/`` and, when the run is finished, ``result.json`` with the evidence behind it (see ``evidence``)
and ``report.md``, ``report.html``.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from diffrec_jax import files
from diffrec_jax.files import write_atomically
from diffrec_jax.training import EpochReport
from experiments.running import locks
from experiments.running.curves import Curves
from experiments.running.fingerprints import is_older
from experiments.settings.budget import BUDGET, not_more
from experiments.settings.cli import as_flags
from experiments.settings.config import Config, as_json

SHORTER = "; a run can be trained for longer, not for less"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Reads and writes one run folder, here or on a remote store."""

    path: epath.Path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this run out; the lock ends with the process, however it ends.

        Remote stores, and file systems that know no locks, are left to the person's care.

        Raises:
          ValueError: if another process holds it.
        """
        if files.is_remote(self.path):
            yield
            return
        sentences = {"what": f"the run folder {self.path}", "in_use": f"{self.path} is in use by {{holder}}"}
        with locks.held(self.path, **sentences):
            yield

    def found(self, config: Config) -> dict[str, Any] | None:
        """The result, if the folder holds a finished run of this configuration, or of one that allows less of what a
        run may take (``budget``); None if there is work to do.

        Raises:
          ValueError: if it holds a run with another configuration, or a damaged record.
        """
        recorded = self._read("config.json")
        if recorded is None:
            if (self.path / "checkpoints").exists():
                raise ValueError(f"{self.path} holds checkpoints but no config.json: choose another --workdir")
            return None
        if "lists" in recorded:
            raise ValueError(f"{self.path} holds the result of somebody else's lists: choose another --workdir")
        differences = not_more(config.differences(recorded.get("config", {})))
        if differences:
            listed = "; ".join(f"{k}: {a!r} there, {b!r} now" for k, (a, b) in differences.items())
            raise ValueError(
                f"{self.path} holds a run with another configuration ({listed}): choose another --workdir, or the "
                f"flags of that run{SHORTER if set(differences) <= set(BUDGET) else ''}"
            )
        return self._read("result.json")

    def configuration(self) -> dict[str, Any]:
        """The recorded configuration; empty without any."""
        return (self._read("config.json") or {}).get("config", {})

    def recorded_data(self) -> dict[str, Any]:
        """What is recorded of the data: ``data``, their checksum, and of newer runs ``files`` and ``events``."""
        recorded = self._read("config.json") or {}
        return {name: recorded[name] for name in ("data", "files", "events") if name in recorded}

    def remember_files(self, files: str) -> None:
        """Record the state in which the files hold what the run was made of."""
        write_atomically(self.path / "config.json", _as_text({**(self._read("config.json") or {}), "files": files}))

    def claim(self, config: Config, fingerprint: str, **more: Any) -> None:
        """Make the folder, or take up the run that it holds.

        Args:
          config: of the run; where more is allowed than before, ``flags.txt`` says so at once, and ``config.json`` when
            there is no result any more that it belongs to.
          fingerprint: the checksum of its data.
          more: what else is recorded of the data.

        Raises:
          ValueError: if it holds a run on other data.
          OSError: if it cannot be written.
        """
        recorded = self._read("config.json")
        if recorded is not None:
            if is_older(recorded.get("data", "")) and not is_older(fingerprint):
                raise ValueError(
                    f"{self.path} holds the unfinished run of an older version, which numbered users and items "
                    "otherwise: finish it with that version, or choose another --workdir"
                )
            if recorded.get("data") != fingerprint:
                raise ValueError(
                    f"{self.path} holds a run on other interactions (checksum {recorded.get('data')}, now "
                    f"{fingerprint}): the data has changed since; choose another --workdir"
                )
            if config.differences(recorded["config"]):
                write_atomically(self.path / "flags.txt", as_flags(config))
                if not (self.path / "result.json").is_file():
                    write_atomically(self.path / "config.json", _as_text({**recorded, "config": as_json(config)}))
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / "flags.txt", as_flags(config))
        document = {"config": as_json(config), "data": fingerprint, **more}
        write_atomically(self.path / "config.json", _as_text(document))

    def _read(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder; None if it isn't there."""
        file = self.path / name
        try:
            return json.loads(file.read_text()) if file.is_file() else None
        except ValueError as error:
            raise ValueError(f"{file} is damaged ({error}): delete it, or choose another --workdir") from None

    def finish(self, result: dict[str, Any], config: Config | None = None) -> None:
        """Record the result, which marks the run as finished, and the configuration, if more was allowed for it."""
        write_atomically(self.path / "result.json", _as_text(result))
        if config is not None and config.differences(self.configuration()):
            document = {**(self._read("config.json") or {}), "config": as_json(config)}
            write_atomically(self.path / "config.json", _as_text(document))

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
        drawn = report.watched.get("importance") if report.valid is not None else None
        entry = {
            "epoch": report.epoch,
            "step": report.step,
            "loss": report.loss,
            "valid": report.valid,
            "best_epoch": report.progress.best_epoch,
            "importance": None if drawn is None else [round(float(p), 6) for p in drawn],
            "seconds": {"train": round(report.seconds, 4), "evaluate": round(report.evaluate_seconds, 4)},
        }
        file = self.path / "metrics.jsonl"
        line = json.dumps(entry) + "\n"
        with files.explained(file):
            if files.is_remote(file):  # which cannot append
                write_atomically(file, (file.read_text() if file.is_file() else "") + line)
                return
            with open(file, "a") as out:
                out.write(line)
                out.flush()
                os.fsync(out.fileno())  # no line may be missing before a checkpoint that comes after it

    def curves(self, from_step: int) -> Curves:
        """TensorBoard curves; what an earlier process wrote after ``from_step`` is hidden."""
        return Curves(self.path / "tensorboard", purge_step=from_step + 1)


def _as_text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"
