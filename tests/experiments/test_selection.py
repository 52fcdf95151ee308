"""What a run is chosen by and judged at: --select, --ks, --segments; and how little it may say."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import compare, results, run, sweep
from experiments.reporting import evidence, segments
from experiments.settings import guard, selection
from experiments.settings.config import configure

TINY = ["--dataset=tiny", "--dims=[8]", "--steps=3", "--epochs=4", "--eval_every=2", "--batch_size=32"]
MRR = [*TINY, "--select=standard:mrr@3", "--ks=1,5"]


@pytest.fixture
def command(tiny_data, capsys):
    def do(door, *flags):
        data = [f"--data_dir={tiny_data}"] if door in (run, sweep) else []
        code = guard.guarded(door.main, ["door.py", *data, *map(str, flags)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return do


@pytest.fixture
def by_mrr(command, runs, tmp_path):
    """A run chosen by MRR and judged at K = 1 and 5; made once, copied afterwards."""
    kept = runs.parent / "by_mrr"
    if not kept.exists():
        assert command(run, *MRR, f"--workdir={tmp_path / 'r'}")[0] == 0
        shutil.copytree(tmp_path / "r", kept.with_name(f"by_mrr{id(tmp_path)}"))
        kept.with_name(f"by_mrr{id(tmp_path)}").rename(kept)
    return shutil.copytree(kept, tmp_path / "runs" / "r")


def groups_of(folder, path, n_groups=2):
    """A table of groups of the users of a run, without the first of them."""
    users = evidence.read(folder, evidence.PER_USER)["user"].tolist()
    lines = [f"{user},g{n % n_groups}" for n, user in enumerate(users) if n]
    path.write_text("\n".join(["user,group", *lines, "nobody,g0"]) + "\n")
    return users


def test_a_run_says_what_chose_it_and_shows_what_was_evaluated(command, by_mrr):
    result = json.loads((by_mrr / "result.json").read_text())
    assert result["selected_by"] == "validation mrr@3, standard protocol"
    assert {int(name.partition("@")[2]) for name in result["test"]["official"]} == {1, 5}
    assert {int(name.partition("@")[2]) for name in result["valid"]["official"]} == {1, 3, 5}
    assert set(result["baselines"]["ease"]["official"]) == set(result["test"]["official"])
    lines = [json.loads(line) for line in (by_mrr / "metrics.jsonl").read_text().splitlines()]
    best = max(line["valid"]["standard"]["mrr@3"] for line in lines if line["valid"])
    assert result["valid"]["standard"]["mrr@3"] == pytest.approx(best, abs=1e-6)
    about = json.loads((by_mrr / "model" / "model.json").read_text())["about"]
    assert about["selected_by"] == result["selected_by"]
    text = (by_mrr / "report.md").read_text()
    assert "chosen by validation mrr@3, standard protocol" in text and "| recall@1 | recall@5 | ndcg@1 |" in text
    assert "coverage@5" in text and "recall@20" not in text
    code, shown, _ = command(run, *MRR, f"--workdir={by_mrr}")
    assert code == 0 and "is finished" in shown and "recall@5" in shown and "lists of 5: coverage" in shown


def test_a_comparison_shows_what_all_runs_have(command, by_mrr, runs, tmp_path):
    code, text, _ = command(compare, by_mrr, "--nobaselines", f"--out={tmp_path / 'table.csv'}")
    assert code == 0 and "ndcg@5" in text and "coverage@5" in text
    assert (tmp_path / "table.csv").read_text().count("DiffRec") == 4  # recall and NDCG at 1 and 5
    code, _, error = command(compare, by_mrr, "--metrics=recall@20")
    assert code == 2 and "metric 'recall@20' is not in" in error and "recall@5" in error


def test_the_page_of_results_names_the_metric_that_chose(command, by_mrr, runs, tmp_path):
    out = tmp_path / "page.md"
    assert command(results, by_mrr, f"--out={out}")[0] == 0
    text = out.read_text()
    assert "the best validation mrr@3" in text and "| recall@5 | ndcg@1 | ndcg@5 | valid mrr@3 |" in text
    assert "--select=standard:mrr@3 --ks=1,5" in text  # and how to make it again
    code, _, error = command(results, runs / "a-s0", f"--out={out}", "--keep")
    assert code == 2 and "--keep" in error and text == out.read_text()
    plain = tmp_path / "plain.md"
    assert command(results, runs / "a-s0", f"--out={plain}")[0] == 0
    assert "best validation recall@20;" in plain.read_text() and "| valid recall@20 |" in plain.read_text()
    other = json.loads((by_mrr / "config.json").read_text())
    other["config"]["select"] = "ndcg@1"
    shutil.copytree(by_mrr, tmp_path / "runs" / "s")
    (tmp_path / "runs" / "s" / "config.json").write_text(json.dumps(other))
    assert command(results, by_mrr, tmp_path / "runs" / "s", f"--out={out}")[0] == 0
    assert "| valid |" in out.read_text() and " mrr@3 |" in out.read_text() and " ndcg@1 |" in out.read_text()


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--select=ndcg"], "select=ndcg: metric 'ndcg' is unknown: say one of precision, recall"),
        (["--select=ndcg@0"], "select=ndcg@0: metric 'ndcg@0' is unknown"),
        (["--select=mine:ndcg@5"], "select=mine:ndcg@5 names no protocol: say official or standard"),
        (["--ks=0,5"], "ks=(0, 5) must be list lengths"),
        (["--ks=[]"], "ks=() must be list lengths"),
        (["--ks=five"], "--ks=five: 'five' is no list of whole numbers"),
        (["--select=ndcg@5", "--model=ease"], "select=ndcg@5 means nothing to ease, which is fitted in one go"),
        (["--segments=absent.csv"], "segments=absent.csv: there is no such file"),
    ],
)
def test_what_cannot_choose_or_be_evaluated_is_one_sentence(command, tmp_path, flags, sentence):
    code, _, error = command(run, "--dataset=tiny", f"--workdir={tmp_path / 'r'}", *flags)
    assert code == 2 and sentence in error and not (tmp_path / "r").exists()


def test_words():
    assert selection.parse("ndcg@10") == ("official", "ndcg@10")
    assert selection.words(configure().evaluation.select) == "validation recall@20, official protocol"
    assert configure(ks=(5, 1, 5)).evaluation.ks == (1, 5)


def test_a_search_is_by_the_same_metric(command, tmp_path):
    flags = ["--dataset=tiny", "--model=ease", "--trials=2", "--select=ndcg@3", f"--workdir={tmp_path / 's'}"]
    code, text, _ = command(sweep, *flags)
    assert code == 0 and "valid ndcg@3 0." in text and "best trials by validation ndcg@3, official protocol" in text
    assert (tmp_path / "s" / "trials.csv").read_text().startswith("trial,state,valid_ndcg@3,")
    best = (tmp_path / "s" / "best.flags").read_text()
    assert "by validation ndcg@3, official protocol" in best and "\n--select" not in best  # nothing to a run of EASE
    code, _, error = command(sweep, *flags[:-2], flags[-1])
    assert code == 2 and "holds another search (select: 'ndcg@3' there, None now" in error
    code, _, error = command(sweep, *flags, "--ks=1,5")
    assert code == 2 and "ks means nothing to a search" in error


def test_groups_of_users_are_means_of_their_users(command, by_mrr, tmp_path):
    users = groups_of(by_mrr, tmp_path / "users.csv")
    code, text, _ = command(run, *MRR, f"--workdir={by_mrr}", f"--segments={tmp_path / 'users.csv'}")
    assert code == 0 and "Test by user group" in text and "1 users of that file have no held-out items here" in text
    said = json.loads((by_mrr / "result.json").read_text())["segments"]
    assert {name: part["users"] for name, part in said["groups"].items()} == {
        "(no group)": 1,
        "g0": len(range(2, len(users), 2)),
        "g1": len(range(1, len(users), 2)),
    }
    kept = evidence.read(by_mrr, evidence.PER_USER)
    assert said["groups"]["g1"]["test"]["recall@5"] == pytest.approx(np.mean(kept["recall@5"][1::2], dtype=float))
    (ease,) = by_mrr.glob("baselines/ease-*")
    theirs = evidence.read(ease, evidence.PER_USER)["ndcg@1"][1::2]
    assert said["groups"]["g1"]["baselines"]["ease"]["ndcg@1"] == pytest.approx(np.mean(theirs, dtype=float))
    assert "Test by user group" in (by_mrr / "report.md").read_text()
    code, text, _ = command(compare, by_mrr, f"--segments={tmp_path / 'users.csv'}", "--metrics=recall@5")
    assert code == 0 and "By user group" in text and "g1, " in text and f"{np.mean(kept['recall@5'][1::2]):.4f}" in text


def test_groups_are_computed_when_a_run_ends_too(command, runs, tmp_path):
    groups_of(runs / "a-s0", tmp_path / "users.csv", n_groups=3)
    flags = ["--dataset=tiny", "--model=popularity", "--nobaselines", f"--workdir={tmp_path / 'r'}"]
    code, text, _ = command(run, *flags, f"--segments={tmp_path / 'users.csv'}")
    assert code == 0 and "Test by user group" in text
    assert set(json.loads((tmp_path / "r" / "result.json").read_text())["segments"]["groups"]) >= {"g0", "g1", "g2"}


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("user,team\n1,a\n", "has no column 'group': a table of user groups has the columns user and group"),
        ("user,group\n1,a\n1,b\n", "names the user '1' in two groups"),
        ("user,group\n1,\n", "names no user with a group"),
        ("user,group,segment\n1,a,b\n", "which column is the group?"),
        ("user,group\n" + "".join(f"{n},{n}\n" for n in range(60)), "holds 60 groups, and 50 are shown at most"),
        ('user,group\n1,"a\n2,b\n3,c"\n', "column 'group' holds a line break in quotes"),
        ("user,group\nzoe,a\n", "names none of the users of this data ('zoe' there"),
    ],
)
def test_tables_that_are_no_groups_are_one_sentence(command, tmp_path, text, sentence):
    (tmp_path / "users.csv").write_text(text)
    flags = ["--dataset=tiny", "--model=popularity", f"--workdir={tmp_path / 'r'}"]
    code, _, error = command(run, *flags, f"--segments={tmp_path / 'users.csv'}")
    assert code == 2 and sentence in error and not (tmp_path / "r").exists()


def test_groups_may_be_numbers_and_columns_that_are_none_are_one_sentence(tmp_path):
    file = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user": [1.0, 2.0, None], "group": [30.5, float("nan"), 7.0]}), file)
    assert segments.read(file).of(np.array([1, 2])).tolist() == ["30.5", "(no group)"]
    pq.write_table(pa.table({"user": [1, 2], "group": [["a"], ["b"]]}), file)
    with pytest.raises(ValueError, match=r"holds columns of int64 and list<.* write both as text"):
        segments.read(file)


def test_a_user_named_twice_in_one_group_and_ids_of_any_spelling_are_fine(tmp_path):
    (tmp_path / "a.tsv").write_text("user_id\tsegment\n 7\tx\n7\tx\n8\ty\n")
    groups = segments.read(tmp_path / "a.tsv")
    assert groups.of(np.array([8, 9, 7])).tolist() == ["y", "(no group)", "x"]
    assert groups.of(np.array(["7", "seven"], object)).tolist() == ["x", "(no group)"]


def test_a_quiet_run_prints_where_its_result_is_and_nothing_else(command, tmp_path):
    flags = ["--dataset=tiny", "--model=popularity", "--nobaselines", "--quiet", f"--workdir={tmp_path / 'r'}"]
    assert command(run, *flags) == (0, f"{tmp_path / 'r' / 'result.json'}\n", "")
    assert command(run, *flags) == (0, f"{tmp_path / 'r' / 'result.json'}\n", "")  # finished
    assert "--quiet" not in (tmp_path / "r" / "flags.txt").read_text()
    code, out, error = command(run, *flags, "--half_life=2")
    assert (code, out) == (2, "") and "means nothing to popularity" in error
    code, out, _ = command(run, *flags[:-1], "--seeds=2", f"--workdir={tmp_path / 'q'}")
    assert code == 0 and out == f"{tmp_path / 'q-s0' / 'result.json'}\n{tmp_path / 'q-s1' / 'result.json'}\n"
