"""Recommendations of a trained model, for everybody or for one person, in the ids of your own data.

python -m experiments.recommend --workdir=runs/a --k=20 --out=top20.parquet      # all users; .csv and .jsonl too
python -m experiments.recommend --workdir=runs/a --users=u17,u99 --k=5 --explain
python -m experiments.recommend --workdir=runs/a --history=sku12,sku99 --k=5     # somebody never seen
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table as Drawing

import diffrec_jax
from diffrec_jax.serving import Recommender
from diffrec_jax.serving.recommender import HISTORIES
from diffrec_jax.serving.results import Table
from experiments import cli
from experiments.table_files import TableFile

USERS_PER_CHUNK = 4096
AT_MOST_PRINTED = 50  # people
REASONS = 3


def main(argv: Sequence[str]) -> int:
    """Recommend what the command line asks for; the exit code."""
    args = arguments().parse_args(argv[1:])
    console = Console(width=None if sys.stdout.isatty() else 110, soft_wrap=not sys.stdout.isatty())
    if args.k < 1:
        raise ValueError(f"--k={args.k} must be at least 1")
    if args.history and (args.users or args.users_file):
        raise ValueError("--history is for somebody who is no user of the model: leave out --users and --users_file")
    out = TableFile(args.out) if args.out else None
    recommender = diffrec_jax.load(args.workdir, history=args.known)
    options: dict[str, Any] = {"k": args.k}
    if args.candidates:
        options["candidates"] = _ids(args.candidates)
    if args.include_seen:
        options["exclude_seen"] = False
    if args.explain and len(options) > 1:
        raise ValueError("--explain explains the K best unseen items: leave out --candidates and --include_seen")
    if args.history:
        show(recommender, {"histories": [_ids(args.history)]}, options, console, explain=args.explain, out=out)
        return 0
    users = _users(args, recommender)
    if out is not None:
        write_all(recommender, users, options, out, console, explain=args.explain)
        return 0
    if len(users) > AT_MOST_PRINTED:
        raise ValueError(f"{len(users):,} users are too many to print: add --out=top{args.k}.parquet, or name --users")
    show(recommender, {"users": users}, options, console, explain=args.explain)
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    usage = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.recommend", description=__doc__, formatter_class=usage)
    parser.add_argument("--workdir", required=True, help="a run folder, or an exported model folder")
    parser.add_argument("--k", type=int, default=10, help="list length")
    parser.add_argument("--out", default="", help="write user, item, score, rank to a .parquet, .csv or .jsonl file")
    parser.add_argument("--users", default="", help="user ids, separated by commas; all users if not given")
    parser.add_argument("--users_file", default="", help="a file with one user id per line")
    parser.add_argument("--history", default="", help="item ids of somebody never seen, oldest first, with commas")
    parser.add_argument("--candidates", default="", help="the only item ids to choose from, separated by commas")
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


def write_all(
    recommender: Recommender,
    users: Sequence[Any] | np.ndarray,
    options: dict[str, Any],
    out: TableFile,
    console: Console,
    *,
    explain: bool = False,
) -> None:
    """Write the lists (or explanations) of all ``users`` to a file, some thousands at a time."""
    notes: dict[str, list[Any]] = {"unknown_users": [], "unknown_items": [], "by_popularity": []}
    step = 64 if explain else USERS_PER_CHUNK
    with out:
        starts = range(0, len(users), step)
        for start in track(starts, "recommending", console=console, disable=not console.is_terminal, transient=True):
            chunk = users[start : start + step]
            table = (recommender.explain if explain else recommender.recommend)(users=chunk, **options)
            out.write(table.to_arrow())
            for name, collected in notes.items():
                collected.extend(getattr(table, name))
    whole = Table({}, **{name: tuple(dict.fromkeys(values)) for name, values in notes.items()})
    console.print(f"{out.rows:,} rows for {len(users):,} users in {out.path}", highlight=False)
    for sentence in whole.notes:
        console.print(sentence, highlight=False, markup=False)


def show(
    recommender: Recommender,
    people: dict[str, Any],
    options: dict[str, Any],
    console: Console,
    *,
    explain: bool,
    out: TableFile | None = None,
) -> None:
    """Print the lists of a few people, by title where there are titles; write them too if asked."""
    lists = recommender.recommend(**people, **options)
    reasons = recommender.explain(**people, **options) if explain else None
    if out is not None:
        with out:
            out.write((lists if reasons is None else reasons).to_arrow())
    titled = recommender.vocabulary.item_titles is not None
    numbers = recommender.vocabulary.items(lists["item"])[0]
    by_user: dict[Any, list[int]] = {}
    for row, user in enumerate(lists["user"].tolist()):
        by_user.setdefault(user, []).append(row)
    for user, rows in by_user.items():
        name = "for this history" if "histories" in people else f"for user {user}"
        table = Drawing(title=escape(f"{len(rows)} recommendations {name}"), title_justify="left")
        for column in ("", "item", *(["title"] if titled else []), "score", *(["because of"] if explain else [])):
            table.add_column(column, justify="right" if column in ("", "score") else "left", overflow="fold")
        for row in rows:
            cells = [str(lists["rank"][row]), escape(str(lists["item"][row]))]
            if titled:
                cells.append(escape(recommender.vocabulary.title(numbers[row])))
            cells.append(f"{lists['score'][row]:.4f}")
            if reasons is not None:
                cells.append(escape(_because(recommender, reasons, user, lists["item"][row])))
            table.add_row(*cells)
        console.print(table)
    for sentence in lists.notes:
        console.print(sentence, highlight=False, markup=False)


def _because(recommender: Recommender, reasons: Table, user: Any, item: Any) -> str:
    """The items of the history that carry a recommendation most, with their effect."""
    rows = np.flatnonzero((reasons["user"] == user) & (reasons["item"] == item))[:REASONS]
    vocabulary = recommender.vocabulary
    numbers = vocabulary.items(reasons["because"][rows])[0]
    return ", ".join(f"{vocabulary.title(n)} ({e:+.3f})" for n, e in zip(numbers, reasons["effect"][rows]))


def _users(args: argparse.Namespace, recommender: Recommender) -> Sequence[Any] | np.ndarray:
    if args.users_file:
        return [line.strip() for line in Path(args.users_file).read_text().splitlines() if line.strip()]
    return _ids(args.users) if args.users else recommender.vocabulary.user_ids


def _ids(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
