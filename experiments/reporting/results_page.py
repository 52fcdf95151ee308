"""One page of results from finished run folders: ours beside the published numbers, the command under each row."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffrec_jax.evaluation.conventions import UNMASKED
from diffrec_jax.files import write_atomically
from experiments.reporting import systems
from experiments.reporting.published import columns, list_length, published
from experiments.reporting.systems import Run, System
from experiments.reporting.table import TITLES
from experiments.settings import selection
from experiments.settings.commands import command, without_seeds

INTRODUCTION = """# Results

Generated from run folders by `python -m experiments.results`. Test of the epoch with the best {chosen};
mean ± standard deviation over seeds, {protocol} protocol ({meaning}). Published numbers are those of the paper
(arXiv 2304.04971, official protocol). `DATA` is the folder that holds the released data. Seconds are wall-clock time
on whatever machine made the run, and whatever else it did."""
MEANING = {"official": "mean over all users", "standard": "mean over users with held-out items"}


def start(args: argparse.Namespace) -> int:
    """Write the page that the flags of ``experiments.results`` ask for; the exit code."""
    out = Path(args.out)
    if not out.parent.is_dir():
        raise ValueError(f"--out={args.out}: there is no folder {out.parent}; make it first")
    finished = [
        path for path in map(Path, args.runs) if all((path / n).is_file() for n in ("result.json", "config.json"))
    ]
    if not finished:
        raise ValueError(
            f"none of the {len(args.runs)} folder(s) holds a finished run: name run folders, such as runs/*"
        )
    runs = []
    for path in finished:
        try:
            runs.append(systems.read(path))
        except ValueError as error:  # of an older version, or damaged
            print(f"left out: {error}")
    for run in [run for run in runs if not run.config]:
        print(f"left out: {run.path} holds lists of somebody else, which have no command: see them in a comparison")
        runs.remove(run)
    if not runs:
        raise ValueError("none of these runs can stand on the page, as said above")
    for run, same in systems.repeated(runs):
        print(f"left out: {run.path} has the configuration and the seed of {same.path}")
    text = page(runs, protocol=args.protocol, heading=args.heading)
    if args.keep and out.is_file():
        old = out.read_text()
        if old.partition("\n\n## ")[0] != text.partition("\n\n## ")[0]:
            raise ValueError(f"--keep: {args.out} is no page of the {args.protocol} protocol: choose another --out")
        text = merged(text, old)
    write_atomically(out, text)
    print(f"written: {out}, from {len(runs)} runs; {len(args.runs) - len(runs)} not finished or no run folders")
    return 0


def page(runs: Sequence[Run], *, protocol: str = "official", heading: str = "") -> str:
    """The Markdown of the page: a section for each dataset, split, noise and checksum, best rows first.

    With a ``heading``, the runs are cells of an experiment: a section for each dataset, whatever noise it is trained
    on, with the rows in the order of what is varied.
    """
    sections: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        result = run.result
        history = result.get("eval_history", "train")
        history += ", unmasked" if result.get("ranking") == UNMASKED else ""
        key: tuple[str, ...] = (result["dataset"], result.get("split", ""), history)
        key = (*key, heading, "") if heading else (*key, result.get("noise", ""), run.data)
        sections.setdefault(key, []).append(run)
    shown = columns(*(run.result["test"][protocol] for run in runs))
    chosen = _chosen(runs)
    parts = [INTRODUCTION.format(protocol=protocol, meaning=MEANING[protocol], chosen=chosen)]
    for (dataset, split, history, which, data), members in sorted(sections.items()):
        comparable = (split, history, which) == ("released", "train", "")
        title = dataset + (f": {heading}" if heading else f" with noise {which}" if which else "")
        where = f"Split: {split}; test history: {history}" + (f"; checksum of the data: {data[:12]}" if data else "")
        among = systems.group(members)
        if heading:
            varied = systems.differing(members)
            among.sort(key=lambda system: [_order(system.runs[0].config.get(name)) for name in varied])
        else:
            among.sort(key=lambda system: -system.mean(protocol, _leading(shown)))
        parts.append(f"## {title}\n\n{where}.\n\n{_table(among, protocol, shown, chosen, comparable=comparable)}")
    return "\n\n".join(parts) + "\n"


def _order(value: Any) -> tuple[float, str]:
    """Numbers by size, and before them what is none by its text."""
    return (float(value), "") if isinstance(value, int | float) else (-1.0, str(value))


def _chosen(runs: Sequence[Run]) -> str:
    """What chose the epochs of all runs, as a column names it."""
    found = {selection.metric(run.select) for run in runs}
    return f"validation {found.pop()}" if len(found) == 1 else "validation metric of each run"


def _leading(shown: Sequence[str]) -> str:
    """The metric that rows are sorted by: recall at 20, or at the longest K there is."""
    return f"recall@{list_length(dict.fromkeys(shown, 0.0))}"


def _table(among: Sequence[System], protocol: str, shown: Sequence[str], chosen: str, *, comparable: bool) -> str:
    lines = _header(shown, chosen)
    told: set[str] = set()
    for system in among:
        first = system.runs[0]
        seeds = [run.result["seed"] for run in system.runs]
        cells = [f"{system.name}<br>`{command(first.config, seeds)}`", ",".join(map(str, seeds))]
        for column in shown:
            deviation = system.deviation(protocol, column)
            spread = "" if deviation is None else f" ± {deviation:.4f}"
            cells.append(f"{system.mean(protocol, column):.4f}{spread}")
        by, metric = selection.parse(first.select)
        valid = [run.result["valid"].get(by, {}).get(metric, np.nan) for run in system.runs]
        which = "" if chosen.endswith(metric) else f" {metric}"
        cells.append("-" if np.isnan(valid).any() else f"{np.mean(valid):.4f}{which}")
        epochs = [run.result["best_epoch"] for run in system.runs]
        cells += [", ".join(map(str, epochs)) if any(epochs) else "-", f"{system.median('seconds', 'total'):,.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
        model, dataset = first.result["model"], first.result["dataset"]
        paper = published(model, dataset)
        if paper is not None and comparable and model not in told:
            told.add(model)
            lines.append(_row(f"{TITLES[model]}, published", paper, shown))
    baselines = _baselines(among, _leading(shown))
    lines += [_row(name, metrics[protocol], shown) for name, metrics in baselines.items()]
    return "\n".join(lines)


def _header(shown: Sequence[str], chosen: str) -> list[str]:
    valid = chosen.replace("validation metric of each run", "valid").replace("validation ", "valid ")
    names = ("model", "seeds", *shown, valid, "best epoch", "seconds in all")
    return ["| " + " | ".join(names) + " |", "|---|" + "---:|" * (len(names) - 1)]


def _row(name: str, metrics: dict[str, float], shown: Sequence[str]) -> str:
    cells = [name, "", *(f"{metrics[c]:.4f}" if c in metrics else "-" for c in shown), "", "", ""]
    return "| " + " | ".join(cells) + " |"


def _baselines(among: Sequence[System], leading: str) -> dict[str, Any]:
    """Baselines recorded in the runs, those on the same data once, best first; none that has runs of its own."""
    runs = [run for system in among for run in system.runs]
    own = {run.result["model"] for run in runs}
    noises = {run.result.get("noise", "") for run in runs}
    is_mixed = len({(run.result.get("noise", ""), run.data) for run in runs}) > len(noises)
    found: dict[str, Any] = {}
    for run in runs:
        noise = f", noise={run.result.get('noise') or 'none'}" if len(noises) > 1 else ""
        data = f", data {run.data[:12]}" if is_mixed else ""
        for name, metrics in run.result.get("baselines", {}).items():
            if name not in own:
                found.setdefault(TITLES.get(name, name) + noise + data, metrics)
    return dict(sorted(found.items(), key=lambda named: -named[1]["official"].get(leading, 0.0)))


def merged(new: str, old: str) -> str:
    """The page ``new`` with the rows of the page ``old`` whose seeds it does not cover, best first.

    Sections of experiments, whose rows have an order of their own, are kept or replaced whole.

    Raises:
      ValueError: for a section of an experiment that would lose rows, or a page with other columns.
    """
    header, theirs_header = _header_of(new), _header_of(old)
    if theirs_header and header != theirs_header:
        raise ValueError(
            f"--keep: the page has the columns {theirs_header[0].strip('| ')}, and these runs have "
            f"{header[0].strip('| ')}: choose another --out"
        )
    ours, theirs = _sections(new), _sections(old)
    parts = [new.partition("\n\n## ")[0]]
    for title in sorted({**ours, **theirs}):
        rows = ours.get(title, [])
        lost = [row for row in theirs.get(title, []) if not any(row.is_covered_by(other) for other in rows)]
        if ": " in title.partition("\n")[0]:
            if rows and any(row.seeds for row in lost):
                raise ValueError(
                    f"--keep: these runs are not all of {title.splitlines()[0][3:]}, and its rows have an order: name "
                    "the folders of all its cells"
                )
            lines = [line for row in rows or lost for line in row.lines]
            parts.append("\n".join([title, "", *header, *lines]))
            continue
        own = {row.lines[0].split("<br>")[0].split(",")[0] for row in (*rows, *lost) if "<br>" in row.lines[0]}
        kept = [row.lines for row in (*rows, *lost) if f"| {row.what}" not in own]  # a baseline with runs of its own
        kept.sort(key=lambda lines: ("<br>" not in lines[0], -_recall(lines[0], header)))
        once = dict.fromkeys(line for lines in kept for line in lines)  # a published row stands below its best
        parts.append("\n".join([title, "", *header, *once]))
    return "\n\n".join(parts) + "\n"


def _header_of(page: str) -> list[str]:
    """The two lines above the rows of its tables; empty without a table."""
    lines = page.splitlines()
    first = next((n for n, line in enumerate(lines) if line.startswith("| model |")), None)
    return [] if first is None else lines[first : first + 2]


def _recall(row: str, header: Sequence[str]) -> float:
    names = header[0].split(" | ")
    cell = row.split(" | ")[names.index(_leading([name for name in names if "@" in name and " " not in name]))]
    return float(cell.split()[0]) if cell.strip() != "-" else 0.0


@dataclasses.dataclass(frozen=True)
class _Row:
    what: str  # the command, whatever its seeds; of a baseline, its name
    seeds: frozenset[str]
    lines: list[str]  # and the published one below it

    def is_covered_by(self, other: "_Row") -> bool:
        return self.what == other.what and self.seeds <= other.seeds


def _sections(text: str) -> dict[str, list[_Row]]:
    """The rows of each section."""
    found: dict[str, list[_Row]] = {}
    for section in text.split("\n## ")[1:]:
        title, _, table = section.partition("\n\n|")
        rows = found.setdefault(f"## {title}", [])
        for line in table.strip().splitlines()[2:]:
            first, seeds = line.removeprefix("| ").split(" | ")[:2]
            name, _, said = first.partition("<br>")
            if name.endswith(", published") and rows:
                rows[-1].lines.append(line)
            else:
                what = without_seeds(said.strip("`")) or name
                rows.append(_Row(what, frozenset(filter(None, seeds.split(","))), [line]))
    return found
