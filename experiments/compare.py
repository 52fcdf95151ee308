"""Compare finished runs: paired tests per user, intervals, deviation over seeds, lists, time and memory.

python -m experiments.compare runs/a-s* runs/b-s*                        # seeds of one configuration go together
python -m experiments.compare runs/a runs/b --test=t --out=table.tex     # or .md, or .csv
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from diffrec_jax.evaluation import PROTOCOLS
from diffrec_jax.evaluation.significance import TESTS
from diffrec_jax.files import write_atomically
from experiments.reporting import compare_report, evidence, segments, systems
from experiments.reporting.comparison import check_comparable, compare
from experiments.reporting.published import columns
from experiments.settings import guard

FORMATS = (".md", ".tex", ".csv")


def main(argv: Sequence[str]) -> int:
    """Compare what the command line names; the exit code."""
    args = arguments().parse_intermixed_args(argv[1:])
    check_out(args.out)
    if not 0.5 <= args.level < 1:
        raise ValueError(f"--level={args.level} must lie in [0.5, 1): .95, say")
    groups = segments.read(args.segments) if args.segments else None
    console = Console(width=None if sys.stdout.isatty() else 120)
    runs = []
    for path in args.runs:
        if compare_report.is_one(Path(path)):  # from runs/*
            console.print(f"left out: {path} is the report of a comparison", highlight=False, soft_wrap=True)
        else:
            runs.append(systems.read(path))
    if not runs:
        raise ValueError(f"{args.runs[0]} holds no run: name run folders, such as runs/a runs/b")
    check_comparable(runs)
    for run, same in systems.repeated(runs):
        said = f"left out: {run.path} has the configuration and the seed of {same.path}"
        console.print(said, highlight=False, soft_wrap=True)
    if groups is not None:
        segments.check(groups, evidence.read(runs[0].path, evidence.PER_USER)["user"])
    if not args.nobaselines:
        runs += systems.kept_baselines(runs)
    found = compare(
        systems.group(runs),
        metrics=asked_metrics(args.metrics, runs),
        protocol=args.protocol,
        test=args.test,
        level=args.level,
    )
    if groups is not None:
        found = dataclasses.replace(found, more=(segments.compared(groups, found.systems, found.metrics),))
    for sheet in found.sheets():
        console.print(sheet.drawn())
        console.print()
    folder = Path(args.report) if args.report else runs[0].path.parent / "comparison"
    folder.mkdir(parents=True, exist_ok=True)
    compare_report.made(found).write(folder)
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    if args.out:
        write_atomically(Path(args.out), found.written(Path(args.out).suffix))
        console.print(f"written: {args.out}", highlight=False, soft_wrap=True)
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    usage = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.compare", description=__doc__, formatter_class=usage)
    parser.add_argument("runs", nargs="+", help="run folders, the reference first")
    parser.add_argument("--metrics", help="separated by commas (default: the paper's four, or what all runs have)")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="official", help="default: %(default)s")
    parser.add_argument("--segments", default="", help="also by user group: a table with the columns user and group")
    parser.add_argument("--test", choices=TESTS, default="wilcoxon", help="default: %(default)s")
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals (default: %(default)s)")
    parser.add_argument("--nobaselines", action="store_true", help="leave out the baselines kept in the run folders")
    parser.add_argument("--report", default="", help="folder of report.html and report.md; comparison/ beside the runs")
    parser.add_argument("--out", default="", help="also write the tables to a .md, .tex or .csv file")
    return parser


def asked_metrics(said: str | None, runs: Sequence[systems.Run]) -> list[str]:
    """The metrics of ``--metrics``; unless said, those that tables of these runs show."""
    if said is None:
        return list(columns(*(run.result["test"]["official"] for run in runs)))
    return [name.strip() for name in said.split(",") if name.strip()]


def check_out(out: str) -> None:
    """Refuse a file that cannot be written before anything is computed."""
    if out and Path(out).suffix not in FORMATS:
        raise ValueError(f"--out={out} must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if out and not Path(out).parent.is_dir():
        raise ValueError(f"--out={out}: there is no folder {Path(out).parent}; make it first")


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
