"""Ids and times from Arrow columns: what is recognised, what is kept, what is refused and with which words."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec_jax.data.columns import describe_time, encode_ids, encode_ratings, encode_times
from diffrec_jax.data.times import DoubtfulTimesWarning

SECOND = 1_700_000_000  # 2023-11-14T22:13:20 UTC
MICROS = SECOND * 1_000_000


def _column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def _times(values, kind=None):
    return encode_times(_column(values, kind), "ts")


@pytest.mark.parametrize(("values", "kind", "expected", "how"), [
    ([SECOND], pa.int64(), MICROS, "unix seconds"),
    ([SECOND * 1000], pa.int64(), MICROS, "unix milliseconds"),
    ([SECOND * 10**6], pa.int64(), MICROS, "unix microseconds"),
    ([SECOND + 0.25], pa.float64(), MICROS + 250_000, "unix seconds"),
    ([str(SECOND)], pa.string(), MICROS, "unix seconds"),
    ([f" {SECOND}.5"], pa.string(), MICROS + 500_000, "unix seconds"),
    ([f"{SECOND * 1000}"], pa.string(), MICROS, "unix milliseconds"),
    (["2023-11-14T22:13:20"], pa.string(), MICROS, "ISO 8601 text, no zone given, taken as UTC"),
    (["2023-11-14 22:13:20.000001"], pa.string(), MICROS + 1, "ISO 8601 text, no zone given"),
    (["2023-11-14T22:13:20Z"], pa.string(), MICROS, "ISO 8601 text, zone given"),
    (["2023-11-14T23:13:20+01:00"], pa.large_string(), MICROS, "zone given"),
    (["2023-11-14"], pa.string(), MICROS - 80_000_000_000, "ISO 8601 text"),
    (["2023-11-14T22:13:20.123456789"], pa.string(), MICROS + 123_456, "ISO 8601 text"),
    ([datetime.date(2023, 11, 14)], pa.date32(), MICROS - 80_000_000_000, "date32"),
    ([SECOND], pa.timestamp("s"), MICROS, "timestamp"),
    ([SECOND * 1000], pa.timestamp("ms", "Europe/Berlin"), MICROS, "zone given"),
    ([0, 5], pa.int32(), 0, "taken as an order and read as unix seconds (if they count days or minutes"),
    ([0, 0], pa.int64(), 0, "taken as an order"),
    ([18292, 18293], pa.int64(), 18_292_000_000, "taken as an order"),
    ([43861.4], pa.float64(), 43_861_400_000, "taken as an order"),
    ([-86400], pa.int64(), -86_400_000_000, "unix seconds"),
    ([3, -4], pa.int8(), 3_000_000, "taken as an order"),
    ([SECOND, SECOND - 600_000_000], pa.int32(), MICROS, "unix seconds; from 2004-11-09"),
    ([SECOND], pa.uint32(), MICROS, "unix seconds;"),
    ([float(SECOND)], pa.float32(), MICROS, "unix seconds, rounded: they came as float32"),
    ([1, 2], pa.float16(), 1_000_000, "taken as an order"),
    (["2023-11-14 22:13:20 UTC", "2023-11-14T22:13:20Z"], pa.string(), MICROS, "ISO 8601 text, zone given"),
    (["2023-11-14 22:13:20.5 utc"], pa.string(), MICROS + 500_000, "zone given"),
    (["2023-11-14 22:13 GMT"], pa.string(), MICROS - 20_000_000, "zone given"),
    (["2023-11-14 23:13:20 +0100"], pa.string(), MICROS, "zone given"),
    (["2023-11-14 22:13:20 Z"], pa.string_view(), MICROS, "zone given"),
])  # fmt: skip
def test_times_are_recognised_and_said(values, kind, expected, how):
    micros, sentence = _times(values, kind)
    assert micros.dtype == np.int64
    assert micros[0] == expected
    assert how in sentence
    assert describe_time(micros.min()) in sentence


@pytest.mark.parametrize(("values", "sentence"), [
    (["1700000000", "1700000001", "soon"], r"row 3: cannot read 'soon' in column 'ts' as a time"),
    (["2023-11-14", "2023-13-99"], "row 2: cannot read '2023-13-99'"),
    (["yesterday"], "row 1: cannot read 'yesterday'.*unix numbers or ISO 8601"),
    (["2023-11-14T22:13:20Z", "2023-11-14T22:13:20"], "row 2"),
    ([1700000000, None], "row 2 has no time"),
    ([1700000000.0, float("inf")], "row 2: inf"),
    ([1700000000, 1700000000000], "mixes units: row 1 holds 1700000000 and row 2 1700000000000"),
    ([0, 1112486027, 1112486028000], "mixes units: row 2 holds 1112486027 and row 3 1112486028000 .seconds and milli"),
    (["5", "1112486028000", "1112486027"], "mixes units: row 3 holds 1112486027 and row 2 1112486028000"),
    ([SECOND * 1000.0] * 99 + [float(SECOND)] + [SECOND * 10.0**6], "row 100 holds 1700000000.0 and row 1 1700"),
    ([10**18], "too large for unix time, even in microseconds; divide nanoseconds by 1,000"),
    (np.array([2**63], np.uint64), "too large"),
    ([20200131], r"row 1: 20200131 in column 'ts' is a date written as a number \(yyyymmdd\), not a unix time: write"),
    (["20200131", "20200201"], "yyyymmdd"),
    ([0, 20200131.0, 20200201.0], r"row 2: 20200131.0 .*yyyymmdd\)"),
    ([20200131235959], "yyyymmddhhmmss"),
    ([202001312359], r"yyyymmddhhmm\)"),
    ([2020013123], r"yyyymmddhh\)"),
    ([202001, 202012], r"yyyymm\)"),
    ([2019, 2020, 2021], r"yyyy\)"),
    ([31012020, 1022020], r"row 1: 31012020 .*ddmmyyyy\)"),
    ([1312020, 12312020], r"row 1: 1312020 .*mmddyyyy\)"),
    ([SECOND, 9_999_999_999], "row 2 in column 'ts' has the time 2286-11-20T17:46:39, which no event has"),
    ([SECOND, -62135596800], "row 2 in column 'ts' has the time 0001-01-01T00:00:00"),
    (["2023-11-14", "9999-12-31"], "row 2 .* 9999-12-31"),
    ([13_220_000_000_000_000], "2388"),
    (["2023-11-14 22:13:20 CET"], "cannot read '2023-11-14 22:13:20 CET'"),
    (["2023-11-14 22:13:20", "2023-11-14 22:13:20 UTC"], "row 2: cannot read '2023-11-14 22:13:20 UTC'"),
    ([True], "bool, which is no time"),
])  # fmt: skip
def test_unreadable_times_name_row_and_value(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        _times(values)


def test_dates_with_a_zone_are_midnight_there():
    assert _times(["2023-11-14 UTC", "2023-11-15Z", "2023-11-15 10:00:00 GMT"])[0].tolist() == [
        1_699_920_000_000_000,
        1_700_006_400_000_000,
        1_700_042_400_000_000,
    ]


def test_positions_that_look_like_dates_now_and_then_stay_an_order():
    for values in (np.arange(1000, 4000), np.arange(0, 21_000_000, 1000), np.arange(201_000, 203_000)):
        assert encode_times(_column(values), "ts")[0].tolist() == (values * 1_000_000).tolist()


@pytest.mark.parametrize(("values", "kind", "sentence"), [
    ([5], pa.duration("s"), r"duration\[s\], which is no time"),
    ([5], pa.time32("s"), "time32"),
    ([[5]], pa.list_(pa.int64()), "list"),
    ([b"2020"], pa.binary(), "binary"),
    ([10**17], pa.timestamp("s"), "beyond all calendars"),
])  # fmt: skip
def test_types_that_are_no_times_are_one_sentence(values, kind, sentence):
    with pytest.raises(ValueError, match=sentence):
        _times(values, kind)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["int8", "int32", "uint8", "uint32", "float16", "float32", "uint64"])
def test_no_numpy_warning_for_any_width(kind):
    _times(np.array([1, 3, 120], kind))
    if kind in ("int32", "uint32", "uint64", "float32"):
        _times(np.array([SECOND, SECOND - 600_000_000], kind))


def test_a_missing_time_among_real_ones_is_doubted_aloud():
    with pytest.warns(DoubtfulTimesWarning, match="1 of 3 times lie before 1980, the first in row 2"):
        _, sentence = _times([SECOND, 0, SECOND])
    assert "1 of 3 times lie before 1980" in sentence and "if they stand for no time" in sentence


def test_the_failing_row_is_found_among_many():
    values = [str(SECOND + n) for n in range(5000)]
    values[3217] = "12:30"
    with pytest.raises(ValueError, match="row 3,218: cannot read '12:30'"):
        _times(values)


def test_whole_numbers_as_text_are_numbers_but_padded_ones_stay_text():
    codes, ids = encode_ids(_column(["12", "7", "12"]), "user")
    assert codes.tolist() == [0, 1, 0]
    assert ids.tolist() == [12, 7]
    assert ids.dtype == np.int64
    _, ids = encode_ids(_column(["12", "007"]), "user")
    assert ids.tolist() == ["12", "007"]
    _, ids = encode_ids(_column(["12", "1e3", "-0"]), "user")
    assert ids.tolist() == ["12", "1e3", "-0"]


@given(st.lists(st.one_of(st.text(max_size=6), st.integers(-(10**20), 10**20).map(str)), min_size=1, max_size=40))
@settings(max_examples=80, deadline=None)
def test_text_ids_round_trip(values):
    values = [v.encode("utf-8", "replace").decode() for v in values]
    codes, ids = encode_ids(_column(values, pa.string()), "user")
    assert [str(ids[c]) if c >= 0 else "" for c in codes] == [v.strip() for v in values]
    assert len(set(ids.tolist())) == len(ids)
    assert next((c for c in codes if c >= 0), 0) == 0  # in order of first appearance
    typed, texts = encode_ids(_column(values, pa.string()), "user", typed=True)
    assert [texts[c] if c >= 0 else "" for c in typed] == [v.strip() for v in values]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_integer_ids_round_trip_over_chunks(values, chunks):
    parts = np.array_split(np.array(values, np.int64), chunks)
    column = pa.chunked_array([pa.array(part) for part in parts])
    codes, ids = encode_ids(column, "user")
    assert ids[codes].tolist() == values


def test_dictionary_columns_with_different_dictionaries_agree():
    parts = [pa.array(part).dictionary_encode() for part in (["b", "a"], ["c", "a", None])]
    codes, ids = encode_ids(pa.chunked_array(parts), "user")
    assert [None if c < 0 else ids[c] for c in codes] == ["b", "a", "c", "a", None]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_every_kind_of_text(kind):
    codes, ids = encode_ids(_column(["b", "a", "b"], kind), "user")
    assert ids[codes].tolist() == ["b", "a", "b"]
    assert encode_ratings(_column(["1", "2"], kind), "r").tolist() == [1, 2]
    assert encode_times(_column(["2023-11-14T22:13:20"], kind), "t")[0].tolist() == [MICROS]


def test_unused_categories_are_no_ids():
    column = pa.DictionaryArray.from_arrays(pa.array([2, 0, 2], pa.uint8()), pa.array(["a", "unused", "b"]))
    codes, ids = encode_ids(pa.chunked_array([column]), "user")
    assert (codes.tolist(), ids.tolist()) == ([0, 1, 0], ["b", "a"])


def test_floats_are_ids_only_if_whole():
    codes, ids = encode_ids(_column([3.0, float("nan"), 5.0]), "user")
    assert codes.tolist() == [0, -1, 1]
    assert ids.tolist() == [3, 5]
    with pytest.raises(ValueError, match="column 'user' holds fractions"):
        encode_ids(_column([3.5]), "user")
    with pytest.raises(ValueError, match="of type bool; ids are whole numbers or text"):
        encode_ids(_column([True]), "user")
    with pytest.raises(ValueError, match="beyond 64 bits"):
        encode_ids(_column([2**64 - 1], pa.uint64()), "user")


def test_ratings():
    assert encode_ratings(_column(["4", " 3.5"]), "r").tolist() == [4.0, 3.5]
    assert encode_ratings(_column([1, 5]), "r").dtype == np.float32
    with pytest.raises(ValueError, match="row 2: 'good' in column 'r' is not a rating"):
        encode_ratings(_column(["4", "good"]), "r")
    with pytest.raises(ValueError, match="row 2: None"):
        encode_ratings(_column([4.0, None]), "r")
