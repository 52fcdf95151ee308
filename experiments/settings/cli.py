"""From argv to ``Config`` and back: flags made from its fields, and flag files, which are found by their bare name."""

import dataclasses
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags
from rich.console import Console

from experiments.settings.config import MACHINE, Config, as_json

FLAG_FILES = Path(__file__).parents[1] / "flags"
FLAG_FILE_HELP = "  --flagfile: a file of flags, one on a line; a shipped one is found by its bare name\n"
Kind = TypeVar("Kind")
RECORDED_FLAGS = "flags.txt"  # of a run folder, beside its config.json


class DimsParser(flags.ArgumentParser):
    """Reads ``[200,600]`` and ``200,600``; ``[]`` is the empty tuple."""

    syntactic_help = "whole numbers, such as [200,600] or 200,600"

    def parse(self, argument: Any) -> tuple[int, ...]:
        """The numbers as a tuple."""
        if isinstance(argument, tuple):
            return argument
        try:
            return tuple(int(part) for part in argument.strip().strip("[]").split(",") if part.strip())
        except ValueError:
            raise ValueError(f"{argument!r} is no list of whole numbers such as [200,600] or 200,600") from None

    def flag_type(self) -> str:
        """Shown in the help text."""
        return "list of integers"


class DimsSerializer(flags.ArgumentSerializer):
    """Writes ``[200,600]``."""

    def serialize(self, value: Any) -> str:
        """The way the flag is typed."""
        return "[" + ",".join(map(str, value)) + "]"


def console(*, width: int = 110, quiet: bool = False) -> Console:
    """Where a command prints: as wide as the terminal, or ``width`` columns and unbroken lines in a file."""
    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else width, soft_wrap=not terminal, quiet=quiet)


def parse(argv: Sequence[str], *, usage: str) -> Config:
    """The configuration a command line asks for; arguments and errors as in ``read``."""
    values, _, flag_file = read(argv, Config, usage=usage)
    config = Config(**values)
    if not config.workdir:
        suffix = f"-s{config.seed}" if config.seeds == 1 else ""  # several seeds each add their own
        config = dataclasses.replace(config, workdir=f"runs/{flag_file or config.data_name}{suffix}")
    return config


def read(argv: Sequence[str], *kinds: Any, usage: str) -> tuple[dict[str, Any], frozenset[str], str | None]:
    """Read the flags that the fields of some dataclasses make.

    Args:
      argv: as in ``sys.argv``.
      kinds: dataclasses whose fields are ``config.option``.
      usage: what ``--help`` says first.

    Returns:
      The values of all flags, the names of those that were given, and the name of the last flag file.

    Raises:
      ValueError: for an unknown flag, a bad value, or a flag file that isn't there.
      SystemExit: for ``--help``.
    """
    values = flags.FlagValues()
    fields = [field for kind in kinds for field in dataclasses.fields(kind)]
    for field in fields:
        _define(field, values)
    flags.DEFINE_boolean("help", False, "show this text", short_name="h", flag_values=values)
    argv, flag_file = find_flag_files(argv)
    argv = _in_their_folders(argv)
    try:
        rest = values(argv)
    except (flags.Error, OSError) as error:
        raise ValueError(str(error).replace("FATAL Flags parsing error: ", "")) from None
    if values["help"].value:
        print(f"{usage}\n\nflags:\n{values.get_help(include_special_flags=False)}\n{FLAG_FILE_HELP}")
        raise SystemExit(0)
    if len(rest) > 1:
        raise ValueError(f"{rest[1]!r} is no flag: every option begins with --, as in --dataset=ml-100k")
    found = {field.name: values[field.name].value for field in fields}
    return found, frozenset(name for name in found if values[name].present), flag_file


def taken(kind: type[Kind], values: dict[str, Any]) -> Kind:
    """One of the dataclasses of ``read``, made of its flags, which leave ``values``."""
    return kind(**{field.name: values.pop(field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def typed_names(argv: Sequence[str]) -> set[str]:
    """The names of the flags on the command line itself, without those of flag files."""
    return {argument.partition("=")[0].lstrip("-") for argument in argv[1:]}


def find_flag_files(argv: Sequence[str]) -> tuple[list[str], str | None]:
    """Replace bare flag-file names by paths: the current folder first, then ``experiments/flags``.

    Returns:
      The new argv, and the name of the last flag file without its ending, that of a search with its folder's name
      (None without one).
    """
    argv, name = list(argv), None
    for i, argument in enumerate(argv):
        key, equals, value = argument.partition("=")
        if key not in ("--flagfile", "-flagfile"):
            continue
        place = i if equals else i + 1
        value = value if equals else (argv[place] if place < len(argv) else "")
        path = Path(value)
        if not path.is_file() and path.name == value and (FLAG_FILES / value).is_file():
            path = FLAG_FILES / value
        if not value or not path.is_file():
            shipped = ", ".join(sorted(p.name for p in FLAG_FILES.glob("*.flags")))
            raise ValueError(f"no flag file {value!r} here or among the shipped ones: {shipped}")
        argv[place] = f"{key}={path}" if equals else str(path)
        name = f"{path.resolve().parent.name}-best" if path.name == "best.flags" else path.stem
    return argv, name


def _in_their_folders(argv: Sequence[str]) -> list[str]:
    """A flag file of a run folder means that folder, wherever it lies now; a --workdir that is typed comes first."""
    typed = [value for _, value in _typed(argv, "workdir")]
    found = list(argv)
    for place, value in reversed(_typed(argv, "flagfile")):
        path = Path(value)
        if path.name == RECORDED_FLAGS and (path.parent / "config.json").is_file():
            found.insert(place + 1, f"--workdir={typed[-1] if typed else path.parent}")
    return found


def _typed(argv: Sequence[str], name: str) -> list[tuple[int, str]]:
    """The values that a flag is given on the command line, each with the place where it ends."""
    found = []
    for place, argument in enumerate(argv):
        key, equals, value = argument.partition("=")
        if key not in (f"--{name}", f"-{name}"):
            continue
        if equals:
            found.append((place, value))
        elif place + 1 < len(argv):
            found.append((place + 1, argv[place + 1]))
    return found


def _define(field: "dataclasses.Field[Any]", values: flags.FlagValues) -> None:
    """One flag for one field of ``Config``."""
    kind: Any = field.type
    default: Any = field.default
    text = field.metadata["help"]
    options = typing.get_args(kind)
    if isinstance(kind, types.UnionType) and type(None) in options:
        kind = next(option for option in options if option is not type(None))
    if field.metadata["choices"]:
        flags.DEFINE_enum(field.name, default, list(field.metadata["choices"]), text, flag_values=values)
    elif kind is bool:
        flags.DEFINE_boolean(field.name, default, text, flag_values=values)
    elif kind is int:
        flags.DEFINE_integer(field.name, default, text, flag_values=values)
    elif kind is float:
        flags.DEFINE_float(field.name, default, text, flag_values=values)
    elif kind is str:
        flags.DEFINE_string(field.name, default, text, flag_values=values)
    else:
        flags.DEFINE(DimsParser(), field.name, default, text, flag_values=values, serializer=DimsSerializer())


def flag_text(value: Any) -> str:
    """A value as it is typed after the flag's name."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple | list) else str(value)


def as_flags(config: Config) -> str:
    """The configuration as a flag file."""
    values = as_json(config).items()
    known = {name: value for name, value in values if value is not None and name not in ("quiet", *MACHINE)}
    return "".join(f"--{name}={flag_text(value)}\n" for name, value in known.items())
