"""A comparison from run folders to ``report.md`` and ``report.html``: tables, and what depends on what, in pictures."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from diffrec_jax.files import write_atomically
from experiments.reporting import evidence, pictures, segments, systems
from experiments.reporting.comparison import Comparison, check_comparable, compare
from experiments.reporting.published import columns
from experiments.reporting.run_report import Picture, Report, by_group
from experiments.reporting.systems import System, differing
from experiments.settings.commands import command
from experiments.settings.config import NOT_PART_OF_A_RUN

FORMATS = (".md", ".tex", ".csv")
SHOWN = ("recall@20", "ndcg@20")
NAMES = {"steps": "T (--steps)", "sampling_steps": "T' (--sampling_steps)", "noise_scale": "s (--noise_scale)"}


def start(args: argparse.Namespace) -> int:
    """Compare the runs that the flags of ``experiments.compare`` name; the exit code."""
    check_out(args.out)
    if not 0.5 <= args.level < 1:
        raise ValueError(f"--level={args.level} must lie in [0.5, 1): .95, say")
    groups = segments.read(args.segments) if args.segments else None
    console = Console(width=None if sys.stdout.isatty() else 120)
    runs = []
    for path in args.runs:
        if is_comparison(Path(path)):  # from runs/*
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
    build(found).write(folder)
    console.print(f"report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
    if args.out:
        write_atomically(Path(args.out), found.written(Path(args.out).suffix))
        console.print(f"written: {args.out}", highlight=False, soft_wrap=True)
    return 0


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


def build(found: Comparison) -> Report:
    """The report of a comparison."""
    facts = (
        f"{found.title}; {found.n_users:,} users with held-out items",
        f"reference: {found.systems[0].name}; {found.level:.0%} intervals",
    )
    commands = []
    for system in found.systems:
        config = system.runs[0].config
        if config:
            commands.append(command(config, [run.result["seed"] for run in system.runs]))
    drawn = _pictures(found) if pictures.available() else ()
    title = f"{len(found.systems)} models on {found.systems[0].runs[0].result['dataset']}"
    return Report(title, facts, "\n".join(commands), tuple(found.sheets()), drawn)


def is_comparison(folder: Path) -> bool:
    """Whether the folder holds such a report instead of a run."""
    return (folder / "report.html").is_file() and not any((folder / n).exists() for n in ("config.json", "result.json"))


def _pictures(found: Comparison) -> tuple[Picture, ...]:
    metrics = [m for m in SHOWN if m in found.metrics] or list(found.metrics[:2])
    cells = {s.name: [_interval(found, s, metric) for metric in metrics] for s in found.systems}
    caption = f"Means with {found.level:.0%} bootstrap intervals over users, {found.protocol} protocol."
    drawn = [Picture("quality", caption, pictures.quality(cells, metrics))]
    for setting in differing([run for system in found.systems for run in system.runs]):
        lines = _lines(found.systems, setting, metrics, found)
        if lines:
            name = NAMES.get(setting, f"--{setting}")
            caption = f"Quality against {name}, everything else alike; bars: deviation over seeds."
            svg = pictures.effect(name, lines, metrics)
            drawn.append(Picture(f"effect-{setting}", caption, svg))
    drawn += by_group(found.systems)
    points = {s.name: (s.median("seconds", "total"), found.cells[s.name, metrics[0]].mean) for s in found.systems}
    caption = "Time against quality: median seconds of a whole run, compilation and evaluation included."
    return (*drawn, Picture("cost", caption, pictures.cost(points, metrics[0])))


def _interval(found: Comparison, system: System, metric: str) -> tuple[float, float, float]:
    cell = found.cells[system.name, metric]
    return cell.mean, cell.low, cell.high


def _lines(
    among: Sequence[System], setting: str, metrics: Sequence[str], found: Comparison
) -> dict[str, list[tuple[float, list[float], list[float]]]]:
    """Systems that differ in one setting of numbers alone, as lines of points; only lines of two and more."""
    lines: dict[str, list[tuple[float, list[float], list[float]]]] = {}
    labels: dict[str, System] = {}
    for system in among:
        config = system.runs[0].config
        value = config.get(setting)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        rest = {k: v for k, v in config.items() if k not in (setting, *NOT_PART_OF_A_RUN, "seed", "baselines", "ks")}
        key = json.dumps(rest, sort_keys=True)
        labels.setdefault(key, system)
        cells = [found.cells[system.name, metric] for metric in metrics]
        lines.setdefault(key, []).append((value, [c.mean for c in cells], [c.deviation or 0.0 for c in cells]))
    kept = {key: sorted(points) for key, points in lines.items() if len(points) > 1}
    return {_label(labels[key], setting): points for key, points in kept.items()}


def _label(system: System, setting: str) -> str:
    """The name of a system without the setting that is on the axis."""
    return ", ".join(part for part in system.name.split(", ") if not part.startswith(f"{setting}="))
