"""Splits of one's own at the command line: shares, cut dates, three files, and none for validation."""

import json

import numpy as np
import pytest

from diffrec_jax.data import synthetic
from experiments import run
from experiments.reporting import results_page, systems
from experiments.running import source
from experiments.settings import cli, guard
from experiments.settings.cli import as_flags
from experiments.settings.commands import command as command_of
from experiments.settings.config import configure

LOG = synthetic.generate(n_users=60, n_items=30, mean_events=20, seed=6).deduplicate()
COLUMNS = ["--user_col=who", "--item_col=sku", "--time_col=at"]


def write(path, log, rows):
    lines = [f"u{log.users[r]},i{log.items[r]},{log.times[r] // 1_000_000}" for r in rows]
    path.write_text("\n".join(["who,sku,at", *lines]) + "\n")
    return path


@pytest.fixture
def log(tmp_path):
    return write(tmp_path / "log.csv", LOG, range(len(LOG)))


@pytest.fixture
def files(tmp_path):
    """Three files of a split by time, the order of rows shuffled."""
    folder, rng = tmp_path / "mine", np.random.default_rng(0)
    folder.mkdir()
    order = np.argsort(LOG.times, kind="stable")
    parts = np.split(order, [len(order) * 7 // 10, len(order) * 8 // 10])
    for name, rows in zip(("train", "valid", "test"), parts):
        write(folder / f"{name}.csv", LOG, rng.permutation(rows))
    return folder


def asked(*flags):
    return source.load(cli.parse(["run.py", *COLUMNS, *flags], usage=""))


def shares(split):
    sizes = np.array([len(part) for part in split])
    return sizes / sizes.sum()


@pytest.mark.parametrize("rule", ["temporal", "global_time", "random"])
@pytest.mark.parametrize("text", ["60,20,20", ".6,.2,.2", "[60, 20, 20]"])
def test_shares_divide_as_they_say(log, rule, text):
    split = asked(f"--data={log}", f"--split={rule}", f"--split_shares={text}")
    assert split.rule == rule
    np.testing.assert_allclose(shares(split), [0.6, 0.2, 0.2], atol=0.03)


@pytest.mark.parametrize("rule", ["temporal", "global_time", "random"])
def test_a_share_of_none_leaves_no_validation_part(log, rule):
    split = asked(f"--data={log}", f"--split={rule}", "--split_shares=80,0,20")
    assert len(split.valid) == 0 and abs(shares(split)[2] - 0.2) < 0.03
    assert asked(f"--data={log}", "--split_shares=80,0,20").rule == "temporal"


def test_the_usual_shares_are_those_of_no_flag(log):
    said, unsaid = asked(f"--data={log}", "--split_shares=70,10,20"), asked(f"--data={log}")
    assert source.fingerprint(said) == source.fingerprint(unsaid)


def test_one_spelling_of_shares_is_recorded():
    assert configure(data="x", split_shares="80,10,10") == configure(data="x", split_shares=".8, .1, .1")


def test_dates_cut_where_they_say(log):
    first, second = (np.datetime64(int(np.quantile(LOG.times, q)), "us") for q in (0.6, 0.8))
    split = asked(f"--data={log}", f"--split_dates={first},{second}", "--k_core=0")
    assert split.rule == "global_time"
    assert split.train.times.max() < first.astype(np.int64) <= split.valid.times.min()
    assert split.valid.times.max() < second.astype(np.int64) <= split.test.times.min()
    split = asked(f"--data={log}", "--split=global_time", f"--split_dates={second}", "--k_core=0")
    assert len(split.valid) == 0 and split.train.times.max() < second.astype(np.int64) <= split.test.times.min()


def test_three_files_share_their_ids_and_are_kept_as_given(files):
    split = asked(*(f"--{flag}={files}/{name}.csv" for flag, name in PARTS))
    assert (split.rule, split.name) == ("as_given", "mine")
    for part, (_, name) in zip(split, PARTS):
        rows = [line.split(",")[:2] for line in (files / f"{name}.csv").read_text().splitlines()[1:]]
        pairs = zip(split.user_ids[part.users].tolist(), split.item_ids[part.items].tolist())
        assert sorted(map(list, pairs)) == sorted(rows)
    without = asked(*(f"--{flag}={files}/{name}.csv" for flag, name in PARTS if name != "valid"))
    assert len(without.valid) == 0 and len(without.test) == len(split.test)


PARTS = (("data", "train"), ("valid_data", "valid"), ("test_data", "test"))


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--data=x.csv", "--split_shares=80,10"], r"split_shares=80,10 is no division .* add up to 100 \(or 1\)"),
        (["--data=x.csv", "--split_shares=80,10,20"], "is no division"),
        (["--data=x.csv", "--split_shares=0,50,50"], "is no division"),
        (["--data=x.csv", "--split_shares=120,-40,20"], "is no division"),
        (["--data=x.csv", "--split_shares=most"], "is no division"),
        (["--data=x.csv", "--split_shares=nan,1,1"], "is no division"),
        (["--data=x.csv", "--split=leave_one_out", "--split_shares=8,1,1"], "is no division"),
        (["--data=x.csv", "--split=leave_one_out", "--split_shares=80,10,10"], "means nothing to split=leave_one_out"),
        (["--data=x.csv", "--split=diffrec", "--split_shares=80,10,10"], "means nothing to split=diffrec"),
        (["--data=x.csv", "--split=random", "--split_dates=2020-01-01"], "split_dates means nothing to split=random"),
        (["--data=x.csv", "--split_dates=2020-01-01", "--split_shares=80,10,10"], "two ways to cut a log"),
        (["--data=x.csv", "--split_dates=2020-13-01"], "the cut '2020-13-01' is no time"),
        (["--data=x.csv", "--split_dates=2020-02-01,2020-01-01"], "not in order"),
        (["--data=x.csv", "--split_dates=20200101"], "the cut '20200101' is no time"),
        (["--data=x.csv", "--valid_data=y.csv"], "name the last one, too, by --test_data"),
        (["--test_data=y.csv"], "test_data means nothing to a named dataset: drop it, or say --data=LOG"),
        (["--data=x.csv", "--test_data=y.csv", "--split=temporal"], "split means nothing to a split of your own files"),
        (["--data=x.csv", "--test_data=y.csv", "--k_core=3"], "k_core means nothing to a split of your own files"),
        (["--data=x.csv", "--test_data=y.csv", "--split_shares=80,10,10"], "split_shares means nothing"),
        (
            ["--data=x.csv", "--test_data=y.csv", "--noise=natural:all", "--min_rating=4", "--rating_col=r"],
            "needs the one log that a split was made of",
        ),
        (
            ["--dataset={files}", "--split_shares=80,10,10"],
            "split_shares=0.8,0.1,0.1 cannot change .* which comes split",
        ),
    ],
)
def test_what_says_no_split_is_refused(files, flags, sentence):
    np.save(files / "train_list.npy", np.zeros((1, 2), int))
    with pytest.raises(ValueError, match=sentence):
        source.load(cli.parse(["run.py", *(flag.format(files=files) for flag in flags)], usage=""))


@pytest.mark.parametrize(
    "part, rows, sentence",
    [
        ("test", "train", "all [0-9,]+ interactions of the test part are in the training part"),
        ("valid", "train", "all [0-9,]+ interactions of the validation part are in the training part"),
        ("test", "foreign", r"none of the 1 items of the test part is in the training part.* test has 'X9'"),
    ],
)
def test_parts_that_cannot_judge_are_refused_before_anything_is_written(files, tmp_path, part, rows, sentence):
    (files / "foreign.csv").write_text("who,sku,at\nu1,X9,1700000000\n")
    (files / f"{part}.csv").write_text((files / f"{rows}.csv").read_text())
    flags = [*COLUMNS, "--model=ease", f"--workdir={tmp_path / 'r'}", "--quiet"]
    with pytest.raises(ValueError, match=sentence):
        run.main(["run.py", *flags, *(f"--{flag}={files}/{name}.csv" for flag, name in PARTS)])
    assert not (tmp_path / "r").exists()


def test_a_file_at_fault_is_named(files):
    (files / "valid.csv").write_text("who,sku,at\n")
    with pytest.raises(ValueError, match=r"mine/valid\.csv: the log has columns .* but no rows"):
        asked(*(f"--{flag}={files}/{name}.csv" for flag, name in PARTS))


def test_a_run_on_three_files_leaves_what_every_page_reads(files, tmp_path, capsys):
    flags = [*COLUMNS, "--model=popularity", "--baselines=false"]
    flags += [f"--{flag}={files}/{name}.csv" for flag, name in PARTS if flag != "valid_data"]
    assert (
        guard.guarded(run.main, ["run.py", *flags, f"--workdir={tmp_path / 'run'}", "--eval_history=train+valid"]) == 0
    )
    assert "split: as_given" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["split"], result["dataset"], result["valid"]) == ("as_given", "mine", {})
    found = systems.read(tmp_path / "run")
    said = command_of(found.config, [0])
    assert "--data=train.csv" in said and "--test_data=test.csv" in said and str(tmp_path) not in said
    assert "as_given" in results_page.page([found])
    (tmp_path / "flags").write_text(as_flags(configure(split_shares="80,0,20", data="x", split="random")))
    assert cli.parse(["run.py", f"--flagfile={tmp_path / 'flags'}"], usage="").data.split_shares == "0.8,0,0.2"
