"""Every baseline from the command line: the same table, folder and result as the models, and the same service."""

import json
import re

import pytest
from marks import quick
from small_flags import SMALL

import diffrec_jax
from diffrec_jax.data.recency import Recency
from diffrec_jax.models.registry import MODELS
from experiments import run
from experiments.settings import guard
from experiments.settings.config import configure

OF_THE_PAPER = ("diffrec", "t_diffrec", "l_diffrec", "lt_diffrec")
BASELINES = [name for name in MODELS if name not in OF_THE_PAPER and name != "multidae"]  # trained as multvae is
QUICK = ("popularity", "recent_popularity", "item_knn", "ease", "multvae")


@pytest.fixture
def command(tmp_path, capsys):
    """Runs a command line on made-up data; returns the exit code and what was printed."""

    def do(*flags):
        workdir = tmp_path / "run"
        code = guard.guarded(run.main, ["run.py", "--dataset=synthetic", f"--workdir={workdir}", *flags])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return do


@pytest.mark.parametrize("model", quick([*BASELINES, "t_diffrec", "lt_diffrec"], *QUICK))
def test_a_baseline_ends_in_the_same_table_folder_and_service(command, tmp_path, model):
    kernel = ["--recency=power"] if MODELS[model].family != "sequential" and model != "recent_popularity" else []
    flags = [f"--model={model}", "--baselines=false", *kernel, *SMALL.get(model, [])]
    code, text = command(*flags)
    assert code == 0, text
    assert "this run, seed 0" in text and "recall@20" in text
    assert ("best epoch" in text) == MODELS[model].is_trained
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["model"] == model and set(result["test"]) == {"official", "standard"}
    assert 0.0 < result["test"]["official"]["recall@50"] <= 1.0 and result["seconds"]["train"] > 0.0
    recommender = diffrec_jax.load(tmp_path / "run")
    found = recommender.recommend(users=recommender.vocabulary.user_ids[:2].tolist(), k=3)
    assert len(found["item"]) == 6
    code, again = command(*flags)
    assert code == 0 and "is finished" in again


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--model=ease", "--steps=5"], r"steps means nothing to ease: drop it, or say --model=diffrec or t_diffrec"),
        (["--model=ease", "--epochs=5"], r"epochs means nothing to ease: drop it, or say --model=diffrec"),
        (["--model=diffrec", "--l2=5"], r"l2 means nothing to diffrec: drop it, or say --model=ease"),
        (["--model=ease", "--w_min=0.5"], r"w_min means nothing to ease: drop it, or say --recency=linear"),
        (["--model=ease", "--recency_power=3", "--recency=linear"], r"recency_power means .* say --recency=power"),
        (["--model=ease", "--fit_weighted"], r"fit_weighted means nothing to ease: drop it, or say --recency=linear"),
        (["--model=recent_popularity", "--recency=power"], r"recency means nothing to recent_popularity"),
        (["--model=item_knn", "--neighbours=0"], r"neighbours=0 must be at least 1"),
        (["--model=elsa", "--linear_path=1"], r"linear_path means nothing to elsa: drop it, or say --model=diffrec or"),
        (["--linear_l2=5"], r"linear_l2 means nothing to diffrec: drop it, or say --linear_path=0.5"),
        (["--linear_path=-1"], r"linear_path=-1.0 must not be negative"),
        (["--forecast=5"], r"forecast means nothing to diffrec: drop it, or say --recency=linear"),
        (["--model=gru4rec", "--lanes=4"], r"lanes means nothing to gru4rec: drop it, or say --session_parallel"),
        (["--model=gru4rec", "--session_parallel", "--lr=0.1"], r"lr means nothing to .* say --nosession_parallel"),
        (["--model=gru4rec", "--session_parallel", "--loss=bce"], r"loss=bce is none of session_parallel: choose"),
        (["--model=lightgcn", "--in_dims=[5]"], r"in_dims means nothing to lightgcn: drop it, or say --model=l_diff"),
    ],
)
def test_a_flag_that_means_nothing_is_refused(command, flags, sentence):
    code, text = command(*flags)
    assert code == 2 and re.search(sentence, text), text


def test_a_learning_rate_that_is_not_given_is_the_models_own():
    assert (configure().network.lr, configure(model="elsa").network.lr) == (5e-4, 0.01)
    assert (
        configure(model="elsa").network.dim,
        configure(model="lightgcn").network.dim,
        configure(model="lightgcn").model.lr,
    ) == (
        256,
        64,
        0.03,
    )
    assert configure(model="lightgcn", seed=3).model.seed == 3
    assert configure(model="recent_popularity", half_life=9.0).model.half_life == 9.0
    old = {"model": "l_diffrec", "lr": 0.0005}  # recorded when every model had one default
    assert not configure(model="l_diffrec").differences(old)


@pytest.mark.parametrize("name", MODELS)
def test_without_further_flags_a_model_is_as_the_library_makes_it(name):
    recency = {"recency": Recency()} if MODELS[name].time_aware else {}
    assert configure(model=name).model == MODELS[name].model(**recency)
