"""A run folder on an object store, of which a local folder takes the place."""

import json

import numpy as np
import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from diffrec_jax import files
from diffrec_jax.data import synthetic
from diffrec_jax.models import DiffRec
from diffrec_jax.serving import ModelFolder, Vocabulary
from experiments.reporting import systems
from experiments.running.run_folder import RunFolder
from experiments.settings.config import configure


class Store(DirFileSystem):
    """``gs://bucket/…`` below a folder; like the real one, it makes folders as it goes."""

    def __init__(self, folder):
        super().__init__(str(folder), LocalFileSystem(auto_mkdir=True))

    def _join(self, path):
        return super()._join(path.removeprefix("gs://") if isinstance(path, str) else path)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", lambda name: Store(tmp_path))
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


def test_records_lie_on_the_store_and_are_found_there(bucket):
    folder = RunFolder(epath.Path("gs://bucket/runs/a"))
    config = configure()
    assert folder.found(config) is None
    with folder.locked():
        folder.claim(config, "checksum")
    assert (bucket / "runs/a/flags.txt").is_file() and folder.found(config) is None
    with pytest.raises(ValueError, match="holds a run with another configuration"):
        folder.found(configure(seed=1))
    (bucket / "runs/a/metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert folder.cut_metrics(1) == [{"epoch": 1}]
    assert (bucket / "runs/a/metrics.jsonl").read_text() == '{"epoch": 1}\n'
    curves = folder.curves(3)
    curves.add(4, {"loss": 0.5})
    curves.close()
    (events,) = (bucket / "runs/a/tensorboard").iterdir()
    assert b"loss" in events.read_bytes()
    folder.finish({"done": True})
    assert folder.found(config) == {"done": True}
    assert json.loads((bucket / "runs/a/result.json").read_text()) == {"done": True}


def test_finished_runs_are_read_from_the_store(bucket):
    for seed, recall in ((0, 0.1), (1, 0.3)):
        folder, config = RunFolder(epath.Path(f"gs://bucket/runs/a-s{seed}")), configure(seed=seed)
        folder.claim(config, "checksum")
        folder.finish({"model": "diffrec", "seed": seed, "test": {"official": {"recall@20": recall}}})
    (system,) = systems.group([systems.read(f"gs://bucket/runs/a-s{seed}") for seed in (0, 1)])
    assert system.mean("official", "recall@20") == pytest.approx(0.2)
    with pytest.raises(ValueError, match="gs://bucket/nowhere is no folder"):
        systems.read("gs://bucket/nowhere")


def test_a_model_folder_lies_on_the_store_and_is_read_from_there(bucket):
    train = synthetic.generate(n_users=20, n_items=30, seed=0)
    content = ModelFolder(
        DiffRec(dims=(4,)), Vocabulary(train.user_ids, train.item_ids, train.item_titles), train.csr(), None, {"a": 1}
    )
    for _ in range(2):
        content.write(epath.Path("gs://bucket/runs/a/model"))
    found = ModelFolder.read("gs://bucket/runs/a/model")
    assert found.model == content.model and found.about == {"a": 1}
    np.testing.assert_array_equal(found.train.indices, content.train.indices)


def test_a_path_on_a_store_stays_what_it_is():
    assert str(files.absolute("gs://bucket/a")) == "gs://bucket/a" and files.is_remote("gs://bucket/a")
    assert files.absolute("a").is_absolute() and not files.is_remote("a")
