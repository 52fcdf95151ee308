"""The experiments of the paper: declared grids of ordinary runs, which go on where they were.

A cell is a run folder; at the end ``results.md`` has a row for every cell, and ``comparison/`` the tests and pictures
of cells on the same data. The values of the grids are ours, around those that the paper uses.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from diffrec_jax.data.datasets import DatasetUnavailable
from diffrec_jax.files import write_atomically
from diffrec_jax.options import option
from experiments.reporting import compare_report, results_page, systems
from experiments.reporting.comparison import compare
from experiments.reporting.published import columns
from experiments.running import one_run, seeds, source
from experiments.settings import cli, guard, runtime
from experiments.settings.commands import command
from experiments.settings.config import Config, as_json, configure

FLAG_FILES = {  # of the tables, a row each
    "main": ("amazon", "l-amazon", "t-amazon", "lt-amazon", "yelp", "l-yelp", "t-yelp", "lt-yelp", "ml-1m", "l-ml-1m"),
    "main_noisy": ("amazon-noisy", "l-amazon-noisy", "yelp-noisy", "l-yelp-noisy", "ml-1m-noisy", "l-ml-1m-noisy"),
}


def _values(name: str, *values: Any) -> Callable[[Config], list[dict[str, Any]]]:
    return lambda config: [{name: value} for value in values]


def _starts_of_the_reverse_process(config: Config) -> list[dict[str, Any]]:
    """T' = 0, T/4, T/2, 3T/4 and T."""
    return [{"sampling_steps": n} for n in sorted({config.values["steps"] * quarter // 4 for quarter in range(5)})]


GRIDS: dict[str, Callable[[Config], list[dict[str, Any]]]] = {  # of one configuration, a setting each
    "noise_natural": _values("noise", "", "natural:all", "natural:similar_size"),
    "noise_random": _values("noise", "", *(f"random:0.{n}" for n in range(1, 6))),
    "steps": _values("steps", 2, 5, 10, 20, 40, 100),
    "sampling_steps": _starts_of_the_reverse_process,
    "noise_scale": _values("noise_scale", 0.0, 1e-5, 1e-4, 1e-3, 5e-3, 1e-2, 1e-1, 0.5),
    "mean_type": _values("mean_type", "x0", "eps"),
    "clusters": _values("n_cate", 1, 2, 3, 4, 5),
    "w_min": _values("w_min", 0.1, 0.3, 0.5, 0.7, 0.9),
    "w_max": _values("w_max", 0.5, 0.7, 1.0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Which experiment, and where its runs lie."""

    experiment: str = option("main", "what is varied", choices=(*FLAG_FILES, *GRIDS))
    out: str = option("runs/paper", "folder of the runs, below it one for each experiment")
    dry_run: bool = option(False, "only say the commands")


def start(plan: Plan, values: Mapping[str, Any], flag_file: str | None, typed: set[str]) -> int:
    """Run an experiment, or go on with it.

    Args:
      plan: which one.
      values: of the flags of a run that were said, by a flag file or typed, by name.
      flag_file: the name of the flag file, if any.
      typed: the names of those that were typed.

    Returns:
      The exit code.
    """
    config = configure(**values)
    varied = typed & set(GRIDS[plan.experiment](config)[0]) if plan.experiment in GRIDS else set()
    for name in varied:
        raise ValueError(f"{name} is what experiment={plan.experiment} varies: drop it")
    if config.machine.multihost:
        raise ValueError("multihost is for a single run: start the commands that --dry_run says in every process")
    runtime.prepare(config)
    console = cli.console(width=120)
    console.quiet = config.run.quiet and not plan.dry_run
    made = cells(plan, values, flag_file)
    if plan.dry_run:
        for config in made:
            numbers = range(config.run.seed, config.run.seed + config.run.seeds)
            console.print(f"{command(as_json(config), numbers)} --workdir={config.run.workdir}", highlight=False)
        return 0
    done: list[systems.Run] = []
    failed: list[str] = []
    for config in made:
        console.print(f"\n{config.run.workdir}", style="bold", highlight=False)
        try:
            code = (
                one_run.run(config, console) if config.run.seeds == 1 else seeds.run_each(config, one_run.run, console)
            )
        except (FileNotFoundError, DatasetUnavailable) as error:
            if plan.experiment not in FLAG_FILES:
                raise
            console.print(f"left out: {error}", highlight=False)  # a row whose data is not here is no failure
            continue
        except (ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
            memory = guard.out_of_memory(error)
            if isinstance(error, RuntimeError) and not memory:
                raise  # a defect
            console.print(f"left out: {memory or error}", highlight=False)
            failed.append(config.run.workdir)
            continue
        if code:
            console.print("the same command goes on with this cell, and those after it")
            return code
        done += [systems.read(one.run.workdir) for one in (seeds.each(config) if config.run.seeds > 1 else [config])]
    if not done:
        if failed:
            raise ValueError(
                f"{len(failed)} of {len(made)} cells failed and none was run, as said above: {', '.join(failed)}"
            )
        raise ValueError("no cell could be run, for want of data: say --data_dir=FOLDER")
    conclude(plan, done, console)
    if console.quiet:
        print(Path(plan.out) / plan.experiment / "results.md")
    if failed:
        raise ValueError(f"{len(failed)} of {len(made)} cells failed, as said above: {', '.join(failed)}")
    return 0


def cells(plan: Plan, values: Mapping[str, Any], flag_file: str | None) -> list[Config]:
    """The configuration of every cell, its seeds still together.

    Raises:
      ValueError: for flags that the experiment sets itself, and for noise that the data cannot have.
    """
    folder = Path(plan.out) / plan.experiment
    if "workdir" in values:
        raise ValueError("workdir is made for every cell: say --out=FOLDER instead")
    named: list[tuple[str, Config]] = []
    if plan.experiment in FLAG_FILES:
        if flag_file is not None:
            raise ValueError(f"experiment={plan.experiment} brings its own flag files: drop --flagfile={flag_file}")
        for name in FLAG_FILES[plan.experiment]:
            start = cli.parse(["run.py", f"--flagfile={name}.flags"], usage="")
            named.append((name, start.changed(**values)))
    else:
        start = configure(**values)
        for setting in GRIDS[plan.experiment](start):
            ((name, value),) = setting.items()
            named.append(
                (
                    f"{flag_file or start.data.name}-{name}-{'none' if value == '' else value}",
                    start.changed(**setting),
                )
            )
    configs = []
    for name, config in named:
        source.check_noise(config)
        suffix = f"-s{config.run.seed}" if config.run.seeds == 1 else ""
        workdir = folder / (name.replace(":", "-") + suffix)
        configs.append(config.changed(workdir=str(workdir)))
    return configs


def conclude(plan: Plan, done: Sequence[systems.Run], console: Console) -> None:
    """Write the page of results and, for cells on the same data, comparisons."""
    folder = Path(plan.out) / plan.experiment
    heading = plan.experiment if plan.experiment in GRIDS else ""
    write_atomically(folder / "results.md", results_page.page(done, heading=heading))
    console.print(f"\nresults: {folder / 'results.md'}", highlight=False)
    groups: dict[str, list[systems.Run]] = {}
    for one in done:
        groups.setdefault(one.data, []).append(one)
    for number, members in enumerate(group for group in groups.values() if len(group) > 1):
        place = folder / (f"comparison-{number + 1}" if len(groups) > 1 else "comparison")
        place.mkdir(exist_ok=True)
        among = [*members, *systems.kept_baselines(members)]
        metrics = columns(*(one.result["test"]["official"] for one in among))
        found = compare(systems.group(among), metrics=metrics)
        console.print(found.sheets()[0].drawn())
        compare_report.build(found).write(place)
        console.print(f"report: {place / 'report.html'}", highlight=False)
