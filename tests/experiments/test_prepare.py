"""The command that prepares a folder, and runs on what it made."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffrec_jax.data.prepared import Meta
from experiments import prepare, run
from experiments.running import source
from experiments.settings import cli, guard, recipes

NAMES = ["--user_col=who", "--item_col=sku", "--time_col=at", "--k_core=2"]
SMALL = ["--dims=[8]", "--steps=3", "--epochs=2", "--batch_size=16", "--baselines=false"]


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    columns = {"who": rng.integers(0, 30, 500), "sku": rng.integers(0, 25, 500), "at": 1_600_000_000 + np.arange(500)}
    pq.write_table(pa.table(columns), "log.parquet")
    return tmp_path


def prepared(*flags):
    return guard.guarded(prepare.main, ["prepare.py", "--data=log.parquet", *NAMES, *flags])


@pytest.mark.parametrize("engine", ["arrow", "duckdb"])
def test_a_run_on_the_folder_is_the_run_on_the_log(log, engine, capsys):
    if engine == "duckdb":
        pytest.importorskip("duckdb")
    assert prepared(f"--engine={engine}", "--memory=500MB", "--out=shop", "--parts=2") == 0
    said = capsys.readouterr().out
    assert "shop: 30 users x 25 items" in said and "2 parts" in said
    for flags in (["--data=shop", "--workdir=a"], ["--data=log.parquet", *NAMES, "--workdir=b"]):
        assert guard.guarded(run.main, ["run.py", *flags, *SMALL]) == 0
    losses = [[json.loads(line)["loss"] for line in Path(f, "metrics.jsonl").read_text().splitlines()] for f in "ab"]
    tests = [json.loads(Path(f, "result.json").read_text())["test"] for f in "ab"]
    assert losses[0] == losses[1] and tests[0] == tests[1]


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--out="], "no folder is named: say where to, as in --out=prepared/shop"),
        (["--out=x", "--memory=lots"], "memory=lots is no amount of memory: write it like 4GB or 500MB"),
        (["--out=x", "--engine=dask"], "invalid choice: 'dask'"),
        (["--out=x", "--split=random"], "split=random cannot be prepared"),
        (["--out=x", "--model=sasrec"], "unrecognized arguments: --model=sasrec"),
        (["--out=x", "--header=perhaps"], "header: 'perhaps' must be true or false"),
    ],
)
def test_what_cannot_be_prepared_is_one_sentence(log, flags, said, capsys):
    assert prepared(*flags) == 2
    assert said in capsys.readouterr().err and not (log / "x").exists()


def test_what_was_decided_in_the_folder_is_not_said_again(log):
    assert prepared("--out=shop") == 0
    for flag in ("--k_core=3", "--split=leave_one_out", "--split_shares=80,10,10", "--time_col=at"):
        with pytest.raises(
            ValueError, match=f"{flag[2:].split('=')[0]}=.* was decided when shop was prepared: drop it"
        ):
            source.load(cli.parse(["run.py", "--data=shop", flag], usage=""))
    noisy = source.load(cli.parse(["run.py", "--data=shop", "--noise=random:0.5"], usage=""))
    assert len(noisy.train) > Meta.read("shop").n_events["train"]


def test_a_log_that_memory_does_not_hold_goes_through_a_folder_by_itself(log, monkeypatch):
    pytest.importorskip("duckdb")
    plain = source.load(cli.parse(["run.py", "--data=log.parquet", *NAMES], usage=""))
    monkeypatch.setattr(source, "free_memory", lambda: 50_000)
    monkeypatch.setattr(source, "FOR_THE_ENGINE", 400_000_000 / 50_000)
    split = source.load(cli.parse(["run.py", "--data=log.parquet", *NAMES, "--workdir=r"], usage=""))
    assert split.notes[0] == "the log is larger than memory: engine duckdb prepared it into r/prepared"
    assert source.fingerprint(split) == source.fingerprint(plain)


def test_amounts_of_memory():
    assert [recipes.bytes_of(text) for text in ("", "4GB", "500MB", "1.5g", "1024")] == [
        0, 4 * 10**9, 5 * 10**8, 1_500_000_000, 1024,
    ]  # fmt: skip


def test_the_command_leaves_the_memory_of_jax_to_the_engine():
    code = "import sys, experiments.prepare; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_titles_of_another_encoding_come_along_with_a_parquet_log(log):
    (log / "items.csv").write_bytes("sku,title\n0,Caf\u00e9\n".encode("latin-1"))
    titles = ["--titles=items.csv", "--title_item_col=sku", "--title_col=title", "--encoding=latin-1"]
    assert prepared("--out=shop", *titles) == 0
    assert "Caf\u00e9" in source.load(cli.parse(["run.py", "--data=shop"], usage="")).item_titles.tolist()
