"""Lists, arrays and frames: whatever holds ids gives columns, and only what is asked for is looked at."""

import decimal
import uuid

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffrec_jax.data import readers
from diffrec_jax.data.interactions import Interactions

log = Interactions.from_arrays
UUIDS = [uuid.UUID(int=5), uuid.UUID(int=2**127 + 1)]
TEXTS = ["00000000-0000-0000-0000-000000000005", "80000000-0000-0000-0000-000000000001"]


def ids_of(data):
    return data.user_ids[data.users].tolist()


@pytest.mark.parametrize(("users", "expected"), [
    (["1", "2"], ["1", "2"]),
    (np.array(["1", "2"]), ["1", "2"]),
    (["1", " 1"], ["1", "1"]),
    (["New York", "New York "], ["New York", "New York"]),
    ([2**70, 1], [str(2**70), "1"]),
    ([decimal.Decimal(12), decimal.Decimal("13.0")], [12, 13]),
    ([decimal.Decimal(2**70), decimal.Decimal(1)], [str(2**70), "1"]),
    (pa.array([decimal.Decimal(12), decimal.Decimal(-7)], pa.decimal128(38, 0)), [12, -7]),
    (UUIDS, TEXTS),
    (np.array(UUIDS, object), TEXTS),
    (pa.array([u.bytes for u in UUIDS], pa.uuid()), TEXTS),
    ([b"a", "é".encode()], ["a", "é"]),
    (np.array([b"a", b"b"]), ["a", "b"]),
    (pa.array([b"ab", b"cd"], pa.binary(2)), ["ab", "cd"]),
    (pa.chunked_array([["a"], ["b"]]), ["a", "b"]),
    (iter("ab"), ["a", "b"]),
    (jnp.array([3, 4]), [3, 4]),
    ([2**53 - 1.0, 1.0], [2**53 - 1, 1]),
    (np.ma.array([7, 8], mask=[False, False]), [7, 8]),
    (pa.array(["1", "2"]).dictionary_encode(), ["1", "2"]),
])  # fmt: skip
def test_ids_of_every_kind(users, expected):
    data = log(users, ["x", "y"])
    assert ids_of(data) == expected
    assert data.n_users == len(set(expected))


@pytest.mark.parametrize(("users", "sentence"), [
    ([1112486027000000001.0, 1112486027000000002.0], "as double up to 1.112.*from 9007199254740992 on several whole"),
    (np.array([2.0**53, 1]), "different ids may have become one; read the column as text or as int64"),
    (np.array([16777216, 1], np.float32), "as float up to 16777216: from 16777216 on"),
    (np.array([2048, 1], np.float16), "from 2048 on"),
    ([float("inf"), 1.0], "holds infinity"),
    ([decimal.Decimal("1.5"), decimal.Decimal(1)], "holds fractions"),
    ([b"\xff\xfe", b"a"], "bytes that are no UTF-8 text .binary.; write such ids as text"),
    ([{1}, {2}], "of type list<.*ids are whole numbers or text"),
    ([{}, {}], "of type struct<.*ids are whole numbers or text"),
    (["a", 1], "user values mix types"),
    ([object(), 1], "user values mix types or hold what is neither text nor number"),
    ([2**70, "a"], "user values mix types"),
    (5, r"user values: 5 is one value; pass a list or an array, \[5\] say"),
    ("ab", "user values: 'ab' is one value"),
    (None, "user values: None is one value"),
    (np.zeros((2, 2)), "user values come in 2 dimensions"),
    (np.array(5), "user values.* dimensions"),
    ({1, 2}, "user values come in a set; pass them in the order of events, as a list"),
    ({1: "a", 2: "b"}, "user values come in a dict"),
])  # fmt: skip
def test_what_cannot_be_ids_gets_one_sentence(users, sentence):
    with pytest.raises(ValueError, match=sentence):
        log(users, [1, 2])


def test_what_a_masked_array_masks_is_missing():
    data = log(np.ma.array([7, 8], mask=[False, True]), ["x", "y"])
    assert (ids_of(data), data.item_ids.tolist()) == ([7], ["x"])


def test_blank_ids_are_missing():
    data = log(["a", "", " ", None, "b"], [1, 2, 3, 4, 5])
    assert ids_of(data) == ["a", "b"]
    assert "5 -> 2 events" in str(data.provenance[0])


@pytest.mark.parametrize(
    "titles", [{"10": "ten", "20": "twenty"}, {10: "ten", 20: "twenty"}, {10.0: "ten", " 20": "twenty"}]
)
@pytest.mark.parametrize("items", [["10", "20"], [10, 20], ["10 ", " 20"]])
def test_titles_are_found_however_their_ids_are_spelled(items, titles):
    assert log(["1", "2"], items, item_titles=titles).item_titles.tolist() == ["ten", "twenty"]


def test_items_without_a_title_go_by_their_ids_and_are_counted():
    data = log(["1", "2"], ["a", "b"], item_titles={"a": "A", "b": None})
    assert data.item_titles.tolist() == ["A", "b"]
    assert "titles: 1 of 2 items have none and go by their ids." in data.notes


class Series:
    """A column of a frame that converts like pandas'."""

    def __init__(self, values):
        self.values, self.iloc = values, None

    def __len__(self):
        return len(self.values)

    def __getitem__(self, row):
        return self.values[row]


class Frame:
    """As much of pandas' interface as is used, without pandas."""

    def __init__(self, *columns):
        self.columns, self.values = zip(*columns)

    @property
    def iloc(self):
        return self

    def __getitem__(self, place):
        return Series(self.values[place[1]])


def test_columns_that_nobody_asked_for_may_hold_anything():
    frame = Frame(("x", [{1}, object()]), ("user", ["1", "2"]), ("item", [10, 20]), ("x", [1, "a"]))
    data = Interactions.from_frame(frame)
    assert (ids_of(data), data.item_ids.tolist()) == (["1", "2"], [10, 20])


def test_the_column_at_fault_is_blamed():
    frame = Frame(("user", ["a", "b"]), ("item", [1, 2]), ("when", [5, "x"]), ("item2", [1, "a"]))
    with pytest.raises(ValueError, match="values of column 'when' mix types"):
        Interactions.from_frame(frame, time="when")
    with pytest.raises(ValueError, match="values of column 'item2' mix types"):
        Interactions.from_frame(frame, item="item2")
    with pytest.raises(ValueError, match="more than one column 'user' for the user"):
        Interactions.from_frame(Frame(("user", ["a"]), ("item", [1]), ("user", ["b"])), user="user")


@pytest.mark.parametrize(("kinds", "values", "expected"), [
    ((pa.int32(), pa.int64()), ([1, 2], [2, 2**40]), [1, 2, 2, 2**40]),
    ((pa.int64(), pa.int8()), ([1, 2], [2, 3]), [1, 2, 2, 3]),
    ((pa.uint8(), pa.uint64()), ([1, 2], [2, 3]), [1, 2, 2, 3]),
    ((pa.uint32(), pa.int64()), ([1, 2], [-2, 3]), [1, 2, -2, 3]),
    ((pa.int64(), pa.float64()), ([1, 2], [2.0, 3.0]), [1, 2, 2, 3]),
    ((pa.string(), pa.large_string()), (["1", "b"], ["b", "c"]), ["1", "b", "b", "c"]),
    ((pa.dictionary(pa.int32(), pa.string()), pa.string_view()), (["1", "b"], ["b", "c"]), ["1", "b", "b", "c"]),
    ((pa.decimal128(9, 0), pa.decimal128(38, 0)), ([decimal.Decimal(1)] * 2, [decimal.Decimal(2)] * 2), [1, 1, 2, 2]),
    ((pa.null(), pa.string()), ([None, None], ["1", "b"]), ["1", "b"]),
    ((pa.int32(), pa.null()), ([1, 2], [None, None]), [1, 2]),
])  # fmt: skip
def test_parquet_parts_may_hold_wider_kinds(tmp_path, kinds, values, expected):
    for part, (kind, users) in enumerate(zip(kinds, values)):
        pq.write_table(pa.table({"user": pa.array(users, kind), "item": ["x", "y"]}), tmp_path / f"{part}.parquet")
    assert ids_of(readers.read_log(tmp_path)) == expected


def test_parquet_parts_may_hold_moments_of_other_units_but_no_number_that_would_be_another(tmp_path):
    def write(name, *, user=1, unit="us", zone=None):
        times = pa.array([1_700_000_000], pa.timestamp("s")).cast(pa.timestamp(unit, zone))
        pq.write_table(pa.table({"user": [user], "item": ["x"], "at": times}), tmp_path / name)

    write("0.parquet")
    write("1.parquet", unit="ns")
    write("2.parquet", unit="s")
    assert readers.read_log(tmp_path, time="at").times.tolist() == [1_700_000_000_000_000] * 3
    write("1.parquet", zone="UTC")
    with pytest.raises(ValueError, match=r"column 'at' is timestamp\[us\] in one file and timestamp\[us, tz=UTC\] in"):
        readers.read_log(tmp_path, time="at")
    write("0.parquet", user=2**60 + 1)
    write("1.parquet", user=1.0)
    with pytest.raises(ValueError, match="column 'user' comes as double and int64, and double does not hold all of it"):
        readers.read_log(tmp_path)


def test_text_of_digits_stays_text_in_parquet_and_becomes_numbers_in_text_files(tmp_path):
    table = pa.table({"user": ["1", "2"], "item": ["10", "20"]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert ids_of(readers.read_log(tmp_path / "a.parquet")) == ["1", "2"]
    assert ids_of(Interactions.from_frame(table)) == ["1", "2"]
    (tmp_path / "a.csv").write_text("user,item\n1,10\n 1,20\n2 , 30\n")
    assert ids_of(readers.read_log(tmp_path / "a.csv")) == [1, 1, 2]
    (tmp_path / "a.csv").write_text("user,item\n9007199254740993123,10\n-9223372036854775808,20\n")
    assert ids_of(readers.read_log(tmp_path / "a.csv")) == [9007199254740993123, -(2**63)]
    (tmp_path / "a.csv").write_text("user,item\n9907199254740993123,10\n5,20\n")
    assert ids_of(readers.read_log(tmp_path / "a.csv")) == ["9907199254740993123", "5"]
