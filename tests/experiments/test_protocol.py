"""Protocols of the sequential literature at the command line: what is held out, what is shown, how it is ranked."""

import json

import numpy as np
import pytest

from experiments import compare, run
from experiments.settings import guard
from experiments.settings.config import configure

HISTORIES = [np.random.default_rng(user).permutation(12)[: 5 + user % 6] + 1 for user in range(24)]


@pytest.fixture
def pairs(tmp_path):
    """A file as the literature has them: ``user item`` on each line, in order."""
    path = tmp_path / "few.txt"
    path.write_text("".join(f"{user + 1} {item}\n" for user, items in enumerate(HISTORIES) for item in items))
    return path


@pytest.fixture
def command(tmp_path, capsys):
    def do(*flags):
        code = guard.guarded(run.main, ["run.py", f"--workdir={tmp_path / 'r'}", "--baselines=false", *map(str, flags)])
        printed = capsys.readouterr()
        result = json.loads((tmp_path / "r" / "result.json").read_text()) if code == 0 else {}
        return code, printed.out + printed.err, result

    return do


def test_leave_one_out_of_a_file_of_the_literature_as_typed(command, pairs):
    code, said, result = command(f"--data={pairs}", "--split=leave_one_out", "--model=markov", "--k_core=0")
    assert code == 0
    assert "test is the last event in the file (the log has no times)" in said
    assert "test history: training and validation events; nothing is trained on validation" in said
    assert (result["split"], result["eval_history"]) == ("leave_one_out", "train+valid")


def test_validation_is_shown_at_test_to_models_of_order_where_the_split_keeps_time():
    def shown(**values):
        return configure(**values).evaluation.eval_history

    log = {"data": "log.csv"}
    assert shown(model="sasrec", split="leave_one_out", **log) == "train+valid" == shown(model="markov", **log)
    assert shown(model="sasrec", split="global_time", dataset="ml-1m") == "train+valid"
    assert shown(model="sasrec", split="leave_one_out", eval_history="train", **log) == "train"
    assert shown(model="sasrec", split="random", **log) == "train" == shown(model="sasrec", split="diffrec", **log)
    assert shown(model="sasrec", dataset="ml-1m_clean") == "train" == shown(model="sasrec", dataset="ml-100k")
    assert shown(model="sasrec", test_data="test.csv", **log) == "train"
    assert shown(model="ease", split="leave_one_out", **log) == "train" == shown(split="leave_one_out", **log)


def test_all_rankings_are_recorded_and_printed_by_name_and_one_is_compared_with_its_like(command, pairs, tmp_path):
    code, said, result = command(f"--data={pairs}", "--split=leave_one_out", "--model=markov", "--k_core=0", "--ks=3,5")
    assert code == 0 and result["ranking"] == "masked"
    assert sorted(result["rankings"]) == ["masked, mid-rank", "unmasked", "unmasked, mid-rank"]
    for name in ("masked", *result["rankings"]):
        assert any(f"│ {name} " in line for line in said.splitlines())
    assert "hit@3" in said and "Test history: train+valid. One item is held out of each user" in said
    report = (tmp_path / "r" / "report.md").read_text()
    assert "**Rankings of the same scores, standard protocol**" in report
    (tmp_path / "r").rename(tmp_path / "masked")
    flags = (
        f"--data={pairs}",
        "--split=leave_one_out",
        "--model=markov",
        "--k_core=0",
        "--ks=3,5",
        "--mask_seen=false",
    )
    code, said, open_result = command(*flags)
    assert code == 0 and open_result["ranking"] == "unmasked" and "few, test, unmasked, official protocol" in said
    assert open_result["test"] == result["rankings"]["unmasked"] and open_result["rankings"]["masked"] == result["test"]
    assert guard.guarded(compare.main, ["compare.py", str(tmp_path / "masked"), str(tmp_path / "r")]) == 2
