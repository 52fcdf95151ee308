"""What the worked examples of docs/adding.md do once they are applied: ``test_adding.py`` runs this in a copy.

One story: a set by name, two runs on it, their report, a comparison, an export.
"""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import diffrec_jax
from diffrec_jax.evaluation.metrics import parse_metric
from diffrec_jax.options import search_space
from diffrec_jax.ranges import Real
from experiments import compare, export, run
from experiments.reporting import pictures
from experiments.settings import guard

HERE = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs on the corner shop, whose file lies in ``cache`` beside the copy."""
    folder, has_matplotlib = tmp_path_factory.mktemp("runs"), pictures.available()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFREC_JAX_CACHE", str(HERE / "cache"))
        for name, flags in {"plain": [], "half": ["--strength=0.5"]}.items():
            common = ["run", "--model=co_occurrence", "--dataset=corner-shop", "--nobaselines"]
            patch.setattr(pictures, "available", lambda name=name: has_matplotlib and name == "half")  # drawing is slow
            assert guard.guarded(run.main, [*common, *flags, f"--workdir={folder / name}"]) == 0
    return folder


def test_this_is_the_copy():
    assert Path(diffrec_jax.__file__).is_relative_to(HERE) and Path(run.__file__).is_relative_to(HERE)


def test_the_dataset_is_read_verified_and_named(runs):
    assert json.loads((runs / "plain" / "result.json").read_text())["dataset"] == "corner-shop"
    notes = diffrec_jax.load(runs / "plain").content.about["notes"]
    assert "The corner shop, from https://example.org/corner-shop.csv; terms: None needed: it is made up." in notes


def test_the_option_is_recorded_searched_and_checked(runs, capsys):
    recorded = json.loads((runs / "half" / "config.json").read_text())["config"]
    assert recorded["strength"] == 0.5 and diffrec_jax.load(runs / "half").content.model.strength == 0.5
    assert search_space(diffrec_jax.CoOccurrence) == {"strength": Real(0.25, 2.0)}
    assert guard.guarded(run.main, ["run", "--model=co_occurrence", "--strength=0", "--dataset=corner-shop"]) == 2
    assert "strength=0.0 must be positive" in capsys.readouterr().err


def test_the_metric_is_computed_saved_shown_and_compared(runs, capsys):
    assert parse_metric("map@10") == ("map", 10)
    folder = runs / "half"
    mean = json.loads((folder / "result.json").read_text())["test"]["standard"]["map@20"]
    per_user = pq.read_table(folder / "per_user.parquet")["map@20"].to_numpy()
    assert 0 < mean == pytest.approx(per_user.mean(), abs=1e-6)
    assert "| map@20 |" in (folder / "report.md").read_text() and f"{mean:.4f}" in (folder / "report.md").read_text()
    compared = ["compare", str(folder), str(runs / "plain"), "--metrics=map@20"]
    assert guard.guarded(compare.main, compared) == 0 and "map@20" in capsys.readouterr().out


def test_the_export_has_its_format_its_length_and_its_card(runs, tmp_path):
    out = tmp_path / "similar"
    flags = [f"--workdir={runs / 'half'}", "--format=similar", "--k=2", f"--out={out}"]
    assert guard.guarded(export.main, ["export", *flags]) == 0
    assert pq.read_table(out / "similar.parquet").column_names == ["item", "similar", "score", "rank"]
    assert max(pq.read_table(out / "similar.parquet")["rank"].to_pylist()) == 2
    assert "`similar.parquet` holds" in (out / "README.md").read_text()


def test_the_picture_is_in_the_report(runs):
    if not pictures.available():
        pytest.skip("pictures need matplotlib")
    text = (runs / "half" / "report.md").read_text()
    assert "(pictures/spread.svg)" in text and (runs / "half" / "pictures" / "spread.svg").is_file()
