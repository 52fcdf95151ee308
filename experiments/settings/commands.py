"""The shortest command that makes a recorded run again: the nearest shipped flag file, and what differs from it."""

import functools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffrec_jax.models.registry import MODELS, find
from experiments.settings import cli
from experiments.settings.config import (
    DEFAULT_MODEL,
    NOT_PART_OF_A_RUN,
    Config,
    as_json,
    configure,
    recorded_flags,
)
from experiments.settings.data_options import DataOptions
from experiments.settings.groups import MODEL, options_by_flag

NO_WAY = [""] * 1000  # longer than any list of flags
_PATHS = ("data", "valid_data", "test_data", "dataset", "item_emb", "titles")  # of which only the last part is told


def command(config: Mapping[str, Any], seeds: Sequence[int]) -> str:
    """A command line without folders of this machine: ``DATA`` stands for where the dataset lies.

    Args:
      config: as in ``config.json``.
      seeds: of the runs, which differ in nothing else; with gaps, a command for each stretch, joined by ``&&``.
    """
    meant = recorded_values(config)
    flags = min((_flags(meant, start, name) for name, start in _starts().items()), key=len)
    if config.get("data_dir", DataOptions.data_dir) != DataOptions.data_dir and not config.get("data"):
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
    starts: dict[str, dict[str, Any]] = {"": {}}
    for path in sorted(cli.FLAG_FILES.glob("*.flags")):
        starts[path.name] = as_json(cli.parse(["run.py", f"--flagfile={path}"], usage=""))
    return starts


def _flags(meant: Mapping[str, Any], start: Mapping[str, Any], name: str) -> list[str]:
    """The flags that lead from ``start`` to what is ``meant``; endless where no flag can."""
    model = str(meant[MODEL])
    usual = {**_defaults(model), **(as_json(configure(model=model)) if model in MODELS else {})}
    if name and start[MODEL] != model:
        return NO_WAY
    flags = [f"--flagfile={name}"] if name else []
    before = {**usual, **start} if name else {**usual, MODEL: DEFAULT_MODEL}
    in_vain = {key: usual.get(key) for key in before if key not in meant and before[key] != usual.get(key)}
    for key, value in {**meant, **in_vain}.items():
        if key in (*NOT_PART_OF_A_RUN, "seed", "baselines"):
            continue
        if key in _PATHS:
            value = Path(value).name
        if json.dumps(value) == json.dumps(before.get(key)):
            continue
        if value is None:
            return NO_WAY
        flags.append(f"--{key}={(','.join(map(str, value)) or '[]') if isinstance(value, list) else value}")
    return flags


def _defaults(model: str) -> dict[str, Any]:
    """The default of every option of a model of this library, as JSON would hold it."""
    options = options_by_flag(MODELS[model]).items() if model in MODELS else ()
    return {flag: list(o.default) if isinstance(o.default, tuple) else o.default for flag, o in options}


def recorded_values(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of a recorded configuration that mean something to its model, as JSON would hold them.

    What was not recorded has its default. The class of a model of somebody's own is not imported: its flags are those
    that were recorded.

    Raises:
      ValueError: for a model, an option or a value that this version does not have.
    """
    recorded = {MODEL: DEFAULT_MODEL, **recorded}
    model = str(recorded[MODEL])
    return dict(recorded) if ":" in model else as_json(configuration(recorded))


def configuration(recorded: Mapping[str, Any]) -> Config:
    """A recorded configuration; what means nothing to its model, as older versions recorded, takes its default.

    Raises:
      ValueError: for a model, an option or a value that this version does not have.
    """
    return configure(**recorded_flags(recorded, find(str(recorded[MODEL]))))
