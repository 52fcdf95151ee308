"""Lists as a folder of parts: the same lists, several processes at once, what is written stays."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from shop import make, run_folder, shop, split  # noqa: F401 (fixtures)

from experiments import recommend
from experiments.reporting import list_parts, lists
from experiments.settings import guard

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def command(run_folder, capsys):  # noqa: F811
    def do(*flags):
        code = guard.guarded(recommend.main, ["recommend.py", f"--workdir={run_folder}", *flags])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return do


def rows_of(folder, kind="parquet"):
    files = sorted(folder.glob(f"part-*.{kind}"))
    if kind == "jsonl":
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]
    read = pq.read_table if kind == "parquet" else pyarrow.csv.read_csv
    return pa.concat_tables([read(file) for file in files]).to_pylist()


def test_parts_hold_what_one_file_does_in_every_format_and_layout(command, tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "USERS_PER_CHUNK", 6)
    assert command("--k=3", f"--out={tmp_path}/top.parquet")[0] == 0
    whole = pq.read_table(tmp_path / "top.parquet").to_pylist()
    for kind in ("parquet", "csv", "jsonl"):
        code, printed = command("--k=3", f"--out={tmp_path}/{kind}/", f"--format={kind}", "--parts=3")
        assert code == 0 and "120 rows for 40 users in" in printed and "3 parts" in printed
        assert [row["item"] for row in rows_of(tmp_path / kind, kind)] == [row["item"] for row in whole]
    by_user = {}
    for row in whole:
        by_user.setdefault(row["user"], []).append((row["item"], row["score"]))
    for kind in ("parquet", "jsonl"):
        folder = tmp_path / f"nested-{kind}"
        assert command("--k=3", f"--out={folder}", f"--format={kind}", "--layout=nested")[0] == 0
        found = rows_of(folder, kind)
        assert {row["user"]: list(zip(row["items"], row["scores"])) for row in found} == by_user
    manifest = json.loads((tmp_path / "csv" / "manifest.json").read_text())
    assert manifest["rows"] == 120 and [each["users"] for each in manifest["files"].values()] == [14, 14, 12]
    assert (tmp_path / "csv" / "_SUCCESS").exists() and manifest["lists"]["k"] == 3


def test_only_what_is_missing_is_made_again(command, tmp_path):
    folder = tmp_path / "lists"
    assert command("--k=2", f"--out={folder}", "--parts=4")[0] == 0
    parts = sorted(folder.glob("part-*"))
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in parts]
    parts[2].unlink()
    (folder / "_SUCCESS").unlink()
    (folder / f".{parts[2].name}.999").write_text("of a process that was killed")
    code, printed = command("--k=2", f"--out={folder}", "--parts=4")
    assert code == 0 and "part 3 of 4" in printed and "part 1 of 4" not in printed
    after = [(file.read_bytes(), file.stat().st_mtime_ns) for file in parts]
    assert [a[0] for a in after] == [b[0] for b in before]
    assert [a[1] == b[1] for a, b in zip(after, before)] == [True, True, False, True]
    assert (folder / "_SUCCESS").exists() and not list(folder.glob(".part*"))


def test_another_process_at_a_part_is_left_alone(command, tmp_path):
    folder = tmp_path / "lists"
    assert command("--k=2", f"--out={folder}", "--parts=4")[0] == 0
    (folder / "part-00001-of-00004.parquet").unlink()
    (folder / "_SUCCESS").unlink()
    other = list_parts.filelock.FileLock(folder / ".00001.lock")
    with other:
        code, printed = command("--k=2", f"--out={folder}", "--parts=4")
    assert code == 0 and "1 of 4 parts are with other processes" in printed and not (folder / "_SUCCESS").exists()
    assert command("--k=2", f"--out={folder}", "--parts=4")[0] == 0 and (folder / "_SUCCESS").exists()


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--out={}/a.parquet", "--parts=2"], "--parts=2 is of a folder of lists: give a folder"),
        (["--out={}/a/", "--layout=nested", "--format=csv"], "csv has none: say --format=parquet or jsonl"),
        (["--out={}/a/", "--parts=0"], "--parts=0 must be at least 1"),
        (["--out={}/a/", "--explain"], "--explain writes one file"),
        (["--out={}/held", "--k=2"], "holds files already, and no lists"),
    ],
)
def test_what_makes_no_folder_is_refused(command, tmp_path, flags, said):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "mine.txt").write_text("x")
    code, printed = command(*(flag.format(tmp_path) for flag in flags))
    assert code == 2 and said in printed


def test_what_differs_in_the_middle_of_many_ids_differs():
    many = np.arange(5_000)
    other = np.where(many == 2_500, -1, many)
    assert list_parts.digest([many]) == list_parts.digest([many.tolist()]) != list_parts.digest([other])


def test_other_lists_do_not_mix(command, tmp_path):
    assert command("--k=2", f"--out={tmp_path}/a")[0] == 0
    code, printed = command("--k=3", f"--out={tmp_path}/a")
    assert code == 2 and "holds other lists (k is 2 there, 3 here)" in printed
    code, printed = command("--k=2", "--exclude=sku3", f"--out={tmp_path}/a")
    assert code == 2 and "holds other lists (of is" in printed


@pytest.mark.long
def test_two_processes_share_the_parts_and_a_killed_one_loses_none(run_folder, tmp_path):  # noqa: F811
    command = [sys.executable, "-m", "experiments.recommend", f"--workdir={run_folder}", "--k=3", "--parts=20"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    start = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*command, f"--out={tmp_path}/both"], **start) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(text.count("rows\n") for text in said) >= 20 and (tmp_path / "both" / "_SUCCESS").exists()
    killed = subprocess.Popen([*command, f"--out={tmp_path}/killed"], **start)
    while not list((tmp_path / "killed").glob("part-*")) and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    subprocess.run([*command, f"--out={tmp_path}/killed"], check=True, **start)
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "both")
