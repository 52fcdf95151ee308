"""A search: begins with the defaults, survives interruptions, never looks at the test part, ends in a flag file."""

import csv
import json
import re

import numpy as np
import optuna
import pytest

from diffrec_jax import api
from diffrec_jax.models.registry import MODELS
from experiments import run, sweep
from experiments.running import source, sweeping
from experiments.running.search import unlike
from experiments.settings import cli, guard
from experiments.settings.config import configure
from experiments.settings.groups import takes_recency
from experiments.settings.parts import LinearPathOptions

EASE = ["--model=ease", "--recency=power", "--dataset=tiny"]
TRAINED = ["--model=elsa", "--dataset=tiny", "--epochs=3", "--eval_every=1", "--tune=lr", "--dim=4"]


@pytest.fixture
def command(tiny_data, tmp_path, capsys):
    """Runs a search; returns the exit code and what was printed."""

    def do(*flags):
        argv = ["sweep.py", f"--data_dir={tiny_data}", f"--workdir={tmp_path / 'sweep'}", *flags]
        code = guard.guarded(sweep.main, argv)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return do


@pytest.mark.parametrize("path", sorted(cli.FLAG_FILES.glob("*.flags")), ids=lambda path: path.stem)
def test_what_is_shipped_lies_in_the_space_that_is_searched(path):
    config = cli.parse(["run.py", f"--flagfile={path}"], usage="")
    plain = {"linear_path": 0.0, "linear_l2": LinearPathOptions.linear_l2}
    network = config.changed(**plain) if config.linear.linear_path else config
    space = sweeping.space_of(network, frozenset(), "")
    outside = {
        n for n, value in sweeping.defaults_of(network, space).items() if value is not None and value not in space[n]
    }
    assert outside == (
        {"noise_max"} if path.stem == "amazon-noisy" else set()
    )  # ten times it, and s a tenth, are inside


def trials(tmp_path):
    return list(csv.DictReader((tmp_path / "sweep" / "trials.csv").read_text().splitlines()))


@pytest.mark.long
def test_a_search_goes_on_where_it_was_and_its_best_is_a_run(command, tiny_data, tmp_path, monkeypatch):
    evaluated = []
    evaluate = api.evaluate

    def counted(fitted, truth, **options):
        evaluated.append(truth)
        if len(evaluated) == 3:
            raise KeyboardInterrupt
        return evaluate(fitted, truth, **options)

    monkeypatch.setattr(api, "evaluate", counted)
    code, text = command(*EASE, "--trials=4")
    assert code == 130 and "the same command goes on" in text
    assert [row["trial"] for row in trials(tmp_path)] == ["0", "1"]
    assert (float(trials(tmp_path)[0]["l2"]), trials(tmp_path)[0]["fit_weighted"]) == (500.0, "False")  # the defaults

    code, text = command(*EASE, "--trials=4")
    assert code == 0 and "going on after 2 trials" in text and "the test part was not looked at" in text
    found = trials(tmp_path)
    assert [row["trial"] for row in found] == ["0", "1", "3", "4"] and {row["state"] for row in found} == {"complete"}
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'sweep' / 'study.db'}")
    assert study.trials[3].params == study.trials[2].params  # what was interrupted came first
    valid = source.load(configure(dataset="tiny", data_dir=str(tiny_data))).valid
    assert all(np.array_equal(truth.items, valid.items) for truth in evaluated)  # nothing else was ever ranked for

    code, text = command(*EASE, "--trials=4")
    assert code == 0 and text.count("trial ") <= 2  # nothing was run
    code, text = command(*EASE, "--trials=5", "--w_min=0.2")
    assert code == 2 and re.search(r"holds another search \(.*w_min: None there, 0\.2 now.*another --workdir", text)

    best = max(found, key=lambda row: (float(row["valid_recall@20"]), -int(row["trial"])))
    flags = tmp_path / "sweep" / "best.flags"
    assert "data_dir" not in flags.read_text() and "/" not in flags.read_text().split("--model")[1]
    config = cli.parse(["run.py", f"--flagfile={flags}"], usage="")
    assert (config.model_name, config.network.recency.kernel, config.network.l2) == ("ease", "power", float(best["l2"]))
    argv = ["run.py", f"--flagfile={flags}", f"--workdir={tmp_path / 'r'}", f"--data_dir={tiny_data}", "--nobaselines"]
    assert guard.guarded(run.main, argv) == 0
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    assert result["valid"]["official"]["recall@20"] == pytest.approx(float(best["valid_recall@20"]), abs=1e-6)


def test_trained_models_report_are_pruned_and_end_with_the_time(command, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number == 1)
    code, text = command(*TRAINED, "--trials=2")
    assert code == 0, text
    assert [row["state"] for row in trials(tmp_path)] == ["complete", "pruned"]
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'sweep' / 'study.db'}")
    assert list(study.trials[0].intermediate_values) == [1, 2, 3] and list(study.trials[1].intermediate_values) == [1]
    code, text = command(*TRAINED, "--trials=3", "--minutes=0.0001")
    assert code == 0 and "2 trials" in text  # the budget was spent before

    trial = study.ask()
    config = configure(model="elsa", dim=4, epochs=50, eval_every=2, dataset="tiny", data_dir=str(tiny_data))
    with pytest.raises(optuna.TrialPruned):
        sweeping.measured(config, source.load(config), trial, 0.0)  # not even time for one validation
    monkeypatch.setattr(sweeping.TrialObserver, "interrupted", lambda observer: observer.best is not None)
    assert 0.0 < sweeping.measured(config, source.load(config), trial, 0.0) < 1.0  # what one epoch reached counts


def test_a_trial_whose_process_died_is_tried_again(command, tmp_path):
    assert command(*EASE, "--trials=1")[0] == 0
    storage = f"sqlite:///{tmp_path / 'sweep' / 'study.db'}"
    study = optuna.load_study(study_name="search", storage=storage)
    l2 = study.ask().suggest_float("l2", 1.0, 10_000.0, log=True)  # and nothing is ever told
    assert command(*EASE, "--trials=2")[0] == 0
    assert float(trials(tmp_path)[1]["l2"]) == pytest.approx(l2, rel=1e-2)


def test_what_does_not_fit_into_memory_is_a_trial_that_failed_and_a_defect_is_raised(command, tmp_path, monkeypatch):
    errors = [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: out of memory"), RuntimeError("a defect")]
    real = sweeping.measured

    def measured(config, split, trial, deadline):
        if errors:
            raise errors.pop(0)
        return real(config, split, trial, deadline)

    monkeypatch.setattr(sweeping, "measured", measured)
    with pytest.raises(RuntimeError, match="a defect"):
        command(*EASE, "--trials=3")
    code, text = command(*EASE, "--trials=3")
    assert code == 0, text
    assert [row["state"] for row in trials(tmp_path)] == ["fail", "fail", "complete"]


def test_a_search_takes_the_devices_that_are_named(command, monkeypatch):
    meshes = []
    fit = api.fit
    monkeypatch.setattr(
        api, "fit", lambda *args, mesh, **options: meshes.append(mesh) or fit(*args, mesh=mesh, **options)
    )
    code, text = command(*TRAINED, "--trials=1", "--mesh=users:4,items:2")
    assert code == 0, text
    assert dict(meshes[0].shape) == {"users": 4, "items": 2}


def test_a_model_without_a_space_is_tried_once(command, tmp_path):
    code, text = command("--model=popularity", "--dataset=tiny")
    assert code == 0 and "one trial is all" in text and len(trials(tmp_path)) == 1


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_searched_from_its_defaults(model):
    config = configure(model=model, **({"recency": "power"} if takes_recency(MODELS[model]) else {}))
    space = sweeping.space_of(config, frozenset(), "")
    assert space
    assert all(value in space[name] for name, value in sweeping.defaults_of(config, space).items())
    assert not set(sweeping.space_of(config, frozenset(space), ""))
    assert ("recency_power" in space) == (config.values.get("recency") == "power")


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (
            ["--tune=steps"],
            r"tune=steps is not searched for ease: choose from l2, fit_weighted, forecast, w_min, w_max, recency_power",
        ),
        (["--trials=0"], r"trials=0 must be at least 1"),
        (["--minutes=-1"], r"minutes=-1.0 not negative"),
        (["--seeds=3"], r"seeds means nothing to a search, which tries every setting with the one --seed: drop it"),
        (["--protocol=standard"], r"protocol means nothing to a search, which selects by recall@20 of the official"),
        (["--multihost"], r"multihost means nothing to a search, whose trials run in one process"),
        (["--mesh=users:3,items:1"], r"does not fit 8 device"),
        (["--stepz=1"], r"Unknown command line flag 'stepz'"),
    ],
)
def test_bad_input_gets_one_sentence(command, tmp_path, flags, sentence):
    code, text = command(*EASE, *flags)
    assert code == 2 and re.search(sentence, text), text
    assert not (tmp_path / "sweep").exists()


def test_a_damaged_study_is_refused(command, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "study.db").write_bytes(b"not a database at all" * 100)
    code, text = command(*EASE)
    assert code == 2 and "is no readable study" in text


def test_two_processes_do_not_share_a_folder(command, tmp_path):
    with sweeping.claimed(tmp_path / "sweep"):
        code, text = command(*EASE)
    assert code == 2 and "another process searches in" in text


def test_a_study_of_an_older_version_which_recorded_every_option_goes_on():
    ours = {"model": "ease", "dataset": "tiny", "space": "l2 in [1.0, 10.0]; forecast in {0.0}", "data": "abc"}
    older = {**ours, "space": "forecast in {0.0}; l2 in [1.0, 10.0]", "min_rating": None, "split": "", "k_core": 5}
    assert unlike(older, ours) == [] and unlike(ours, {**ours, "eval_history": "train"}) == []
    assert unlike({**older, "k_core": 10}, ours) == ["k_core"] and unlike(older, {**ours, "data": "x"}) == ["data"]
    assert unlike(older, {**ours, "space": "l2 in [1.0, 10.0]"}) == ["space"]
