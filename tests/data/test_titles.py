"""Titles from files: csv, tsv, Parquet and RecBole's, by id as text."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diffrec_jax.data.readers import read_titles


@pytest.mark.parametrize(("name", "text", "columns"), [
    ("a.csv", 'item,title\n1,"Toy  Story, The"\n 2 ,Heat\n3,\n2,Later\n', {}),
    ("a.tsv", 'movieId\tyear\ttitle\n1\t1995\tToy Story, The\n2\t1995\tHeat\n', {}),
    ("a.item", 'item_id:token\tmovie_title:token_seq\n1\tToy Story, The\n2\tHeat\n', {}),
    ("a.csv", 'sku,what,name\nx,1,"Toy Story, The"\ny,2,Heat\n', {"item": "what", "title": "name"}),
])  # fmt: skip
def test_titles_by_id(tmp_path, name, text, columns):
    (tmp_path / name).write_text(text)
    assert read_titles(tmp_path / name, **columns) == {"1": "Toy Story, The", "2": "Heat"}


def test_titles_in_parquet_and_in_other_encodings(tmp_path):
    pq.write_table(pa.table({"item": [1, 2], "title": ["Amélie", None]}), tmp_path / "a.parquet")
    assert read_titles(tmp_path / "a.parquet") == {"1": "Amélie"}
    (tmp_path / "a.csv").write_bytes("item,title\n1,Amélie\n".encode("latin-1"))
    assert read_titles(tmp_path / "a.csv", encoding="latin-1") == {"1": "Amélie"}


@pytest.mark.parametrize(("name", "text", "sentence"), [
    ("a.csv", b"item,text\n1,x\n", r"which column is the title\? Of 'item', 'text' none .*--title_col="),
    ("a.csv", b"thing,title\n1,x\n", r"which column is the item\? .*--title_item_col="),
    ("a.csv", b"item,title\n1,\xe9\n", "not all utf-8 text"),
    ("a.parquet", b"no", "cannot be read as Parquet"),
])  # fmt: skip
def test_files_without_titles_are_refused(tmp_path, name, text, sentence):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=sentence):
        read_titles(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"no file .*absent.csv with titles"):
        read_titles(tmp_path / "absent.csv")
