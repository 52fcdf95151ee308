"""Ids from files: one id on a line, or a table of users and items."""

import re
from pathlib import Path

from diffrec_jax.data import readers
from diffrec_jax.data.events import Events
from diffrec_jax.data.naming import USUAL_NAMES

TABLES = (".csv", ".tsv", ".inter", ".parquet", ".pq")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
QUOTED = re.compile(r'"(?:[^"]|"")*"')
MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # which some editors write


def read_ids(path: str, flag: str, kind: str) -> list[str]:
    """The ids of a text file, one on a line; spaces around them and blank lines don't count.

    Args:
      path: of the file: UTF-8, or UTF-16 with its mark; any line ends.
      flag: that named it, for errors.
      kind: `user` or `item`; a first line of a ``.csv`` or ``.tsv`` that names such a column is no id.

    Raises:
      ValueError: if it cannot be read, is no text, or holds no ids.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(
            f"{flag}={path} cannot be read ({error.strerror}): name a file with one id on a line"
        ) from None
    try:
        text = data.decode(MARKS.get(data[:2], "utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(f"{flag}={path} is no UTF-8 text: write one id on a line") from None
    text = text.replace("\ufeff", "")  # a mark in the middle, too: of files that were joined
    lines = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    ids = [line for line in lines if line]
    if Path(path).suffix.lower() in DELIMITERS:  # what spreadsheets write
        ids = [line[1:-1].replace('""', '"') if QUOTED.fullmatch(line) else line for line in ids]
        ids = ids[1:] if ids and ids[0].lower() in USUAL_NAMES[kind] else ids
    if not ids:
        raise ValueError(f"{flag}={path} holds no ids: write one id on a line")
    if any("\0" in id_ for id_ in ids):
        raise ValueError(f"{flag}={path} is no text: write one id on a line")
    return ids


def is_table(path: str) -> bool:
    """Whether a file has columns: by its name, and for text by a delimiter in its first line."""
    file = Path(path)
    suffix = Path(file.name.removesuffix(".gz")).suffix.lower()
    if suffix not in TABLES:
        return False
    if suffix not in DELIMITERS or file.suffix == ".gz" or not file.is_file():
        return True
    with file.open("rb") as lines:
        return DELIMITERS[suffix].encode() in lines.readline()


def read_table(path: str, flag: str, *, user_col: str = "", item_col: str = "") -> Events:
    """The rows of a table of users and items, in its order.

    Args:
      path: a file (or folder) that ``data.readers.read_log`` reads.
      flag: that named it, for errors.
      user_col: column of user ids; empty where one column has a usual name. The same holds for ``item_col``.

    Raises:
      ValueError: if it cannot be read, or holds no rows.
    """
    try:
        table = readers.read_log(path, user=user_col or None, item=item_col or None)
    except (ValueError, OSError) as error:
        raise ValueError(f"{flag}: {error}") from None
    if not len(table):
        raise ValueError(f"{flag}={path} holds no rows: write a user and an item in each")
    return table
