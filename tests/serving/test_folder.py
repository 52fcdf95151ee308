"""What ``fit`` leaves, ``load`` takes up: runs, exports, closed forms, models of one's own, and damaged folders."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from shop import MODELS, N_ITEMS, one_device

import diffrec_jax as dr
from diffrec_jax.models.baselines import EASE
from diffrec_jax.models.lightgcn import LightGCN
from diffrec_jax.serving import export_safetensors


def same(a, b, **options):
    users = a.vocabulary.user_ids
    one, other = a.recommend(users=users, k=8, **options), b.recommend(users=users, k=8, **options)
    return one["item"].tolist() == other["item"].tolist() and np.allclose(one["score"], other["score"], atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("name", ["latent_path"])
def test_a_run_is_loaded_as_it_was_fitted(split, tmp_path, name):
    options = {"workdir": tmp_path / "run", "epochs": 2, "eval_every": 1, "mesh": one_device()}
    fitted = dr.fit(MODELS[name], split.train, **options)
    loaded = dr.load(tmp_path / "run")
    assert loaded.content.model == MODELS[name]
    assert same(fitted.recommender, loaded)
    assert loaded.vocabulary.item_titles is not None and loaded.content.train.times is not None


def test_embeddings_that_took_long_are_kept_and_not_computed_again(split, tmp_path, monkeypatch):
    model = LightGCN(dim=4, updates=3, triples=64)
    fitted = dr.fit(model, split.train, split.valid, workdir=tmp_path / "run", mesh=one_device())
    monkeypatch.setattr(LightGCN, "fit", lambda *_: pytest.fail("computed again"))
    assert same(fitted.recommender, dr.load(tmp_path / "run"))
    kept = tmp_path / "run" / "model" / "parameters.npz"
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"is damaged .*: export or train the model again"):
        dr.load(tmp_path / "run")


def test_a_run_can_be_loaded_when_it_was_stopped(run_folder):
    assert len(dr.load(run_folder).recommend(users=["u1"], k=3)) == 3


def test_exported_weights_are_the_model(make, tmp_path):
    for name in ("linear", "latent_path"):
        recommender = make(name)
        export_safetensors(recommender, tmp_path / name)
        assert same(recommender, dr.load(tmp_path / name)), name


def test_a_path_written_before_its_parts_named_their_class_is_still_read(make, tmp_path):
    recommender = make("path")
    export_safetensors(recommender, tmp_path / "a")
    document = json.loads((tmp_path / "a" / "model.json").read_text())
    parts = document["model"]["hyper_parameters"]
    assert parts["network"]["class"] == "DiffRec" and parts["linear"]["class"] == "EASE"
    parts |= {name: parts[name]["hyper_parameters"] for name in ("network", "linear")}
    (tmp_path / "a" / "model.json").write_text(json.dumps(document))
    assert same(recommender, dr.load(tmp_path / "a"))


def test_nothing_is_pickled(exported, run_folder):
    files = [f for folder in (exported, run_folder) for f in folder.rglob("*") if f.is_file()]
    assert len(files) > 15
    for file in files:
        content = file.read_bytes()
        assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")), file
        assert (
            b"pickle" not in content and b"/serving/" not in content and file.suffix not in (".pkl", ".pt", ".pth")
        ), file
    for source in Path(dr.__file__).parent.rglob("*.py"):
        assert "import pickle" not in source.read_text() and "allow_pickle=True" not in source.read_text(), source


def test_a_model_of_ones_own_is_passed_in(make, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Mine(dr.DiffRec):
        """Not one of the library's."""

    recommender = make(Mine(dims=(8,)))
    export_safetensors(recommender, tmp_path / "mine")
    with pytest.raises(
        ValueError,
        match=r"the model is a .*:Mine, which is none of .* never causes an import by itself",
    ):
        dr.load(tmp_path / "mine")
    assert same(recommender, dr.load(tmp_path / "mine", model=Mine(dims=(8,))))


def test_folders_that_cannot_be_loaded(make, run_folder, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is not there: name the --workdir of a run"):
        dr.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no model/model\.json and no model\.json"):
        dr.load(tmp_path)
    with pytest.raises(ValueError, match=r"history='all' is unknown: choose one of train, train\+valid"):
        dr.load(run_folder, history="all")
    export_safetensors(make("diffrec"), tmp_path / "a")
    with pytest.raises(ValueError, match="exists: name another folder"):
        export_safetensors(make("diffrec"), tmp_path / "a")
    weights = tmp_path / "a" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"weights\.safetensors cannot be read"):
        dr.load(tmp_path / "a")
    weights.write_bytes(whole)
    description = tmp_path / "a" / "model.json"
    document = json.loads(description.read_text())
    for change, sentence in (
        ({"format": 99}, "is of format 99 and this version reads up to 1"),
        ({"model": {"class": "DiffRec", "hyper_parameters": {"dims": [9]}}}, "should have shape"),
        ({"model": {"class": "DiffRec", "hyper_parameters": {"colour": 1}}}, "has no hyper-parameter 'colour'"),
        ({"model": {}}, "is damaged"),
    ):
        description.write_text(json.dumps({**document, **change}))
        with pytest.raises(ValueError, match=sentence):
            dr.load(tmp_path / "a")
    description.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        dr.load(tmp_path / "a")


def test_plain_csr_gets_numbers_for_ids(split, tmp_path):
    fitted = dr.fit(EASE(l2=10.0), split.train.csr(), split.valid.csr(), workdir=tmp_path / "run", mesh=one_device())
    found = fitted.recommend([0, 1], k=3)
    assert found["user"].tolist() == [0, 0, 0, 1, 1, 1] and found["item"].max() < N_ITEMS
    assert same(fitted.recommender, dr.load(tmp_path / "run"))
