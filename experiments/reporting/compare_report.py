"""``report.md`` and ``report.html`` of a comparison: its tables, and what depends on what, in pictures."""

import json
from collections.abc import Sequence
from pathlib import Path

from experiments.reporting import pictures
from experiments.reporting.comparison import Comparison
from experiments.reporting.run_report import Picture, Report, by_group
from experiments.reporting.systems import System, differing
from experiments.settings.commands import command
from experiments.settings.config import NOT_PART_OF_A_RUN

SHOWN = ("recall@20", "ndcg@20")
NAMES = {"steps": "T (--steps)", "sampling_steps": "T' (--sampling_steps)", "noise_scale": "s (--noise_scale)"}


def made(found: Comparison) -> Report:
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


def is_one(folder: Path) -> bool:
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
