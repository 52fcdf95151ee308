"""What people pass as ids: lists, arrays, columns of any data frame; made plain text and whole numbers, or refused.

A column may come from NumPy, PyArrow, pandas or polars; whole numbers may come as floats, which is what pandas makes of
a column with gaps. What could mean several things (a table, a dictionary, true/false, one id where a list belongs) is
refused in one sentence, so that a mistake never looks like an id that the model doesn't know.
"""

import decimal
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import narwhals
import numpy as np
import pyarrow as pa

EXACT_AS_FLOAT = 2**53  # float64 holds every whole number up to here
NESTED = {"histories": "lists of item ids", "history_times": "lists of times", "history_weights": "lists of weights"}
Ids: TypeAlias = Iterable[object]  # a list, an array, a column of any data frame
Find = Callable[[list[object]], tuple[np.ndarray, list[object]]]  # ``Vocabulary.users`` or ``Vocabulary.items``


def look_up(find: Find, given: object, name: str) -> tuple[np.ndarray, list[object]]:
    """Numbers of ids in any container.

    Args:
      find: numbers of plain ids, -1 where unknown, and the unknown ones.
      given: the ids.
      name: of the argument, for errors.

    Returns:
      ``(numbers [n] int32, -1 where unknown; the unknown ids, each once)``.

    Raises:
      ValueError: for what is no list of ids.
    """
    column = opened(given, name)
    if isinstance(column, list):
        numbers, unknown = find(plain(column, name))
        return numbers, list(dict.fromkeys(unknown))
    if pa.types.is_nested(column.type) or pa.types.is_temporal(column.type):
        what = f"{kind_of_ids(name)} ids are text or whole numbers"
        raise ValueError(f"{name} is a column of type {column.type}: {what}")
    encoded = column.dictionary_encode("encode")  # each id is looked up once, however often it stands there
    numbers, unknown = find(plain(listed(encoded.dictionary), name))
    return numbers[encoded.indices.to_numpy(zero_copy_only=False)], unknown


def opened(given: object, name: str) -> list[object] | pa.Array:
    """The elements of a container, in order: a list, or an Arrow array; a set is sorted.

    Raises:
      ValueError: for one id, a dictionary, a table of several columns, true/false or times.
    """
    if isinstance(given, list | tuple):
        return list(given)
    given = given.item() if isinstance(given, np.generic) else given
    if isinstance(given, str | bytes | int | float | Mapping) or given is None:
        such = "'…'" if isinstance(given, Mapping) or given is None else _shown(given)
        such = f"[[{such}]], one for each person" if name in NESTED else f"[{such}]"
        raise ValueError(f"{name}={_shown(given)} must be a list of {_content(name)}, such as {such}")
    if isinstance(given, set | frozenset):
        return sorted(given, key=lambda id_: (str(type(id_)), id_ if isinstance(id_, str | int) else str(id_)))
    array = _array(given, name)
    if array is not None:
        return array if isinstance(array, list) else _checked(array, name)
    if isinstance(given, Iterable):
        return list(given)
    raise ValueError(f"{name} is of type {type(given).__name__}, and must be a list of {_content(name)}")


def lists(given: object, name: str) -> list[list[object]]:
    """Several lists of ids, one for each person, from a list of containers, a matrix or a column of lists.

    Raises:
      ValueError: where an element is no list, or is a set, whose order would be lost.
    """
    column = opened(given, name)
    if not isinstance(column, list):
        if not _is_nested(column.type):
            first = column[0].as_py() if len(column) else None
            raise ValueError(_no_list(name, 0, first))
        if not column.null_count:
            flat, lengths = column.flatten(), column.value_lengths()
            values = listed(opened(flat, name))
            ends = np.cumsum(lengths.to_numpy(zero_copy_only=False)).tolist()
            return [values[start:end] for start, end in zip([0, *ends], ends)]
        column = column.to_pylist()  # the missing one is refused below, by its number
    out = []
    for i, each in enumerate(column):
        if type(each) is not list:
            if not holds_ids(each) or isinstance(each, set | frozenset):
                raise ValueError(_no_list(name, i, each))
            each = listed(opened(each, f"{name}[{i}]"))
        out.append(each)
    return out


def per_person(given: object, name: str) -> tuple[list[object] | pa.Array, bool]:
    """What may be one list for everybody or one for each person: the elements, and whether they are lists.

    Raises:
      ValueError: where some elements are lists and others are ids.
    """
    column = opened(given, name)
    if not isinstance(column, list):
        return (lists(column, name), True) if _is_nested(column.type) else (column, False)
    nested = [holds_ids(element) for element in column]
    if any(nested) and not all(nested):
        raise ValueError(f"{name} mixes ids and lists of ids: give one list for everybody, or one list for each person")
    return column, bool(nested) and all(nested)


def plain(ids: list[object], name: str) -> list[object]:
    """Ids as text and whole numbers; None and what is not a number stay, and are unknown to every model.

    Raises:
      ValueError: for what is neither, and for floats that no longer say which whole number they were.
    """
    return ids if set(map(type, ids)) <= {str, int} else [_plain(id_, name) for id_ in ids]


def listed(column: list[object] | pa.Array) -> list[object]:
    """A list of what ``opened`` gave; moments of nanoseconds lose what is below a microsecond."""
    if isinstance(column, list):
        return column
    values: list[object]
    if pa.types.is_timestamp(column.type):
        values = column.cast(pa.timestamp("us", column.type.tz), safe=False).to_pylist()
    elif pa.types.is_integer(column.type) and not column.null_count:
        values = column.to_numpy(zero_copy_only=False).tolist()
    else:
        values = column.to_pylist()
    return values


def holds_ids(given: object) -> bool:
    """Whether this is a container of ids rather than an id."""
    scalar = isinstance(given, str | bytes | np.generic | pa.Scalar | Mapping)
    return not scalar and (hasattr(given, "__len__") or hasattr(given, "__iter__")) and getattr(given, "ndim", 1) > 0


def kind_of_ids(name: str) -> str:
    """``user`` or ``item``, by the name of the argument."""
    return "user" if name.startswith("user") else "item"


def _content(name: str) -> str:
    return NESTED.get(name, f"{kind_of_ids(name)} ids")


def _plain(id_: object, name: str) -> object:
    if isinstance(id_, pa.Scalar):
        id_ = id_.as_py()
    elif isinstance(id_, np.ndarray) and not id_.ndim:
        id_ = id_.item()
    if isinstance(id_, bool | np.bool_):
        raise ValueError(f"{name} holds {id_!r}: give the {kind_of_ids(name)} ids themselves, not true or false")
    if id_ is None or isinstance(id_, str | int | np.integer):
        return id_
    if isinstance(id_, uuid.UUID):
        return str(id_)
    if isinstance(id_, bytes):
        try:
            return id_.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{name} holds {_shown(id_)}, which is no UTF-8 text: give ids as text") from None
    if isinstance(id_, decimal.Decimal):
        return int(id_) if id_.is_finite() and id_ == id_.to_integral_value() else id_
    if isinstance(id_, float | np.floating):
        value = float(id_)
        if not value.is_integer():
            return value
        if abs(value) >= EXACT_AS_FLOAT:
            raise ValueError(
                f"{name} holds {value!r}, a float beyond 2^53, where several ids become one: give whole numbers or text"
            )
        return int(value)
    raise ValueError(
        f"{name} holds {_shown(id_)}, which is of type {type(id_).__name__}: {kind_of_ids(name)} ids are text or whole "
        "numbers"
    )


def _array(given: object, name: str) -> pa.Array | list[object] | None:
    """A column of any library as Arrow (or a list, where it mixes types); None for what is no column."""
    if isinstance(given, pa.Array | pa.ChunkedArray):
        return given
    if isinstance(given, np.ndarray):
        return _of_numpy(given, name)
    if isinstance(given, pa.RecordBatch):
        given = pa.table(given)
    frame = narwhals.from_native(given, eager_only=True, allow_series=True, pass_through=True)
    if isinstance(frame, narwhals.Series):
        try:
            return frame.to_arrow()
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return frame.to_list()
    try:
        if isinstance(frame, narwhals.DataFrame):
            return _only_column(frame.to_arrow(), name)
        if hasattr(given, "__arrow_c_stream__"):
            column = pa.chunked_array(given)
            return _only_column(pa.table(given), name) if pa.types.is_struct(column.type) else column
        if hasattr(given, "__arrow_c_array__"):
            return pa.array(given)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{name} cannot be read as a column of ids ({error}): give a list of ids") from None
    return _of_numpy(np.asarray(given), name) if hasattr(given, "__array__") else None


def _of_numpy(array: np.ndarray, name: str) -> pa.Array | list[object]:
    if not array.ndim:
        raise ValueError(f"{name}={array.item()!r} must be a list of {kind_of_ids(name)} ids")
    if array.ndim > 1 or array.dtype.kind in "OV":
        return list(array) if array.ndim > 1 else array.tolist()
    return pa.array(array)


def _only_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if table.num_columns != 1:
        columns = ", ".join(map(str, table.column_names[:5])) + (", …" if table.num_columns > 5 else "")
        raise ValueError(f"{name} is a table of {table.num_columns} columns ({columns}): pass one of them")
    return table.column(0)


def _checked(column: "pa.Array | pa.ChunkedArray", name: str) -> pa.Array:
    """One Arrow array of plain values."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # of no chunks, or too long for 32-bit offsets
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if isinstance(array, pa.ExtensionArray):
        return _checked(array.cast(pa.string()) if "uuid" in str(array.type) else array.storage, name)
    if pa.types.is_dictionary(array.type):
        return _checked(array.dictionary_decode(), name)
    if pa.types.is_string_view(array.type):  # which few kernels take
        array = array.cast(pa.large_string())
    if pa.types.is_boolean(array.type) and len(array):
        raise ValueError(f"{name} holds true and false: give the {kind_of_ids(name)} ids themselves")
    return array


def _is_nested(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _no_list(name: str, i: int, given: object) -> str:
    if name == "histories":
        order = " (a set has no order: give the oldest item first)" if isinstance(given, set | frozenset) else ""
        return f"history {i} is {_shown(given)}, and must be a list of item ids, such as ['sku12', 'sku99']{order}"
    return f"{name}[{i}] is {_shown(given)}, and must be a list, one for each person"


def _shown(given: object) -> str:
    text = " ".join(repr(given).split())
    return text if len(text) <= 80 else text[:77] + "..."
