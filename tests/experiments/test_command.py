"""One command for all of them, and the completion of its words."""

import re
import subprocess
from pathlib import Path

import pytest

from experiments import __main__ as command
from experiments.settings import completion, guard

WORDS = {"run": ["--help", "--seed=", "--quiet", "--noquiet"], "report": ["--help"]}


def test_every_door_is_a_command_and_the_help_says_what_each_is_for(capsys):
    doors = {path.stem for path in Path(command.__file__).parent.glob("*.py")} - {"__init__", "__main__"}
    assert doors == set(command.COMMANDS)
    for typed in ([], ["--help"]):
        assert guard.guarded(command.main, ["diffrec-jax", *typed]) == 0
        said = capsys.readouterr().out
        assert all(re.search(rf"^  {name} +\S", said, re.M) for name in (*command.COMMANDS, "completion"))


def test_a_command_is_its_door_with_the_rest_of_the_line(capsys, tmp_path):
    assert guard.guarded(command.main, ["diffrec-jax", "datasets", f"--data_dir={tmp_path}"]) == 0
    assert "ml-100k" in capsys.readouterr().out
    assert guard.guarded(command.main, ["diffrec-jax", "run", "--model=nothing"]) == 2
    assert "diffrec" in capsys.readouterr().err


@pytest.mark.parametrize(
    "typed, sentence",
    [
        (["rum"], r"'rum' is no command: choose from quickstart, .*, completion"),
        (["completion"], r"say diffrec-jax completion bash or zsh"),
        (["completion", "fish"], r"say diffrec-jax completion bash or zsh"),
    ],
)
def test_mistakes(typed, sentence, capsys):
    assert guard.guarded(command.main, ["diffrec-jax", *typed]) == 2
    assert re.search(sentence, capsys.readouterr().err)


def test_the_flags_are_those_of_the_help_and_say_whether_they_take_a_value():
    assert {"--seed=", "--quiet", "--noquiet", "--flagfile=", "--model="} <= set(command.flags_of("run"))
    assert {"--workdir=", "--k=", "--explain", "--known="} <= set(command.flags_of("recommend"))
    assert "--explain=" not in command.flags_of("recommend")
    assert {"--topology=", "--all", "--no_search", "--seed="} <= set(command.flags_of("tpu_plan"))


def test_a_command_that_lacks_a_package_completes_no_flags_and_says_so(monkeypatch, capsys):
    def main(argv):
        raise ValueError("a search needs the package optuna")

    monkeypatch.setattr(command.door("sweep"), "main", main)
    assert command.flags_of("sweep") == []
    assert "no flags of sweep are completed: a search needs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line, found",
    [
        ("re", ["report"]),
        ("run --s", ["--seed="]),
        ("run --no", ["--noquiet"]),
        ("completion z", ["zsh"]),
        ("report x", []),
    ],
)
def test_bash_completes_commands_and_flags(line, found):
    words = ["diffrec-jax", *line.split(" ")]
    typed = " ".join(words)
    script = f"{completion.script('bash', 'diffrec-jax', WORDS)}\nCOMP_WORDS=({typed})\nCOMP_CWORD={len(words) - 1}\n"
    said = subprocess.run(
        ["bash", "-c", script + '_diffrec_jax\necho "${COMPREPLY[@]}"'], capture_output=True, text=True
    )
    assert said.stdout.split() == found and not said.stderr


def test_zsh_gets_the_same_words():
    script = completion.script("zsh", "diffrec-jax", WORDS)
    assert script.startswith("#compdef diffrec-jax\n")
    assert "compadd -- run report completion" in script and "run) flags=(--help --seed= --quiet --noquiet) ;;" in script
