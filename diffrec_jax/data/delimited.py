"""Delimited text files -> Arrow columns of text, with every line accounted for.

What a double quote means is not written in a file, so it is decided by what keeps the lines:

1. Quotes are read as RFC 4180 has them: at the start of a field one opens it, and ``""`` stands for one within it. A
   quote inside a field is an ordinary character. Where this gives one row for every line, it is what the file means.
2. Otherwise every line is read by itself. If each has as many fields as the header, a quote that does not close on its
   line is an ordinary character; fields that are quoted as a whole lose their quotes.
3. Otherwise fields may hold line breaks, if every quote that opens a field closes it before a delimiter or line end.

A file that fits none of these, or both of the last two, is refused with the line. Blank lines are no rows.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

TEXT_SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".inter": "\t"}
_SPELLED = {r"\t": "\t", "tab": "\t"}  # what a shell makes hard to type
_KEPT = "quotes: some do not close around a whole field on their line; these were read as ordinary characters."


@dataclass(frozen=True)
class TextFile:
    """A delimited text file; ``.gz`` (.bz2, .zst, .lz4 too) is unpacked while reading.

    ``columns`` names those of a file without a header line; with ``header=False`` alone they are '0', '1', ….
    """

    path: Path
    delimiter: str
    encoding: str = "utf-8"
    columns: tuple[str, ...] | None = None
    header: bool = True

    @classmethod
    def of(
        cls,
        path: Path,
        *,
        delimiter: str | None = None,
        encoding: str | None = None,
        columns: Sequence[str] | None = None,
        header: bool = True,
    ) -> TextFile:
        """What the caller says of a file, and the usual for the rest; ``ValueError`` for what no file can be."""
        suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
        divides = _SPELLED.get(delimiter, delimiter) if delimiter else TEXT_SUFFIXES.get(suffix, ",")
        if len(divides) != 1 or not divides.isascii() or divides in '"\r\n':
            raise ValueError(
                f"delimiter={delimiter!r} must be one ASCII character and no quote: ',' ';' '|' or \\t, say; "
                "write a file divided by anything else anew with one of these"
            )
        try:
            name = codecs.lookup(encoding or "utf-8").name
            b"a".decode(name, "replace")  # refuses codecs that make no text
        except LookupError:
            raise ValueError(f"encoding={encoding!r} is unknown; use utf-8, latin-1, cp1252 or utf-16, say") from None
        return cls(path, divides, name, None if columns is None else tuple(columns), header and columns is None)

    def names(self) -> list[str]:
        """The columns, in the order of the file."""
        if self.columns is not None:
            return list(self.columns)
        try:
            names = self._head(quoted=True)
        except ValueError:  # a quote that never closes, or nothing that can be read
            names = []
        if not names or any("\n" in name for name in names):  # perhaps a field over two lines
            names = max(names, self._head(quoted=False), key=len)
        return names if self.header else [str(n) for n in range(len(names))]

    def read(self, wanted: Sequence[str]) -> tuple[pa.Table, tuple[str, ...]]:
        """The wanted columns as text (empty fields missing), and what a person should know of how they were read.

        Raises:
          ValueError: naming the row or the line that cannot be read.
        """
        names = self.names()
        with self._open() as stream:
            seen = _Lines(stream, self.delimiter)
            table = self._parse(seen, names, wanted)
        whole = table is not None and len(table) + self.header == seen.count
        if table is not None and whole and not seen.doubtful:
            return table, ()
        if not seen.opening:  # no quote opens a field, so there is one way to read this
            self._refuse_row(names, f"its {seen.count:,} lines do not make as many rows")
        alone = self._line_by_line(names, wanted)
        if table is not None and whole:
            return (table, ()) if alone is None or alone.equals(table) else (alone, (_KEPT,))
        with self._open() as stream:
            text = stream.read()
        stray = self._stray_quote(text)
        together = self._again(names, wanted, newlines=True) if stray is None else None
        if alone is None and together is not None:
            return together, ()
        if alone is not None and together is None:
            return alone, (_KEPT,)
        if stray is None and together is None:
            self._refuse_row(names, "its quoted fields do not add up to rows", newlines=True)
        where, problem = stray, f"a quote in it does not close before {self.delimiter!r} or the end of a line"
        if where is None:
            where, problem = self._open_line(text), "it is a row, but a field of it would also end on a later line"
        begin = text.rfind(b"\n", 0, where + 1) + 1
        line = text[begin : (text.find(b"\n", begin) + 1 or len(text) + 1) - 1].decode(errors="replace")
        number = text.count(b"\n", 0, begin) + 1
        self._refuse(
            f"line {number:,}, {_shortened(line)}: {problem}; close the quote, write quotes "
            'within quoted fields twice (""), or write the file without line breaks in fields'
        )

    def _line_by_line(self, names: Sequence[str], wanted: Sequence[str]) -> pa.Table | None:
        """Every line a row, whatever its quotes; None where a line has other fields than the header."""
        raw = self._head(quoted=False)
        if len(raw) != len(names):
            return None
        written = dict(zip(names, raw)) if self.header else {name: name for name in names}
        table = self._again(raw if self.header else names, [written[name] for name in wanted], quoted=False)
        return None if table is None else pa.table([_unquoted(column) for column in table.columns], list(wanted))

    def _again(self, names: Sequence[str], wanted: Sequence[str], **rule: bool) -> pa.Table | None:
        with self._open() as stream:
            return self._parse(stream, names, wanted, **rule)

    def _parse(
        self,
        stream: _Lines | pa.NativeFile,
        names: Sequence[str],
        wanted: Sequence[str],
        *,
        quoted: bool = True,
        newlines: bool = False,
    ) -> pa.Table | None:
        """The wanted columns of an open file; None where the lines cannot be parted into rows like the header."""
        convert = pa.csv.ConvertOptions(
            include_columns=list(wanted),
            column_types=dict.fromkeys(wanted, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        )
        try:
            return pa.csv.read_csv(
                stream, self._reading(names), self._format(quoted=quoted, newlines=newlines), convert
            )
        except KeyError:  # quotes swallow the header
            return None
        except (pa.ArrowInvalid, OSError, UnicodeError) as error:
            if isinstance(error, pa.ArrowInvalid) and "CSV conversion error" not in str(error):
                return None
            self._refuse(_said(error, self.encoding), error)

    def _head(self, *, quoted: bool) -> list[str]:
        """The fields of the first line."""
        reading = pa.csv.ReadOptions(autogenerate_column_names=not self.header)
        try:
            with self._open() as stream, pa.csv.open_csv(stream, reading, self._format([], quoted=quoted)) as head:
                return list(head.schema.names)
        except (pa.ArrowInvalid, OSError, UnicodeError) as error:
            self._refuse(_said(error, self.encoding), error)

    def _reading(self, names: Sequence[str], *, threads: bool = True) -> pa.csv.ReadOptions:
        return pa.csv.ReadOptions(column_names=None if self.header else list(names), use_threads=threads)

    def _format(
        self, wrong: list[pa.csv.InvalidRow] | None = None, *, quoted: bool = True, newlines: bool = False
    ) -> pa.csv.ParseOptions:
        """How to part rows; those with other fields than the header are an error, or are collected in ``wrong``."""

        def collect(row: pa.csv.InvalidRow) -> str:
            if wrong is not None and not wrong:
                wrong.append(row)
            return "skip"

        return pa.csv.ParseOptions(
            delimiter=self.delimiter,
            quote_char='"' if quoted else False,
            newlines_in_values=newlines,
            invalid_row_handler=None if wrong is None else collect,
        )

    def _open(self) -> pa.NativeFile:
        """The bytes of the file, unpacked and in UTF-8."""
        stream = pa.input_stream(str(self.path), compression="detect")
        return stream if self.encoding == "utf-8" else pa.transcoding_input_stream(stream, self.encoding, "utf-8")

    def _stray_quote(self, text: bytes) -> int | None:
        """Where the first field begins whose quotes RFC 4180 does not allow; None if there is none."""
        ends = rb"[\r\n" + re.escape(self.delimiter.encode()) + rb"]"
        other = ends.replace(b"[", b"[^")
        field = rb'(?:"[^"]*+(?:""[^"]*+)*+"|(?!")' + other + rb"*+)"
        fine = re.match(rb"(?:" + field + ends + rb")*+", text)
        end = fine.end() if fine else 0
        return None if re.compile(field).fullmatch(text, end) else end

    def _open_line(self, text: bytes) -> int:
        """Where the first field begins whose quotes close on a later line."""
        opened = re.search(rb'(?:^|[\r\n%b])("(?:[^"\r\n]|"")*+)[\r\n]' % re.escape(self.delimiter.encode()), text)
        return opened.start(1) if opened else 0

    def _refuse_row(self, names: Sequence[str], otherwise: str, *, newlines: bool = False) -> NoReturn:
        """Refuse with the first row that has other fields than the header; reads without threads, which knows it."""
        wrong: list[pa.csv.InvalidRow] = []
        try:
            with self._open() as stream:
                parse = self._format(wrong, newlines=newlines)
                pa.csv.read_csv(stream, self._reading(names, threads=False), parse)
        except (pa.ArrowInvalid, OSError, UnicodeError) as error:
            otherwise = _said(error, self.encoding)
        if not wrong:
            self._refuse(otherwise)
        row = wrong[0]
        place = "a row" if row.number is None else f"row {row.number - self.header:,}"
        against = "the header" if self.header else "the first row" if self.columns is None else "the columns named"
        self._refuse(
            f"{place} has {_fields(row.actual_columns)} and {against} {row.expected_columns}: {_shortened(row.text)}"
        )

    def _refuse(self, problem: str, cause: BaseException | None = None) -> NoReturn:
        raise ValueError(f"{self.path} cannot be read as text divided by {self.delimiter!r}: {problem}") from cause


def holds_pairs(path: Path) -> bool:
    """Whether a ``.txt`` file begins as those of the sequential literature do: two whole numbers with a space between,
    a user and an item, where others have a header.
    """
    if Path(path.name.removesuffix(".gz")).suffix.lower() != ".txt":
        return False
    try:
        with pa.input_stream(str(path), compression="detect") as stream:
            first = bytes(stream.read(64)).splitlines()
    except OSError:
        return False
    return bool(first) and re.fullmatch(rb"[0-9]+ [0-9]+", first[0].rstrip()) is not None


class _Lines:
    """A stream that counts the lines which pass, and looks at their quotes."""

    closed = False

    def __init__(self, stream: pa.NativeFile, delimiter: str) -> None:
        self.count = 0  # lines that are not blank
        self.opening = 0  # quotes at the start of a field
        self._closing = 0  # at the end of one
        self._inner = 0  # with neither a delimiter nor a quote on either side
        self._stream, self._delimiter, self._rest, self._ended = stream, ord(delimiter), b"\n\n", False

    @property
    def doubtful(self) -> bool:
        """Whether a quoted field may end before its end, or never."""
        return bool(self.opening and (self._inner or self.opening != self._closing))

    def read(self, size: int = -1) -> bytes:
        """The next bytes, as Arrow asks for them."""
        block: bytes = self._stream.read(size)
        if not self._ended:
            self._look(self._rest + (block or b"\n\n"))
            self._ended = not block
        return block

    def close(self) -> None:
        """Nothing to do: whoever opened the stream closes it."""

    def _look(self, text: bytes) -> None:
        """Count in ``text``, of which the first two bytes have been counted but for the quotes of the second."""
        self._rest = text[-2:]
        letters = np.frombuffer(text, np.uint8)
        ends = (letters == 10) | (letters == 13)
        self.count += int(np.count_nonzero(ends[2:] & ~ends[1:-1]))
        if b'"' not in text:
            return
        quotes = letters == 34
        apart = ends | (letters == self._delimiter)
        middle, before, after = quotes[1:-1], apart[:-2], apart[2:]
        self.opening += int(np.count_nonzero(middle & before))
        self._closing += int(np.count_nonzero(middle & after))
        self._inner += int(np.count_nonzero(middle & ~(before | after | quotes[:-2] | quotes[2:])))


def _unquoted(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Fields that are quoted as a whole, without their quotes."""
    trimmed = pc.utf8_trim_whitespace(column)
    whole = pc.match_substring_regex(trimmed, r'^"(?:[^"]|"")*"$')
    if not pc.any(whole).as_py():
        return column
    inside = pc.replace_substring(pc.utf8_slice_codeunits(trimmed, 1, -1), '""', '"')
    plain = pc.if_else(whole, inside, column)
    return pc.if_else(pc.equal(plain, ""), None, plain)


def _said(error: BaseException, encoding: str) -> str:
    """What Arrow or a codec says, in one sentence; text in another encoding is the usual case."""
    if isinstance(error, UnicodeError) or "UTF8" in str(error):
        return f"it is not all {encoding} text; name its encoding (encoding=, --encoding), such as latin-1 or utf-16"
    return str(error).splitlines()[0].rstrip(".")


def _fields(count: int) -> str:
    return f"{count} field{'' if count == 1 else 's'}"


def _shortened(line: str) -> str:
    line = line.rstrip("\r\n")
    return repr(line if len(line) <= 60 else line[:60] + "…")
