"""One command for all of them: ``diffrec-jax COMMAND …`` is ``python -m experiments.COMMAND …``.

diffrec-jax run --dataset=ml-100k --seed=1
diffrec-jax run --help                                    # every flag of a command
source <(diffrec-jax completion bash)                     # TAB completes commands and flags; or zsh
"""

import ast
import contextlib
import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from experiments.settings import completion, guard

NAME = "diffrec-jax"
COMMANDS = (
    "quickstart", "datasets", "prepare", "run", "sweep", "report", "compare", "evaluate", "results", "paper",
    "recommend", "export", "serve", "tpu_plan",
)  # fmt: skip
MADE_OF_OPTIONS = ("quickstart", "run", "sweep", "evaluate", "paper")  # whose --helpfull names every flag there is
ALSO_THOSE_OF = {"tpu_plan": "run"}  # commands that take the flags of another one, too


def main(argv: Sequence[str]) -> int:
    """Open the door that the first word names; the exit code."""
    name, rest = (argv[1], argv[2:]) if len(argv) > 1 else ("--help", [])
    if name in ("--help", "-h"):
        print(usage())
        return 0
    if name == "completion":
        if len(rest) != 1 or rest[0] not in completion.SHELLS:
            raise ValueError(f"completion is for one shell: say {NAME} completion {' or '.join(completion.SHELLS)}")
        print(completion.script(rest[0], NAME, {command: flags_of(command) for command in COMMANDS}))
        return 0
    if name not in COMMANDS:
        raise ValueError(f"{name!r} is no command: choose from {', '.join((*COMMANDS, 'completion'))}")
    return door(name).main([f"{NAME} {name}", *rest])


def door(command: str) -> ModuleType:
    """The module of a command; only it is imported."""
    return importlib.import_module(f"experiments.{command}")


def usage() -> str:
    """What there is, a line each: the first sentence of every door, which is read and not imported."""
    lines = [__doc__ or "", "commands:"]
    for command in COMMANDS:
        text = ast.get_docstring(ast.parse(Path(__file__).with_name(f"{command}.py").read_text())) or ""
        first = text.splitlines()[0].replace("`", "")
        lines.append(f"  {command:<12}{first}")
    return "\n".join([*lines, f"  {'completion':<12}Print a completion script, for {' or '.join(completion.SHELLS)}."])


def flags_of(command: str) -> list[str]:
    """The flags that the help of a command names; none, and a sentence on stderr, if it lacks a package."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            door(command).main([command, "--helpfull" if command in MADE_OF_OPTIONS else "--help"])
    except ValueError as error:
        print(f"no flags of {command} are completed: {error}", file=sys.stderr)
    more = flags_of(ALSO_THOSE_OF[command]) if command in ALSO_THOSE_OF else []
    return list(dict.fromkeys([*completion.flags(text.getvalue()), *more]))


def console() -> int:
    """The entry point ``diffrec-jax``."""
    return guard.guarded(main, sys.argv)


if __name__ == "__main__":
    sys.exit(console())
