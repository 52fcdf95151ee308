"""``python -m experiments.recommend``: files for everybody, tables for one person, sentences for mistakes."""

import json
import sys

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from shop import make, run_folder, shop, split  # noqa: F401 (fixtures)

from experiments import cli, recommend


@pytest.fixture
def command(run_folder, capsys, monkeypatch):  # noqa: F811
    """Runs the command; returns the exit code and what was printed."""

    def do(*flags, workdir=run_folder):
        monkeypatch.setattr(sys, "argv", ["recommend.py", f"--workdir={workdir}", *flags])
        code = cli.guarded(recommend.main)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return do


def test_files_for_everybody(command, tmp_path, monkeypatch):
    monkeypatch.setattr(recommend, "USERS_PER_CHUNK", 16)
    code, printed = command("--k=3", f"--out={tmp_path}/top.parquet")
    table = pq.read_table(tmp_path / "top.parquet")
    assert code == 0 and "120 rows for 40 users" in printed
    assert table.column_names == ["user", "item", "score", "rank"] and len(table) == 120
    assert command("--k=3", f"--out={tmp_path}/top.csv")[0] == 0
    assert command("--k=3", f"--out={tmp_path}/top.jsonl")[0] == 0
    read = pyarrow.csv.read_csv(tmp_path / "top.csv")
    assert read["item"].to_pylist() == table["item"].to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "top.jsonl").read_text().splitlines()]
    assert lines == table.to_pylist()
    (tmp_path / "who.txt").write_text("u3\nnobody\n\nu1\n")
    code, printed = command("--k=2", f"--users_file={tmp_path}/who.txt", f"--out={tmp_path}/some.parquet")
    assert pq.read_table(tmp_path / "some.parquet")["user"].to_pylist() == ["u3", "u3", "u1", "u1"]
    assert code == 0 and "1 user is (nobody) not in the model: skipped." in printed
    code, _ = command("--k=2", "--users=u3", "--explain", f"--out={tmp_path}/why.parquet")
    assert code == 0 and "because" in pq.read_table(tmp_path / "why.parquet").column_names
    assert not [f for f in tmp_path.iterdir() if f.name.startswith(".")]


def test_tables_with_titles_and_reasons(command):
    code, printed = command("--history=sku1,sku2,what", "--k=3", "--explain")
    assert code == 0 and "3 recommendations for this history" in printed and "because of" in printed
    assert "Thing number" in printed and "1 item is (what) not in the model: left out." in printed
    code, printed = command("--users=u1,u2", "--k=2")
    assert code == 0 and "for user u1" in printed and "for user u2" in printed
    code, printed = command("--history=what", "--k=2")
    assert code == 0 and "by popularity" in printed
    code, printed = command("--history=sku1", "--k=9", "--candidates=sku4,sku5")
    assert code == 0 and "2 recommendations" in printed


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--k=0"], "--k=0 must be at least 1"),
        (["--out=top.xlsx"], "--out=top.xlsx must end in .parquet, .csv or .jsonl"),
        (["--out=nowhere/top.csv"], "there is no folder nowhere"),
        (["--history=sku1", "--users=u1"], "leave out --users"),
        (["--users=u1", "--explain", "--candidates=sku1"], "leave out --candidates"),
    ],
)
def test_mistakes(command, flags, sentence):
    code, printed = command(*flags)
    assert code == 2 and sentence in printed and "Traceback" not in printed


def test_many_users_are_not_printed_and_folders_are_checked(command, monkeypatch, tmp_path):
    monkeypatch.setattr(recommend, "AT_MOST_PRINTED", 5)
    assert "40 users are too many to print: add --out=" in command("--k=3")[1]
    code, printed = command(workdir=tmp_path / "nowhere")
    assert code == 2 and "is not there: name the --workdir of a run" in printed
