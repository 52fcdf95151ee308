"""One page of results from finished run folders: ours beside the published numbers, the command under each row.

python -m experiments.results runs/* --out=docs/results.md
python -m experiments.results new/* --out=docs/results.md --keep      # beside the rows that the page has
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffrec_jax.evaluation import PROTOCOLS
from diffrec_jax.files import write_atomically
from experiments import cli, systems
from experiments.commands import command
from experiments.published import COLUMNS, published
from experiments.systems import Run, System
from experiments.table import TITLES

INTRODUCTION = """# Results

Generated from run folders by `python -m experiments.results`. Test of the epoch with the best validation recall@20;
mean ± standard deviation over seeds, {protocol} protocol ({meaning}). Published numbers are those of the paper
(arXiv 2304.04971, official protocol). `DATA` is the folder that holds the released data. Seconds are wall-clock time
on whatever machine made the run, and whatever else it did."""
MEANING = {"official": "mean over all users", "standard": "mean over users with held-out items"}


def page(runs: Sequence[Run], *, protocol: str = "official") -> str:
    """The Markdown of the page: a section for each dataset, split and protocol."""
    sections: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        result = run.result
        key = (result["dataset"], result.get("noise", ""), result.get("split", ""), result.get("eval_history", "train"))
        sections.setdefault((*key, run.data), []).append(run)
    parts = [INTRODUCTION.format(protocol=protocol, meaning=MEANING[protocol])]
    for (dataset, noise, split, history, _), members in sorted(sections.items()):
        title = dataset + (f" with noise {noise}" if noise else "")
        parts.append(f"## {title}\n\nSplit: {split}; test history: {history}.")
        parts.append(_table(systems.group(members), protocol, comparable=(split, noise, history)))
    return "\n\n".join(parts) + "\n"


def _table(among: Sequence[System], protocol: str, *, comparable: tuple[str, str, str]) -> str:
    lines = _header()
    told: set[str] = set()
    for system in sorted(among, key=lambda s: -s.mean(protocol, "recall@20")):
        first = system.runs[0]
        seeds = [run.result["seed"] for run in system.runs]
        cells = [f"{system.name}<br>`{command(first.config, seeds)}`", ",".join(map(str, seeds))]
        for column in COLUMNS:
            deviation = system.deviation(protocol, column)
            spread = "" if deviation is None else f" ± {deviation:.4f}"
            cells.append(f"{system.mean(protocol, column):.4f}{spread}")
        valid = [run.result["valid"].get("official", {}).get("recall@20", np.nan) for run in system.runs]
        cells.append("-" if np.isnan(valid).any() else f"{np.mean(valid):.4f}")
        epochs = [run.result["best_epoch"] for run in system.runs]
        cells += [", ".join(map(str, epochs)) if any(epochs) else "-", f"{system.median('seconds', 'total'):,.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
        model, dataset = first.result["model"], first.result["dataset"]
        paper = published(model, dataset)
        if paper is not None and comparable == ("released", "", "train") and model not in told:
            told.add(model)
            lines.append(_row(f"{TITLES[model]}, published", paper))
    baselines = _baselines(among)
    for name, metrics in sorted(baselines.items(), key=lambda found: -found[1][protocol]["recall@20"]):
        lines.append(_row(TITLES.get(name, name), metrics[protocol]))
    return "\n".join(lines)


def _header() -> list[str]:
    columns = ("model", "seeds", *COLUMNS, "valid recall@20", "best epoch", "seconds in all")
    return ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]


def _row(name: str, metrics: dict[str, float]) -> str:
    cells = [name, "", *(f"{metrics[column]:.4f}" for column in COLUMNS), "", "", ""]
    return "| " + " | ".join(cells) + " |"


def _baselines(among: Sequence[System]) -> dict[str, Any]:
    """Baselines recorded in the runs, once, except those that have runs of their own."""
    own = {system.runs[0].result["model"] for system in among}
    found: dict[str, Any] = {}
    for run in (run for system in among for run in system.runs):
        for name, metrics in run.result.get("baselines", {}).items():
            if name not in own:
                found.setdefault(name, metrics)
    return found


def merged(new: str, old: str) -> str:
    """The page ``new`` with the rows of the page ``old`` that have a command it does not have, best first."""
    ours, theirs = _sections(new), _sections(old)
    parts = [new.partition("\n\n## ")[0]]
    for title in sorted({**ours, **theirs}):
        rows = {**theirs.get(title, {}), **ours.get(title, {})}
        own = {lines[0].split("<br>")[0].split(",")[0] for lines in rows.values() if "<br>" in lines[0]}
        kept = [lines for name, lines in rows.items() if f"| {name}" not in own]  # a baseline with runs of its own
        kept.sort(key=lambda lines: ("<br>" not in lines[0], -_recall(lines[0])))
        once = dict.fromkeys(line for lines in kept for line in lines)  # a published row stands below its best
        parts.append("\n".join([title, "", *_header(), *once]))
    return "\n\n".join(parts) + "\n"


def _recall(row: str) -> float:
    return float(row.split(" | ")[2 + COLUMNS.index("recall@20")].split()[0])


def _sections(text: str) -> dict[str, dict[str, list[str]]]:
    """By section, and by command or name: the row, and the published one below it."""
    found: dict[str, dict[str, list[str]]] = {}
    for section in text.split("\n## ")[1:]:
        title, _, table = section.partition("\n\n|")
        rows = found.setdefault(f"## {title}", {})
        for line in table.strip().splitlines()[2:]:
            name, _, command = line.removeprefix("| ").partition(" | ")[0].partition("<br>")
            if name.endswith(", published"):
                rows[next(reversed(rows))].append(line)
            else:
                rows[command or name] = [line]
    return found


def main(argv: Sequence[str]) -> int:
    """Write the page; the exit code."""
    usage = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.results", description=__doc__, formatter_class=usage)
    parser.add_argument("runs", nargs="+", help="run folders; those that are not finished are left out")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="official", help="default: %(default)s")
    parser.add_argument("--out", default="docs/results.md", help="default: %(default)s")
    parser.add_argument("--keep", action="store_true", help="keep the rows of --out that these runs do not replace")
    args = parser.parse_args(argv[1:])
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
    text = page([systems.read(path) for path in finished], protocol=args.protocol)
    if args.keep and out.is_file():
        old = out.read_text()
        if old.partition("\n\n## ")[0] != text.partition("\n\n## ")[0]:
            raise ValueError(f"--keep: {args.out} is no page of the {args.protocol} protocol: choose another --out")
        text = merged(text, old)
    write_atomically(out, text)
    print(f"written: {out}, from {len(finished)} runs; {len(args.runs) - len(finished)} not finished or no run folders")
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
