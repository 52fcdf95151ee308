"""Finished run folders, read back; runs that differ in nothing but the seed are one *system*."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from diffrec_jax.models.registry import MODELS
from experiments.reporting.published import list_length
from experiments.reporting.table import TITLES
from experiments.settings import selection
from experiments.settings.commands import recorded_values
from experiments.settings.config import NOT_PART_OF_A_RUN, as_json, configure

NOT_OF_A_SYSTEM = (
    *(*NOT_PART_OF_A_RUN, "seed", "baselines", "ks"),
    *("dataset", "data", "valid_data", "test_data"),  # known by their checksum
)


@dataclasses.dataclass(frozen=True)
class Run:
    """One finished run folder."""

    path: Path
    result: dict[str, Any]  # result.json
    config: dict[str, Any]  # as JSON, defaults filled in; of a baseline kept in a run folder, and of lists: empty

    @property
    def data(self) -> str:
        """Checksum of the interactions."""
        return self.result["data"]

    @property
    def select(self) -> str:
        """What chose the epoch; of a baseline kept in a run folder, and of lists: what usually does."""
        return self.config.get("select", selection.DEFAULT)

    @property
    def identity(self) -> str:
        """The same for two runs that differ in nothing but the seed (or where they, and equal data, lie)."""
        settings = {name: value for name, value in self.config.items() if name not in NOT_OF_A_SYSTEM}
        return json.dumps([self.result["model"], self.data, settings, self.result.get("lists")], sort_keys=True)


@dataclasses.dataclass(frozen=True)
class System:
    """Runs of one configuration."""

    name: str
    runs: tuple[Run, ...]

    def values(self, protocol: str, metric: str) -> np.ndarray:
        """A test metric of each run, ``[seeds]``."""
        return np.array([run.result["test"][protocol][metric] for run in self.runs])

    def mean(self, protocol: str, metric: str) -> float:
        """Its mean over the runs."""
        return float(np.mean(self.values(protocol, metric)))

    def deviation(self, protocol: str, metric: str) -> float | None:
        """Its standard deviation over the runs (n - 1); None for a single one."""
        return float(np.std(self.values(protocol, metric), ddof=1)) if len(self.runs) > 1 else None

    def median(self, *keys: str) -> float:
        """The median over the runs of a number in ``result.json``, such as ``("seconds", "train")``; nan without it."""
        found = []
        for run in self.runs:
            value: Any = run.result
            for key in keys:
                value = value.get(key) if isinstance(value, dict) else None
            found.append(np.nan if value is None else value)
        return float(np.median(found))


def read(path: Any) -> Run:
    """A run folder, or a baseline kept in one.

    Raises:
      ValueError: if it is none, or not finished.
    """
    path = epath.Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is no folder: name run folders, such as runs/a runs/b")
    documents = []
    for name in ("result.json", "config.json"):
        file = path / name
        try:
            documents.append(json.loads(file.read_text()) if file.is_file() else None)
        except ValueError as error:
            raise ValueError(f"{file} is damaged ({error})") from None
    result, recorded = documents
    if result is None:
        raise ValueError(f"{path} holds no result.json: it is no run folder, or its run is not finished")
    try:
        of_run = None if recorded is None or "lists" in recorded else recorded  # others' lists have no configuration
        config = {} if of_run is None else recorded_values(of_run["config"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path / 'config.json'} holds what this version refuses: {error}") from None
    result.setdefault("data", "" if recorded is None else recorded["data"])
    return Run(path, result, config)


def group(runs: Sequence[Run]) -> list[System]:
    """Systems in the order of their first runs, named by their model and by what sets them apart.

    Of several runs with the same configuration and seed, the first counts.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        members = groups.setdefault(run.identity, [])
        if run.result.get("seed", 0) not in [member.result.get("seed", 0) for member in members]:
            members.append(run)
    for members in groups.values():
        members.sort(key=lambda run: run.result.get("seed", 0))
    firsts = [members[0] for members in groups.values()]
    names = [_name(first, firsts) for first in firsts]
    names = [n if names.count(n) == 1 else f"{n} ({first.path.name})" for n, first in zip(names, firsts)]
    return [System(name, tuple(members)) for name, members in zip(names, groups.values())]


def repeated(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """The runs that ``group`` leaves out, each with the earlier one that has its configuration and seed."""
    first: dict[tuple[str, int], Run] = {}
    found = []
    for run in runs:
        same = first.setdefault((run.identity, run.result.get("seed", 0)), run)
        if same.path != run.path:
            found.append((run, same))
    return found


def shared_list_length(among: Sequence[System]) -> int:
    """The K at which these systems are shown side by side."""
    return list_length(*(run.result["test"]["official"] for system in among for run in system.runs))


def differing(runs: Sequence[Run]) -> list[str]:
    """Settings in which runs of the same model differ, in the order of ``Config``."""
    names = dict.fromkeys(name for run in runs for name in run.config if name not in (*NOT_OF_A_SYSTEM, "model"))
    return [n for n in names if len({json.dumps(run.config.get(n)) for run in runs if run.config}) > 1]


def _name(run: Run, among: Sequence[Run]) -> str:
    model = run.result["model"]
    alike = [other for other in among if other.result["model"] == model and other.config]
    settings = differing(alike) if run.config else []
    if len(settings) > 2:  # many: only what is not as usual
        usual = as_json(configure(model=model)) if model in MODELS else {}
        settings = [n for n in settings if run.config.get(n) != usual.get(n)]
    if not settings:
        return TITLES.get(model, model)
    return f"{TITLES.get(model, model)}, " + ", ".join(f"{n}={_plain(run.config.get(n))}" for n in settings)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(str, value)) + "]"
    return str(value).rsplit("/", 1)[-1] or "none"


def kept_baselines(runs: Sequence[Run]) -> list[Run]:
    """The baselines kept in these run folders, each once, except those that are compared anyway."""
    named = {run.result["model"] for run in runs}
    kept: dict[str, Run] = {}
    for folder in (path.parent for run in runs for path in sorted(run.path.glob("baselines/*/result.json"))):
        baseline = read(folder)
        if baseline.data == runs[0].data and baseline.result["model"] not in named:
            kept.setdefault(folder.name, baseline)
    return list(kept.values())
