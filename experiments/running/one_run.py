"""One run from its configuration to its folder: train or go on, evaluate, record, report."""

import shlex
import signal
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh
from rich.console import Console

from diffrec_jax import api, files
from diffrec_jax.data.ordered import check_order, order_notes
from diffrec_jax.data.splits import Split, leakage_report
from diffrec_jax.data.times import DoubtfulTimesWarning
from diffrec_jax.memory import peak_memory
from diffrec_jax.mesh import parse_mesh
from diffrec_jax.models.baselines import NO_TIMES
from diffrec_jax.processes import is_writer
from diffrec_jax.training import InterruptedRunError
from diffrec_jax.training.profile import Profile
from experiments.reporting import evidence, run_report, segments, table
from experiments.running import baseline_results, item_clusters, seeds, source
from experiments.running.progress import RunObserver
from experiments.running.run_folder import RunFolder
from experiments.running.standing import standing
from experiments.running.trackers import Tracking
from experiments.settings import cli, guard, own_splits, runtime, selection
from experiments.settings.config import Config, as_json


def start(config: Config) -> int:
    """Run a configuration with all its seeds; the exit code."""
    runtime.prepare(config)
    quiet = config.run.quiet or not is_writer()
    console = cli.console(quiet=quiet)
    code = run(config, console) if config.run.seeds == 1 else seeds.run_each(config, run, console)
    if config.run.quiet and code == 0 and is_writer():
        for one in seeds.each(config) if config.run.seeds > 1 else [config]:
            print(epath.Path(one.run.workdir) / "result.json")
    return code


def run(config: Config, console: Console) -> int:
    """Train, or go on, or show what was found: whatever the run folder calls for."""
    started = time.perf_counter()
    if config.evaluation.select != selection.DEFAULT and not config.entry.is_trained:
        raise ValueError(
            f"select={config.evaluation.select} means nothing to {config.model_name}, which is fitted in one go: drop "
            "it"
        )
    folder = RunFolder(epath.Path(config.run.workdir))
    groups = segments.read(config.evaluation.segments) if config.evaluation.segments else None
    found = standing(config, folder)
    if found.remark:
        console.print(found.remark, highlight=False)
    if found.result is not None:
        result = found.result
        if groups is not None and is_writer():
            result = segments.added(result, groups, folder.path)
            folder.finish(result)
            if not files.is_remote(folder.path):
                run_report.of_run(Path(folder.path))
        console.print(f"{folder.path} is finished; its result:", highlight=False)
        show(config, result, console)
        return 0
    files_now = source.state_of_files(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtfulTimesWarning)  # which the notes of the split say, too
        split = source.load(config)
    check(config, split)
    if groups is not None:
        segments.check(groups, split.user_ids[np.unique(split.test.users)])
    mesh = parse_mesh(config.machine.mesh)
    with folder.locked() if is_writer() else nullcontext():
        if is_writer():
            events = [len(part) for part in split]
            folder.claim(config, source.fingerprint(split), files=files_now, events=events)
        return train(config, split, folder, mesh, console, groups, started=started)


def train(
    config: Config,
    split: Split,
    folder: RunFolder,
    mesh: Mesh,
    console: Console,
    groups: segments.Groups | None = None,
    *,
    started: float,
) -> int:
    """Train, or go on, and evaluate, also by user group if there are any; the exit code."""
    announce(config, split, console)
    profile = None
    if config.trace.steps:
        first, last = config.trace.steps
        profile = Profile(folder.path / "profile", first=first, last=last)
    tracking = Tracking.of(config.run.track if is_writer() else "", console)
    tracking.begin(folder.path, config.data.name, as_json(config))
    try:
        with RunObserver(config, folder, console, tracking) if config.entry.is_trained else nullcontext() as observer:
            fitted = api.fit(
                item_clusters.with_clusters(config, split, console),
                split.train,
                split.valid,
                workdir=folder.path,
                mesh=mesh,
                **config.fit_arguments,
                observer=observer,
                about=about(config, split),
                profile=profile,
                context=split.context,
            )
    except InterruptedRunError as stop:
        tracking.finish(failed=True)
        named = [f"--model={config.model_name}"] if ":" in config.model_name else []  # a file is not trusted to say it
        again = shlex.join(["python", "-m", "experiments.run", f"--flagfile={folder.path / 'flags.txt'}", *named])
        again = "run the same command again" if files.is_remote(folder.path) else again
        said = f"{stop}, state saved; to go on: {again}"
        if config.run.quiet:
            print(said, file=sys.stderr)
        console.print(said, highlight=False)
        by_hand = observer is not None and observer.asked_by == signal.SIGINT  # None: another process was asked
        return guard.EXIT_INTERRUPTED if by_hand else guard.EXIT_RUN_AGAIN
    except BaseException:
        tracking.finish(failed=True)
        raise
    result = measured(config, split, fitted, started=started)
    if is_writer():
        result = result if groups is None else segments.added(result, groups, folder.path)
        folder.finish(result, config)
        show(config, result, console)
        kept: list[Path] = []
        if not files.is_remote(folder.path):
            run_report.of_run(Path(folder.path), console=console)
            kept = [Path(folder.path) / name for name in ("result.json", "flags.txt", "report.html")]
        tracking.result(
            {f"test_{p}/{name}": value for p, means in result["test"].items() for name, value in means.items()}
        )
        tracking.finish(kept)
    if profile is not None:
        taken = f"is in {profile.folder}: tensorboard --logdir={profile.folder} (with the plugin xprof)"
        console.print(
            f"the profile of steps {config.trace.profile_steps} {taken if profile.was_taken else 'was not taken: '}"
            f"{'' if profile.was_taken else 'this run, or what was left of it, does not hold these steps'}",
            highlight=False,
        )
    return 0


def show(config: Config, result: dict[str, Any], console: Console) -> None:
    """Print a result, by user group too if it says anything of groups."""
    table.show(result, protocol=config.evaluation.protocol, console=console)
    if "segments" in result:
        console.print()
        console.print(segments.sheet(result).drawn())


def check(config: Config, split: Split) -> None:
    """Refuse a configuration that does not fit the data, before anything is written."""
    if config.values.get("recency") == "exponential" and split.train.times is None:
        raise ValueError(f"recency=exponential needs timestamps, which {split.name} lacks: use linear or power")
    if config.model_name == "recent_popularity" and split.train.times is None:
        raise ValueError(NO_TIMES)
    if config.model.needs_order:
        check_order(split.train.csr())
    config.model.check_size(split.n_items)
    if not len(split.train):
        raise ValueError(f"{split.name} has no training interactions left: look at the filters and the split")
    if not len(split.test):
        raise ValueError(f"{split.name} has no test interactions: look at the filters and the split")
    own_splits.check_parts(split)
    of_valid, of_test = config.fit.valid_users, config.evaluation.test_users
    for name, users, part in (("valid_users", of_valid, split.valid), ("test_users", of_test, split.test)):
        there = int((part.csr().lengths() > 0).sum()) if users else 0
        if users > there:
            raise ValueError(
                f"{name}={users} is more than the {there:,} users who have held-out items there: choose fewer, or 0 "
                "for all of them"
            )


def about(config: Config, split: Split) -> dict[str, Any]:
    """What a model card says of this run, beside its result."""
    return {
        "dataset": split.name,
        "split": split.rule,
        "guarantee": split.guarantee,
        "notes": [str(step) for step in split.train.provenance] + list(split.notes),
        "seed": config.run.seed,
        "selected_by": selection.words(config.evaluation.select) if config.entry.is_trained else "fitted in one go",
    }


def announce(config: Config, split: Split, console: Console) -> None:
    """Say what the run is on, before it begins."""
    counts = ", ".join(f"{len(part):,} {name}" for name, part in zip(("train", "valid", "test"), split))
    console.print(
        f"{split.name}: {split.n_users:,} users x {split.n_items:,} items, {counts}; split: {split.rule}; "
        f"run folder: {config.run.workdir}",
        highlight=False,
    )
    for line in (split.guarantee, *split.notes, *_notes_on_order(config, split)):
        console.print(f"  {line}", highlight=False)
    if config.data.repeats == "keep" and not config.model.needs_order:
        console.print(f"  {config.model_name} reads each item of a history once: repeated ones count as the first")
    if split.train.weights is not None and not config.model.weighs:
        console.print(f"  {config.model_name} does not weigh events: --weight_col changes nothing for it")
    if config.evaluation.eval_history == "train+valid":
        console.print(
            "  test history: training and validation events; nothing is trained on validation", highlight=False
        )
    size = config.model.bytes_needed(split.n_items) / 2**20
    if size:
        console.print(f"  memory on the host to fit {config.model_name}: at most {size:,.0f} MiB", highlight=False)
    if not len(split.valid) and config.entry.is_trained:
        console.print("  No validation interactions: training goes on for all --epochs, and the last one counts.")
    later = split.rule in ("released", "diffrec")
    if config.evaluation.eval_history == "train+valid" and (later or leakage_report(split).valid_after_test):
        console.print(
            "  warning: validation is later than test in this split: --eval_history=train+valid leaks the future."
        )


def _notes_on_order(config: Config, split: Split) -> tuple[str, ...]:
    """What to know of a log before its order is learned."""
    model = config.model
    if not model.needs_order:
        return ()
    batch = None if model.trained is None else config.fit.batch_size
    return order_notes(split.train.csr(), model.length, batch=batch, packing=model.packing)


def measured(config: Config, split: Split, fitted: api.Fitted, *, started: float) -> dict[str, Any]:
    """Evaluate the model of the best epoch and the baselines: the content of ``result.json``."""
    with_valid = config.evaluation.eval_history == "train+valid"
    valid = None
    if fitted.validation is not None:
        valid = fitted.validation(fitted.stored)  # compiled while training
    elif len(split.valid):
        valid = api.evaluate(fitted, split.valid, seed=config.run.seed, ks=config.evaluation.ks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of masked truth, which the notes of the result say, too
        test = api.evaluate(fitted, split.test, with_valid=with_valid, seed=config.run.seed, **config.test_arguments)
    total, peak = time.perf_counter() - started, peak_memory()
    fingerprint = source.fingerprint(split)
    baselines: dict[str, Any] = {}
    notes: list[str] = []
    if config.run.baselines and is_writer():
        baselines, notes = baseline_results.beside(config, split, fitted, fingerprint=fingerprint)
    if is_writer():  # last, so that what an earlier result rests on stays until this one is complete
        evidence.write(epath.Path(config.run.workdir), test, split, with_valid=with_valid)
    outcome = fitted.result
    seconds = {
        "train": outcome.progress.train_seconds,
        "evaluate": outcome.progress.evaluate_seconds + test.seconds + (valid.seconds if valid is not None else 0.0),
        "compile": outcome.compile_seconds
        + test.compile_seconds
        + (valid.compile_seconds if valid is not None and fitted.validation is None else 0.0),
        "total": total + outcome.earlier_seconds,  # without the baselines, which may come from a run beside this one
    }
    return {
        "model": config.model_name,
        "dataset": split.name,
        "seed": config.run.seed,
        "best_epoch": outcome.progress.best_epoch,
        "selected_by": about(config, split)["selected_by"],
        "valid": valid.means() if valid is not None else {},
        "test": test.means(),
        "ranking": test.ranking,
        "rankings": test.other_means(),
        "beyond": test.beyond,
        "ties": test.ties,
        "baselines": {name: record["test"] for name, record in baselines.items()},
        "baseline_rankings": {name: record.get("rankings", {}) for name, record in baselines.items()},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "epochs_run": outcome.epochs_run,
        "parameters": outcome.parameters,
        "peak_host_bytes": peak,
        "split": split.rule,
        "noise": config.data.noise,
        "eval_history": config.evaluation.eval_history,
        "data": fingerprint,
        "notes": [*test.notes, *notes],
    }
