"""The quickstart, with the real data replaced by what a machine without a network has."""

import json

import pytest

from diffrec_jax.data import datasets
from diffrec_jax.data.datasets import DatasetUnavailable
from experiments import quickstart
from experiments.running import source

SMALL = ["--dims=[8]", "--steps=3", "--epochs=2", "--eval_every=2"]


@pytest.mark.long
def test_without_a_network_it_says_so_and_goes_on_with_made_up_data(tmp_path, capsys, monkeypatch):
    load = datasets.load

    def unreachable(dataset, **options):
        if dataset == "ml-100k":
            raise DatasetUnavailable("MovieLens-100K cannot be fetched: put ml-100k.zip into the cache by hand")
        return load(dataset, **options)

    monkeypatch.setattr(source.datasets, "load", unreachable)
    code = quickstart.main(["quickstart", *SMALL, f"--workdir={tmp_path / 'run'}"])
    text = capsys.readouterr().out
    assert code == 0
    assert "cannot be fetched" in text and "Going on with a synthetic data set instead." in text
    assert text.count("recommended:") == 3 and text.count("  5. ") == 3
    assert "Popularity" in text and "EASE" in text
    result = json.loads((tmp_path / "run-synthetic" / "result.json").read_text())
    assert result["dataset"] == "synthetic"
    again = quickstart.main(["quickstart", *SMALL, f"--workdir={tmp_path / 'run'}"])
    assert again == 0 and "is finished" in capsys.readouterr().out
