"""``python -m experiments.recommend``: files for everybody, tables for one person, sentences for mistakes."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from shop import make, run_folder, shop, split  # noqa: F401 (fixtures)

from diffrec_jax.serving import Vocabulary
from experiments import recommend
from experiments.reporting import lists, named
from experiments.reporting.table_files import TableFile
from experiments.settings import guard


@pytest.fixture
def command(run_folder, capsys):  # noqa: F811
    """Runs the command; returns the exit code and what was printed."""

    def do(*flags, workdir=run_folder):
        code = guard.guarded(recommend.main, ["recommend.py", f"--workdir={workdir}", *flags])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return do


def test_files_for_everybody(command, tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "USERS_PER_CHUNK", 16)
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
    "written",
    [
        b"\xef\xbb\xbfu3\nu1\n",
        b"\xef\xbb\xbfu3\r\nu1\r\n",
        b"  u3 \r\r\n\n\tu1",
        b"u3\ru1\r",
        "\ufeffu3\nu1\n".encode("utf-16"),
        b"\xff\xfe" + "u3\nu1\nu3\n".encode("utf-16-le"),
        b"\xef\xbb\xbfu3\n\xef\xbb\xbfu1\n",
    ],
)
def test_a_file_of_users_is_read_as_it_was_written(command, tmp_path, written):
    (tmp_path / "who.txt").write_bytes(written)
    code, printed = command("--k=1", f"--users_file={tmp_path}/who.txt", f"--out={tmp_path}/some.csv")
    assert code == 0 and "not in the model" not in printed
    assert pyarrow.csv.read_csv(tmp_path / "some.csv")["user"].to_pylist() == ["u3", "u1"]


def test_users_that_nobody_knows_are_an_error_and_some_are_said(command, tmp_path):
    for flag in ("--users=nobody,else", f"--users_file={tmp_path}/who.csv"):
        (tmp_path / "who.csv").write_text('user_id\n"nobody"\nelse\n')
        code, printed = command(flag, f"--out={tmp_path}/top.csv")
        assert code == 2 and "none of the 2 users is in the model (nobody, else): its ids are like 'u" in printed
        assert not (tmp_path / "top.csv").exists()
    code, printed = command("--users=u1,nobody,u1", "--k=2")
    assert code == 0 and "2 recommendations for user u1" in printed and "1 user is (nobody)" in printed
    code, printed = command("--candidates=what", "--users=u1")
    assert code == 2 and "none of the 1 candidates is in the model (what)" in printed


def test_items_are_excluded_and_candidates_come_from_files(command, tmp_path):
    out = tmp_path / "top.parquet"
    assert command("--k=6", "--users=u1", f"--out={out}")[0] == 0
    best = pq.read_table(out)["item"].to_pylist()
    (tmp_path / "sold_out.txt").write_text(f"\ufeff{best[0]}\r\n\r\n{best[2]}\r\n", encoding="utf-8")
    for flag in (f"--exclude={best[0]}, {best[2]}", f"--exclude_file={tmp_path}/sold_out.txt"):
        assert command("--k=4", "--users=u1", flag, f"--out={out}")[0] == 0
        assert pq.read_table(out)["item"].to_pylist() == [best[1], *best[3:6]]
    (tmp_path / "offers.csv").write_text(f'item\n"{best[4]}"\n{best[1]}\n')
    assert command("--k=4", "--users=u1", f"--candidates_file={tmp_path}/offers.csv", f"--out={out}")[0] == 0
    assert pq.read_table(out)["item"].to_pylist() == [best[1], best[4]]


def test_a_table_gives_each_user_candidates_and_exclusions(command, tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "USERS_PER_CHUNK", 2)
    out, own = tmp_path / "top.parquet", {"u5": range(9), "u1": range(20, 32), "nobody": [1], "u3": [3]}
    rows = "".join(f"{user},sku{item}\n" for user, items in own.items() for item in items)
    (tmp_path / "own.csv").write_text("who,sku\n" + rows)
    flags = [f"--candidates_file={tmp_path}/own.csv", "--user_col=who", "--include_seen", "--k=3"]
    code, printed = command(*flags, f"--out={out}")
    table = pq.read_table(out).to_pylist()
    assert code == 0 and "1 user is (nobody) not in the model" in printed
    assert [row["user"] for row in table] == ["u5"] * 3 + ["u1"] * 3 + ["u3"]
    assert all(int(row["item"][3:]) in own[row["user"]] for row in table)
    (tmp_path / "not.tsv").write_text(f"user\titem\nu5\t{table[0]['item']}\n")
    assert command(*flags, f"--exclude_file={tmp_path}/not.tsv", f"--out={out}", "--users=u1,u5")[0] == 2
    del flags[1]  # the usual names need no flag
    (tmp_path / "own.csv").write_text("user,sku\n" + rows)
    assert command(*flags, f"--exclude_file={tmp_path}/not.tsv", f"--out={out}", "--users=u1,u5")[0] == 0
    again = pq.read_table(out).to_pylist()
    assert [row["user"] for row in again] == ["u1"] * 3 + ["u5"] * 3
    assert again[3]["item"] == table[1]["item"] and again[0] == table[3]


def test_scores_of_the_pairs_of_a_file(command, tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "PAIRS_PER_CHUNK", 2)
    (tmp_path / "pairs.csv").write_text("user,item\nu3,sku1\nu1,sku2\nnobody,sku1\nu3,what\n,sku1\nu3,sku2\n")
    code, printed = command(f"--pairs={tmp_path}/pairs.csv", f"--out={tmp_path}/scores.parquet")
    table = pq.read_table(tmp_path / "scores.parquet")
    assert code == 0 and "3 scores of 5 pairs" in printed and "1 item is (what) not in the model" in printed
    assert table["user"].to_pylist() == ["u3", "u1", "u3"] and table["item"].to_pylist() == ["sku1", "sku2", "sku2"]
    code, printed = command(f"--pairs={tmp_path}/pairs.csv")
    assert code == 0 and f"{table['score'][0].as_py():.4f}" in printed
    monkeypatch.setattr(lists, "AT_MOST_PRINTED", 4)
    assert "5 pairs are too many to print: add --out=" in command(f"--pairs={tmp_path}/pairs.csv")[1]


def test_ids_beyond_float64_are_text_in_json_lines(tmp_path):
    ids = np.array([2**53 + 1, 5])
    out = TableFile(tmp_path / "top.jsonl")
    out.as_text = named.beyond_javascript(Vocabulary(np.array([1, 2]), ids), users=True)
    with out:
        out.write(pa.table({"user": [1, 2], "item": ids, "score": [0.5, 0.25], "rank": [1, 1]}))
    lines = [json.loads(line, parse_int=float) for line in (tmp_path / "top.jsonl").read_text().splitlines()]
    assert [line["item"] for line in lines] == [str(2**53 + 1), "5"] and [line["user"] for line in lines] == [1, 2]
    assert named.beyond_javascript(Vocabulary(ids, ids), users=True) == {"user", "item", "because"}
    assert not named.beyond_javascript(Vocabulary.numbers(3, 3), users=True)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--users=,"], "--users=, names no id: separate ids by commas"),
        (["--history= "], "--history=  names no id"),
        (["--users_file="], "--users_file= is empty: give it a value, or leave it out"),
        (["--users=u1", "--exclude_file="], "--exclude_file= is empty"),
        (["--users", ""], "--users is empty"),
        (["--candidates=,"], "--candidates=, names no id"),
        (["--users_file=nowhere.txt"], "--users_file=nowhere.txt cannot be read (No such file or directory)"),
        (["--users_file=."], "--users_file=. cannot be read (Is a directory)"),
        (["--users=u1", "--users_file=nowhere.txt"], "give --users or --users_file, not both"),
        (["--exclude=sku1", "--exclude_file=nowhere.csv"], "give --exclude or --exclude_file, not both"),
        (["--pairs=nowhere.csv"], "--pairs: no file or folder nowhere.csv"),
        (["--pairs=nowhere.csv", "--k=3"], "makes no lists: leave out --k"),
        (["--users=u1", "--user_col=who"], "--user_col and --item_col name columns of a table"),
        (["--users=u1", "--explain", "--exclude=sku1"], "leave out --candidates, --exclude"),
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


@pytest.mark.parametrize("written", [b"", b"\xef\xbb\xbf", b" \r\n\n", b"PAR1\x15\xff\x00", b"u\x001\n"])
def test_files_without_ids_are_named(command, tmp_path, written):
    (tmp_path / "who.txt").write_bytes(written)
    for name in ("users", "exclude", "candidates"):
        code, printed = command(f"--{name}_file={tmp_path}/who.txt", f"--out={tmp_path}/top.csv")
        assert code == 2 and f"--{name}_file={tmp_path}/who.txt" in printed and "write one id on a line" in printed
    assert [file.name for file in tmp_path.iterdir()] == ["who.txt"]


def test_a_table_is_for_users(command, tmp_path):
    (tmp_path / "own.csv").write_text("user,item\nu1,sku1\n")
    code, printed = command("--history=sku1", f"--candidates_file={tmp_path}/own.csv")
    assert code == 2 and "a table of users and items is for users: leave out --history" in printed
    (tmp_path / "own.csv").write_text("user,item\n")
    assert command(f"--pairs={tmp_path}/own.csv")[0] == 2
    (tmp_path / "own.csv").write_text("user,item\nu1,what\n")
    code, printed = command(f"--pairs={tmp_path}/own.csv", f"--out={tmp_path}/scores.csv")
    assert code == 2 and "none of the 1 items is in the model (what)" in printed
    assert not (tmp_path / "scores.csv").exists()


def test_many_users_are_not_printed_and_folders_are_checked(command, monkeypatch, tmp_path):
    monkeypatch.setattr(lists, "AT_MOST_PRINTED", 5)
    assert "40 users are too many to print: add --out=" in command("--k=3")[1]
    code, printed = command(workdir=tmp_path / "nowhere")
    assert code == 2 and "is not there: name the --workdir of a run" in printed
