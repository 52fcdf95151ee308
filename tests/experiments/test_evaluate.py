"""``python -m experiments.evaluate``: somebody else's lists beside our runs."""

import gzip
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import diffrec_jax as dr
from diffrec_jax.data import datasets
from experiments import compare, evaluate, report, results, run
from experiments.reporting import evidence, systems
from experiments.settings import guard


@pytest.fixture
def command(tiny_data, capsys):
    def do(door, *flags):
        code = guard.guarded(door.main, ["door.py", *map(str, flags)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return do


@pytest.fixture(scope="module")
def lists(runs):
    """The lists of a run, as somebody else might hand them in: in no order."""
    recommender = dr.load(runs / "a-s0")
    found = recommender.recommend(users=recommender.vocabulary.user_ids, k=100)
    order = np.random.default_rng(0).permutation(len(found["user"]))
    return pa.table({name: found[name][order] for name in ("user", "item", "score", "rank")})


def write(table, path):
    if path.name.endswith(".parquet"):
        pa.parquet.write_table(table, path)
    elif path.name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        delimiter = "," if ".csv" in path.name else "\t"
        rows = [table.column_names, *map(list, zip(*(column.to_pylist() for column in table.columns)))]
        text = "".join(delimiter.join(map(str, row)) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.parquet", "a.jsonl"])
def test_our_own_lists_in_any_format_get_the_numbers_of_their_run(command, runs, lists, tmp_path, name):
    file, folder = write(lists, tmp_path / name), tmp_path / "theirs"
    code, text, error = command(evaluate, f"--lists={file}", f"--like={runs / 'a-s0'}", f"--workdir={folder}")
    assert code == 0 and "the lists of theirs" in text, error
    ours, theirs = (json.loads((place / "result.json").read_text()) for place in (runs / "a-s0", folder))
    for protocol in ("official", "standard"):
        assert theirs["test"][protocol] == pytest.approx(ours["test"][protocol], abs=1e-6)
    assert theirs["beyond"] == pytest.approx(ours["beyond"], abs=1e-6)
    for kept in (evidence.PER_USER, evidence.PER_ITEM):
        mine, others = evidence.read(runs / "a-s0", kept), evidence.read(folder, kept)
        assert mine.keys() == others.keys()
        for column, values in mine.items():
            if values.dtype.kind in "if":
                np.testing.assert_allclose(others[column], values, atol=1e-6, err_msg=column)


def test_they_stand_in_a_comparison_and_nowhere_else(command, runs, lists, tmp_path):
    folder = tmp_path / "theirs"
    shutil.copytree(runs / "a-s0", tmp_path / "a")
    flags = [f"--lists={write(lists, tmp_path / 'als.csv')}", f"--like={tmp_path / 'a'}", f"--workdir={folder}"]
    assert command(evaluate, *flags, "--quiet") == (0, f"{folder / 'result.json'}\n", "")
    code, text, _ = command(compare, tmp_path / "a", folder, "--nobaselines")
    assert code == 0 and "als" in text and "+0.0000" in text
    code, text, _ = command(results, tmp_path / "a", folder, f"--out={tmp_path / 'page.md'}")
    assert code == 0 and "holds lists of somebody else, which have no command" in text
    assert "als" not in (tmp_path / "page.md").read_text()
    code, _, error = command(report, folder)
    assert code == 2 and "lists of somebody else: they are seen in a comparison" in error
    code, _, error = command(run, "--dataset=tiny", f"--workdir={folder}")
    assert code == 2 and "holds the result of somebody else's lists" in error
    other = write(lists.slice(0, 50), tmp_path / "mine.csv")
    code, _, error = command(evaluate, f"--lists={other}", *flags[1:], "--name=als")
    assert code == 2 and "holds another result (lists: " in error
    assert command(evaluate, *flags)[0] == 0  # the same ones again
    again = [f"--lists={other}", f"--like={tmp_path / 'a'}", "--name=als", f"--workdir={tmp_path / 'more'}"]
    assert command(evaluate, *again)[0] == 0
    names = [system.name for system in systems.group([systems.read(folder), systems.read(tmp_path / "more")])]
    assert names == ["als (theirs)", "als (more)"]  # other lists of one name are no seeds of one system


def test_columns_and_data_by_flags_lists_by_group_and_what_is_odd_is_said(command, tiny_data, tmp_path):
    split = datasets.load("tiny", data_dir=tiny_data)
    user = split.user_ids[np.unique(split.test.users)[0]]
    item = split.item_ids[split.test.items[split.test.users == np.unique(split.test.users)[0]][0]]
    table = pa.table({"who": [user, user, 10**6], "what": [10**6, item, item], "prediction": [0.5, 0.7, 0.1]})
    (tmp_path / "users.csv").write_text(f"user,group\n{user},x\n")
    code, text, error = command(
        evaluate, f"--lists={write(table, tmp_path / 'a.parquet')}", "--list_user=who", "--list_item=what", "--ks=1,2",
        "--dataset=tiny", f"--data_dir={tiny_data}", f"--workdir={tmp_path / 'r'}", "--name=theirs",
        f"--segments={tmp_path / 'users.csv'}",
    )  # fmt: skip
    assert code == 0, error
    assert "1 lines are of users who are not in this data" in text and "1 listed items are not in this data" in text
    assert "users with held-out items have no list, and count as 0" in text and "Test by user group" in text
    found = json.loads((tmp_path / "r" / "result.json").read_text())
    assert found["model"] == "theirs" and found["segments"]["groups"]["x"]["test"]["hit@1"] == 1.0
    assert {int(name.partition("@")[2]) for name in found["test"]["official"]} == {1, 2}


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ([], "no lists are named: say --lists=FILE"),
        (["--lists=absent.csv", "--dataset=tiny"], "lists=absent.csv: there is no such file"),
        (["--lists={}", "--name=ease"], "name=ease is a model of ours"),
        (["--lists={}", "--model=ease"], "model means nothing to lists, which are there already"),
        (["--lists={}", "--like=absent"], "like=absent holds no config.json"),
        (["--lists={}", "--like={like}", "--dataset=tiny"], "brings its own dataset: drop one of them"),
        (["--lists={}", "--list_score=nope"], "has no column 'nope' for the score; present are 'user', 'item'"),
        (["--lists={}", "--list_score=score", "--list_rank=rank"], "lists are ordered by one"),
        (["--lists={}", "--like={like}", "--workdir={like}"], "holds a run: choose another --workdir"),
        (["--lists={}", "--like={like}", "--ks=0"], "ks=(0,) must be list lengths"),
    ],
)
def test_what_is_no_list_is_one_sentence(command, runs, lists, tmp_path, flags, sentence):
    file = write(lists.slice(0, 20), tmp_path / "a.csv")
    like = runs / "a-s0"
    before = sorted(path.name for path in like.iterdir())
    flags = [flag.format(file, like=like) for flag in flags]
    flags = flags if any("workdir" in flag for flag in flags) else [*flags, f"--workdir={tmp_path / 'r'}"]
    code, _, error = command(evaluate, *flags)
    assert code == 2 and sentence in error and not (tmp_path / "r").exists()
    assert sorted(path.name for path in like.iterdir()) == before


def test_files_that_are_no_lists_are_one_sentence(command, runs, tmp_path):
    for name, text, sentence in (
        ("a.xlsx", "", "must end in one of .csv, .tsv, .txt, .jsonl"),
        ("a.csv", "user,product\n1,2\n", "has no column that is known as the item: name it, as in --list_item=COLUMN"),
        ("b.csv", "user,item,score\n1,2,high\n", "the scores of the lists are no numbers"),
        ("c.csv", "user,item,score\n1,2,nan\n", "line 1 of the lists has the score nan"),
        ("d.csv", 'user,item\n1,"2\n1,3\n1,4"\n', "column 'item' holds a line break in quotes"),
        ("e.csv", "user,item\n1,2,3\n", "cannot be read"),
        ("f.csv", "", "cannot be read"),
        ("g.jsonl", "{", "cannot be read"),
        ("h.parquet", "no", "cannot be read"),
    ):
        (tmp_path / name).write_text(text)
        code, _, error = command(
            evaluate, f"--lists={tmp_path / name}", f"--like={runs / 'a-s0'}", f"--workdir={tmp_path / 'r'}"
        )
        assert code == 2 and sentence in error and error.count("\n") == 1, (name, error)
        assert not (tmp_path / "r").exists()
