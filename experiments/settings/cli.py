"""From argv to ``Config`` and back: the flags of the model that ``--model`` names, and flag files, found by bare name.

A command line is read twice: for the model, and then for the options that the model has.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags
from rich.console import Console

from diffrec_jax.models.registry import find
from diffrec_jax.options import Field, options_of
from experiments.settings import help_text, own_class
from experiments.settings.config import DEFAULT_MODEL, MACHINE, Config, as_json, configure
from experiments.settings.groups import MODEL, Group, defaults_of, groups_of, means_nothing, refuse_two_of_one_name

FLAG_FILES = Path(__file__).parents[1] / "flags"
Kind = TypeVar("Kind")
RECORDED_FLAGS = "flags.txt"  # of a run folder, beside its config.json


class TupleParser(flags.ArgumentParser):
    """Reads ``[200,600]`` and ``200,600``; ``[]`` is the empty tuple."""

    syntactic_help = "values with commas, such as [200,600] or 200,600"

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def parse(self, argument: Any) -> tuple[Any, ...]:
        """The values as a tuple."""
        if isinstance(argument, tuple):
            return argument
        try:
            return tuple(self.kind(part.strip()) for part in argument.strip().strip("[]").split(",") if part.strip())
        except ValueError:
            what = {int: "whole numbers such as [200,600]", float: "numbers such as [0.1,0.5]"}[self.kind]
            raise ValueError(f"{argument!r} is no list of {what} or {what.split('[')[1].strip(']')}") from None

    def flag_type(self) -> str:
        """Shown in the help text."""
        return "list"


class TupleSerializer(flags.ArgumentSerializer):
    """Writes ``[200,600]``."""

    def serialize(self, value: Any) -> str:
        """The way the flag is typed."""
        return flag_text(value)


def console(*, width: int = 110, quiet: bool = False) -> Console:
    """Where a command prints: as wide as the terminal, or ``width`` columns and unbroken lines in a file."""
    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else width, soft_wrap=not terminal, quiet=quiet)


@dataclasses.dataclass(frozen=True)
class Said:
    """What a command line says.

    Attributes:
      values: of the flags of a run that were given, by name.
      others: of the flags that the command adds to them, given or not.
      flag_file: the name of the last flag file; None without one.
    """

    values: Mapping[str, Any]
    others: Mapping[str, Any]
    flag_file: str | None

    def part(self, kind: type[Kind]) -> Kind:
        """One of the dataclasses that the command adds, made of its flags."""
        return kind(**{option.name: self.others[option.flag] for option in options_of(kind)})


def parse(argv: Sequence[str], *, usage: str) -> Config:
    """The configuration a command line asks for; arguments and errors as in ``read``."""
    said = read(argv, usage=usage)
    config = configure(**said.values)
    if not config.run.workdir:
        suffix = f"-s{config.run.seed}" if config.run.seeds == 1 else ""  # several seeds each add their own
        config = config.changed(workdir=f"runs/{said.flag_file or config.data.name}{suffix}")
    return config


def read(argv: Sequence[str], *kinds: type, usage: str) -> Said:
    """Read the flags of a run, and those that the options of some dataclasses make.

    Args:
      argv: as in ``sys.argv``.
      kinds: dataclasses of options beside those of a run.
      usage: what ``--help`` says first.

    Raises:
      ValueError: for an unknown flag, one of another model, a bad value, or a flag file that isn't there.
      SystemExit: for ``--help``.
    """
    argv, flag_file = find_flag_files(argv)
    argv = _in_their_folders(argv)
    name = _model_named(argv)
    groups = groups_of(find(name))
    refuse_two_of_one_name(*(group.kind for group in groups), *kinds)
    own = [Group(help_text.title_of(kind), kind, "") for kind in kinds]
    values = flags.FlagValues()
    flags.DEFINE_string(MODEL, DEFAULT_MODEL, help_text.MODEL_HELP, flag_values=values)
    for group in (*own, *groups):
        for option in group.options:
            _define(option, values)
    flags.DEFINE_boolean("help", False, "show the usual flags", short_name="h", flag_values=values)
    flags.DEFINE_boolean("helpfull", False, "show every flag", flag_values=values)
    argv = _without_those_of_others(argv, values)
    try:
        rest = values(argv)
    except flags.UnrecognizedFlagError as error:
        raise ValueError(means_nothing(error.flagname.lstrip("-").removeprefix("no"), name)) from None
    except (flags.Error, OSError) as error:
        raise ValueError(str(error).replace("FATAL Flags parsing error: ", "")) from None
    if values["help"].value or values["helpfull"].value:
        print(help_text.written(usage, name, [*own, *groups], every=bool(values["helpfull"].value)))
        raise SystemExit(0)
    if len(rest) > 1:
        raise ValueError(f"{rest[1]!r} is no flag: every option begins with --, as in --dataset=ml-100k")
    of_run = [option.flag for group in groups for option in group.options]
    given = {flag: values[flag].value for flag in (MODEL, *of_run) if values[flag].present}
    others = {option.flag: values[option.flag].value for kind in kinds for option in options_of(kind)}
    return Said(given, others, flag_file)


def _model_named(argv: Sequence[str]) -> str:
    """What ``--model`` says, typed or in a flag file; the model's class may lie in the current folder."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    flags.DEFINE_string(MODEL, DEFAULT_MODEL, "", flag_values=values)
    try:
        values(argv, known_only=True)
    except (flags.Error, OSError) as error:
        raise ValueError(str(error)) from None
    name = str(values[MODEL].value)
    if ":" in name and name not in [value for _, value in _typed(argv, MODEL)]:
        raise ValueError(
            f"the flag file names a class of somebody's own, {name}, and a file never causes an import by itself: say "
            f"--model={name} on the command line, too, if you trust it"
        )
    own_class.look_here(name)
    return name


def _without_those_of_others(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
    """Flag files opened, without flags of other models that say no more than these models' defaults, as older run
    folders recorded them; a typed flag is never passed over.
    """
    opened: list[str] = [argv[0]]
    typed = iter(argv[1:])
    for argument in typed:
        key = argument.partition("=")[0].lstrip("-")
        if key != "flagfile" or not argument.startswith("-"):
            opened.append(argument)
            continue
        file = argument if "=" in argument else f"{argument}={next(typed)}"
        for line in values.read_flags_from_files([file], force_gnu=False):
            name, _, value = line.lstrip("-").partition("=")
            if line.startswith("-") and name not in values and value in map(flag_text, defaults_of(name)):
                continue
            opened.append(line)
    return opened


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


def _define(option: Field, values: flags.FlagValues) -> None:
    """One flag for one option."""
    name, default, text = option.flag, option.default, option.about.help
    if option.about.choices is not None and option.kind is str:
        choices = list(dict.fromkeys([*option.about.choices, *([default] if default is not None else [])]))
        flags.DEFINE_enum(name, default, choices, text, flag_values=values)
    elif option.kind is bool:
        flags.DEFINE_boolean(name, default, text, flag_values=values)
    elif option.kind is int:
        flags.DEFINE_integer(name, default, text, flag_values=values)
    elif option.kind is float:
        flags.DEFINE_float(name, default, text, flag_values=values)
    elif option.kind is str:
        flags.DEFINE_string(name, default, text, flag_values=values)
    else:
        parser = TupleParser(option.kind.__args__[0])
        flags.DEFINE(parser, name, default, text, flag_values=values, serializer=TupleSerializer())


def flag_text(value: Any) -> str:
    """A value as it is typed after the flag's name."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple | list) else str(value)


def as_flags(config: Config) -> str:
    """The configuration as a flag file."""
    unsaid = ("quiet", "profile_steps", *MACHINE)
    known = {name: value for name, value in as_json(config).items() if value is not None and name not in unsaid}
    return "".join(f"--{name}={flag_text(value)}\n" for name, value in known.items())
