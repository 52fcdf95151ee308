"""Systems side by side: means and deviations over seeds, intervals and paired tests over users, lists and cost.

Metrics of a user are averaged over the seeds of a system first, so that what is paired is users. Every system is
tested against the first on every metric, and Holm's correction counts all these tests together.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffrec_jax.evaluation import BEYOND
from diffrec_jax.evaluation.conventions import MASKED
from diffrec_jax.evaluation.metrics import Protocol
from diffrec_jax.evaluation.significance import Test, compare_systems
from experiments.reporting import evidence
from experiments.reporting.sheet import Sheet
from experiments.reporting.systems import Run, System, shared_list_length

SAME = ("dataset", "split", "noise", "eval_history", "ranking", "data")
UNRECORDED = {"ranking": MASKED}  # what results of older versions do not say, because there was nothing else


@dataclasses.dataclass(frozen=True)
class Cell:
    """One system and one metric."""

    mean: float
    deviation: float | None  # over seeds
    low: float  # of the mean over users
    high: float
    difference: float | None = None  # to the reference, and what follows of it; None for the reference itself
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None
    p_holm: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What ``compare`` found; ``systems[0]`` is the reference."""

    systems: tuple[System, ...]
    metrics: tuple[str, ...]
    protocol: Protocol
    test: Test
    level: float
    n_users: int  # with held-out items
    cells: dict[tuple[str, str], Cell]  # by name of the system, and metric
    more: tuple[Sheet, ...] = ()  # after the tests, such as the systems by user group

    @property
    def title(self) -> str:
        """What all systems share."""
        result = self.systems[0].runs[0].result
        noise = f" with noise {result['noise']}" if result["noise"] else ""
        return f"{result['dataset']}{noise}, test, {self.protocol} protocol"

    def records(self) -> list[dict[str, Any]]:
        """One flat dictionary per system and metric, for a csv file."""
        found = []
        for system in self.systems:
            cost = {**_lists(system, shared_list_length(self.systems)), **_cost(system)}
            for metric in self.metrics:
                row = {"system": system.name, "seeds": len(system.runs), "protocol": self.protocol, "metric": metric}
                found.append(row | dataclasses.asdict(self.cells[system.name, metric]) | {"test": self.test} | cost)
        return found

    def sheets(self) -> list[Sheet]:
        """Quality, tests, lists and cost."""
        return [self._quality(), self._tests(), *self.more, self._beyond(), self._costs()]

    def written(self, suffix: str) -> str:
        """The text of a ``.md``, ``.tex`` or ``.csv`` file."""
        if suffix == ".md":
            return "\n".join(sheet.markdown() for sheet in self.sheets())
        if suffix == ".tex":
            return "% needs \\usepackage{booktabs}\n" + "\n".join(sheet.latex() for sheet in self.sheets())
        text = io.StringIO()
        records = self.records()
        writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def _quality(self) -> Sheet:
        best = {m: max(self.cells[s.name, m].mean for s in self.systems) for m in self.metrics}
        rows, bold = [], set()
        for r, system in enumerate(self.systems):
            row = [system.name, str(len(system.runs))]
            for c, metric in enumerate(self.metrics):
                cell = self.cells[system.name, metric]
                star = "*" if cell.p_holm is not None and cell.p_holm < 1 - self.level else ""
                row.append(f"{cell.mean:.4f}" + ("" if cell.deviation is None else f" ± {cell.deviation:.4f}") + star)
                if cell.mean == best[metric]:
                    bold.add((r, c + 2))
            rows.append(tuple(row))
        note = (
            f"Mean ± standard deviation over seeds. *: differs from {self.systems[0].name}, p < {1 - self.level:.2g} "
            "after Holm's correction."
        )
        return Sheet(self.title, ("model", "seeds", *self.metrics), tuple(rows), frozenset(bold), note)

    def _tests(self) -> Sheet:
        rows = []
        for system in self.systems:
            for metric in self.metrics:
                cell = self.cells[system.name, metric]
                row = (system.name, metric, f"{cell.mean:.4f}", f"[{cell.low:.4f}, {cell.high:.4f}]")
                if cell.difference is None:
                    rows.append((*row, "reference", "", "", ""))
                    continue
                interval = f"[{cell.difference_low:+.4f}, {cell.difference_high:+.4f}]"
                rows.append((*row, f"{cell.difference:+.4f}", interval, _p(cell.p), _p(cell.p_holm)))
        share = f"{self.level:.0%}"
        columns = ("model", "metric", "mean", share, "difference", share, "p", "p, Holm")
        name = "Wilcoxon's signed-rank test" if self.test == "wilcoxon" else "paired t-test"
        note = (
            f"Differences to {self.systems[0].name}; {name}, two-sided, over {self.n_users:,} users with held-out "
            "items; intervals by bootstrap over these users, each user's metric averaged over the seeds first."
        )
        return Sheet("Paired tests", columns, tuple(rows), note=note, n_text=2)

    def _beyond(self) -> Sheet:
        rows, k = [], shared_list_length(self.systems)
        for system in self.systems:
            rows.append((system.name, *(_number(value, ".3f") for value in _lists(system, k).values())))
        note = f"Of lists of {k}; the first two are about the whole catalogue, novelty is in bits. Median over seeds."
        return Sheet("Beyond accuracy", ("model", *(f"{name}@{k}" for name in BEYOND)), tuple(rows), note=note)

    def _costs(self) -> Sheet:
        formats = (",.0f", ",.1f", ",.1f", ",.1f", ".2f")
        rows = [(s.name, *(_number(v, f) for v, f in zip(_cost(s).values(), formats))) for s in self.systems]
        columns = ("model", "parameters", "training, s", "evaluation, s", "in all, s", "peak memory, GiB")
        note = "Median over seeds. Peak memory is that of the process on the host, so of all it had done until then."
        return Sheet("Time and memory", columns, tuple(rows), note=note)


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs on different data, split or protocol.

    Raises:
      ValueError: naming two of them, and the difference.
    """
    first = runs[0]
    for run in runs[1:]:
        for name in SAME:
            ours, theirs = (each.result.get(name, UNRECORDED.get(name)) for each in (first, run))
            if ours != theirs:
                what = "interactions, by checksum" if name == "data" else name
                raise ValueError(
                    f"{first.path} and {run.path} cannot be compared, {what}: {ours!r} there, {theirs!r} here; name "
                    "runs on the same data, split and protocol"
                )


def compare(
    systems: Sequence[System],
    *,
    metrics: Sequence[str],
    protocol: Protocol = "official",
    test: Test = "wilcoxon",
    level: float = 0.95,
    resamples: int = 2000,
) -> Comparison:
    """Test systems against the first of them, user by user.

    Raises:
      ValueError: for runs that cannot be compared, or a metric they do not have.
    """
    check_comparable([run for system in systems for run in system.runs])
    if not metrics:
        raise ValueError("no metric is named: say --metrics=recall@20,ndcg@20, for example")
    per_user = []
    users: np.ndarray | None = None
    for system in systems:
        of_runs = []
        for run in system.runs:
            columns = evidence.read(run.path, evidence.PER_USER)
            missing = [metric for metric in metrics if "@" not in metric or metric not in columns]
            if missing:
                known = ", ".join(name for name in columns if "@" in name)
                raise ValueError(f"metric {missing[0]!r} is not in {run.path}: choose among {known}")
            if users is not None and not np.array_equal(users, columns["user"]):
                raise ValueError(f"{run.path} was tested on other users than {systems[0].runs[0].path}: run it again")
            users = columns["user"]
            of_runs.append(np.stack([columns[metric].astype(np.float64) for metric in metrics], axis=1))
        per_user.append(np.mean(of_runs, axis=0))  # [n, metrics]
    values = np.stack(per_user)  # [systems, n, metrics]
    n_users = values.shape[1]
    if not n_users:
        raise ValueError("no user of these runs has held-out items: there is nothing to test")
    found = compare_systems(values, test=test, level=level, resamples=resamples)
    cells = {}
    for s, system in enumerate(systems):
        for m, metric in enumerate(metrics):
            mean, at = system.mean(protocol, metric), (s, m)
            share = _share(systems, metric) if protocol == "official" else 1.0
            cell = Cell(mean, system.deviation(protocol, metric), found.low[at] * share, found.high[at] * share)
            if s:
                cell = dataclasses.replace(
                    cell,
                    difference=float(found.difference[at]) * share,
                    difference_low=found.difference_low[at] * share,
                    difference_high=found.difference_high[at] * share,
                    p=float(found.p[at]),
                    p_holm=float(found.p_holm[at]),
                )
            cells[system.name, metric] = cell
    return Comparison(tuple(systems), tuple(metrics), protocol, test, level, n_users, cells)


def _share(systems: Sequence[System], metric: str) -> float:
    """The share of users with held-out items, by which official means are smaller than standard ones."""
    means = [[system.mean(protocol, metric) for protocol in ("official", "standard")] for system in systems]
    return next((official / standard for official, standard in means if standard), 1.0)


def _lists(system: System, k: int) -> dict[str, float]:
    return {name: system.median("beyond", f"{name}@{k}") for name in BEYOND}


def _cost(system: System) -> dict[str, float]:
    cost = {"parameters": system.median("parameters")}
    cost |= {f"{name}_seconds": system.median("seconds", name) for name in ("train", "evaluate", "total")}
    return cost | {"peak_host_gib": system.median("peak_host_bytes") / 2**30}


def _p(p: float | None) -> str:
    return "" if p is None else "<.0001" if p < 1e-4 else f"{p:.4f}"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
