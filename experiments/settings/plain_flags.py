"""Options as flags of a command that reads no configuration of a run, and so needs no model to be looked up."""

import argparse
from collections.abc import Sequence
from typing import Any, TypeVar

from diffrec_jax.options import Field, options_of

Kind = TypeVar("Kind")


def read(argv: Sequence[str], *kinds: type, usage: str, leave_out: Sequence[str] = ()) -> dict[type, Any]:
    """Each of the dataclasses, made of the flags that its options are.

    Args:
      argv: as in ``sys.argv``.
      kinds: dataclasses of options.
      usage: what ``--help`` says first.
      leave_out: flags that mean nothing to the command.

    Raises:
      ValueError: for an unknown flag or a bad value.
      SystemExit: for ``--help``.
    """
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser(argv[0], description=usage, formatter_class=layout, allow_abbrev=False)
    for kind in kinds:
        for option in options_of(kind):
            if option.flag not in leave_out:
                _add(parser, option)
    values = vars(parser.parse_args(argv[1:]))
    return {kind: kind(**_of(values, kind)) for kind in kinds}


class _Parser(argparse.ArgumentParser):
    """Raises what is wrong as the other commands do."""

    def error(self, message: str) -> Any:
        """A sentence in place of an exit."""
        raise ValueError(f"{message.replace('argument ', '')}; --help lists the flags")


def _add(parser: argparse.ArgumentParser, option: Field) -> None:
    shown = "" if option.default in ("", None) else f" (default: {str(option.default).lower()})"
    kind = _truth if option.kind is bool else option.kind
    choices = option.about.choices
    alone: dict[str, Any] = {"nargs": "?", "const": True} if option.kind is bool else {}  # --append is --append=true
    parser.add_argument(
        f"--{option.flag}",
        type=kind,
        default=argparse.SUPPRESS,
        **alone,
        choices=None if choices is None else [choice for choice in choices if choice != ""],
        metavar=None if choices else option.flag.upper(),
        help=f"{option.about.help}{shown}".replace("%", "%%"),
    )


def _of(values: dict[str, Any], kind: type) -> dict[str, Any]:
    return {option.name: values[option.flag] for option in options_of(kind) if option.flag in values}


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} must be true or false")
    return text.lower() == "true"
