"""Recommendations of a trained model, for everybody or for one person, in the ids of your own data.

python -m experiments.recommend --workdir=runs/a --k=20 --out=top20.parquet      # all users; .csv and .jsonl too
python -m experiments.recommend --workdir=runs/a --k=20 --out=lists/ --parts=64 --layout=nested  # parts, resumable
python -m experiments.recommend --workdir=runs/a --users=u17,u99 --k=5 --explain
python -m experiments.recommend --workdir=runs/a --history=sku12,sku99 --k=5     # somebody never seen
python -m experiments.recommend --workdir=runs/a --exclude_file=sold_out.txt --candidates_file=offers.csv --out=top.csv
python -m experiments.recommend --workdir=runs/a --pairs=pairs.csv --out=scores.parquet      # scores of given pairs
"""

import argparse
import sys
from collections.abc import Sequence

from diffrec_jax.serving.recommender import HISTORIES
from experiments.reporting import lists
from experiments.reporting.list_parts import FORMATS, LAYOUTS
from experiments.settings import guard, own_class


def main(argv: Sequence[str]) -> int:
    """Recommend what the command line asks for; the exit code."""
    args = arguments().parse_args(argv[1:])
    for flag, following in zip(argv[1:], [*argv[2:], "-"]):  # a shell variable that isn't set must not mean everybody
        if flag.startswith("--") and (flag.endswith("=") or not following):
            raise ValueError(f"{flag} is empty: give it a value, or leave it out")
    return lists.start(args)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    usage = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.recommend", description=__doc__, formatter_class=usage)
    parser.add_argument("--workdir", required=True, help="a run folder, or an exported model folder")
    own_class.add_flag(parser)
    parser.add_argument("--k", type=int, help="list length, 10 if not given")
    parser.add_argument(
        "--out",
        default="",
        help="write user, item, score, rank to a .parquet, .csv or .jsonl file; or, for everybody, into a folder of "
        "parts (lists/), which several of the same command fill together and the same command completes",
    )
    parser.add_argument("--parts", type=int, help="parts of the folder; one for every 100,000 users if not given")
    parser.add_argument("--format", choices=FORMATS, help="of the parts; parquet if not given")
    parser.add_argument(
        "--layout", choices=LAYOUTS, help="of the parts: long has a row for each item, nested a row for each user"
    )
    parser.add_argument("--users", default="", help="user ids, separated by commas; all users if not given")
    parser.add_argument("--users_file", default="", help="a file with one user id per line")
    parser.add_argument("--history", default="", help="item ids of somebody never seen, oldest first, with commas")
    parser.add_argument("--candidates", default="", help="the only item ids to choose from, separated by commas")
    parser.add_argument(
        "--candidates_file",
        default="",
        help="the same from a file: one item id per line, for everybody; or a .csv, .tsv or .parquet table with a user "
        "and an item in each row, for the users named there",
    )
    parser.add_argument("--exclude", default="", help="item ids that must not appear, separated by commas")
    parser.add_argument("--exclude_file", default="", help="the same from a file, as with --candidates_file")
    parser.add_argument(
        "--pairs", default="", help="a table with a user and an item in each row: write their scores, and no lists"
    )
    parser.add_argument("--user_col", default="", help="column of user ids in a table, where its name is no usual one")
    parser.add_argument("--item_col", default="", help="column of item ids, likewise")
    parser.add_argument("--include_seen", action="store_true", help="also recommend what a person already has")
    parser.add_argument("--explain", action="store_true", help="which items of the history carry each recommendation")
    parser.add_argument(
        "--known",
        choices=HISTORIES,
        default="train",
        help="what a user's history holds: train gives the lists that the reported numbers are of, train+valid uses "
        "everything that is known",
    )
    return parser


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
