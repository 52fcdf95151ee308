"""The dataset list and the ingest benchmark, run small."""

import json

from experiments import datasets
from experiments.benchmarks import ingest
from experiments.settings import guard


def test_the_list_names_every_dataset_with_its_state(tmp_path, capsys):
    assert datasets.main(["datasets", f"--data_dir={tmp_path}", f"--cache_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out
    for name in ("ml-100k", "gowalla", "fetchable", "by hand", "here", "md5:0e33842e24a9c977be4e0107933c0723"):
        assert name in out


def test_one_dataset_is_described_and_an_unknown_one_refused(tmp_path, capsys):
    assert datasets.main(["datasets", "synthetic", f"--data_dir={tmp_path}"]) == 0
    assert "Leakage check" in " ".join(capsys.readouterr().out.split())
    assert guard.guarded(datasets.main, ["datasets", "absent", f"--data_dir={tmp_path}"]) == 2
    assert "no dataset 'absent'" in capsys.readouterr().err


def test_ingest_ends_with_one_json_line(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("sys.argv", ["ingest", "--events=20000", f"--log={tmp_path / 'log.parquet'}"])
    ingest.main()
    result = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert {"seconds", "peak_bytes", "events_per_second"} <= result.keys()
    assert result["events"] == 20_000
    assert 0 < result["kept"] <= 20_000
    assert result["peak_bytes"] > 2**20


def test_ingest_by_an_engine_measures_the_command_that_prepares(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(ingest, "AT_ONCE", 1_000)
    monkeypatch.setattr(ingest, "EVENTS_PER_FILE", 3_000)
    monkeypatch.setattr("sys.argv", ["ingest", "--events=5000", f"--log={tmp_path / 'log'}", "--engine=arrow"])
    ingest.main()
    result = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert len(list((tmp_path / "log").iterdir())) == 2 and result["peak_bytes"] > 2**20
    assert 0 < result["kept"] <= result["events"] == 5_000 and result["parts"] == 1
