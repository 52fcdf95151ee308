"""L-DiffRec from the command line, on a small made-up data set."""

import re
import shutil

import numpy as np
import pytest
from rich.console import Console

from experiments import run
from experiments.running import item_clusters, source
from experiments.settings import guard
from experiments.settings.config import configure

SMALL = ["--in_dims=[8]", "--mlp_dims=[8]", "--steps=3", "--epochs=2", "--eval_every=1", "--batch_size=64",
         "--baselines=false"]  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tiny_data, tmp_path_factory):
    """The small data set, with item embeddings beside it."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(tiny_data / "tiny", folder / "small")
    split = source.load(configure(data_dir=str(folder), dataset="small"))
    np.save(folder / "small" / "item_emb.npy", np.random.default_rng(0).normal(size=(split.n_items, 4)))
    np.save(folder / "small" / "short.npy", np.zeros((5, 4)))
    np.save(folder / "small" / "nan.npy", np.full((split.n_items, 4), np.nan))
    (folder / "small" / "text.npy").write_text("no array")
    return folder


@pytest.fixture
def command(data_dir, tmp_path, capsys):
    def do(*flags):
        argv = ["run.py", f"--data_dir={data_dir}", "--dataset=small", f"--workdir={tmp_path / 'run'}", *SMALL, *flags]
        code = guard.guarded(run.main, argv)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return do


@pytest.mark.long
@pytest.mark.parametrize("flags", [["--model=l_diffrec", "--item_emb=item_emb.npy", "--n_cate=3", "--out_dims=[8]"],
                                   ["--model=lt_diffrec", "--item_emb=svd", "--recency=power"]])  # fmt: skip
def test_a_run_says_its_clusters_and_keeps_them(command, tmp_path, flags):
    code, text = command(*flags)
    assert code == 0, text
    assert "item clusters of" in text and "this run, seed 0" in text
    assert len(list((tmp_path / "run").glob("clusters-*.npy"))) == 1
    assert len(list((tmp_path / "run").glob("embeddings-*.npy"))) == ("--item_emb=svd" in flags)
    code, again = command(*flags)
    assert code == 0 and "is finished" in again


def test_clusters_are_kept_by_what_made_them(data_dir, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(item_clusters, "svd_embeddings", lambda *a, **k: made.append(k) or embeddings)
    config = configure(
        model="l_diffrec", data_dir=str(data_dir), dataset="small", item_emb="svd", workdir=str(tmp_path)
    )
    split = source.load(config)
    embeddings = np.random.default_rng(0).normal(size=(split.n_items, 4))
    console = Console(quiet=True)
    first = item_clusters.make_clusters(config, split, console)
    assert first == item_clusters.make_clusters(config, split, console) and len(made) == 1
    other = config.changed(n_cate=3)
    assert len(item_clusters.make_clusters(other, split, console).sizes) == 3 and len(made) == 1
    item_clusters.make_clusters(config.changed(seed=1), split, console)
    assert len(made) == 2 and len(list(tmp_path.glob("clusters-*.npy"))) == 3


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--model=l_diffrec", "--item_emb=short.npy"], r"item embeddings of shape \[5, 4\] do not fit"),
        (["--model=l_diffrec", "--item_emb=nan.npy"], r"embedding of item 0 \(and \d+ more\) holds NaN"),
        (["--model=l_diffrec", "--item_emb=text.npy"], r"item_emb=text\.npy is no \.npy file of numbers"),
        (["--model=l_diffrec", "--item_emb=absent.npy"], r"neither lightgcn nor svd, nor a file .*say --item_emb=ligh"),
        (["--model=l_diffrec", "--n_cate=9"], r"n_cate=9 clusters do not share widths of in_dims=\[8\]"),
        (["--model=l_diffrec", "--out_dims=[4]"], r"out_dims=\[4\] does not fit in_dims=\[8\]"),
        (["--model=l_diffrec", "--dims=[9]"], r"dims means nothing to l_diffrec: drop it, or say --model=diffrec or"),
        (["--model=diffrec"], r"in_dims means nothing to diffrec: drop it, or say --model=l_diffrec or lt_diffrec"),
        (["--model=l_diffrec", "--recency=power"], r"say --model=lt_diffrec"),
    ],
)
def test_bad_input_gets_one_sentence_before_training(command, tmp_path, flags, sentence):
    code, text = command(*flags)
    assert code == 2 and re.search(sentence, text, re.S), text
    assert "Traceback" not in text and not (tmp_path / "run" / "checkpoints").exists()


def test_the_first_beta_follows_the_authors_unless_given():
    assert configure().model.beta_fixed and not configure(model="l_diffrec").model.beta_fixed
    assert configure(model="lt_diffrec", beta_fixed=True).model.beta_fixed
    assert not configure(beta_fixed=False).model.beta_fixed
