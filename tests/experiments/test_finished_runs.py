"""What a run folder is worth when its command comes again: finished, out of date, or to be trained for longer."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffrec_jax.data import splits, synthetic
from diffrec_jax.data.interactions import Interactions
from experiments import run
from experiments.running import fingerprints, one_run, source
from experiments.settings import cli, guard
from experiments.settings.budget import not_more
from experiments.settings.cli import as_flags
from experiments.settings.config import configure

LOG = synthetic.generate(n_users=60, n_items=30, mean_events=20, seed=6).deduplicate()
SMALL = ["--dims=[8]", "--steps=3", "--eval_every=2", "--batch_size=32", "--baselines=false"]


def record(name):
    return json.loads(Path("run", name).read_text())


def table(log):
    return pa.table({"user": log.users, "item": log.items, "time": log.times // 1_000_000})


@pytest.fixture
def command(tmp_path, capsys, monkeypatch):
    """Runs a command line in ``tmp_path/run``; the exit code and what was printed."""
    monkeypatch.chdir(tmp_path)

    def do(*flags):
        code = guard.guarded(run.main, ["run.py", *flags, "--workdir=run"])
        printed = capsys.readouterr()
        return code, (printed.out + printed.err).replace("\n", " ")

    return do


@pytest.fixture
def cheap(command):
    """A run of a model that needs no training, on a folder of Parquet files."""
    os.mkdir("log")
    pq.write_table(table(LOG), "log/a.parquet")
    return lambda *flags: command("--data=log", "--time_col=time", "--model=popularity", "--baselines=false", *flags)


def test_data_that_have_grown_are_noticed_and_said(cheap, monkeypatch):
    assert cheap()[0] == 0
    with monkeypatch.context() as patch:  # nothing is read where nothing was touched
        patch.setattr(source, "load", lambda config: pytest.fail("read"))
        code, text = cheap()
    assert code == 0 and "run is finished; its result:" in text
    pq.write_table(table(synthetic.generate(n_users=60, n_items=30, seed=7)), "log/b.parquet")
    for _ in range(2):
        code, text = cheap()
        assert code == 2 and "run is finished, on data that have changed since (" in text, text
        assert "for a run on those of today choose another --workdir" in text
    os.remove("log/b.parquet")
    assert cheap()[0] == 0


def test_files_that_were_only_touched_or_written_anew_are_the_same_data(cheap, monkeypatch):
    assert cheap()[0] == 0
    before = record("config.json")
    order = np.random.default_rng(0).permutation(len(LOG))
    pq.write_table(table(LOG.select(order)), "log/a.parquet")  # other rows first, and so other numbers inside
    code, text = cheap()
    assert code == 0 and "run is finished; its result:" in text, text
    after = record("config.json")
    assert before["files"] != after["files"] and {**before, "files": ""} == {**after, "files": ""}
    monkeypatch.setattr(source, "load", lambda config: pytest.fail("read"))
    assert cheap()[0] == 0


def test_a_result_whose_data_are_gone_is_shown_and_that_is_said(cheap):
    assert cheap()[0] == 0
    shutil.rmtree("log")
    code, text = cheap()
    assert code == 0 and "its data are not where they were, so whether they have changed is not known" in text
    assert "run is finished; its result:" in text


def test_a_changed_test_file_of_three_is_noticed(command):
    split = LOG.split_by_time(0.7, 0.1, 0.2)
    for name, part in zip(("train", "valid", "test"), split):
        pq.write_table(table(part), f"{name}.parquet")
    flags = ["--data=train.parquet", "--valid_data=valid.parquet", "--test_data=test.parquet"]
    flags += ["--time_col=time", "--model=popularity", "--baselines=false"]
    assert command(*flags)[0] == 0 == command(*flags)[0]
    pq.write_table(table(split.test.select(np.arange(20))), "test.parquet")
    code, text = command(*flags)
    assert code == 2 and "data that have changed since" in text


def make_old(fingerprint):
    """The folder as an older version would have left it."""
    document = record("config.json")
    Path("run/config.json").write_text(json.dumps({"config": document["config"], "data": fingerprint}))


def test_folders_of_older_versions_keep_their_results_and_are_not_gone_on_with(cheap):
    assert cheap()[0] == 0
    make_old("0123456789abcdef")
    code, text = cheap()
    assert code == 0 and "made by an older version" in text and "run is finished; its result:" in text
    os.remove("run/result.json")
    code, text = cheap()
    assert code == 2 and "holds the unfinished run of an older version" in text and "choose another --workdir" in text


def test_released_splits_of_older_versions_are_known_again(command):
    split = LOG.split_by_time(0.7, 0.1, 0.2)
    os.mkdir("released")
    for name, part in zip(("train", "valid", "test"), split):
        np.save(f"released/{name}_list.npy", np.stack([part.users, part.items], axis=1))
    flags = ["--dataset=released", "--model=popularity", "--baselines=false"]
    assert command(*flags)[0] == 0
    recorded = record("config.json")["data"]
    assert not recorded.startswith(fingerprints.SCHEME)
    make_old(recorded)
    code, text = command(*flags)
    assert code == 0 and "older version" not in text and "files" in record("config.json")
    make_old("0123456789abcdef")
    assert command(*flags)[0] == 2


def test_the_flags_of_a_run_folder_mean_that_folder_wherever_it_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "b"
    folder.mkdir(parents=True)
    (folder / "flags.txt").write_text(as_flags(configure(workdir="runs/a", epochs=7)))
    workdir = lambda *flags: cli.parse(["run.py", *flags], usage="").run.workdir  # noqa: E731
    assert workdir("--flagfile=runs/b/flags.txt") == "runs/a"  # a flag file like any other
    (folder / "config.json").write_text("{}")
    assert workdir("--flagfile=runs/b/flags.txt") == "runs/b"
    assert workdir("--flagfile", "runs/b/flags.txt", "--seed=3") == "runs/b"
    assert workdir(f"-flagfile={folder / 'flags.txt'}") == str(folder)
    assert workdir("--flagfile=runs/b/flags.txt", "--workdir=c") == "c"
    assert workdir("--workdir", "c", "--flagfile=runs/b/flags.txt") == "c"
    (tmp_path / "more.flags").write_text("--epochs=3\n--workdir=d\n")
    assert workdir("--flagfile=runs/b/flags.txt", "--flagfile=more.flags") == "d"
    assert workdir("--flagfile=more.flags", "--flagfile=runs/b/flags.txt") == "runs/b"
    (folder / "best.flags").write_text("--epochs=3\n")
    assert workdir("--flagfile=runs/b/best.flags") == "runs/b-best-s0"
    monkeypatch.chdir(folder)
    assert workdir("--flagfile=flags.txt") == "."


# The checksum -------------------------------------------------------------------------------------------------------


def split_of(rows=None, *, items=str, times=True, log=LOG):
    log = log if rows is None else log.select(rows)
    stamps = log.times // 1_000_000 if times else None
    raw = Interactions.from_arrays([f"u{u}" for u in log.users], [items(i) for i in log.items], times=stamps)
    return splits.as_given(raw, None, raw.select(np.arange(9)))


def test_the_checksum_depends_on_no_order_of_rows_and_no_numbering():
    order = np.random.default_rng(1).permutation(len(LOG))
    expected = fingerprints.fingerprint(split_of())
    assert expected.startswith("2:")
    shuffled = split_of(order)
    again = splits.as_given(shuffled.train, None, split_of().test)
    assert fingerprints.fingerprint(again) == expected
    assert fingerprints.fingerprint(split_of(np.arange(len(LOG) - 1))) != expected
    assert fingerprints.fingerprint(split_of(items=lambda i: f"{i}x")) != expected
    assert fingerprints.fingerprint(split_of(times=False)) != expected


def test_without_times_the_checksum_keeps_the_order_within_each_user_only():
    by_user = np.argsort(LOG.users, kind="stable")
    log = LOG.select(by_user)
    expected = fingerprints.fingerprint(split_of(times=False, log=log))
    starts = np.flatnonzero(np.diff(log.users, prepend=-1))
    blocks = np.split(np.arange(len(log)), starts[1:])
    turned = splits.as_given(
        split_of(np.concatenate(blocks[::-1]), times=False, log=log).train, None, split_of(times=False, log=log).test
    )
    assert fingerprints.fingerprint(turned) == expected
    swapped = np.arange(len(log))
    swapped[[0, 1]] = [1, 0]
    inside = splits.as_given(split_of(swapped, times=False, log=log).train, None, split_of(times=False, log=log).test)
    assert fingerprints.fingerprint(inside) != expected


# More for a finished run ---------------------------------------------------------------------------------------------


@pytest.fixture
def trained(command):
    pq.write_table(table(LOG), "log.parquet")
    return lambda *flags: command("--data=log.parquet", "--time_col=time", *SMALL, *flags)


def losses():
    return [json.loads(line)["loss"] for line in Path("run/metrics.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_more_epochs_go_on_from_the_last_state_and_end_like_a_longer_run(trained):
    assert trained("--epochs=4")[0] == 0
    whole = losses()
    os.rename("run", "whole")
    assert trained("--epochs=1")[0] == 0
    code, text = trained("--epochs=4")
    assert code == 0 and "more is allowed now (epochs: 1 there, 4 now): it goes on from its last state" in text, text
    assert "going on after epoch 1" in text and losses() == whole
    result = record("result.json")
    assert result["epochs_run"] == 4 and record("config.json")["config"]["epochs"] == 4
    assert "--epochs=4" in Path("run/flags.txt").read_text()
    untouched = os.stat("run/result.json").st_mtime_ns
    assert "run is finished; its result:" in trained("--epochs=4")[1]
    code, text = trained("--epochs=2")
    assert code == 2 and "(epochs: 4 there, 2 now)" in text and "can be trained for longer, not for less" in text
    assert os.stat("run/result.json").st_mtime_ns == untouched


def test_an_interrupted_extension_keeps_the_earlier_result_and_its_flag_file_goes_on(trained, tmp_path, monkeypatch):
    assert trained("--epochs=2")[0] == 0
    earlier = {name: Path("run", name).read_bytes() for name in ("result.json", "config.json", "per_user.parquet")}
    with monkeypatch.context() as patch:
        patch.setattr(one_run, "measured", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        assert trained("--epochs=4")[0] == guard.EXIT_INTERRUPTED
    assert earlier == {name: Path("run", name).read_bytes() for name in earlier}
    assert "run is finished; its result:" in trained("--epochs=2")[1]
    assert guard.guarded(run.main, ["run.py", "--flagfile=run/flags.txt"]) == 0
    assert record("result.json")["epochs_run"] == 4


def test_patience_that_is_over_is_said_and_more_of_it_goes_on(trained):
    code, _ = trained("--epochs=40", "--patience=2", "--lr=1e-9")
    ended = record("result.json")
    assert code == 0 and ended["epochs_run"] < 40
    code, text = trained("--epochs=50", "--patience=2", "--lr=1e-9")
    assert code == 0 and "more was allowed (epochs: 40 there, 50 now), but validation has not improved since" in text
    assert "a larger --patience would go on" in text and record("result.json") == ended
    code, text = trained("--epochs=40", "--patience=4", "--lr=1e-9")
    assert code == 0 and "it goes on from its last state" in text
    assert record("result.json")["epochs_run"] > ended["epochs_run"]


def test_less_of_anything_is_refused():
    pairs = {"epochs": (3, 4), "patience": (5, 6), "train_minutes": (2.0, 0.0), "lr": (1.0, 1.0)}
    assert list(not_more({**pairs, "epochs": (4, 3)})) == ["epochs", "lr"]
    assert list(not_more({"train_minutes": (0.0, 5.0)})) == ["train_minutes"]
    assert not not_more({"train_minutes": (1.0, 5.0), "epochs": (1, 2)})


def test_a_named_set_has_no_files_to_look_at():
    assert source.state_of_files(configure(dataset="synthetic")) == ""
    assert source.state_of_files(configure(data="nowhere.csv")) is None
