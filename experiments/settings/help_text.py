"""What ``--help`` says: the flags of a model in groups, in the order in which they are declared."""

import textwrap
from collections.abc import Sequence
from typing import Any

from diffrec_jax.models.registry import by_family
from diffrec_jax.options import Field
from experiments.settings.groups import MODEL, Group, every_option, owners

WIDTH, COLUMN = 118, 30
MODEL_HELP = f"which model: {by_family()}; or a class of your own, package.module:Class"


def title_of(kind: type) -> str:
    """The title of a group that a command adds: the first words of its docstring."""
    return (kind.__doc__ or kind.__name__).partition(".")[0].partition(",")[0].lower()


def written(usage: str, model: str, groups: Sequence[Group], *, every: bool) -> str:
    """The text of ``--help``; with ``every`` that of ``--helpfull``, rare flags and those of other models too."""
    lines = [usage, "", "model", *_line(MODEL, model, MODEL_HELP)]
    title = "model"
    for group in groups:
        shown = [option for option in group.options if every or not option.about.rare]
        if shown and group.title != title:
            lines += ["", group.title]
            title = group.title
        for option in shown:
            lines += _of(option)
    lines += [
        "",
        "flag files",
        *_line("flagfile", "FILE", "a file of flags, a line each; a shipped one by its bare name"),
    ]
    if every:
        known = {option.flag for group in groups for option in group.options}
        lines += ["", "of other models"]
        for flag, option in every_option().items():
            if flag not in known:
                lines += _of(option, f" ({', '.join(owners(flag))})")
    else:
        lines += ["", f"The usual flags of --model={model}; another --model has others, and --helpfull shows all."]
    return "\n".join(lines)


def _of(option: Field, more: str = "") -> list[str]:
    """The lines on one flag."""
    choices = option.about.choices
    said = option.about.help
    if choices is not None and option.kind is not bool:
        said += f"; one of {', '.join(str(choice) for choice in choices if choice != '')}"
    if option.kind is bool:
        return _wrapped(f"  --[no]{option.flag}", f"{said} (usually {'on' if option.default else 'off'}){more}")
    return _line(option.flag, option.default, said + more)


def _line(flag: str, default: Any, said: str) -> list[str]:
    text = f"[{','.join(map(str, default))}]" if isinstance(default, tuple) else str(default)
    return _wrapped(f"  --{flag}={'…' if default in (None, '') else text}", said)


def _wrapped(head: str, said: str) -> list[str]:
    body = textwrap.wrap(said, WIDTH - COLUMN) or [""]
    if len(head) >= COLUMN:
        return [head, *(" " * COLUMN + line for line in body)]
    return [head.ljust(COLUMN) + body[0], *(" " * COLUMN + line for line in body[1:])]
