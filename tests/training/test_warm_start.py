"""Training that begins where another run ended: from a folder, on any mesh, refused where it means nothing."""

import json
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import diffrec_jax as dr
from diffrec_jax.mesh import make_mesh
from diffrec_jax.testing import small_split
from experiments import run
from experiments.settings import guard

MODEL = dr.DiffRec(dims=(8,), steps=3)
HOW = {"epochs": 2, "batch_size": 8, "eval_every": 1}


@pytest.fixture(scope="module")
def yesterday(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "yesterday"
    split = small_split()
    dr.fit(MODEL, split.train, split.valid, workdir=folder, mesh=make_mesh(devices=jax.devices()[:1]), **HOW)
    return folder


def test_the_first_loss_is_that_of_the_other_run_and_a_stopped_one_goes_on_as_it_was(yesterday, tmp_path):
    split, mesh = small_split(), make_mesh(devices=jax.devices()[:1])
    cold, warm = (
        dr.fit(MODEL, split.train, split.valid, mesh=mesh, warm_start=start, **HOW) for start in (None, yesterday)
    )
    assert warm.result.progress.best_value >= cold.result.progress.best_value - 1e-6
    for epochs in (1, 2):
        how = {**HOW, "epochs": epochs, "workdir": tmp_path}
        again = dr.fit(MODEL, split.train, split.valid, mesh=mesh, warm_start=yesterday, **how)
    jax.tree.map(np.testing.assert_array_equal, again.params, warm.params)
    many = dr.fit(MODEL, split.train, split.valid, mesh=make_mesh(users=4, items=2), warm_start=yesterday, **HOW)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), many.params, warm.params)


@pytest.mark.parametrize(
    "model, said",
    [
        (
            dr.DiffRec(dims=(9,), steps=3),
            r"warm_start: .* is \[.*\] there and \[.*\] here: give both runs the",
        ),
        (dr.MultVAE(dims=(8,)), "is a DiffRec, and a MultVAE is to be trained: begin from a run of the same model"),
        (dr.EASE(), "warm_start means nothing to EASE, which is computed in one go: leave it out"),
    ],
)
def test_another_model_or_width_is_refused_before_anything_is_compiled(yesterday, model, said):
    with pytest.raises(ValueError, match=said):
        dr.fit(model, small_split().train, warm_start=yesterday)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no model/model\.json and no model\.json"):
        dr.fit(MODEL, small_split().train, warm_start=tmp_path)


def test_the_command_says_what_it_takes_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for day, items in (("one", 25), ("two", 30)):
        columns = {"user": rng.integers(0, 30, 700), "item": rng.integers(0, items, 700), "at": np.arange(700)}
        pq.write_table(pa.table(columns), f"{day}.parquet")
    flags = ["--dims=[8]", "--epochs=1", "--batch_size=16", "--baselines=false", "--time_col=at", "--k_core=2"]
    assert guard.guarded(run.main, ["run.py", "--data=one.parquet", "--workdir=a", *flags]) == 0
    capsys.readouterr()
    warm = ["run.py", "--data=two.parquet", "--workdir=b", "--warm_start=a", *flags]
    assert guard.guarded(run.main, warm) == 0
    said = capsys.readouterr().out
    assert "warm start: of 30 items it knows 25, 5 are new, 0 are gone" in said, said
    assert json.loads(Path("b/config.json").read_text())["config"]["warm_start"] == "a"
