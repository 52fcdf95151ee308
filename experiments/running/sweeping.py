"""A search over the hyper-parameters of a model, from its configuration and budget to ``best.flags``.

The folder holds the study itself (``study.db``, see ``search``), ``trials.csv`` and ``best.flags``.
"""

import csv
import dataclasses
import io
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from diffrec_jax import api
from diffrec_jax.data.splits import Split
from diffrec_jax.evaluation.metrics import parse_metric
from diffrec_jax.mesh import parse_mesh
from diffrec_jax.options import option
from diffrec_jax.ranges import Choice, Range
from diffrec_jax.training import EpochReport, InterruptedRunError, Observer
from experiments.running import item_clusters, locks, one_run, source
from experiments.running.run_folder import write_atomically
from experiments.running.search import STATES, Pruned, Search, Values
from experiments.settings import cli, runtime, selection
from experiments.settings.cli import flag_text
from experiments.settings.config import NOT_PART_OF_A_RUN, Config, as_json, configure
from experiments.settings.data_options import DataOptions
from experiments.settings.groups import every_option, groups_of

SHOWN = 5
NOT_OF_A_SEARCH = {
    "seeds": "which tries every setting with the one --seed",
    "protocol": "which selects by recall@20 of the official protocol, or as --select says",
    "ks": "which ranks lists as long as --select needs",
    "segments": "which ranks nothing of the test part",
    "quiet": "whose lines are what it found",
    "multihost": "whose trials run in one process",
    "profile_steps": "which leaves no run folder",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is spent on a search, and on what."""

    trials: int = option(20, "trials in all, those before an interruption included")
    minutes: float = option(0.0, "time of all trials together; 0: no limit")
    tune: str = option("", "only these flags, such as lr,dropout; if empty, all of the space that no flag fixes")

    def __post_init__(self) -> None:
        if self.trials < 1 or not self.minutes >= 0.0:
            raise ValueError(f"trials={self.trials} must be at least 1 and minutes={self.minutes} not negative")


def start(config: Config, budget: Budget, given: Collection[str], flag_file: str | None, *, command: str) -> int:
    """Search, or go on, or show what was found.

    Args:
      config: what every trial shares.
      budget: of the search.
      given: the flags that were said, by a flag file or typed, which are fixed.
      flag_file: the name of the flag file, by which the folder is called unless the configuration names one.
      command: what was typed, for ``best.flags``.

    Returns:
      The exit code.
    """
    for name, why in NOT_OF_A_SEARCH.items():
        if config.values.get(name, every_option()[name].default) != every_option()[name].default:
            raise ValueError(f"{name} means nothing to a search, {why}: drop it")
    if not config.run.workdir:
        name = flag_file or "-".join(
            filter(None, (config.data.name, config.model_name.rpartition(":")[2], config.values.get("recency")))
        )
        config = config.changed(workdir=f"sweeps/{name}")
    if config.linear.linear_path:
        raise ValueError(
            f"linear_path={config.linear.linear_path} is not searched: search the network, and EASE, without it"
        )
    space = space_of(config, given, budget.tune)
    console = cli.console()
    runtime.prepare(config)
    parse_mesh(config.machine.mesh)  # refuses one that does not fit the devices
    split = source.load(config)
    one_run.check(config, split)
    if not len(split.valid):
        raise ValueError(f"{split.name} has no validation interactions, and a search needs them: use another split")
    with claimed(Path(config.run.workdir)) as folder:
        return sweep(config, budget, space, split, folder, console, command=command)


def space_of(config: Config, given: Collection[str], tune: str) -> dict[str, Range]:
    """What is searched: the model's space and that of its recency kernel, without what is fixed.

    Raises:
      ValueError: if ``tune`` names something else.
    """
    options = [option for group in groups_of(config.entry) for option in group.options]
    space = {o.flag: o.about.search for o in options if o.about.search is not None and o.flag in config.values}
    if not tune:
        return {name: values for name, values in space.items() if name not in given}
    names = [name.strip() for name in tune.split(",")]
    for name in names:
        if name not in space:
            raise ValueError(
                f"tune={name} is not searched for {config.model_name}: choose from {', '.join(space) or 'none'}"
            )
    return {name: space[name] for name in names}


def defaults_of(config: Config, space: Mapping[str, Range]) -> Values:
    """The values of the first trial: those of the configuration."""
    return {name: config.values[name] for name in space}


def sweep(
    config: Config,
    budget: Budget,
    space: dict[str, Range],
    split: Split,
    folder: Path,
    console: Console,
    *,
    command: str,
) -> int:
    """Run trials until the budget is spent, and write ``best.flags``; the exit code."""
    fixed = {n: v for n, v in as_json(config).items() if n not in (*NOT_PART_OF_A_RUN, *space)}
    del fixed["ks"]
    if config.evaluation.select == selection.DEFAULT:
        del fixed["select"]  # which studies of older versions do not record
    about = {**fixed, "space": ranges(space), "data": source.fingerprint(split)}
    search = Search(
        folder / "study.db",
        space,
        about=about,
        start=defaults_of(config, space),
        seed=config.run.seed,
        warmup=2 * config.fit.eval_every,
    )
    allowed = budget.minutes * 60.0 or float("inf")
    trials = budget.trials if space else 1
    searched = ", ".join(space) or "nothing: every hyper-parameter is fixed, so one trial is all"
    console.print(f"{split.name}, {config.model_name}: searching {searched}; folder: {folder}", highlight=False)
    if search.done():
        console.print(f"going on after {len(search.done())} trials, {search.seconds():.0f} s", highlight=False)
    while len(search.done()) < trials and search.seconds() < allowed:
        deadline = time.monotonic() + allowed - search.seconds()

        def measure(values: Values, trial: Any, deadline: float = deadline) -> float:
            return measured(config.changed(**values), split, trial, deadline)

        trial = search.step(measure)
        _say(config, search, trial, console)
        _write(config, search, folder, command)
    best = search.best()
    if best is None:
        console.print("no trial was finished within the budget: allow more trials or minutes", highlight=False)
        return 1
    _show(config, search, console)
    console.print(
        f"{len(search.done())} trials, {search.seconds():.0f} s; the test part was not looked at. Next: python -m "
        f"experiments.run --flagfile={folder / 'best.flags'}"
        + (f" --data_dir={config.data.data_dir}" if config.data.data_dir != DataOptions.data_dir else ""),
        highlight=False,
    )
    return 0


def measured(config: Config, split: Split, trial: Any, deadline: float) -> float:
    """Fit one configuration and return its validation metric of --select; trained models report every validation."""
    model = item_clusters.with_clusters(config, split, Console(quiet=True))
    mesh = parse_mesh(config.machine.mesh)
    if not config.entry.is_trained:
        shown: dict[str, Any] = {"context": split.context, "mask_seen": config.evaluation.mask_seen}
        fitted = api.fit(model, split.train, split.valid, mesh=mesh, **shown)
        protocol, metric = selection.parse(config.evaluation.select)
        ks = (parse_metric(metric)[1],)
        return api.evaluate(fitted, split.valid, seed=config.run.seed, ks=ks).mean(protocol)[metric]
    observer = TrialObserver(trial, deadline)
    try:
        data: dict[str, Any] = {"mesh": mesh, "context": split.context}
        api.fit(model, split.train, split.valid, **data, **config.fit_arguments, observer=observer)
    except InterruptedRunError:  # the time is over: what was reached counts
        if observer.best is None:
            raise Pruned from None
    return float(observer.best or 0.0)


class TrialObserver(Observer):
    """Reports validations to the search, gives up trials that lag behind, and ends with the budget's time."""

    def __init__(self, trial: Any, deadline: float) -> None:
        self.trial, self.deadline = trial, deadline
        self.best: float | None = None

    def epoch(self, report: EpochReport) -> None:
        """Report the best validation so far."""
        if report.valid is None:
            return
        self.best = report.progress.best_value
        self.trial.report(self.best, report.epoch)
        self.trial.set_user_attr("best_epoch", report.progress.best_epoch)
        if self.trial.should_prune():
            raise Pruned

    def interrupted(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.deadline


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """Make the folder of a search; one process at a time."""
    with locks.held(folder, what=str(folder), in_use=f"another process searches in {folder}"):
        yield folder


def _flags(values: Values) -> list[str]:
    return [f"--{name}={flag_text(value)}" for name, value in values.items()]


def _say(config: Config, search: Search, trial: Any, console: Console) -> None:
    """One line for one trial."""
    best = search.best()
    found = f"{trial.value:.4f}" if trial.state == STATES.COMPLETE else trial.user_attrs.get("error", "pruned")
    ahead = "" if best is None else f" (best {best.value:.4f}, trial {best.number})"
    console.print(
        f"trial {trial.number}: valid {selection.metric(config.evaluation.select)} {found}{ahead}, "
        f"{trial.user_attrs['seconds']:.1f} s: {' '.join(_flags(search.values(trial)))}",
        highlight=False,
    )


def _show(config: Config, search: Search, console: Console) -> None:
    finished: list[Any] = [trial for trial in search.done() if trial.state == STATES.COMPLETE]
    finished.sort(key=lambda trial: (-trial.value, trial.number))
    table = Table(title=f"best trials by {selection.words(config.evaluation.select)}", title_justify="left")
    for name in ("trial", "valid", "seconds", "flags"):
        table.add_column(name, justify="left" if name == "flags" else "right")
    for trial in finished[:SHOWN]:
        flags = " ".join(_flags(search.values(trial)))
        table.add_row(str(trial.number), f"{trial.value:.4f}", f"{trial.user_attrs['seconds']:.1f}", flags)
    console.print(table)


def _write(config: Config, search: Search, folder: Path, command: str) -> None:
    """``trials.csv`` and ``best.flags``."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    valid = f"valid_{selection.metric(config.evaluation.select)}"
    rows.writerow(["trial", "state", valid, "best_epoch", "seconds", *search.space])
    for trial in search.done():
        values, attrs = search.values(trial), trial.user_attrs
        tried = [flag_text(values[name]) if name in values else "" for name in search.space]
        value = "" if trial.value is None else trial.value
        outcome = [trial.number, trial.state.name.lower(), value, attrs.get("best_epoch", ""), attrs["seconds"]]
        rows.writerow([*outcome, *tried])
    write_atomically(folder / "trials.csv", text.getvalue())
    best = search.best()
    if best is not None:
        write_atomically(folder / "best.flags", best_flags(config, search, best, command))


def best_flags(config: Config, search: Search, best: Any, command: str) -> str:
    """The configuration of a trial as a flag file: what was searched, and what differs from the defaults."""
    values = search.values(best)
    chosen = config.changed(**values)
    lines = [
        f"# The best of {len(search.done())} trials by {selection.words(config.evaluation.select)}: {best.value:.4f}.",
        f"#   search:  python -m experiments.sweep {command}",
        f"#   space:   {ranges(search.space) or 'nothing'}",
        f"#   time:    {search.seconds():.0f} s",
    ]
    usual = configure(model=config.model_name).values
    for name, value in chosen.values.items():
        said = name in values or name in ("model", "dataset") or value != usual.get(name)
        if name == "select" and not config.entry.is_trained:
            continue  # it chose among trials; a run of this model chooses nothing
        if name in (*NOT_PART_OF_A_RUN, "seed") or value is None or not said:
            continue
        if not (name == "dataset" and config.data.data):
            lines.append(f"--{name}={flag_text(value)}")
    return "\n".join(lines) + "\n"


def ranges(space: Mapping[str, Range]) -> str:
    """A space in words."""

    def words(values: Range) -> str:
        if isinstance(values, Choice):
            return "{" + ", ".join(map(flag_text, values.of)) + "}"
        return f"[{values.low}, {values.high}]{' (log)' if values.log else ''}"

    return "; ".join(f"{name} in {words(values)}" for name, values in space.items())
