"""Several seeds, and what a run keeps beside its averages."""

import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from diffrec_jax.data import datasets
from diffrec_jax.models.baselines import EASE
from experiments import run
from experiments.reporting import evidence, systems
from experiments.settings import guard


@pytest.fixture
def command(tiny_data, runs, capsys):
    def do(*flags):
        code = guard.guarded(run.main, ["run.py", f"--data_dir={tiny_data}", *flags])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return do


def test_the_averages_are_those_of_the_users(runs, tiny_data):
    split = datasets.load("tiny", data_dir=tiny_data)
    for folder in (runs / "a-s0", *(runs / "a-s0" / "baselines").iterdir()):
        result = json.loads((folder / "result.json").read_text())
        users = evidence.read(folder, evidence.PER_USER)
        for name, mean in result["test"]["standard"].items():
            assert np.mean(users[name], dtype=float) == pytest.approx(mean, abs=1e-7), name
        row = {id_: n for n, id_ in enumerate(split.user_ids.tolist())}
        of_user = [row[id_] for id_ in users["user"].tolist()]
        np.testing.assert_array_equal(users["history"], split.train.csr().lengths()[of_user])
        np.testing.assert_array_equal(users["held_out"], split.test.csr().lengths()[of_user])
        items = evidence.read(folder, evidence.PER_ITEM)
        assert items["item"].tolist() == split.item_ids.tolist()
        hits, truth = items["hits@20"].sum(), items["truth"].sum()
        found = np.sum(users["recall@20"].astype(float) * users["held_out"])
        assert hits == pytest.approx(found, abs=1e-3) and truth == users["held_out"].sum()
        assert np.mean(items["listed@20"] > 0) == pytest.approx(result["beyond"]["coverage@20"], abs=1e-6)


def test_seeds_have_folders_of_their_own_and_finished_ones_are_not_repeated(command, runs):
    flags = json.loads((runs / "a-s0" / "config.json").read_text())["config"]
    assert flags["seed"] == 0 and flags["seeds"] == 1
    untouched = os.stat(runs / "a-s0" / "result.json").st_mtime_ns
    again = ["--dataset=tiny", "--dims=8", "--steps=3", "--epochs=4", "--eval_every=2", "--batch_size=32"]
    code, text = command(*again, "--seeds=2", f"--workdir={runs / 'a'}")
    assert code == 0 and text.count("is finished") == 2 and "mean ± standard deviation over seeds 0-1" in text
    values = [systems.read(runs / f"a-s{n}").result["test"]["official"]["recall@20"] for n in (0, 1)]
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    assert f"{mean:.4f} ± {deviation:.4f}" in text
    assert os.stat(runs / "a-s0" / "result.json").st_mtime_ns == untouched
    code, text = command(*again, "--seeds=0")
    assert code == 2 and "seeds=0 must be at least 1" in text


def test_baselines_are_computed_once_for_runs_that_lie_together(command, runs, tmp_path, monkeypatch):
    runs = shutil.copytree(runs, tmp_path / "runs")
    one, other = ({p.name for p in (runs / f"a-s{n}" / "baselines").iterdir()} for n in (0, 1))
    assert one == other and len(one) == 2
    monkeypatch.setattr(EASE, "fit", lambda *a: pytest.fail("computed again"))
    result = (runs / "a-s1" / "result.json").read_text()
    monkeypatch.chdir(runs / "a-s1")
    for workdir in (str(runs / "a-s1"), "."):
        (runs / "a-s1" / "result.json").unlink()
        for folder in (runs / "a-s1" / "baselines").iterdir():
            (folder / "result.json").unlink()
        code, text = command(f"--flagfile={runs / 'a-s1' / 'flags.txt'}", f"--workdir={workdir}")
        assert code == 0, text
        timeless = [{k: v for k, v in json.loads(t).items() if k not in ("seconds", "peak_host_bytes")}
                    for t in (result, (runs / "a-s1" / "result.json").read_text())]  # fmt: skip
        assert timeless[0] == timeless[1]


def test_missing_and_damaged_evidence_is_named(runs, tmp_path):
    with pytest.raises(ValueError, match=r"has no per_user.parquet.*delete its result.json and run its command again"):
        evidence.read(tmp_path, evidence.PER_USER)
    (tmp_path / "per_user.parquet").write_text("no table")
    with pytest.raises(ValueError, match=r"per_user.parquet is damaged"):
        evidence.read(tmp_path, evidence.PER_USER)
    assert pq.read_table(runs / "t" / "per_user.parquet").num_rows > 0 and not (runs / "t" / "baselines").exists()
