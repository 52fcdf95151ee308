"""Protocols of the sequential literature at the command line: what is held out, what is shown, how it is ranked."""

import json

import numpy as np
import pytest

from experiments import compare, run
from experiments.reporting import evidence
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


@pytest.fixture
def visits(tmp_path):
    """A log by session, without people: the session, the thing, the minute."""
    path, lines = tmp_path / "visits.csv", []
    for n in range(40):
        lines += [f"s{n},i{(n + k) % 5},{60 * (10 * n + k)}" for k in (0, 1, 0, 2)]
    path.write_text("\n".join(["sid,sku,at", *lines]) + "\n")
    return path


VISITS = ["--session_col=sid", "--item_col=sku", "--time_col=at", "--model=markov", "--ks=1,3"]


def test_a_log_by_session_is_split_by_whole_sessions(command, visits, tmp_path):
    code, said, result = command(f"--data={visits}", *VISITS, "--split_shares=60,20,20")
    assert code == 0 and (result["split"], result["eval_history"]) == ("sessions", "train")
    assert "40 users x 5 items" in said and "Sessions: 24 train, 8 valid, 8 test." in said
    assert "k_core(5, of_users=2): 120 -> 120 events" in said
    history = evidence.read(tmp_path / "r", evidence.PER_USER)["history"]
    assert history.tolist() == [2] * 8  # of three things the first two, since repeats are dropped


def test_repeats_stay_in_histories_and_may_be_recommended(command, visits, tmp_path):
    flags = [f"--data={visits}", *VISITS, "--repeats=keep", "--mask_seen=false"]
    code, said, result = command(*flags)
    assert code == 0 and "160 -> 160 events" in said
    assert evidence.read(tmp_path / "r", evidence.PER_USER)["history"].tolist() == [3] * 8
    assert result["ranking"] == "unmasked" and result["test"]["standard"]["hit@3"] == 1.0
    (tmp_path / "r").rename(tmp_path / "of_order")
    code, said, _ = command(*[flag for flag in flags if not flag.startswith("--model")], "--model=ease")
    assert code == 0 and "ease reads each item of a history once: repeated ones count as the first" in said


@pytest.mark.parametrize(("flags", "sentence"), [
    (["--session_col=visit"], "has no column 'visit' for the session; present are 'sid', 'sku', 'at'"),
    (["--session_col=sid", "--user_col=at"], "session_col=sid and user_col=at: a log is split by one of the two"),
    (["--session_col=sid", "--split=leave_one_out"], "split=leave_one_out would part sessions"),
    (["--split=sessions"], "split=sessions needs to know the sessions: name their column by --session_col"),
    (["--session_col=sid", "--test_data=b.csv"], "session_col means nothing to a split of your own files"),
    (["--user_col=sid", "--repeats=keep", "--duplicates=last"], "duplicates=last means nothing where repeats are kept"),
    (["--user_col=sid", "--repeats=keep", "--split=diffrec"], "repeats=keep means nothing to split=diffrec"),
])  # fmt: skip
def test_flags_that_contradict_each_other_are_refused(command, visits, flags, sentence):
    code, said, _ = command(f"--data={visits}", "--item_col=sku", "--model=markov", *flags)
    assert code == 2 and sentence in said


def test_no_order_and_what_is_odd_about_one_is_said_before_anything_is_written(command, visits, tmp_path):
    path = tmp_path / "sorted.csv"
    path.write_text("who,sku\n" + "".join(f"u{n},i{k}\n" for n in range(10) for k in range(5)))
    flags = [f"--data={path}", "--user_col=who", "--item_col=sku"]
    code, said, _ = command(*flags, "--model=sasrec")
    assert code == 2 and "name the time column (time=…, --time_col=…)" in said and not (tmp_path / "r").exists()
    assert command(*flags, "--model=popularity")[0] == 0
    (tmp_path / "r").rename(tmp_path / "popularity")
    tied = tmp_path / "tied.csv"
    tied.write_text(
        "sid,sku,at\n" + "".join(f"s{n},i{(n + k) % 5},{n + k // 2}\n" for n in range(20) for k in range(4))
    )
    code, said, _ = command(f"--data={tied}", *VISITS)
    assert code == 0 and "training events have the time of the one before in the same history: the item id" in said


# HR@10 and NDCG@10 at the middle of ties: masked, unmasked (published floors, which tests/models/test_markov.py counts)
PUBLIC = {
    ("beauty", "markov"): (0.0670, 0.0440, 0.0661, 0.0428),
    ("beauty", "transitions"): (0.0846, 0.0531, 0.0812, 0.0497),
    ("ml-1m_sasrec", "markov"): (0.2144, 0.1259, 0.1887, 0.1073),
    ("ml-1m_sasrec", "transitions"): (0.2609, 0.1527, 0.2202, 0.1269),
}


@pytest.mark.long
@pytest.mark.parametrize(("name", "model"), PUBLIC)
def test_one_command_prints_the_public_floors(command, real_data, name, model):
    path = real_data(f"sequential/{name}.txt")
    code, said, result = command(f"--data={path}", "--split=leave_one_out", f"--model={model}")
    found = [result["rankings"][f"{way}, mid-rank"]["official"] for way in ("masked", "unmasked")]
    numbers = [of[metric] for of in found for metric in ("hit@10", "ndcg@10")]
    np.testing.assert_allclose(numbers, PUBLIC[name, model], atol=1e-4)
    assert code == 0 and all(f"{number:.4f}" in said for number in numbers)
