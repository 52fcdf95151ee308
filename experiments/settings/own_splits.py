"""Splits of one's own, as flags say them: shares, cut dates, or three files; what contradicts itself is refused."""

from typing import TYPE_CHECKING

from diffrec_jax.data.cuts import cut_moments
from diffrec_jax.data.splits import Split, leakage_report

if TYPE_CHECKING:
    from experiments.settings.data_options import DataOptions

IN_TIME = ("temporal", "leave_one_out", "global_time")  # splits whose validation part is no later than the test part
SHARED = ("temporal", "global_time", "sessions", "random")  # splits that shares mean something to


def shares(text: str) -> tuple[float, float, float]:
    """``80,10,10`` or ``.8,.1,.1`` as fractions of train, validation (0: none) and test.

    Raises:
      ValueError: for anything else.
    """
    try:
        values = [float(part) for part in text.strip("[] ").split(",")]
    except ValueError:
        values = []
    for whole in (1.0, 100.0):
        if len(values) == 3 and abs(sum(values) - whole) < 1e-6 * whole and min(values) >= 0 < values[0] * values[2]:
            return values[0] / whole, values[1] / whole, values[2] / whole
    raise ValueError(
        f"split_shares={text} is no division into train, validation and test: write three numbers that add up to 100 "
        "(or 1) such as 80,10,10, the middle one 0 for no validation"
    )


def shares_text(text: str) -> str:
    """The same shares in one spelling, so that a run is found again; empty stays empty."""
    return ",".join(f"{share:.9g}" for share in shares(text)) if text else ""


def dates(text: str) -> list[str]:
    """The cut dates of ``2020-01-01,2020-02-01``; none of an empty text."""
    return [part.strip() for part in text.split(",")] if text else []


def rule(data: "DataOptions") -> str:
    """The split by its name; empty where the dataset brings its own."""
    if data.session_col:
        return data.split or "sessions"
    implied = "global_time" if data.split_dates else "temporal" if data.split_shares else ""
    return data.split or implied


def keeps_time(data: "DataOptions") -> bool:
    """Whether validation is known to be no later than test: of a log, or a dataset whose split is said."""
    found = rule(data) or ("temporal" if data.data and not data.test_data else "")
    return found in IN_TIME


def check(data: "DataOptions") -> None:
    """Refuse flags that say two splits, or half of one.

    Raises:
      ValueError: with the flag, and what to drop or say.
    """
    shares_text(data.split_shares)
    if data.split_dates:
        cut_moments(dates(data.split_dates))
    if data.split_shares and data.split_dates:
        raise ValueError("split_shares and split_dates are two ways to cut a log: drop one of them")
    if data.split_shares and rule(data) not in SHARED:
        raise ValueError(
            f"split_shares means nothing to split={data.split}: drop it, or say --split={' or '.join(SHARED)}"
        )
    if data.session_col and data.user_col:
        raise ValueError(
            f"session_col={data.session_col} and user_col={data.user_col}: a log is split by one of the two: drop one"
        )
    if data.session_col and data.split not in ("", "sessions"):
        raise ValueError(
            f"split={data.split} would part sessions, and session_col={data.session_col} keeps them whole: drop it, or "
            "name the column by --user_col"
        )
    if data.split == "sessions" and not data.session_col:
        raise ValueError("split=sessions needs to know the sessions: name their column by --session_col")
    if data.split_dates and rule(data) not in ("global_time", "sessions"):
        raise ValueError(f"split_dates means nothing to split={data.split}: drop it, or say --split=global_time")
    if data.valid_data and not data.test_data:
        raise ValueError(f"valid_data={data.valid_data} is a part of a split: name the last one, too, by --test_data")
    if not data.test_data:
        return
    for name in ("split", "split_shares", "split_dates", "session_col", "k_core", "min_history"):
        if getattr(data, name) != getattr(type(data), name):
            raise ValueError(
                f"{name} means nothing to a split of your own files, kept as given: drop it or --test_data"
            )
    if data.noise.startswith("natural"):
        raise ValueError(f"noise={data.noise} needs the one log that a split was made of: drop it or --test_data")


def check_parts(split: Split) -> None:
    """Refuse parts that cannot judge a model: the training part over again, or items that it does not know.

    Raises:
      ValueError: with the part, and what to look at.
    """
    if split.rule != "as_given":  # the others cannot
        return
    found = leakage_report(split)
    for part, log, shared in (
        ("validation", split.valid, found.overlap_train_valid),
        ("test", split.test, found.overlap_train_test),
    ):
        if len(log) and shared == len(log):
            raise ValueError(
                f"all {shared:,} interactions of the {part} part are in the training part, too, and nothing is "
                "recommended to those who have it: hand in a part that was held out"
            )
    if found.cold_item_events == len(split.test):
        raise ValueError(
            f"none of the {found.cold_items:,} items of the test part is in the training part: both files must hold "
            f"the same ids (training has {_first_id(split, 0)!r}, test has {_first_id(split, 2)!r})"
        )


def _first_id(split: Split, part: int) -> str:
    return str(split.item_ids[tuple(split)[part].items[0]])
