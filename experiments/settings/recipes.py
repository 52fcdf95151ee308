"""From the flags that make data to the recipe of a prepared folder."""

import dataclasses
import re

from diffrec_jax.data import readers
from diffrec_jax.data.prepared import ENGINES, Recipe
from diffrec_jax.options import check, option, options_of
from experiments.settings import own_splits
from experiments.settings.data_options import DataOptions

MEANINGLESS = ("dataset", "data_dir", "valid_data", "test_data", "session_col", "data_seed", "noise")
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Where a log is prepared to, and by what."""

    out: str = option("", "the folder to write")
    engine: str = option("auto", "what prepares it: arrow in memory, duckdb or spark beyond it", choices=ENGINES)
    memory: str = option("", "memory that may be taken, such as 4GB; what is free for arrow, 4GB for duckdb")
    append: bool = option(False, "add the events of --data to the folder, which must be split at dates")
    parts: int = option(0, "parts of the folder, divided by users; 0 chooses by the number of events", at_least=0)

    def __post_init__(self) -> None:
        check(self)
        if not self.out:
            raise ValueError("no folder is named: say where to, as in --out=prepared/shop")
        _ = self.bytes

    @property
    def bytes(self) -> int:
        """The memory as a number; 0 where none is said."""
        return bytes_of(self.memory)


def bytes_of(text: str) -> int:
    """``4GB``, ``500MB`` or a plain number of bytes; 0 for nothing said.

    Raises:
      ValueError: for anything else.
    """
    if not text:
        return 0
    found = re.fullmatch(r"([\d.]+)\s*([kmgt]?)b?", text.strip().lower())
    try:
        return int(float(found[1]) * UNITS[found[2]]) if found else int("")
    except ValueError:
        raise ValueError(f"memory={text} is no amount of memory: write it like 4GB or 500MB") from None


def recipe_of(data: DataOptions, *, parts: int = 0) -> Recipe:
    """What becomes of the log that ``--data`` names.

    Raises:
      ValueError: where there is no log, and for a split that no folder is prepared with.
    """
    if not data.data:
        raise ValueError("no log is named: say --data=LOG, a Parquet file or folder, or a text file")
    named = {role: getattr(data, f"{role}_col") for role in ("user", "item", "time", "rating", "weight")}
    shares = own_splits.shares(data.split_shares) if data.split_shares else Recipe.shares
    return Recipe(
        path=data.data,
        columns={role: column for role, column in named.items() if column},
        delimiter=data.delimiter or None,
        encoding=(data.encoding or None) if readers.is_text(data.data) else None,  # else of --titles
        header=data.header,
        min_rating=data.min_rating,
        duplicates=data.duplicates,
        repeats=data.repeats == "keep",
        core=data.k_core,
        history=data.min_history,
        rule=own_splits.rule(data) or "temporal",
        shares=shares,
        cuts=tuple(own_splits.dates(data.split_dates)),
        parts=parts,
    )


def titles_of(data: DataOptions, *, encoding: str | None = None) -> dict[str, str] | None:
    """The titles of the items by raw id as text; None where no file holds them."""
    if not data.titles:
        return None
    item, title = data.title_item_col or None, data.title_col or None
    return readers.read_titles(data.titles, item=item, title=title, encoding=encoding)


def added_with(how: PrepareOptions, data: DataOptions) -> list[str]:
    """The dates at which a folder is cut when events are added to it; all else was said when it was prepared.

    Raises:
      ValueError: for flags that were decided then.
    """
    if not data.data:
        raise ValueError("no events are named: say --data=LOG, with the columns of the log the folder was made of")
    for kind, given in ((DataOptions, data), (PrepareOptions, how)):
        for each in options_of(kind):
            value = getattr(given, each.name)
            if each.flag not in ("data", "split_dates", "out", "append", *MEANINGLESS) and value != each.default:
                raise ValueError(f"{each.flag}={value} was decided when {how.out} was prepared: drop it")
    return own_splits.dates(data.split_dates)
