"""Prepared folders: every engine writes the same, a run reads what it would have made itself, and damage is named."""

import dataclasses
import errno
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffrec_jax.data import preprocess, readers, splits
from diffrec_jax.data.prepared import Meta, Recipe, engines, is_prepared, prepare, read
from diffrec_jax.data.prepared import folder as files
from experiments.running.fingerprints import fingerprint

duckdb = pytest.importorskip("duckdb")

COLUMNS = {"user": "user", "item": "item", "time": "at", "rating": "stars", "weight": "worth"}
ENOUGH = 400_000_000  # bytes


def table(rng, n=600, *, users=25, items=18, text=True, moments=90, missing=False):
    """A log with repeated pairs, ties in time, ids with spaces around them, and, if asked, rows without one."""
    who, what = rng.integers(0, users, n), rng.integers(0, items, n)
    ids = [f" {'é' if u % 2 else 'u'}{u} " if text else int(u) for u in who]
    if missing:
        ids = [None if at % 50 == 7 else id_ for at, id_ in enumerate(ids)]
    return pa.table(
        {
            "user": ids,
            "item": what.astype(np.int32),
            "at": 1_600_000_000 + rng.integers(0, moments, n),
            "stars": rng.integers(1, 6, n).astype(np.float64),
            "worth": rng.integers(1, 4, n).astype(np.float32),
        }
    )


@pytest.fixture
def log(tmp_path):
    pq.write_table(table(np.random.default_rng(0), missing=True), tmp_path / "log.parquet", row_group_size=70)
    return tmp_path / "log.parquet"


def recipe_for(log, **changes):
    return Recipe(path=str(log), **{"columns": COLUMNS, "core": 3, "parts": 3, **changes})


def in_memory(recipe):
    """The split by the functions that a run without a folder goes through."""
    named = {role: recipe.columns[role] for role in recipe.columns}
    log = preprocess.prepare(
        readers.read_log(recipe.path, **named),
        rating=recipe.min_rating,
        duplicates=None if recipe.repeats else recipe.duplicates,
        core=recipe.core,
        history=recipe.history,
    )
    log = preprocess.keep_repeats(log) if recipe.repeats else log
    train, valid, test = recipe.shares
    if recipe.rule == "leave_one_out":
        return splits.leave_one_out(log)
    if recipe.cuts:
        return splits.global_time(log, cuts=recipe.cuts)
    return getattr(splits, recipe.rule)(log, train=train, valid=valid, test=test)


RECIPES = [
    {},
    {"rule": "leave_one_out", "min_rating": 2.0, "history": 5},
    {"rule": "global_time", "duplicates": "last", "min_rating": 2.0},
    {"rule": "global_time", "cuts": ("2020-09-13T12:27:20", "2020-09-13T12:27:40")},
    {"rule": "global_time", "shares": (0.8, 0.0, 0.2)},
    {"repeats": True, "shares": (0.5, 0.25, 0.25)},
    {"columns": {"user": "user", "item": "item"}},
]


@pytest.mark.parametrize("changes", RECIPES, ids=str)
def test_every_engine_writes_the_same_and_a_run_reads_what_it_would_have_made(log, tmp_path, changes):
    recipe = recipe_for(log, **changes)
    metas = {e: prepare(tmp_path / e, recipe, engine=e, memory=ENOUGH) for e in ("arrow", "duckdb")}
    one, other = (dataclasses.asdict(meta) | {"engine": ""} for meta in metas.values())
    assert one == other and metas["arrow"].n_parts == 3
    expected, found = in_memory(recipe), read(tmp_path / "duckdb", name="log")
    assert fingerprint(found) == fingerprint(expected) and found.notes == expected.notes
    assert (found.rule, found.guarantee) == (expected.rule, expected.guarantee)
    for ours, theirs in zip(found, expected):
        np.testing.assert_array_equal(ours.csr().indices, theirs.csr().indices)
        if recipe.weighed:
            np.testing.assert_array_equal(ours.csr().weights, theirs.csr().weights)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(30, 400),
    core=st.integers(0, 4),
    rule=st.sampled_from(["temporal", "leave_one_out", "global_time"]),
    duplicates=st.sampled_from(["first", "last"]),
    text=st.booleans(),
    moments=st.sampled_from([5, 10_000]),
)
def test_engines_agree_on_any_log(tmp_path_factory, seed, n, core, rule, duplicates, text, moments):
    place = tmp_path_factory.mktemp("any")
    pq.write_table(table(np.random.default_rng(seed), n, text=text, moments=moments), place / "log.parquet")
    recipe = recipe_for(place / "log.parquet", core=core, rule=rule, duplicates=duplicates, parts=2)
    found = {}
    for engine in ("arrow", "duckdb"):
        try:
            found[engine] = prepare(place / engine, recipe, engine=engine, memory=ENOUGH).checksum
        except ValueError as error:
            found[engine] = str(error).split(" (before it")[0]
    assert found["arrow"] == found["duckdb"]


def test_what_lies_in_a_folder_is_what_its_description_says(log, tmp_path):
    meta = prepare(tmp_path / "out", recipe_for(log, rule="leave_one_out"), engine="duckdb", memory=ENOUGH)
    users, items = (pq.read_table(tmp_path / "out" / files.part_file(kind, 0, 1)) for kind in ("users", "items"))
    assert users["number"].to_pylist() == list(range(meta.n_users)) and len(items) == meta.n_items
    events, ids = users["events"].to_numpy(), users["id"].to_pylist()
    assert all((-a, x) < (-b, y) for a, b, x, y in zip(events, events[1:], ids, ids[1:]))
    raw = dict(zip(items["number"].to_pylist(), items["id"].to_pylist()))
    total = 0
    for part in range(3):
        seen = []
        for name in files.PARTS:
            own = pq.read_table(tmp_path / "out" / files.part_file(f"events/{name}", part, 3)).to_pylist()
            assert all(row["user"] % 3 == part for row in own)
            keys = [(row["user"], row["time"], raw[row["item"]]) for row in own]
            assert keys == sorted(keys)
            seen += keys
            total += len(own)
    assert total == sum(meta.n_events.values()) == int(events.sum())
    told = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert told["version"] == 1 and told["checksum"] == meta.checksum and set(told["columns"]) == set(files.MEANING)
    assert Meta.read(tmp_path / "out") == meta and not (tmp_path / "out" / files.WORK).exists()
    assert is_prepared(tmp_path / "out") and not is_prepared(tmp_path)


def test_titles_and_text_files_come_along(tmp_path):
    (tmp_path / "log.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u in range(6) for i in range(7)))
    recipe = Recipe(path=str(tmp_path / "log.csv"))
    prepare(tmp_path / "out", recipe, titles={"3": "Three"})
    assert read(tmp_path / "out").item_titles.tolist()[:5] == ["0", "1", "2", "Three", "4"]
    with pytest.raises(ValueError, match=r"engine=duckdb reads Parquet, and .*log.csv is text: say --engine=arrow"):
        prepare(tmp_path / "other", recipe, engine="duckdb")


@pytest.mark.parametrize("engine", ["arrow", "duckdb"])
def test_what_was_stopped_goes_on_and_what_is_finished_stays(log, tmp_path, monkeypatch, engine):
    whole = prepare(tmp_path / "whole", recipe_for(log), engine=engine, memory=ENOUGH)
    real = os.replace

    def full(source, target):
        if "part-00001" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="make room, and run the same command again; it goes on from what is finish"):
            prepare(tmp_path / "out", recipe_for(log), engine=engine, memory=ENOUGH)
    with pytest.raises(ValueError, match="was not finished: run the same prepare command again"):
        read(tmp_path / "out")
    kept = (tmp_path / "out" / files.part_file("events/train", 0, 3)).stat().st_mtime_ns
    lines = []
    again = prepare(tmp_path / "out", recipe_for(log), engine=engine, memory=ENOUGH, say=lines.append)
    assert again.checksum == whole.checksum
    assert (tmp_path / "out" / files.part_file("events/train", 0, 3)).stat().st_mtime_ns == kept
    assert engine == "arrow" or not any("reading" in line for line in lines)
    prepare(tmp_path / "out", recipe_for(log), engine=engine, memory=ENOUGH, say=lines.append)
    assert lines[-1].endswith("is prepared already")
    with pytest.raises(ValueError, match="holds log, prepared in another way: name another --out"):
        prepare(tmp_path / "out", recipe_for(log, core=2), engine=engine, memory=ENOUGH)


def test_damage_is_named(log, tmp_path):
    meta = prepare(tmp_path / "out", recipe_for(log))
    place = tmp_path / "out" / files.part_file("events/train", 1, 3)
    good = place.read_bytes()
    for damage, said in (
        (lambda: place.write_bytes(good[: len(good) // 2]), "cannot be read"),
        (lambda: pq.write_table(pq.read_table(place).slice(1), place), "does not hold what meta.json says"),
        (place.unlink, "is missing: copy it again, or prepare the folder again"),
    ):
        place.write_bytes(good)
        damage()
        with pytest.raises(ValueError, match=f"part-00001-of-00003.parquet {said}"):
            read(tmp_path / "out")
    place.write_bytes(good)
    told = json.loads((tmp_path / "out" / "meta.json").read_text())
    for changes, said in (
        ({"version": 2}, "of version 2 of prepared folders, and this diffrec_jax reads up to 1"),
        ({"format": "x"}, "does not describe a prepared folder"),
    ):
        (tmp_path / "out" / "meta.json").write_text(json.dumps({**told, **changes}))
        with pytest.raises(ValueError, match=said):
            read(tmp_path / "out")
    meta.write(tmp_path / "out")
    assert len(read(tmp_path / "out").train) == meta.n_events["train"]
    with pytest.raises(ValueError, match=r"is no prepared folder: it has no meta\.json"):
        read(tmp_path)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"rule": "random"}, "split=random cannot be prepared: choose temporal, leave_one_out, global_time"),
        ({"cuts": ("2020-01-01",)}, "split_dates means nothing to split=temporal"),
        ({"rule": "global_time", "columns": {"user": "user"}}, "'global_time' needs times and this log has none"),
        ({"min_rating": 3.0, "columns": {}}, "min_rating=3 needs ratings: name their column"),
        ({"parts": -1}, "parts=-1 must be between 1 and"),
        ({"shares": (0.5, 0.1, 0.1)}, "the three add up to 1"),
    ],
)
def test_recipes_that_make_nothing_are_refused(log, changes, said):
    with pytest.raises(ValueError, match=said):
        recipe_for(log, **changes)


def test_what_an_engine_cannot_do_is_said(log, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="memory=100MB is too little for duckdb: give at least 300MB"):
        prepare(tmp_path / "out", recipe_for(log), engine="duckdb", memory=100_000_000)
    with pytest.raises(ValueError, match="engine='dask' is unknown: choose one of auto, arrow, duckdb, spark"):
        prepare(tmp_path / "out", recipe_for(log), engine="dask")
    with files.locked(tmp_path / "out"), pytest.raises(ValueError, match="is being written by another process"):
        prepare(tmp_path / "out", recipe_for(log))
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "meta.json").write_text("{}")
    assert not is_prepared(tmp_path / "held")
    with pytest.raises(ValueError, match="holds files already, and is no prepared folder: name another --out"):
        prepare(tmp_path / "held", recipe_for(log))
    lines = []
    monkeypatch.setattr(engines, "free_memory", lambda: 50_000)
    meta = prepare(tmp_path / "auto", recipe_for(log), say=lines.append)
    assert "may be taken: engine duckdb" in lines[0] and meta.engine == "duckdb"


@pytest.mark.parametrize("engine", ["arrow", "duckdb"])
@pytest.mark.parametrize(
    "column, values, said",
    [
        ("at", [1.6e9] * 599 + [1.6e12], r"column 'at' mixes units: row 1 holds 1600000000.0 and row 600 16000000000"),
        ("at", [20200131] * 600, r"row \d+: 20200131 in column 'at' is a date written as a number \(yyyymmdd\)"),
        ("at", [1.6e9] * 599 + [None], "row 600 has no time in column 'at'"),
        ("stars", [4.0] * 599 + [None], "row 600: None in column 'stars' is not a rating"),
        ("worth", [1.0] * 599 + [-1.0], "row 600: weight -1 in column 'worth' must be above 0"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path, engine, column, values, said):
    whole = table(np.random.default_rng(0))
    whole = whole.set_column(whole.column_names.index(column), column, pa.array(values))
    pq.write_table(whole, tmp_path / "log.parquet", row_group_size=70)
    with pytest.raises(ValueError, match=said):
        prepare(tmp_path / "out", recipe_for(tmp_path / "log.parquet"), engine=engine, memory=ENOUGH)


@pytest.mark.parametrize("engine", ["arrow", "duckdb"])
def test_ids_of_two_types_are_refused_and_of_two_widths_are_one(tmp_path, engine):
    (tmp_path / "log").mkdir()
    rng = np.random.default_rng(0)
    pq.write_table(table(rng, text=False), tmp_path / "log" / "a.parquet")
    narrow = table(rng, text=False)
    narrow = narrow.set_column(0, "user", narrow["user"].cast(pa.int16()))
    pq.write_table(narrow, tmp_path / "log" / "b.parquet")
    meta = prepare(tmp_path / "out", recipe_for(tmp_path / "log"), engine=engine, memory=ENOUGH)
    assert meta.n_users == 25 and read(tmp_path / "out").user_ids.dtype == np.int64
    pq.write_table(table(rng), tmp_path / "log" / "c.parquet")
    with pytest.raises(ValueError, match="column 'user' is int64 in one file and string in"):
        prepare(tmp_path / "other", recipe_for(tmp_path / "log"), engine=engine, memory=ENOUGH)


def spelled(seed=0, n=600):
    """The same times and ids in every spelling that a Parquet file may have."""
    rng = np.random.default_rng(seed)
    seconds, users = 1_600_000_000 + rng.integers(0, 500_000, n), rng.integers(0, 40, n)
    micros, text = pa.array(seconds * 10**6), [f"x{u}" for u in users]
    times = {
        "int32": pa.array(seconds.astype(np.int32)),
        "milliseconds": pa.array(seconds * 1000),
        "float": pa.array(seconds + 0.25),
        "decimal": pa.array(seconds).cast(pa.decimal128(20, 0)),
        "timestamp": micros.cast(pa.timestamp("us")),
        "zoned": micros.cast(pa.timestamp("us", tz="UTC")),
        "nanoseconds": pa.array(seconds * 10**9).cast(pa.timestamp("ns")),
        "date": micros.cast(pa.timestamp("us")).cast(pa.date32(), safe=False),
        "iso": pa.array([f"{np.datetime64(int(s), 's')}Z" for s in seconds]),
        "digits": pa.array([str(s) for s in seconds]),
        "order": pa.array(rng.permutation(n)),
    }
    ids = {
        "uint64": pa.array(users.astype(np.uint64)),
        "float": pa.array(users.astype(np.float64)),
        "dictionary": pa.array(text).dictionary_encode(),
        "bytes": pa.array([each.encode() for each in text]),
        "large": pa.array(text, pa.large_string()),
    }
    return [(f"time {name}", ids["large"], column) for name, column in times.items()] + [
        (f"id {name}", column, times["int32"]) for name, column in ids.items()
    ]


@pytest.mark.parametrize("users, times", [case[1:] for case in spelled()], ids=[case[0] for case in spelled()])
def test_every_spelling_means_the_same_to_both_engines(tmp_path, users, times):
    items = np.random.default_rng(1).integers(0, 30, len(users))
    written = pa.table({"user": users, "item": items, "at": times})
    pq.write_table(written, tmp_path / "log.parquet", row_group_size=70)
    recipe = recipe_for(tmp_path / "log.parquet", columns={"user": "user", "item": "item", "time": "at"})
    one, other = (prepare(tmp_path / engine, recipe, engine=engine, memory=ENOUGH) for engine in ("arrow", "duckdb"))
    assert (one.checksum, one.notes) == (other.checksum, other.notes)
