"""Columns of Parquet files that were not all written alike."""

import pyarrow as pa
import pyarrow.dataset


def read_column(data: pa.dataset.Dataset, name: str) -> pa.ChunkedArray:
    """One column of all files; numbers of several widths, texts of several kinds and moments of several units become
    the wider kind, and what is empty in one file is missing there.

    Raises:
      ValueError: for files that hold different things there.
    """
    own = data.schema.field(name).type
    wide, came = common_type(data, name)
    if wide == own:
        return data.to_table(columns=[name]).column(name)
    try:
        return with_types(data, {name: wide}).to_table(columns=[name]).column(name)
    except pa.ArrowInvalid as error:
        raise not_held(name, came, wide, error) from error


def with_types(data: pa.dataset.Dataset, types: dict[str, pa.DataType]) -> pa.dataset.Dataset:
    """The same files, these columns read as these types."""
    schema = data.schema
    for name, kind in types.items():
        schema = schema.set(schema.get_field_index(name), pa.field(name, kind))
    return pa.dataset.dataset(data.files, schema=schema, format="parquet", partitioning=data.partitioning)


def not_held(name: str, came: str, wide: pa.DataType, error: Exception) -> ValueError:
    """What to say of a column that no one type holds."""
    return ValueError(
        f"column {name!r} comes as {came}, and {wide} does not hold all of it ({error}); write it one way in all files"
    )


def common_type(data: pa.dataset.Dataset, name: str) -> tuple[pa.DataType, str]:
    """The type that holds a column of all files, and the types it comes in, as a sentence lists them.

    Raises:
      ValueError: for files that hold different things there.
    """
    known = own = data.schema.field(name).type
    parts = list(data.get_fragments())
    kinds = [next((f.type for f in part.physical_schema if f.name == name), known) for part in parts]
    if pa.types.is_null(known):  # nothing at all in the first file
        known = next((kind for kind in kinds if not pa.types.is_null(kind)), known)
    for part, kind in zip(parts, kinds):
        if not pa.types.is_null(kind) and _loose(kind) != _loose(known):
            raise ValueError(
                f"column {name!r} is {known} in one file and {kind} in {part.path}; write it one way in all files"
            )
    came = " and ".join(sorted(set(map(str, kinds))))
    if all(kind == own for kind in kinds):
        return own, came
    wide = {"number": pa.int64(), "text": pa.large_string()}.get(_loose(known), known)
    if any(map(pa.types.is_floating, kinds)):  # exact, or refused by Arrow
        wide = pa.float64()
    elif all(map(pa.types.is_unsigned_integer, kinds)):
        wide = pa.uint64()
    elif pa.types.is_timestamp(known):
        wide = pa.timestamp("us", known.tz)
    elif pa.types.is_decimal(known):
        wide = pa.decimal128(38, known.scale)
    return wide, came


def _loose(kind: pa.DataType) -> str:
    """Types that mean the same kind of id or time share a word."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_timestamp(kind):
        return f"moment {kind.tz}"
    if pa.types.is_decimal(kind):
        return f"decimal {kind.scale}"
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return "number" if number else "text" if "string" in str(kind) else str(kind)
