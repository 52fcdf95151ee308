"""``python -m experiments.export``: each format, with its model card; sentences for mistakes."""

import numpy as np
import pytest
from shop import run_folder, split  # noqa: F401 (fixtures)

import diffrec_jax as dr
from experiments import export
from experiments.settings import guard


def test_every_format(run_folder, tmp_path, capsys):  # noqa: F811
    def do(*flags):
        code = guard.guarded(export.main, ["export.py", f"--workdir={run_folder}", *flags])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    for kind, file in (("safetensors", "model.json"), ("jax", "program.jax_export"), ("vectors", "item_vectors.npy")):
        code, printed = do(f"--format={kind}", f"--out={tmp_path / kind}")
        assert code == 0 and file in printed and "README.md" in printed
    loaded, run = dr.load(tmp_path / "safetensors"), dr.load(run_folder)
    users = run.vocabulary.user_ids
    assert np.array_equal(loaded.recommend(users=users)["item"], run.recommend(users=users)["item"])
    code, printed = do("--format=jax", f"--out={tmp_path / 'jax'}")
    assert code == 2 and "exists: name another folder" in printed
    code, printed = do("--format=jax", f"--out={tmp_path / 'other'}", "--k=0")
    assert code == 2 and "--k=0 must be at least 1" in printed
    code, printed = do("--format=vectors", f"--out={tmp_path / 'other'}", "--k=5")
    assert code == 2 and "--k=5 means nothing to --format=vectors: drop it, or choose one of jax" in printed
    code, printed = do("--format=jax", f"--out={tmp_path / 'other'}", "--users")
    assert code == 2 and "--users means nothing to --format=jax: drop it, or say --format=vectors" in printed
    code, printed = do("--format=vectors", f"--out={tmp_path / 'parts'}", "--files=parquet", "--users")
    assert code == 0 and "users/part-00000.parquet" in printed
    with pytest.raises(SystemExit):
        do("--format=pickle", f"--out={tmp_path / 'other'}")
