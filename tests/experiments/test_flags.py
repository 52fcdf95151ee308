"""The command line is made from the class that --model names."""

import json
import re

import pytest

from diffrec_jax.models.registry import MODELS
from experiments import run
from experiments.running.run_folder import RunFolder
from experiments.settings import cli, guard
from experiments.settings.cli import as_flags
from experiments.settings.commands import configuration
from experiments.settings.config import as_json, configure
from experiments.settings.groups import groups_of, means_nothing, owners

FLAG = re.compile(r"^  --(?:\[no\])?([a-z_0-9]+)", re.M)


def shown(capsys, *flags):
    with pytest.raises(SystemExit) as end:
        cli.read(["run", *flags], usage="usage")
    assert end.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("model", MODELS)
def test_the_help_is_short_in_groups_and_of_the_model(model, capsys):
    text = shown(capsys, f"--model={model}", "--help")
    flags = FLAG.findall(text)
    assert len(flags) == len(set(flags)) and max(map(len, text.splitlines())) <= 120
    assert len(flags) <= 50 or MODELS[model].is_trained
    assert [line for line in text.splitlines() if re.fullmatch(r"[a-zA-Z].*", line)][1:3] == ["model", "data"]
    own = [option.flag for option in groups_of(MODELS[model])[1].options if not option.about.rare]
    assert [flag for flag in flags if flag in own] == own  # in declared order
    assert all(model in owners(flag) for flag in flags if flag not in ("model", "flagfile"))


def test_at_most_50_flags_for_ease_and_all_of_them_in_the_long_help(capsys):
    usual, every = (set(FLAG.findall(shown(capsys, "--model=ease", flag))) for flag in ("--help", "--helpfull"))
    assert len(usual) <= 50 and "steps" not in usual
    assert usual < every and {"delimiter", "coordinator", "max_bytes", "steps", "n_cate"} <= every
    assert "steps" not in FLAG.findall(shown(capsys, "--model=ease", "--helpfull").partition("of other models")[0])


@pytest.mark.parametrize("model", MODELS)
def test_without_further_flags_a_model_is_as_the_library_makes_it(model):
    config = cli.parse(["run", f"--model={model}"], usage="")
    own = {"recency": config.network.recency} if MODELS[model].time_aware else {}
    assert config.model == MODELS[model].model(**own)
    assert config.fit == getattr(MODELS[model].model, "fit_options", config.fit)


def test_a_flag_of_another_model_is_refused_naming_the_models_it_belongs_to():
    assert means_nothing("lr1", "ease") == "lr1 means nothing to ease: drop it, or say --model=l_diffrec or lt_diffrec"
    assert "did you mean --dropout?" in means_nothing("dropuot", "diffrec")
    for flags in (["--model=ease", "--lr1=1"], ["--model=ease", "--nonorm"]):
        with pytest.raises(ValueError, match="means nothing to ease: drop it, or say --model="):
            cli.parse(["run", *flags], usage="")


def test_a_flag_file_of_an_older_version_goes_on_but_not_one_that_says_something(tmp_path):
    """Older flag files held every flag there was, those of other models with their defaults."""
    old = tmp_path / "old.flags"
    old.write_text("--model=ease\n--l2=7.0\n--steps=40\n--dims=[200,600]\n--n_cate=2\n--recency=\n--batch_size=400\n")
    assert cli.parse(["run", f"--flagfile={old}"], usage="").network.l2 == 7.0
    assert cli.parse(["run", "--flagfile", str(old), "--l2=8"], usage="").network.l2 == 8.0
    time_aware = tmp_path / "t.flags"
    time_aware.write_text("--model=t_diffrec\n--recency=\n--w_min=0.3\n")
    kernel = cli.parse(["run", f"--flagfile={time_aware}"], usage="").network.recency
    assert (kernel.kernel, kernel.w_min) == ("linear", 0.3)
    old.write_text("--model=ease\n--steps=41\n")
    with pytest.raises(ValueError, match="steps means nothing to ease"):
        cli.parse(["run", f"--flagfile={old}"], usage="")


def test_a_recorded_configuration_of_an_older_version_is_read_and_what_is_no_more_is_named(tmp_path):
    config = configure(model="t_diffrec", dims=(8,))
    old = {**as_json(config), "recency": "", "lr1": 0.001, "dim": None, "fit_weighted": None, "coordinator": ""}
    assert configuration(old) == config and not config.differences(old)
    for change, named in (({"steps": 5}, "steps"), ({"recency": "power"}, "recency")):
        assert list(config.differences({**old, **change})) == [named]
    with pytest.raises(ValueError, match="gone=1 is recorded, and this version has no such option: it was made by"):
        configuration({**old, "gone": 1})
    (tmp_path / "config.json").write_text(json.dumps({"config": {**old, "gone": 1}}))
    with pytest.raises(ValueError, match="gone=1 is recorded"):
        RunFolder(tmp_path).found(config)


@pytest.mark.parametrize("model", MODELS)
def test_flags_and_back(model, tmp_path):
    config = configure(model=model, seed=3, workdir="runs/x", ks=(5,))
    (tmp_path / "x.flags").write_text(as_flags(config))
    assert cli.parse(["run", f"--flagfile={tmp_path / 'x.flags'}"], usage="") == config
    assert config.changed(seed=4).run.seed == 4 and config.changed(seed=3) == config


def test_lists_of_numbers_are_read_or_refused(capsys):
    assert guard.guarded(run.main, ["run", "--dims=a,b"]) == 2
    assert "'a,b' is no list of whole numbers such as [200,600] or 200,600" in capsys.readouterr().err
