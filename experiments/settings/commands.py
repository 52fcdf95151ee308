"""The shortest command that makes a recorded run again: the nearest shipped flag file, and what differs from it."""

import dataclasses
import functools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.settings import cli
from experiments.settings.config import NOT_PART_OF_A_RUN, Config, as_json
from experiments.settings.kinds import KINDS

_PATHS = (
    "data",
    "valid_data",
    "test_data",
    "dataset",
    "item_emb",
    "titles",
)  # only their last part is anybody's business


def command(config: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """A command line without folders of this machine: ``DATA`` stands for where the dataset lies.

    Args:
      config: as in ``config.json``.
      seeds: of the runs, which differ in nothing else; with gaps, a command for each stretch, joined by ``&&``.
    """
    own = configuration(config)
    meant = {key: value for key, value in as_json(own).items() if own.means_something(key)}
    flags = min((_flags(meant, start, name) for name, start in _starts().items()), key=len)
    ours = {**as_json(Config()), **config}
    if ours["data_dir"] != Config.data_dir and not ours["data"]:
        flags.append("--data_dir=DATA")
    same = " ".join(["python -m experiments.run", *map(shlex.quote, flags)])
    return " && ".join(f"{same} {numbers}" for numbers in _seed_flags(seeds))


def without_seeds(command: str) -> str:
    """A command as it is for every seed."""
    return re.sub(r" --seeds?=\d+", "", command.partition(" && ")[0])


def _seed_flags(seeds: Sequence[int]) -> list[str]:
    """The flags of each stretch of numbers that follow one another."""
    stretches: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if stretches and seed == stretches[-1][-1] + 1:
            stretches[-1].append(seed)
        else:
            stretches.append([seed])
    return [
        f"--seed={s[0]}" if len(s) == 1 else f"--seed={s[0]} " * (s[0] != 0) + f"--seeds={len(s)}" for s in stretches
    ]


@functools.cache
def _starts() -> dict[str, dict[str, Any]]:
    """The configuration of no flags at all, and of every shipped flag file, by name."""
    starts = {"": as_json(Config())}
    for path in sorted(cli.FLAG_FILES.glob("*.flags")):
        starts[path.name] = as_json(cli.parse(["run.py", f"--flagfile={path}"], usage=""))
    return starts


def _flags(meant: Mapping[str, Any], start: Mapping[str, Any], name: str) -> list[str]:
    """The flags that lead from ``start`` to what is ``meant``; endless where no flag can."""
    flags = [f"--flagfile={name}"] if name else []
    usual = {field.name: field.default for field in dataclasses.fields(Config)}
    in_vain = [key for key, value in as_json(Config()).items() if key not in meant and start[key] != value]
    for key, value in {**meant, **{key: usual[key] for key in in_vain}}.items():
        if key in (*NOT_PART_OF_A_RUN, "seed", "baselines"):
            continue
        if key in _PATHS:
            value = Path(value).name
        if json.dumps(value) == json.dumps(start[key]):
            continue
        if value is None:
            return [""] * 1000
        flags.append(f"--{key}={(','.join(map(str, value)) or '[]') if isinstance(value, list) else value}")
    return flags


def configuration(recorded: Mapping[str, Any]) -> Config:
    """A recorded configuration; what means nothing to its model, as older versions recorded, takes its default.

    Raises:
      ValueError: for a model or a value that this version does not have.
    """
    if recorded["model"] not in KINDS:
        raise ValueError(f"model={recorded['model']} is unknown: choose from {', '.join(KINDS)}")
    groups = {field.name: field.metadata["group"] for field in dataclasses.fields(Config)}
    values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in recorded.items() if n in groups}
    asked = object.__new__(Config)  # without the checks, which would refuse what means nothing
    asked.__dict__.update({field.name: field.default for field in dataclasses.fields(Config)} | values)
    meant = {n: v for n, v in values.items() if asked.means_something(n) and (asked.data or groups[n] != "log")}
    return Config(**meant)
