"""Text files: every line becomes a row whatever the quotes, in small files as in large ones, or a sentence names it."""

import csv
import gzip
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffrec_jax.data import readers
from diffrec_jax.data.delimited import TextFile

BLOCK = 60_000  # rows of more than one of PyArrow's blocks of 1 MB


def raw(data):
    return list(zip(data.user_ids[data.users].tolist(), data.item_ids[data.items].tolist()))


def written(path, text):
    (path.write_bytes if isinstance(text, bytes) else path.write_text)(text)
    return path


def stray_log(delimiter, rows, where, quoted="{}", header=("user", "item", "time")):
    """A log in which the item of some rows is spelled another way."""
    lines = [delimiter.join(header)]
    lines += [
        f"u{k % 500}{delimiter}{quoted.format(f'i{k % 97}') if where(k) else f'i{k % 97}'}{delimiter}{k}"
        for k in range(rows)
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.tsv.gz", "a.inter"])
@pytest.mark.parametrize("quoted", ['"{}', '{}"', 'x"{}', '"{}"x'])
@pytest.mark.parametrize("every", [40_000, 7000])
def test_stray_quotes_swallow_no_rows(tmp_path, name, quoted, every):
    names = ("user_id:token", "item_id:token", "timestamp:float") if name == "a.inter" else ("user", "item", "time")
    text = stray_log("," if name == "a.csv" else "\t", BLOCK, lambda k: k % every == 100, quoted, names)
    written(tmp_path / name, gzip.compress(text.encode(), 1) if name.endswith("gz") else text)
    data = readers.read_log(tmp_path / name, time=None if name == "a.inter" else "time")
    assert len(data) == BLOCK
    assert raw(data)[99:102] == [("u99", "i2"), ("u100", quoted.format("i3")), ("u101", "i4")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("rows", [3, BLOCK])
def test_fields_may_hold_line_breaks_and_quotes_in_files_of_any_size(tmp_path, rows, end):
    lines = [f'u{k % 50},"i{end}{k % 9}","said ""{k}"",{end}{end}and left"' for k in range(rows)]
    path = tmp_path / "a.csv"
    path.write_bytes(end.join(["user,item,note", *lines]).encode())
    assert raw(readers.read_csv(path)) == [(f"u{k % 50}", f"i{end}{k % 9}") for k in range(rows)]


@pytest.mark.parametrize(("text", "expected"), [
    ('user,item\nu,"a"\n', [("u", "a")]),
    ('"user","item"\n"u","the ""a"""\n\n\n"v","b, c"', [("u", 'the "a"'), ("v", "b, c")]),
    ('user,item\r\nu,a\r\n\r\nv,b', [("u", "a"), ("v", "b")]),
    ("user,item\ru,a\rv,b\r", [("u", "a"), ("v", "b")]),
    ('user,item\nu,5" screen\nv,"6"" screen"\n', [("u", '5" screen'), ("v", '6" screen')]),
    ('user,item\nu,"a', [("u", '"a')]),
    ('user,item\nu,"a\n', [("u", '"a')]),
    ('user,item\n"u","a\n"v","b"\n', [("u", '"a'), ("v", "b")]),
    ('user,item\n"v","b"\n"u""","a"x\n', [("v", "b"), ('u"', '"a"x')]),
    ('user,item,json\nu,a,{""k"": 3}\nv,b,{"k": 3}\n', [("u", "a"), ("v", "b")]),
    ('user,item,note\nu,a,"one\ntwo"\nv,b,three\n', [("u", "a"), ("v", "b")]),
])  # fmt: skip
def test_quotes_by_hand(tmp_path, text, expected):
    assert raw(readers.read_csv(written(tmp_path / "a.csv", text))) == expected


@pytest.mark.parametrize(("text", "sentence"), [
    ('user,item\nu,1\nv\n', r"row 2 has 1 field and the header 2: 'v'"),
    ('user,item\nu,1,2\n', r"row 1 has 3 fields and the header 2: 'u,1,2'"),
    ("user,item\n" + "u,1\n" * 400_000 + "v,2,3\n", r"row 400,001 has 3 fields and the header 2: 'v,2,3'"),
    ('user,item\n"Doe, J",5\n"x,6\n', r"line 3, '\"x,6': a quote in it does not close before ','"),
    ('user,item\nu,"a\nb, c"\n', r"line 2, 'u,\"a': it is a row, but a field of it would also end on a later line"),
    (stray_log(",", 9000, lambda k: k in (100, 5000), '"'), r"line 102, 'u100,\",100': it is a row, but"),
    ('"user,item\nu,1\n', r"Of '\"user', 'item' none is known as it"),
    ("", "Empty CSV file"),
    ("user,item\n", "no rows"),
])  # fmt: skip
def test_what_makes_no_rows_is_refused_with_the_line(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        readers.read_csv(written(tmp_path / "a.csv", text))


def test_quotes_that_were_kept_are_said(tmp_path):
    data = readers.read_csv(written(tmp_path / "a.csv", 'user,item\nu,"a\nv,b\n'))
    assert any(note.startswith("quotes: some do not close around a whole field") for note in data.notes)
    data = readers.read_csv(written(tmp_path / "a.csv", 'user,item\n"u","a"\nv,5"\n'))
    assert not any(note.startswith("quotes") for note in data.notes)


rows = st.lists(
    st.tuples(st.sampled_from("uvw"), st.text('ab,"\n', max_size=5), st.text('c"\n ', max_size=4)), max_size=9
)


@given(rows.filter(len), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
@settings(max_examples=150, deadline=None)
def test_what_a_csv_writer_wrote_is_read_or_refused_but_never_lost(tmp_path_factory, events, quoting):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=quoting).writerows([("user", "item", "note"), *events])
    path = written(tmp_path_factory.mktemp("written") / "a.csv", text.getvalue())
    try:
        table, _ = TextFile.of(path).read(["user", "item"])
    except ValueError as error:
        assert "it is a row, but a field of it would also end on a later line" in str(error)
        return
    assert table.column("user").to_pylist() == [user for user, _, _ in events]
    assert [item or "" for item in table.column("item").to_pylist()] == [item for _, item, _ in events]


def test_other_delimiters_encodings_and_files_without_a_header(tmp_path):
    path = written(tmp_path / "a.dat", "Zoë;1;2\nÜ;3;4\n".encode("latin-1"))
    data = readers.read_log(path, user="0", item="2", delimiter=";", encoding="latin-1", header=False)
    assert raw(data) == [("Zoë", 2), ("Ü", 4)]
    written(path, "user\titem\nZoë\t1\n".encode("utf-16"))
    for delimiter in ("\t", r"\t", "tab"):
        assert raw(readers.read_log(path, delimiter=delimiter, encoding="utf-16")) == [("Zoë", 1)]
    written(path, '"Doe, J",5\n"Roe, K",6\n')
    assert raw(readers.read_log(path, user="0", item="1", delimiter=",", header=False)) == [
        ("Doe, J", 5),
        ("Roe, K", 6),
    ]


@pytest.mark.parametrize(("options", "sentence"), [
    ({"delimiter": "::"}, r"delimiter='::' must be one ASCII character"),
    ({"delimiter": '"'}, "must be one ASCII character and no quote"),
    ({"encoding": "klingon"}, "encoding='klingon' is unknown; use utf-8, latin-1"),
    ({"encoding": "hex"}, "encoding='hex' is unknown"),
    ({}, "it is not all utf-8 text; name its encoding"),
    ({"encoding": "ascii"}, "it is not all ascii text; name its encoding"),
    ({"encoding": "latin-1", "header": False}, r"which column is the user\? Of '0', '1' none is known as it"),
    ({"encoding": "latin-1", "header": False, "user": "0", "item": "2"}, "no column '2' for the item"),
])  # fmt: skip
def test_options_that_fit_no_file_are_refused(tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        readers.read_log(written(tmp_path / "a.csv", "user,item\nZoë,1\n".encode("latin-1")), **options)


@pytest.mark.parametrize("option", [{"delimiter": ";"}, {"encoding": "latin-1"}, {"header": False}])
def test_options_of_text_mean_nothing_to_parquet(tmp_path, option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} means nothing to .*a.parquet"):
        readers.read_log(written(tmp_path / "a.parquet", b""), **option)
