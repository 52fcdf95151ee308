"""A day added to a prepared folder: as if the whole log had been prepared, and refused where it would not be."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffrec_jax.data.prepared import Meta, Recipe, append, prepare, read
from diffrec_jax.data.prepared import folder as files
from experiments import prepare as door
from experiments.running.fingerprints import fingerprint
from experiments.settings import guard

START, DAY = 1_600_000_000, 86_400
COLUMNS = {"user": "user", "item": "item", "time": "at", "weight": "worth"}


def moment(day):
    return str(np.datetime64(START + day * DAY, "s"))


def events(seed, days, *, n=300, users=20, items=15, text=True):
    rng = np.random.default_rng(seed)
    low, high = days
    who = rng.integers(0, users, n)
    return pa.table(
        {
            "user": [f"u{u}" for u in who] if text else who,
            "item": [f"i{i}" for i in rng.integers(0, items, n)] if text else rng.integers(0, items, n),
            "at": START + rng.integers(low * DAY, high * DAY, n),
            "worth": rng.integers(1, 4, n).astype(np.float32),
        }
    )


@pytest.fixture
def place(tmp_path):
    pq.write_table(events(0, (0, 10)), tmp_path / "old.parquet")
    pq.write_table(events(1, (10, 11), users=25, items=18), tmp_path / "day.parquet")
    pq.write_table(events(2, (11, 12), users=27, items=18), tmp_path / "next.parquet")
    return tmp_path


def recipe_for(path, cuts, **changes):
    named = {"columns": COLUMNS, "core": 0, "rule": "global_time", "cuts": cuts, "parts": 3, **changes}
    return Recipe(path=str(path), **named)


def whole(place, names, cuts, **changes):
    tables = [pq.read_table(place / f"{name}.parquet") for name in names]
    pq.write_table(pa.concat_tables(tables), place / "whole.parquet")
    out = place / f"from-{len(names)}"
    prepare(out, recipe_for(place / "whole.parquet", cuts, **changes))
    return read(out, name="shop")


@pytest.mark.parametrize("repeats", [False, True])
def test_two_days_added_are_the_whole_log_prepared(place, repeats):
    cuts = (moment(7), moment(9))
    prepare(place / "out", recipe_for(place / "old.parquet", cuts, repeats=repeats))
    before = read(place / "out")
    meta = append(place / "out", str(place / "day.parquet"))
    assert fingerprint(read(place / "out")) == fingerprint(whole(place, ["old", "day"], cuts, repeats=repeats))
    assert "added: " in meta.history[0] and meta.n_users == 25
    ids = pq.read_table(place / "out" / files.files_of(meta, "users")[0])["id"].to_pylist()
    assert sorted(ids[: before.n_users]) == sorted(before.user_ids.tolist())
    later = (moment(9), moment(11))
    meta = append(place / "out", str(place / "next.parquet"), cuts=later)
    expected = whole(place, ["old", "day", "next"], later, repeats=repeats)
    found = read(place / "out", name="shop")
    assert fingerprint(found) == fingerprint(expected)
    for ours, theirs in zip(found, expected):
        np.testing.assert_array_equal(ours.csr().weights, theirs.csr().weights)
    assert meta.generation == 2 and len(meta.history) == 2 and meta.notes[-1] == expected.notes[-1]
    there = {str(file.relative_to(place / "out")) for file in (place / "out").rglob("part-*")}
    assert there == set(meta.files) == set(Meta.read(place / "out").files)


def test_what_is_below_the_core_or_too_old_is_counted(place):
    prepare(place / "out", recipe_for(place / "old.parquet", (moment(7), moment(9)), core=3))
    pq.write_table(pa.concat_tables([events(1, (10, 11), users=25), events(3, (2, 8), n=40)]), place / "day.parquet")
    before = Meta.read(place / "out")
    meta = append(place / "out", str(place / "day.parquet"))
    assert "40 events from before the test part were left out" in meta.history[0]
    assert "below the core of 3 are" in meta.history[0]
    assert meta.n_events["train"] == before.n_events["train"] and meta.n_events["test"] > before.n_events["test"]


def test_a_call_that_was_stopped_leaves_the_folder_and_is_done_again(place, monkeypatch):
    cuts = (moment(7), moment(9))
    prepare(place / "out", recipe_for(place / "old.parquet", cuts))
    before, real = fingerprint(read(place / "out")), os.replace

    def full(source, target):
        if "part-00001" in str(target):
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="make room, and run the same command again"):
            append(place / "out", str(place / "day.parquet"))
    assert fingerprint(read(place / "out")) == before
    append(place / "out", str(place / "day.parquet"))
    assert fingerprint(read(place / "out")) == fingerprint(whole(place, ["old", "day"], cuts))
    with pytest.raises(ValueError, match=r"was added to .* already: there is nothing to do"):
        append(place / "out", str(place / "day.parquet"))


@pytest.mark.parametrize(
    "changes, day, cuts, said",
    [
        (
            {"rule": "temporal", "cuts": ()},
            (10, 11),
            (),
            "was split by temporal, and more events would move every",
        ),
        (
            {"duplicates": "last"},
            (10, 11),
            (),
            "keeps the last event of a repeated pair, and a new one would take",
        ),
        ({}, (10, 11), (moment(6), moment(9)), "must be 2 and not before those of the folder"),
        ({}, (10, 11), (moment(9),), "must be 2 and not before those of the folder"),
        ({}, (2, 5), (), "all 300 events are from before .*, where the test part begins"),
    ],
)
def test_what_cannot_be_added_is_refused(place, changes, day, cuts, said):
    prepare(place / "out", recipe_for(place / "old.parquet", **{"cuts": (moment(7), moment(9)), **changes}))
    pq.write_table(events(5, day), place / "day.parquet")
    with pytest.raises(ValueError, match=said):
        append(place / "out", str(place / "day.parquet"), cuts=cuts)


def test_ids_of_another_type_are_refused(place):
    prepare(place / "out", recipe_for(place / "old.parquet", (moment(7), moment(9))))
    pq.write_table(events(5, (10, 11), text=False), place / "day.parquet")
    with pytest.raises(ValueError, match=r"ids are like 'u\d+' in the folder and like \d+ in the new"):
        append(place / "out", str(place / "day.parquet"))


def test_the_command(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    named = ["--user_col=user", "--item_col=item", "--time_col=at", "--k_core=0"]
    cut = f"--split_dates={moment(7)},{moment(9)}"
    assert guard.guarded(door.main, ["prepare.py", "--data=old.parquet", *named, cut, "--out=shop"]) == 0
    more = ["prepare.py", "--append=true", "--data=day.parquet", "--out=shop"]
    assert guard.guarded(door.main, [*more, "--k_core=3"]) == 2
    assert "k_core=3 was decided when shop was prepared: drop it" in capsys.readouterr().err
    later = f"--split_dates={moment(9)},{moment(10)}"
    assert guard.guarded(door.main, ["prepare.py", "--append", "--data=day.parquet", later, "--out=shop"]) == 0
    assert "added: " in capsys.readouterr().out
