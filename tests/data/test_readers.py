"""Readers: every format gives the same log, raw ids survive, and bad files get one sentence."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec_jax.data import readers
from diffrec_jax.data.interactions import Interactions

USERS = ["u1", "u2", "u1", "u3"]
ITEMS = [7, 9, 9, 7]
TIMES = [1_600_000_003, 1_600_000_001, 1_600_000_000, 1_600_000_002]
RATINGS = [5.0, 3.5, 4.0, 1.0]
COLUMNS = {"user": "who", "item": "what", "time": "when", "rating": "stars"}


@pytest.fixture
def table():
    return pa.table({"when": TIMES, "who": USERS, "other": ["x"] * 4, "stars": RATINGS, "what": ITEMS})


def check(data):
    assert data.user_ids[data.users].tolist() == USERS
    assert data.item_ids[data.items].tolist() == ITEMS
    assert data.item_ids.dtype == np.int64
    assert (data.times // 1_000_000).tolist() == TIMES
    assert data.ratings.tolist() == RATINGS
    assert data.users.dtype == data.items.dtype == np.int32
    assert any("unix seconds" in note for note in data.notes)


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("a.csv.gz", ","), ("a.txt.gz", "\t")]
)
def test_delimited_text(tmp_path, table, name, delimiter):
    path = tmp_path / name
    with pa.output_stream(path, compression="detect") as out:
        pyarrow.csv.write_csv(table, out, pyarrow.csv.WriteOptions(delimiter=delimiter))
    check(Interactions.from_csv(path, **COLUMNS))
    check(readers.read_log(path, **COLUMNS))


def test_text_without_a_header_and_with_another_delimiter(tmp_path):
    path = tmp_path / "a.dat"
    path.write_text("".join(f"{u};{i};{t};{r}\n" for u, i, t, r in zip(USERS, ITEMS, TIMES, RATINGS)))
    check(readers.read_csv(path, **COLUMNS, delimiter=";", columns=["who", "what", "when", "stars"]))


def test_parquet_file_folder_and_hive_partitions(tmp_path, table):
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    check(Interactions.from_parquet(tmp_path / "a.parquet", **COLUMNS))
    pq.write_table(table.slice(0, 2), _made(tmp_path / "folder") / "part-0.parquet", use_dictionary=False)
    pq.write_table(table.slice(2), tmp_path / "folder" / "part-1.parquet")
    check(readers.read_log(tmp_path / "folder", **COLUMNS))
    for day, rows in (("2024-01-01", table.slice(0, 1)), ("2024-01-02", table.slice(1))):
        pq.write_table(rows.drop_columns(["other"]), _made(tmp_path / "hive" / f"other={day}") / "x.parquet")
    check(readers.read_log(tmp_path / "hive", **COLUMNS))


def test_a_partition_can_be_the_item(tmp_path, table):
    for item in (7, 9):
        rows = table.filter(pa.compute.equal(table["what"], item)).drop_columns(["what"])
        pq.write_table(rows, _made(tmp_path / f"what={item}") / "x.parquet")
    data = Interactions.from_parquet(tmp_path, **COLUMNS)
    assert sorted(zip(data.user_ids[data.users], data.item_ids[data.items].tolist())) == sorted(zip(USERS, ITEMS))


def test_recbole_inter(tmp_path):
    path = tmp_path / "a.inter"
    lines = ["item_id:token\tuser_id:token\ttimestamp:float\trating:float"]
    lines += [f"{i}\t{u}\t{t}\t{r}" for u, i, t, r in zip(USERS, ITEMS, TIMES, RATINGS)]
    path.write_text("\n".join(lines) + "\n")
    check(readers.read_log(path))
    path.write_text("user_id:token\tlabel:float\nu1\t1\n")
    with pytest.raises(ValueError, match=r"has columns 'user_id:token', 'label:float'; a .inter file needs"):
        readers.read_inter(path)


def test_other_fields_of_an_inter_file_can_be_named(tmp_path):
    path = tmp_path / "a.inter"
    path.write_text("uid:token\tproduct_id:token\trating:float\tday:float\nu\t1\t\t5\nv\t2\t3\t6\n")
    data = readers.read_log(path)
    assert (data.user_ids.tolist(), data.item_ids.tolist(), data.ratings) == (["u", "v"], [1, 2], None)
    assert any(note.startswith("ratings: left out, for nobody named them and row 1") for note in data.notes)
    for day in ("day", "day:float"):
        assert readers.read_log(path, user="product_id:token", item="uid", time=day).user_ids.tolist() == [1, 2]
    with pytest.raises(ValueError, match="row 1: None in column 'rating:float' is not a rating"):
        readers.read_inter(path, rating="rating")
    with pytest.raises(ValueError, match="no column 'label' for the rating; present are 'uid:token'"):
        readers.read_inter(path, rating="label")


def test_any_object_with_the_arrow_stream_interface(table):
    class Frame:
        def __arrow_c_stream__(self, requested_schema=None):
            return table.__arrow_c_stream__(requested_schema)

    check(Interactions.from_frame(Frame(), **COLUMNS))
    check(Interactions.from_frame(table, **COLUMNS))
    with pytest.raises(ValueError, match="list is not a data frame with the Arrow interface"):
        Interactions.from_frame([1, 2], **COLUMNS)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_other_data_frames(table, library):
    module = pytest.importorskip(library)
    check(Interactions.from_frame(module.DataFrame(table.to_pydict()), **COLUMNS))


def test_arrays():
    check(Interactions.from_arrays(USERS, np.array(ITEMS), times=TIMES, ratings=RATINGS))
    dated = Interactions.from_arrays(["a"], ["b"], times=np.array(["2020-09-13T12:26:40"], "datetime64[s]"))
    assert dated.times.tolist() == [1_600_000_000_000_000]
    with pytest.raises(ValueError, match="2 users but 1 item values"):
        Interactions.from_arrays(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="user values mix types"):
        Interactions.from_arrays(["a", 3], ["c", "d"])


@given(st.lists(st.tuples(st.text(min_size=1, max_size=8), st.integers(0, 2**62)), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_ids_round_trip_through_a_log(pairs):
    pairs = [(u.encode("utf-8", "replace").decode(), i) for u, i in pairs]
    named = [(u.strip(), i) for u, i in pairs if u.strip()]
    if not named:
        return
    data = Interactions.from_arrays([u for u, _ in pairs], [i for _, i in pairs])
    assert list(zip(data.user_ids[data.users], data.item_ids[data.items].tolist())) == named


def test_usual_names_need_not_be_given(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("userId,movieId,timestamp\n1,2,3\n")
    data = Interactions.from_csv(path)
    assert data.times is None
    assert any("file order stands for time order" in note for note in data.notes)


@pytest.mark.parametrize(("text", "columns", "sentence"), [
    ("a,b\n1,2\n", {"user": "a", "item": "c"}, "no column 'c' for the item; present are 'a', 'b'"),
    ("a,b\n1,2\n", {}, "which column is the user. Of 'a', 'b' none is known as it; name it .user="),
    ("user,uid,item\n1,1,2\n", {}, "Of 'user', 'uid', 'item' several could be it"),
    ("a,a,b\n1,1,2\n", {"user": "a", "item": "b"}, "more than one column 'a' for the user"),
    ("a,b\n1,2\n", {"user": "a", "item": "a"}, "'a' cannot be both user and item"),
    ("a,b\n1,2\n", {"user": "a", "item": "b", "time": "t"}, "no column 't' for the time"),
    ("a,b\n", {"user": "a", "item": "b"}, "has columns 'a', 'b' but no rows"),
    ("", {"user": "a", "item": "b"}, "cannot be read as text divided by ','"),
    ("a,b\n1,2\n3\n", {"user": "a", "item": "b"}, "cannot be read as text divided by ','"),
    ("a,b,t\n1,2,2020-01-01\n1,3,later\n", {"user": "a", "item": "b", "time": "t"}, "row 2: cannot read 'later'"),
    (",\n,\n", {"user": "a", "item": "b"}, "no column 'a'"),
    ("a,b\n,2\n,3\n", {"user": "a", "item": "b"}, "rows with a user and an item left no events"),
])  # fmt: skip
def test_bad_text_gets_one_sentence(tmp_path, text, columns, sentence):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        Interactions.from_csv(path, **columns)


def test_rows_without_an_id_are_dropped_and_reported(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('user,item,time\nu,1,5\n,2,6\nv,"",7\nw,3,8\n')
    data = Interactions.from_csv(path, time="time")
    assert data.user_ids[data.users].tolist() == ["u", "w"]
    assert data.item_ids[data.items].tolist() == [1, 3]
    assert str(data.provenance[0]).startswith("rows with a user and an item: 4 -> 2 events")


def test_bad_files_get_one_sentence(tmp_path, table, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*none.csv \(looked in"):
        readers.read_log(tmp_path / "none.csv")
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"cannot tell the format from its name; use .csv"):
        readers.read_log(tmp_path / "a.xlsx")
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        readers.read_log(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="holds no Parquet files"):
        readers.read_log(_made(tmp_path / "empty"))
    whole = gzip.compress(b"user,item\n" + b"u,1\n" * 50_000)
    (tmp_path / "half.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read as text"):
        readers.read_log(tmp_path / "half.csv.gz")


def test_id_types_that_differ_between_files_are_refused(tmp_path, table):
    pq.write_table(table, _made(tmp_path / "folder") / "a.parquet")
    pq.write_table(table.set_column(4, "what", pa.array(["7", "9", "9", "x"])), tmp_path / "folder" / "b.parquet")
    with pytest.raises(ValueError, match=r"column 'what' is int64 in one file and string in .*b.parquet"):
        Interactions.from_parquet(tmp_path / "folder", **COLUMNS)


def test_a_log_beyond_memory_is_refused_with_the_estimate(monkeypatch):
    with pytest.raises(ValueError, match=r"reading big.parquet needs about 1000000\.0 GB of memory and .* GB are free"):
        readers.check_memory(10**15, "big.parquet")
    readers.check_memory(1000, "small.parquet")


def test_the_gowalla_log(real_data):
    path = real_data("gowalla_checkins.csv.gz")
    data = Interactions.from_csv(path, user="user", item="venue", time="visited_at")
    assert (len(data), data.n_users, data.n_items) == (285_141, 8_685, 13_812)
    assert np.all(np.diff(data.times) >= 0)
    train, valid, test = data.k_core(5).split_by_time()
    assert len(train) + len(valid) + len(test) == len(data.k_core(5))


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_a_log_shows_how_its_times_were_read():
    log = Interactions.from_arrays([1, 1], [2, 3], times=[0, 1]).deduplicate()
    shown = repr(log).splitlines()
    assert shown[0] == "Interactions: 2 events of 1 users and 2 items"
    assert shown[1].startswith("  times (time): small numbers, taken as an order and read as unix seconds")
    assert shown[2].startswith("  deduplicate(first): 2 -> 2 events")
    with pytest.warns(UserWarning, match="lie before 1980") as warned:
        Interactions.from_arrays([1, 1], [2, 3], times=[0, 1_500_000_000])
    assert warned[0].filename == __file__


@pytest.mark.parametrize(
    "times", [[2**70, 1], [1j, 1], [object(), 1], ["a", 1], [None, 1], np.array([1, 2], "m8[s]"), 5]
)
def test_times_of_unusual_types_are_one_sentence(times):
    with pytest.raises(ValueError, match="time") as error:
        Interactions.from_arrays([1, 2], [3, 4], times=times)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("unit", "text"), [("M", "2020-02"), ("h", "2020-02-01T00"), ("W", "2020-01-30")])
def test_numpy_datetimes_of_every_unit_are_read(unit, text):
    times = np.array([text, text], f"datetime64[{unit}]")
    log = Interactions.from_arrays([1, 2], [3, 4], times=times)
    assert log.times.tolist() == times.astype("datetime64[us]").astype(np.int64).tolist()


def test_a_text_file_of_two_numbers_a_line_is_users_and_items_in_order(tmp_path):
    path = tmp_path / "beauty.txt"
    path.write_text("1 12\n1 7\r\n2 7\n1 3\n")
    log = readers.read_log(path)
    assert [*zip(log.user_ids[log.users].tolist(), log.item_ids[log.items].tolist())] == [
        (1, 12),
        (1, 7),
        (2, 7),
        (1, 3),
    ]
    assert "columns: none named; each line is a user and an item." in log.notes
    assert "times: no column named; file order stands for time order." in log.notes
    with pytest.raises(ValueError, match="has no column 'at' for the time; present are 'user', 'item'"):
        readers.read_log(path, time="at")
    path.write_text("1 12 5\n")  # a third number has no known meaning
    with pytest.raises(ValueError, match="which column is the user"):
        readers.read_log(path)
