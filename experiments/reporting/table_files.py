"""Tables written piece by piece, in constant memory: Parquet, csv or JSON lines, by the name of the file."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

SUFFIXES = (".parquet", ".csv", ".jsonl")


class TableFile:
    """A file that grows by tables of the same columns; it gets its name when everything is written.

    Attributes:
      path: of the file.
      rows: written so far.
      as_text: columns whose whole numbers become text in JSON lines, which JavaScript reads as floats.
    """

    def __init__(self, path: str | Path) -> None:
        """Remember the path.

        Raises:
          ValueError: for a name that says no format, or a folder that isn't there.
        """
        self.path = Path(path)
        if self.path.suffix not in SUFFIXES:
            raise ValueError(f"--out={path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        if not self.path.parent.is_dir():
            raise ValueError(f"--out={path}: there is no folder {self.path.parent}; make it first")
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        self._writer: Any = None
        self.rows = 0
        self.as_text: frozenset[str] = frozenset()

    def __enter__(self) -> "TableFile":
        return self

    def write(self, table: pa.Table) -> None:
        """Append."""
        if self._writer is None:
            self._writer = self._open(table.schema)
        if self.path.suffix == ".jsonl":
            for name in self.as_text.intersection(table.column_names):
                place = table.column_names.index(name)
                table = table.set_column(place, name, table[name].cast(pa.string()))
            self._writer.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()))
        else:
            self._writer.write_table(table)
        self.rows += len(table)

    def _open(self, schema: pa.Schema) -> Any:
        if self.path.suffix == ".parquet":
            return pyarrow.parquet.ParquetWriter(self._temporary, schema)
        if self.path.suffix == ".csv":
            return pyarrow.csv.CSVWriter(self._temporary, schema)
        return self._temporary.open("w", encoding="utf-8")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()
            if kind is None:
                self._temporary.replace(self.path)
        self._temporary.unlink(missing_ok=True)
