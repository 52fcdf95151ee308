"""The command line, typed as a person would, on a small made-up data set."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from diffrec_jax.data import synthetic
from diffrec_jax.evaluation import BEYOND
from experiments import run
from experiments.settings import cli, guard
from experiments.settings.cli import FLAG_FILES, as_flags
from experiments.settings.config import configure

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--dims=[8]", "--steps=3", "--epochs=4", "--eval_every=2", "--batch_size=32", "--baselines=false"]


def write_released(folder, split):
    folder.mkdir(parents=True)
    for name, part in zip(("train", "valid", "test"), split):
        np.save(folder / f"{name}_list.npy", np.stack([part.users, part.items], axis=1))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    split = synthetic.generate(n_users=80, n_items=130, seed=4).k_core(3).split_by_time(0.7, 0.1, 0.2)
    write_released(folder / "small", split)
    for path in FLAG_FILES.glob("*.flags"):
        said = re.search(r"^--dataset=(\S+)", path.read_text(), re.MULTILINE)
        if said and not (folder / said[1]).exists():
            write_released(folder / said[1], split)
    for name in ("broken", "untested", "unvalidated"):
        write_released(folder / name, split)
    (folder / "broken" / "test_list.npy").write_bytes(b"not an array")
    np.save(folder / "untested" / "test_list.npy", np.zeros((0, 2), np.int64))
    np.save(folder / "unvalidated" / "valid_list.npy", np.zeros((0, 2), np.int64))
    return folder


@pytest.fixture
def command(data_dir, tmp_path, capsys):
    """Runs a command line; returns the exit code and what was printed."""

    def do(*flags, workdir="run", small=True):
        argv = ["run.py", f"--data_dir={data_dir}", *(SMALL if small else []), *flags]
        if workdir:
            argv.append(f"--workdir={tmp_path / workdir}")
        code = guard.guarded(run.main, argv)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return do


def in_a_process(*flags, **options):
    argv = [sys.executable, "-m", "experiments.run", *flags]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def test_a_run_leaves_a_folder_that_explains_itself_and_shows_its_table_again(command, tmp_path):
    code, text = command("--dataset=small", "--baselines")
    assert code == 0 and "official protocol" in text and "EASE" in text and "Popularity" in text
    assert "memory per device:" in text
    folder = tmp_path / "run"
    assert {p.name for p in folder.iterdir()} >= {
        "flags.txt", "config.json", "metrics.jsonl", "tensorboard", "checkpoints", "result.json",
    }  # fmt: skip
    result = json.loads((folder / "result.json").read_text())
    assert set(result) >= {
        "model", "dataset", "seed", "best_epoch", "valid", "test", "baselines", "seconds", "epochs_run", "parameters",
        "peak_host_bytes",
    }  # fmt: skip
    names = {f"{m}@{k}" for m in ("precision", "recall", "ndcg", "mrr", "hit") for k in (10, 20, 50, 100)}
    for part in (result["valid"], result["test"], result["baselines"]["popularity"], result["baselines"]["ease"]):
        assert set(part) == {"official", "standard"} and set(part["official"]) == names
    assert set(result["beyond"]) == {f"{m}@{k}" for m in BEYOND for k in (10, 20, 50, 100)} and "Gini 0." in text
    assert set(result["seconds"]) == {"train", "evaluate", "compile", "total"} and result["epochs_run"] == 4
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["valid"] is not None for line in lines] == [False, True, False, True]

    code, again = command("--dataset=small", "--baselines")
    assert code == 0 and "is finished" in again
    assert [line for line in again.splitlines() if "│" in line] == [line for line in text.splitlines() if "│" in line]
    code, standard = command("--dataset=small", "--baselines", "--protocol=standard")
    assert code == 0 and "standard protocol (mean over users with held-out items)" in standard
    code, from_flags = command(f"--flagfile={folder / 'flags.txt'}", workdir=None, small=False)
    assert code == 0 and "is finished" in from_flags
    folder.rename(tmp_path / "moved")
    code, moved = command(f"--flagfile={tmp_path / 'moved' / 'flags.txt'}", workdir=None, small=False)
    assert code == 0 and f"{tmp_path / 'moved'} is finished" in moved and not folder.exists()


def test_the_recorded_flags_are_the_configuration(tmp_path):
    config = configure(
        dims=(3, 4), recency="power", model="t_diffrec", data="x.csv", min_rating=3.5, workdir="runs/x", norm=True
    )
    (tmp_path / "flags.txt").write_text(as_flags(config))
    assert cli.parse(["run.py", f"--flagfile={tmp_path / 'flags.txt'}"], usage="") == config


def test_lists_booleans_and_default_folders_are_read_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ("[200,600]", "200,600", "[200, 600]"):
        assert cli.parse(["run.py", f"--dims={text}", "--reweight=0"], usage="").network.dims == (200, 600)
    assert cli.parse(["run.py", "--reweight=0"], usage="").network.reweight is False
    assert cli.parse(["run.py", "--noreweight"], usage="").network.reweight is False
    assert cli.parse(["run.py", "--dataset=x/y", "--seed=3"], usage="").run.workdir == "runs/y-s3"
    config = cli.parse(["run.py", "--flagfile=amazon.flags"], usage="")
    assert (
        config.run.workdir == "runs/amazon-s0"
        and config.network.dims == (1000,)
        and config.data.dataset == "amazon-book_clean"
    )
    (tmp_path / "amazon.flags").write_text("--dims=[5]\n")
    assert cli.parse(["run.py", "--flagfile", "amazon.flags"], usage="").network.dims == (
        5,
    )  # the current folder first
    (tmp_path / "sweeps" / "a").mkdir(parents=True)
    (tmp_path / "sweeps" / "a" / "best.flags").write_text("--dims=[5]\n")
    assert cli.parse(["run.py", "--flagfile=sweeps/a/best.flags"], usage="").run.workdir == "runs/a-best-s0"
    monkeypatch.chdir(tmp_path / "sweeps" / "a")
    assert cli.parse(["run.py", "--flagfile=best.flags"], usage="").run.workdir == "runs/a-best-s0"


@pytest.mark.parametrize("name", sorted(p.name for p in FLAG_FILES.glob("*.flags")))
def test_every_shipped_flag_file_is_a_configuration(name):
    config = cli.parse(["run.py", f"--flagfile={name}"], usage="")
    assert config.run.workdir == f"runs/{name.removesuffix('.flags')}-s0"


@pytest.mark.long
@pytest.mark.parametrize("name", ["ml-1m-noisy.flags", "t-yelp.flags", "lt-amazon.flags"])
def test_a_shipped_flag_file_runs_small(command, name):
    shrink = ["--epochs=1", "--eval_every=1", "--baselines=false"]
    if name.startswith("lt-"):
        shrink += ["--in_dims=[8]", "--mlp_dims=[8]", "--item_emb=svd"]
    else:
        shrink += ["--dims=[8]"]
    code, text = command(f"--flagfile={name}", *shrink, small=False)
    assert code == 0, text
    assert "published" in text


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--dataset=nowhere"], r"no dataset 'nowhere': .* train_list\.npy.*https://github\.com/YiyanXu/DiffRec"),
        (["--dataset=small", "--noise_min=0.02"], r"noise_min=0\.02 must be smaller than noise_max=0\.01"),
        (["--dataset=small", "--noise_schedule=sigmoid"], r"noise_schedule.*linear-var"),
        (["--dataset=small", "--stepz=3"], r"Unknown command line flag 'stepz': did you mean --steps"),
        (["--dataset=small", "--steps=0"], r"steps=0 must be at least 1"),
        (["--dataset=small", "--sampling_steps=4"], r"sampling_steps=4 must lie between 0 and steps=3"),
        (["--dataset=small", "--dims=wide"], r"'wide' is no list of whole numbers such as \[200,600\]"),
        (["--flagfile=absent.flags"], r"no flag file 'absent\.flags' here or among the shipped ones: amazon.*flags"),
        (["--dataset=small", "--prng_impl=rbg", "--sampling_noise"], r"prng_impl=rbg cannot draw noise per user"),
        (["--dataset=small", "--train_minutes=-1"], "train_minutes=-1.0 must not be negative: 15, say, or 0 for no"),
        (["--dataset=small", "--ema_decay=1"], r"ema_decay=1.0 must lie in \[0, 1\): 0 for none"),
        (["--dataset=small", "--recency=power"], r"say --model=t_diffrec"),
        (["--dataset=small", "--model=t_diffrec", "--recency=exponential"], r"recency=exponential needs timestamps"),
        (["--dataset=small", "--dtype=float16"], r"dtype.*float32\|bfloat16"),
        (["--dataset=small", "--mesh=rows:8"], r"mesh='rows:8' is no mesh: write users:4,items:2"),
        (["--dataset=small", "--mesh=users:3,items:2"], r"users:3,items:2 does not fit 8 device\(s\)"),
        (["--dataset=small", "--epochs=0"], r"epochs=0 must be at least 1"),
        (["small"], r"'small' is no flag"),
        (["--data=absent.csv"], r"no file or folder absent\.csv"),
        (["--dataset=small", "--k_core=7"], r"k_core means nothing to a named dataset: drop it, or say --data=LOG"),
        (["--dataset=small", "--w_min=0.2"], r"w_min means nothing to diffrec: drop it, or say --model=t_diffrec"),
        (
            ["--dataset=small", "--model=t_diffrec", "--half_life=9"],
            r"half_life means nothing .*exponential",
        ),
        (["--dataset=small", "--data=x.csv"], r"dataset=small and data=x\.csv are two sources"),
        (["--dataset=small", "--split=random"], r"split=random cannot change small, which comes split"),
        (
            ["--data=x.csv", "--split=diffrec", "--k_core=3"],
            r"k_core=3 means nothing to split=diffrec, which brings its own 10-core",
        ),
        (["--data=x.csv", "--split=diffrec", "--duplicates=last"], r"duplicates=last means nothing to split=diffrec"),
        (
            ["--data=x.csv", "--title_col=name"],
            r"title_col means nothing without titles: drop it, or say --titles=FILE",
        ),
        (["--dataset=small", "--encoding=latin-1"], r"encoding means nothing to a named dataset"),
        (["--data=x.csv", "--noise=natural:all"], r"say --min_rating, or nothing of the log is low"),
        (["--dataset=small", "--data_seed=-1"], r"data_seed=-1 must not be negative"),
        (["--dataset=broken"], r"test_list\.npy is not a readable \.npy array"),
        (["--dataset=untested"], r"untested has no test interactions"),
    ],
)
def test_bad_input_gets_one_sentence_and_no_folder(command, tmp_path, flags, sentence):
    code, text = command(*flags)
    assert code == 2 and re.search(sentence, text, re.S), text
    assert text.startswith("error: ") and "Traceback" not in text
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_folder_of_another_run_is_refused_with_the_difference(command):
    assert command("--dataset=small")[0] == 0
    code, text = command("--dataset=small", "--lr=0.5")
    assert code == 2 and re.search(r"holds a run with another configuration \(lr: 0.0005 there, 0.5 now\)", text)
    other = ["--dataset=small"]
    assert command(*other)[0] == 0


def test_changed_data_is_refused(data_dir, tmp_path, capsys):
    shutil.copytree(data_dir / "small", tmp_path / "changing")
    argv = ["run.py", f"--dataset={tmp_path / 'changing'}", *SMALL, f"--workdir={tmp_path / 'run'}"]
    assert guard.guarded(run.main, argv) == 0
    pairs = np.load(tmp_path / "changing" / "train_list.npy")
    np.save(tmp_path / "changing" / "train_list.npy", pairs[:-1])
    assert guard.guarded(run.main, argv) == 2
    assert "is finished, on data that have changed since" in capsys.readouterr().err
    (tmp_path / "run" / "result.json").unlink()
    assert guard.guarded(run.main, argv) == 2
    assert "holds a run on other interactions" in capsys.readouterr().err


LOG = synthetic.generate(n_users=300, n_items=60, mean_events=30, seed=6)


def write_log(path):
    """The made-up log as a person would bring it; the flags that name its columns."""
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "who": [f"u{u}" for u in LOG.users],
            "sku": [f"item {i}" for i in LOG.items],
            "at": LOG.times // 1_000_000,
            "stars": rng.integers(1, 6, len(LOG)),
        }
    )
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".inter":
        names = ["user_id:token", "item_id:token", "timestamp:float", "rating:float"]
        pacsv.write_csv(table.rename_columns(names), path, pacsv.WriteOptions(delimiter="\t"))
        return []
    else:
        with pa.CompressedOutputStream(path, "gzip") as file:
            pacsv.write_csv(table, file)
    return ["--user_col=who", "--item_col=sku", "--time_col=at", "--rating_col=stars"]


@pytest.mark.parametrize(
    "file, flags, expected",
    [
        ("log.csv.gz", ["--split=temporal", "--model=t_diffrec"], "train comes before validation"),
        (
            "log.parquet",
            ["--split=global_time", "--model=t_diffrec", "--recency=exponential"],
            "No training event is later",
        ),
        pytest.param(
            "log.inter",
            ["--split=leave_one_out", "--noise=random:0.3"],
            "with noise random:0.3",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "log.csv.gz",
            ["--split=random", "--min_rating=3", "--noise=natural:all"],
            "with noise natural:all",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "log.parquet",
            ["--split=diffrec", "--min_rating=2", "--eval_history=train+valid"],
            "leaks the future",
            marks=pytest.mark.long,
        ),
    ],
)
def test_somebodys_own_log_becomes_a_result_table(command, tmp_path, file, flags, expected):
    columns = write_log(tmp_path / file)
    code, text = command(f"--data={tmp_path / file}", *columns, *flags, "--baselines=false")
    assert code == 0, text
    assert expected in text.replace("\n", " "), text
    assert "Leakage check" in text and "log" in text and "published" not in text
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["dataset"] == "log" and 0 <= result["test"]["official"]["recall@20"] <= 1


def test_without_validation_it_says_so_and_keeps_the_last_epoch(command, tmp_path):
    code, text = command("--dataset=unvalidated")
    assert code == 0 and "No validation interactions: training goes on for all --epochs" in text
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["valid"] == {} and result["best_epoch"] == 4


def test_a_patience_shorter_than_the_way_to_the_first_validation_still_ends_well(command, tmp_path):
    code, _ = command("--dataset=small", "--patience=1", "--epochs=6")
    assert code == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["best_epoch"] == 2


def test_damaged_records_are_named(command, tmp_path):
    assert command("--dataset=small", "--epochs=2")[0] == 0
    (tmp_path / "run" / "result.json").write_text("")
    code, text = command("--dataset=small", "--epochs=2")
    assert code == 2 and re.search(r"result\.json is damaged \(.*\): delete it", text)
    (tmp_path / "run" / "result.json").unlink()
    code, text = command("--dataset=small", "--epochs=2")
    assert code == 0 and "going on after epoch 2" in text


def test_an_unwritable_folder_is_refused(command, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, text = command("--dataset=small", workdir="file/run")
    assert code == 2 and "cannot write the run folder" in text and "choose another --workdir" in text


@pytest.mark.long
def test_ctrl_c_saves_and_the_same_command_ends_like_an_uninterrupted_run(command, data_dir, tmp_path):
    flags = [f"--data_dir={data_dir}", "--dataset=small", "--dims=[64]", "--steps=3", "--batch_size=16",
             "--eval_every=10", "--patience=2000", "--epochs=1500", "--baselines=false"]  # fmt: skip
    stopped = in_a_process(*flags, f"--workdir={tmp_path / 'stopped'}")
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.read_text().count("\n") > 12):
        time.sleep(0.05)
    stopped.send_signal(signal.SIGINT)
    text, _ = stopped.communicate(timeout=120)
    assert stopped.returncode == 130, text
    go_on = re.search(r"state saved; to go on: python -m experiments.run (--flagfile=\S+)", text.replace("\n", " "))
    assert go_on, text
    done = len(metrics.read_text().splitlines())
    # the same run, but ended soon after where it was stopped: rewrite the recorded number of epochs in both
    total = done + 7
    for name in ("config.json", "flags.txt"):
        file = tmp_path / "stopped" / name
        file.write_text(file.read_text().replace("1500", str(total)))
    code, text = command(go_on[1], workdir=None, small=False)
    assert code == 0 and "going on after epoch" in text, text
    assert command(*flags[1:], f"--epochs={total}", workdir="whole", small=False)[0] == 0

    def without_seconds(folder):
        lines = [json.loads(line) for line in (tmp_path / folder / "metrics.jsonl").read_text().splitlines()]
        result = json.loads((tmp_path / folder / "result.json").read_text())
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines], result["test"], result["valid"]

    assert without_seconds("stopped") == without_seconds("whole")


def test_help_lists_the_flags(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.parse(["run.py", "--help"], usage="Train a model.")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("Train a model.") and "--noise_scale" in text and "--eval_history" in text
