"""Runs in MLflow and Weights & Biases, on this machine, and trackers that fail."""

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from experiments import run
from experiments.running import trackers
from experiments.running.trackers import Tracking
from experiments.settings import guard

SMALL = [
    "--dataset=tiny",
    "--dims=[8]",
    "--steps=3",
    "--epochs=4",
    "--eval_every=2",
    "--batch_size=32",
    "--baselines=false",
]


class Recorder:
    """A tracker that keeps what it is told, and fails where asked."""

    def __init__(self, fails=""):
        self.fails, self.told = fails, []

    def _tell(self, name, *what):
        if name == self.fails:
            raise ConnectionError("no route to host\nand more")
        self.told.append((name, *what))

    def begin(self, project, name, config, known):
        self._tell("begin", project, name, known)
        return known or "number-1"

    def scalars(self, step, values):
        self._tell("scalars", step, dict(values))

    def keep(self, paths):
        self._tell("keep", [path.name for path in paths])

    def finish(self, *, failed):
        self._tell("finish", failed)


@pytest.fixture
def start(tiny_data, tmp_path, monkeypatch, capsys):
    def do(tracker, *flags):
        monkeypatch.setattr(trackers, "MLflow", lambda: tracker)
        words = ["run.py", f"--data_dir={tiny_data}", f"--workdir={tmp_path / 'run'}", "--track=mlflow", *SMALL, *flags]
        code = guard.guarded(run.main, words)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return do


def test_a_run_tells_its_curves_its_result_and_its_files(start, tmp_path):
    tracker = Recorder()
    assert start(tracker)[0] == 0
    names = [each[0] for each in tracker.told]
    assert names == ["begin", *["scalars"] * 5, "keep", "finish"] and tracker.told[0][1:] == ("tiny", "run", None)
    assert "valid_official/recall@20" in tracker.told[2][2] and "test_official/recall@20" in tracker.told[5][2]
    assert tracker.told[6][1] == ["result.json", "flags.txt", "report.html"] and tracker.told[-1] == ("finish", False)
    assert json.loads((tmp_path / "run" / "tracking.json").read_text()) == {"mlflow": "number-1"}
    again = Recorder()
    assert start(again, "--epochs=6")[0] == 0
    assert again.told[0] == ("begin", "tiny", "run", "number-1")


@pytest.mark.parametrize("fails", ["begin", "scalars", "keep"])
def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(start, tmp_path, fails):
    code, text = start(Recorder(fails))
    assert code == 0 and (tmp_path / "run" / "result.json").exists()
    said = "warning: mlflow does not take what it is told (no route to host): the run goes on without it"
    assert text.count(said) == 1


def test_a_package_that_is_missing_is_said(monkeypatch):
    for name in trackers.TRACKERS:
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ValueError, match=rf"--track={name} needs a package: pip install 'diffrec_jax\[{name}\]'"):
            Tracking.of(name, Console(quiet=True))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_mlflow_holds_what_it_was_told(tiny_data, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    store = f"file:{tmp_path}/mlruns"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(store)
    words = ["run.py", f"--data_dir={tiny_data}", f"--workdir={tmp_path / 'run'}", "--track=mlflow", *SMALL]
    assert guard.guarded(run.main, words) == 0
    number = json.loads((tmp_path / "run" / "tracking.json").read_text())["mlflow"]
    found = mlflow.get_run(number)
    assert found.data.params["epochs"] == "4" and found.info.status == "FINISHED"
    assert found.data.metrics["test_official/recall_at_20"] > 0
    held = {item.path for item in mlflow.MlflowClient().list_artifacts(number)}
    assert held == {"result.json", "flags.txt", "report.html"}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_wandb_keeps_it_on_this_machine(tiny_data, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = ["run.py", f"--data_dir={tiny_data}", f"--workdir={tmp_path / 'run'}", "--track=wandb", *SMALL]
    assert guard.guarded(run.main, words) == 0
    number = json.loads((tmp_path / "run" / "tracking.json").read_text())["wandb"]
    assert list(Path(tmp_path, "wandb").glob(f"offline-run-*-{number}/*.wandb"))
