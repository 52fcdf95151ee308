"""What chooses the epoch, and what is said while a model trains."""

import jax
import numpy as np
import pytest

import diffrec_jax as dr
from diffrec_jax.data import synthetic
from diffrec_jax.mesh import make_mesh
from diffrec_jax.training import Observer

MODEL = dr.ELSA(dim=4, lr=0.05)
OPTIONS = {"epochs": 4, "eval_every": 1, "batch_size": 30}


@pytest.fixture(scope="module")
def split():
    return synthetic.generate(n_users=60, n_items=30, seed=1).k_core(3).split_by_time(0.7, 0.1, 0.2)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(devices=jax.devices()[:1])


class Kept(Observer):
    def __init__(self):
        self.valid = []

    def epoch(self, report):
        self.valid.append(report.valid)


@pytest.mark.parametrize("selection", [("standard", "mrr@3"), ("official", "ndcg@10")])
def test_the_epoch_is_the_best_by_the_metric_that_was_asked_for(split, mesh, selection):
    kept = Kept()
    fitted = dr.fit(
        MODEL, split.train, split.valid, mesh=mesh, selection=selection, ks=[7, 3, 1], observer=kept, **OPTIONS
    )
    values = [valid[selection[0]][selection[1]] for valid in kept.valid]
    assert fitted.result.progress.best_epoch == 1 + int(np.argmax(values))
    assert fitted.result.progress.best_value == max(values)
    evaluated = {int(name.partition("@")[2]) for name in kept.valid[0]["official"]}
    assert evaluated == {1, 3, 7, int(selection[1].partition("@")[2])}


@pytest.mark.parametrize(
    "more, sentence",
    [
        ({"selection": ("official", "ndcg@ten")}, r"selection=\('official', 'ndcg@ten'\) is unknown: .* in ks"),
        ({"selection": ("official", "auc@10")}, r"selection=\('official', 'auc@10'\) is unknown"),
        ({"selection": ("official", "ndcg@3"), "ks": (1, 5)}, r"'ndcg@3'\) is unknown: .*ndcg@1, ndcg@5"),
        ({"selection": ("mine", "ndcg@10")}, r"selection=\('mine', 'ndcg@10'\) is unknown"),
        ({"selection": "ndcg@10"}, r"selection='ndcg@10' is unknown"),
        ({"ks": 20}, "ks=20 must be list lengths"),
        ({"ks": [0]}, r"ks=\[0\] must be list lengths"),
        ({"ks": []}, r"ks=\[\] must be list lengths"),
        ({"ks": [1.5]}, r"ks=\[1.5\] must be list lengths"),
    ],
)
def test_what_cannot_choose_is_refused_before_anything_is_written(split, mesh, tmp_path, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        dr.fit(MODEL, split.train, split.valid, mesh=mesh, workdir=tmp_path, **more)
    assert not list(tmp_path.iterdir())


def test_progress_is_a_line_for_each_validation_and_off_by_default(split, mesh, capsys):
    options = {**OPTIONS, "epochs": 5, "eval_every": 2, "selection": ("standard", "mrr@3"), "ks": (3,)}
    kept = Kept()
    dr.fit(MODEL, split.train, split.valid, mesh=mesh, progress=True, observer=kept, **options)
    lines = capsys.readouterr().out.splitlines()
    assert len(kept.valid) == 5  # another observer is told as ever
    assert "parameters" in lines[0] and [line.split(":")[0] for line in lines[1:]] == [
        f"epoch {n} of at most 5" for n in (2, 4, 5)
    ]
    best = max(valid["standard"]["mrr@3"] for valid in kept.valid if valid)
    assert f"validation mrr@3 {kept.valid[-1]['standard']['mrr@3']:.4f} (best {best:.4f}, epoch" in lines[-1]
    dr.fit(MODEL, split.train, split.valid, mesh=mesh, **options)
    assert not capsys.readouterr().out


def test_progress_without_validation_and_of_closed_forms(split, mesh, capsys):
    dr.fit(MODEL, split.train, mesh=mesh, progress=True, **{**OPTIONS, "eval_every": 3})
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[1:]] == ["epoch 3 of at most 4", "epoch 4 of at most 4"]
    assert all("loss" in line and "validation" not in line for line in lines[1:])
    dr.fit(dr.EASE(), split.train, mesh=mesh, progress=True)
    assert capsys.readouterr().out.startswith("fitted in ")
