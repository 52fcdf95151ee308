"""Where the interactions come from, and how they are prepared and split; imports nothing that computes."""

import dataclasses
from typing import Any

from diffrec_jax.options import Needs, check, option
from experiments.settings import own_splits

SPLITS = ("temporal", "leave_one_out", "global_time", "sessions", "random", "diffrec")
LOG = Needs("data", "--data=LOG")
TITLES = Needs("titles", "--titles=FILE")


def of_log(default: Any, help: str, **more: Any) -> Any:
    """An option that means nothing to a named dataset."""
    return option(default, help, **{"needs": LOG, **more})


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Where the interactions come from, and how they are prepared and split."""

    dataset: str = option("ml-100k", "a named dataset, or a folder in the released layout (a path, or in --data_dir)")
    data_dir: str = option("data", "folder in which --dataset=NAME is looked for")
    data: str = option("", "your own log instead of --dataset: a csv, tsv (.gz), .inter or Parquet file, or a folder")
    valid_data: str = of_log("", "validation part of your own split, with --test_data", rare=True)
    test_data: str = of_log("", "test part of your own split, whose training part is --data", rare=True)
    user_col: str = of_log("", "user column of --data")
    session_col: str = of_log("", "session column of a log without users, split by whole sessions")
    item_col: str = of_log("", "item column of --data")
    time_col: str = of_log("", "time column of --data: unix seconds, ms or µs, or ISO 8601")
    rating_col: str = of_log("", "rating column of --data")
    weight_col: str = of_log("", "column of --data that says what an event counts: a purchase above a click, say")
    delimiter: str = of_log("", "what divides the fields of --data, such as ';'; by its name unless given", rare=True)
    encoding: str = of_log("", "encoding of --data and --titles, utf-8 unless given", rare=True)
    header: bool = of_log(True, "false: --data has no header, and --user_col=0 is its first column", rare=True)
    titles: str = of_log("", "a csv, tsv or Parquet file (with a header) of titles of the items", rare=True)
    title_col: str = of_log("", "title column of --titles", needs=TITLES, rare=True)
    title_item_col: str = of_log("", "column of item ids in --titles", needs=TITLES, rare=True)
    min_rating: float | None = of_log(None, "keep events that are rated at least this")
    duplicates: str = of_log("first", "which event of a repeated pair is kept", choices=("first", "last"))
    repeats: str = of_log(
        "drop",
        "keep: histories hold an item as often as it was met, for models of order; others count it once",
        choices=("drop", "keep"),
    )
    k_core: int = of_log(5, "keep users and items with at least this many events, repeatedly; 0 keeps all", at_least=0)
    min_history: int = of_log(0, "then keep users with at least this many events", at_least=0)
    split: str = option(
        "",
        "how a log is split, temporal unless said; diffrec is the recipe of the released ML-1M: ratings >= 4 and its "
        "own 10-core",
        choices=("", *SPLITS),
    )
    split_shares: str = option("", "train,valid,test shares such as 80,10,10 or 80,0,20; 70,10,20 unless given")
    split_dates: str = option("", "dates at which --split=global_time cuts: VALID,TEST, or TEST without validation")
    data_seed: int = option(0, "seed of random splits and of noise, shared by runs of several seeds", at_least=0)
    noise: str = option("", "train on noise: random:SHARE, natural:all or natural:similar_size")

    def __post_init__(self) -> None:
        check(self)
        if self.data and self.dataset != DataOptions.dataset:
            raise ValueError(f"dataset={self.dataset} and data={self.data} are two sources: drop one of them")
        if self.split == "diffrec":
            for name in ("k_core", "min_history"):
                if getattr(self, name) != getattr(DataOptions, name):
                    raise ValueError(
                        f"{name}={getattr(self, name)} means nothing to split=diffrec, which brings its own 10-core: "
                        "drop it"
                    )
            if self.duplicates != DataOptions.duplicates:
                raise ValueError(f"duplicates={self.duplicates} means nothing to split=diffrec: it keeps the first")
            if self.repeats != DataOptions.repeats:
                raise ValueError(f"repeats={self.repeats} means nothing to split=diffrec: it keeps the first")
        if self.repeats == "keep" and self.duplicates != DataOptions.duplicates:
            raise ValueError(f"duplicates={self.duplicates} means nothing where repeats are kept: drop one of them")
        own_splits.check(self)
        object.__setattr__(self, "split_shares", own_splits.shares_text(self.split_shares))
        if self.data and self.noise.startswith("natural") and self.min_rating is None:
            raise ValueError(f"noise={self.noise} adds low ratings: say --min_rating, or nothing of the log is low")

    @property
    def name(self) -> str:
        """The name of the data, for tables and default folders."""
        path = self.data or self.dataset
        if self.test_data and "/" in path.rstrip("/"):  # train.csv says less than its folder
            path = path.rstrip("/").rsplit("/", 1)[0]
        return path.rstrip("/").rsplit("/", 1)[-1].split(".")[0]
