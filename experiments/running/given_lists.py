"""Lists that somebody else made: judged on the test part of a split, and recorded so that they compare with our runs.

A line keeps its place: an item that is unknown, repeated, or in the user's training or validation part is no hit, and
is counted.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath
from rich.console import Console

from diffrec_jax import files
from diffrec_jax.data.splits import Split
from diffrec_jax.evaluation import Evaluation, evaluate_lists
from diffrec_jax.held_out import joined
from diffrec_jax.models.registry import MODELS
from diffrec_jax.options import option, options_of
from experiments.reporting import evidence, given_tables, segments
from experiments.reporting.published import columns
from experiments.reporting.sheet import Sheet
from experiments.running import source
from experiments.running.run_folder import RunFolder
from experiments.settings import cli
from experiments.settings.config import Config, as_json, configure
from experiments.settings.data_options import DataOptions

USUAL = {
    "user": ("user", "user_id", "userid", "uid"),
    "item": ("item", "item_id", "itemid", "iid"),
    "score": ("score", "prediction"),
    "rank": ("rank", "position"),
}
DATA = (  # of the flags of a run, those that decide what lists are judged on
    "dataset", "data", "data_dir", "split", "data_seed", "noise",
    *(option.flag for option in options_of(DataOptions) if option.about.needs is not None),
)  # fmt: skip
OUTPUT = ("protocol", "eval_history", "ks", "segments", "workdir", "quiet")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lists:
    """Whose lists, and how the file says them."""

    lists: str = option("", "the file of lists")
    name: str = option("", "what they are called in tables; the name of the file if empty")
    like: str = option("", "a run folder: take its data, split and history, in place of the flags that make data")
    list_user: str = option("", "user column of the file; found by a usual name if empty")
    list_item: str = option("", "item column of the file, likewise")
    list_score: str = option("", "score column of the file, higher is better, likewise")
    list_rank: str = option("", "rank column of the file, lower is better, likewise; it goes before a score")

    def __post_init__(self) -> None:
        if not self.lists:
            raise ValueError("no lists are named: say --lists=FILE, with the columns user, item and rank or score")
        if self.list_score and self.list_rank:
            raise ValueError(f"list_score={self.list_score} and list_rank={self.list_rank}: lists are ordered by one")

    @property
    def title(self) -> str:
        """What they are called."""
        return self.name or Path(self.lists).name.split(".")[0]


def start(lists: Lists, config: Config) -> int:
    """Judge lists on the data of a configuration; the exit code."""
    console = cli.console(quiet=config.run.quiet)
    if lists.title in MODELS:
        raise ValueError(f"name={lists.title} is a model of ours: give their lists another --name")
    groups = segments.read(config.evaluation.segments) if config.evaluation.segments else None
    where = f"lists={lists.lists}"
    asked = {role: getattr(lists, f"list_{role}") for role in USUAL}
    table = given_tables.columns(given_tables.read(lists.lists, "lists"), asked, USUAL, where)
    for role in ("user", "item"):
        if role not in table:
            raise ValueError(f"{where} has no column that is known as the {role}: name it, as in --list_{role}=COLUMN")
    split = source.load(config)
    if not len(split.test):
        raise ValueError(f"{split.name} has no test interactions: look at the filters and the split")
    test = judged(table, config, split, scored=bool(lists.list_score))
    folder = epath.Path(config.run.workdir)
    result = recorded(lists, config, split, test)
    with RunFolder(folder).locked():
        claim(folder, result)
        folder.mkdir(parents=True, exist_ok=True)
        of_lists = {name: value for name, value in as_json(config).items() if name in kept()}
        document = {"lists": lists.title, "data": result["data"], "config": of_lists}
        files.write_atomically(folder / "config.json", json.dumps(document, indent=2) + "\n")
        evidence.write(folder, test, split, with_valid=config.evaluation.eval_history == "train+valid")
        result = result if groups is None else segments.added(result, groups, folder)
        files.write_atomically(folder / "result.json", json.dumps(result, indent=2) + "\n")
    show(result, config, console)
    if config.run.quiet:
        print(folder / "result.json")
    return 0


def kept() -> tuple[str, ...]:
    """The flags that ``config.json`` of lists holds."""
    return (*DATA, "eval_history", "ks")


def configured(lists: Lists, given: Mapping[str, Any]) -> Config:
    """The configuration that says which data; refuses flags that mean nothing to lists."""
    for name in sorted(given):
        if name not in (*DATA, *OUTPUT):
            raise ValueError(f"{name} means nothing to lists, which are there already: drop it")
        if lists.like and name in (*DATA, "eval_history") and name != "data_dir":
            raise ValueError(f"like={lists.like} brings its own {name}: drop one of them")
    if lists.like:
        recorded = epath.Path(lists.like) / "config.json"
        if not recorded.is_file():
            raise ValueError(f"like={lists.like} holds no config.json: name a run folder")
        of_run = json.loads(recorded.read_text())["config"]
        taken = {n: of_run[n] for n in (*DATA, "eval_history") if of_run.get(n) is not None and n not in given}
        given = {**given, **taken}
    return configure(**{**given, "workdir": given.get("workdir") or f"runs/{lists.title}"})


def judged(table: dict[str, Any], config: Config, split: Split, *, scored: bool) -> Evaluation:
    """The lists on the test part of a split; ``scored`` if the person named the column of scores."""
    by_rank = "rank" in table and not scored
    known = (split.train, split.context, split.valid)
    return evaluate_lists(
        table["user"],
        table["item"],
        split.test,
        ranks=table["rank"] if by_rank else None,
        scores=None if by_rank else table.get("score"),
        train=split.train,
        seen=joined(*(None if log is None else log.csr() for log in known)),
        ks=config.evaluation.ks,
    )


def recorded(lists: Lists, config: Config, split: Split, test: Evaluation) -> dict[str, Any]:
    """The content of ``result.json``."""
    return {
        "model": lists.title,
        "dataset": split.name,
        "lists": hashlib.sha256(Path(lists.lists).read_bytes()).hexdigest()[:16],
        "test": test.means(),
        "beyond": test.beyond,
        "baselines": {},
        "seconds": {"evaluate": round(test.seconds, 3)},
        "split": split.rule,
        "noise": config.data.noise,
        "eval_history": config.evaluation.eval_history,
        "data": source.fingerprint(split),
        "notes": list(test.notes),
    }


def claim(folder: epath.Path, result: dict[str, Any]) -> None:
    """Refuse a folder that holds a run, or other lists.

    Raises:
      ValueError: if so.
    """
    begun = folder / "config.json"
    of_a_run = begun.is_file() and "lists" not in json.loads(begun.read_text())
    if of_a_run or (folder / "checkpoints").exists() or (folder / "model").exists():
        raise ValueError(f"{folder} holds a run: choose another --workdir for these lists")
    file = folder / "result.json"
    if not file.is_file():
        return
    there = json.loads(file.read_text())
    different = [name for name in ("model", "lists", "data") if there.get(name) != result[name]]
    if different:
        raise ValueError(
            f"{folder} holds another result ({different[0]}: {there.get(different[0])!r} there, "
            f"{result[different[0]]!r} now): choose another --workdir"
        )


def show(result: dict[str, Any], config: Config, console: Console) -> None:
    """Print the result."""
    metrics = result["test"]
    shown = columns(metrics["official"])
    rows = tuple((result["model"], p, *(f"{values[c]:.4f}" for c in shown)) for p, values in metrics.items())
    title = f"{result['dataset']}, test, the lists of {Path(config.run.workdir).name}"
    note = "official: mean over all users; standard: mean over users with held-out items."
    console.print()
    console.print(Sheet(title, ("lists", "protocol", *shown), rows, note=note, n_text=2).drawn())
    for sentence in result["notes"]:
        console.print(sentence, highlight=False)
    if "segments" in result:
        console.print(segments.sheet(result).drawn())
    console.print(f"beside our runs: python -m experiments.compare RUN {config.run.workdir}", highlight=False)
