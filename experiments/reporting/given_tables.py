"""Tables that a person hands in beside a log: lists of somebody else, groups of users.

csv, tsv and txt (each may end in .gz), Parquet and JSON lines, by the name of the file. Text stays text: ids are
compared in the spelling of the file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
BLOCK = 2**26  # bytes; a row must fit one


def read(path: str | Path, flag: str) -> pa.Table:
    """All columns of a table; those of a text file are text.

    Args:
      path: the file.
      flag: named in what is refused, as in ``lists``.

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: if its name says no format, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{flag}={path}: there is no such file (looked in {path.parent.resolve()})")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    known = (*DELIMITERS, *JSON_LINES, *PARQUET)
    if suffix not in known:
        raise ValueError(f"{flag}={path} must end in one of {', '.join(known)} (text also in .gz)")
    try:
        if suffix in PARQUET:
            return pyarrow.parquet.read_table(path)
        if suffix in JSON_LINES:
            return pyarrow.json.read_json(path, read_options=pyarrow.json.ReadOptions(block_size=BLOCK))
        return _text(path, DELIMITERS[suffix], flag)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise ValueError(f"{flag}={path} cannot be read ({error}): look at that line, or save it anew") from None


def _text(path: Path, delimiter: str, flag: str) -> pa.Table:
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with pyarrow.csv.open_csv(path, parse_options=parse) as head:
        names = head.schema.names
    kept = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
    )
    read = pyarrow.csv.ReadOptions(block_size=BLOCK)
    table = pyarrow.csv.read_csv(path, read_options=read, parse_options=parse, convert_options=kept)
    for name in names:
        if pc.any(pc.match_substring(table.column(name), "\n")).as_py():
            row = pc.index(pc.match_substring(table.column(name), "\n"), True).as_py()
            raise ValueError(
                f"{flag}={path}, row {row + 1:,}: column {name!r} holds a line break in quotes, so that a stray "
                "quote may have swallowed rows: mend that line"
            )
    return table


def columns(
    table: pa.Table, asked: Mapping[str, str], usual: Mapping[str, Sequence[str]], where: str
) -> dict[str, pa.ChunkedArray]:
    """The columns of a table by their role.

    Args:
      table: what was read.
      asked: name of the column of each role; empty where nobody said.
      usual: names by which a role is known if nobody said, whatever their case; a role without any of them is left out.
      where: the flag and the file, for what is refused.

    Raises:
      ValueError: for a column that isn't there, or several that could be meant.
    """
    present = ", ".join(map(repr, table.column_names))
    found = {}
    for role, name in asked.items():
        known = [n for n in table.column_names if (n == name if name else n.strip().lower() in usual[role])]
        if len(known) > 1:
            raise ValueError(f"{where}: which column is the {role}? Of {present} several could be: name one of them")
        if not known and name:
            raise ValueError(f"{where} has no column {name!r} for the {role}; present are {present}")
        if known:
            found[role] = table.column(known[0])
    return found
