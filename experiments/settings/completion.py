"""Completion of commands and flags by the TAB key, for bash and zsh.

The script holds every word, so that a TAB starts no Python; print it again after an update.
"""

import re
from collections.abc import Mapping, Sequence

SHELLS = ("bash", "zsh")
# A line of help, of absl (--[no]quiet: …, --seed: …) or of argparse (--all  …, --k K  …).
FLAG = re.compile(r"^ +(?:-\w(?: \w+)?, ?)?--(\[no\])?([a-z]\w*)(:|[ =][^\s]|)", re.M)

BASH = """_{function}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands}"
    else
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    case "${{COMPREPLY[0]}}" in *=) compopt -o nospace 2>/dev/null ;; esac
}}
complete -o bashdefault -o default -F _{function} {name}"""

ZSH = """#compdef {name}
_{function}() {{
    if (( CURRENT == 2 )); then
        compadd -- {commands}
        return
    fi
    local -a flags
    case "$words[2]" in
{cases}
    esac
    if compset -P '*='; then
        _files
    elif [[ "$PREFIX" == -* ]]; then
        compadd -S '' -- ${{(M)flags:#*=}}
        compadd -- ${{flags:#*=}}
    else
        compadd -- ${{flags:#-*}}
        _files
    fi
}}
compdef _{function} {name}"""


def flags(text: str) -> list[str]:
    """The flags of a help text, as they are typed: those that take a value end in ``=``."""
    found = []
    for no, name, follows in FLAG.findall(text):
        if no and name != "help":
            found += [f"--{name}", f"--no{name}"]
        else:
            found.append(f"--{name}=" if follows and name != "help" else f"--{name}")
    return found


def script(shell: str, name: str, words: Mapping[str, Sequence[str]]) -> str:
    """The script of a shell.

    Args:
      shell: one of ``SHELLS``.
      name: of the program.
      words: flags by command.
    """
    commands, function = " ".join([*words, "completion"]), name.replace("-", "_")
    every = {**words, "completion": SHELLS}
    if shell == "bash":
        cases = "\n".join(f'            {command}) words="{" ".join(of)}" ;;' for command, of in every.items())
        return BASH.format(function=function, name=name, commands=commands, cases=cases)
    cases = "\n".join(f"        {command}) flags=({' '.join(of)}) ;;" for command, of in every.items())
    return ZSH.format(function=function, name=name, commands=commands, cases=cases)
