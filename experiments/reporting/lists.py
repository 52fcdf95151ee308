"""Lists of a trained model, printed for a few people, or written for everybody in constant memory."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table as Drawing

import diffrec_jax
from diffrec_jax.data.events import Events
from diffrec_jax.serving import Recommender, choices
from diffrec_jax.serving.table import Table
from experiments.reporting import list_parts, named
from experiments.reporting.table_files import TableFile
from experiments.settings import cli

USERS_PER_CHUNK = 4096
PAIRS_PER_CHUNK = 2**20
AT_MOST_PRINTED = 50  # people, or pairs
REASONS = 3


def start(args: argparse.Namespace) -> int:
    """Recommend what the flags of ``experiments.recommend`` ask for; the exit code."""
    console = cli.console()
    _check(args)
    folder = bool(args.out) and in_a_folder(args)
    out = TableFile(args.out) if args.out and not folder else None
    asked = named.read(args)
    recommender = diffrec_jax.load(args.workdir, history=args.known, model=args.model or None)
    if out is not None:
        out.as_text = named.beyond_javascript(recommender.vocabulary, users=asked.history is None)
    for report in (report for table in asked.tables for report in table.provenance):  # rows without a user or an item
        console.print(str(report), highlight=False, markup=False)
    if asked.pairs is not None:
        score_all(recommender, asked.pairs, out, console)
        return 0
    users = None if asked.history else named.people(asked, recommender.vocabulary)
    options = {"k": 10 if args.k is None else args.k, **named.options(asked, recommender.vocabulary, users)}
    if args.include_seen:
        options["exclude_seen"] = False
    if folder and users is not None:
        write_folder(recommender, users, options, args, console)
    elif users is None:
        show(recommender, {"histories": [asked.history]}, options, console, explain=args.explain, out=out)
    elif out is not None:
        write_all(recommender, users, options, out, console, explain=args.explain)
    elif len(users) > AT_MOST_PRINTED:
        file = f"top{options['k']}.parquet"
        raise ValueError(f"{len(users):,} users are too many to print: add --out={file}, or name --users")
    else:
        show(recommender, {"users": users}, options, console, explain=args.explain)
    return 0


def in_a_folder(args: argparse.Namespace) -> bool:
    """Whether ``--out`` is a folder of parts: a name without an ending, or with a slash at its end.

    Raises:
      ValueError: for flags that a file, or a folder, has no use for.
    """
    folder = args.out.endswith("/") or not Path(args.out).suffix
    given = {"--parts": args.parts, "--layout": args.layout, "--format": args.format}
    for flag, value in given.items():
        if value is not None and not folder:
            raise ValueError(f"{flag}={value} is of a folder of lists: give a folder, as in --out=lists/, or drop it")
    for flag, value in {"--explain": args.explain, "--pairs": args.pairs, "--history": args.history}.items():
        if value and folder:
            raise ValueError(f"{flag} writes one file, and --out={args.out} is a folder: end it in .parquet, say")
    if args.parts is not None and args.parts < 1:
        raise ValueError(f"--parts={args.parts} must be at least 1")
    return folder


def write_folder(
    recommender: Recommender,
    users: Sequence[Any] | np.ndarray,
    options: dict[str, Any],
    args: argparse.Namespace,
    console: Console,
) -> None:
    """Write the lists of all ``users`` as a folder of parts."""
    what = {
        "model": type(recommender.content.model).__name__,
        "parameters": list_parts.identity(recommender),
        "known": args.known,
        "k": options["k"],
        "users": len(users),
        "of": list_parts.digest([users, *sorted(options.items())]),
    }
    size = list_parts.size_of(len(users), args.parts or -(-len(users) // list_parts.USERS_PER_PART))
    n_parts = -(-len(users) // size)
    kind, layout = args.format or "parquet", args.layout or "long"
    parts = list_parts.ListParts(args.out, layout=layout, kind=kind, n_parts=n_parts, what=what)
    as_text = named.beyond_javascript(recommender.vocabulary, users=True)
    list_parts.write_parts(recommender, users, options, parts, console, as_text=as_text, users_at_once=USERS_PER_CHUNK)


def _check(args: argparse.Namespace) -> None:
    """Refuse flags that exclude each other."""
    if args.k is not None and args.k < 1:
        raise ValueError(f"--k={args.k} must be at least 1")
    items = ("candidates", "candidates_file", "exclude", "exclude_file")
    people = ("users", "users_file", "history")
    if args.explain and (args.include_seen or any(getattr(args, name) for name in items)):
        raise ValueError(
            "--explain explains the K best unseen items: leave out --candidates, --exclude, their files and "
            "--include_seen"
        )
    if args.pairs:
        given = [name for name in ("k", "explain", "include_seen", *people, *items) if getattr(args, name)]
        if given:
            raise ValueError(f"--pairs scores the pairs of a file and makes no lists: leave out --{given[0]}")


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
    step = 64 if explain else USERS_PER_CHUNK
    compute = recommender.explain if explain else recommender.recommend
    parts = choices.chunks(len(users), step, options)
    tables = (compute(users=users[part], **own) for part, own in parts)
    notes = _write(tables, -(-len(users) // step), out, console, "recommending")
    console.print(f"{out.rows:,} rows for {len(users):,} users in {out.path}", highlight=False)
    for sentence in notes:
        console.print(sentence, highlight=False, markup=False)


def score_all(recommender: Recommender, pairs: Events, out: TableFile | None, console: Console) -> None:
    """Write, or print, the scores of pairs.

    Raises:
      ValueError: if there are too many to print, or no user or no item of them is in the model.
    """
    if out is None and len(pairs) > AT_MOST_PRINTED:
        raise ValueError(f"{len(pairs):,} pairs are too many to print: add --out=scores.parquet")
    named.check_pairs(pairs, recommender.vocabulary)
    users, items = pairs.user_ids[pairs.users], pairs.item_ids[pairs.items]
    starts = range(0, len(pairs), PAIRS_PER_CHUNK)
    parts = (slice(start, start + PAIRS_PER_CHUNK) for start in starts)
    tables = (recommender.score(users[part], items[part]) for part in parts)
    if out is not None:
        notes = _write(tables, len(starts), out, console, "scoring")
        console.print(f"{out.rows:,} scores of {len(pairs):,} pairs in {out.path}", highlight=False)
    else:
        scored = next(tables)
        notes = scored.notes
        drawing = Drawing(title=f"{len(scored)} scores", title_justify="left")
        for column in ("user", "item", "score"):
            drawing.add_column(column, justify="right" if column == "score" else "left", overflow="fold")
        for row in scored.rows():
            drawing.add_row(escape(str(row["user"])), escape(str(row["item"])), f"{row['score']:.4f}")
        console.print(drawing)
    for sentence in notes:
        console.print(sentence, highlight=False, markup=False)


def _write(tables: Iterator[Table], total: int, out: TableFile, console: Console, doing: str) -> list[str]:
    """Write tables as they come; the notes of all of them together."""
    whole: dict[str, list[Any]] = {"unknown_users": [], "unknown_items": [], "by_popularity": [], "short": []}
    progress: dict[str, Any] = {"console": console, "disable": not console.is_terminal, "transient": True}
    with out:
        for table in track(tables, doing, total=total, **progress):
            out.write(table.to_arrow())
            for name, collected in whole.items():
                collected.extend(getattr(table, name))
    once: dict[str, Any] = {name: tuple(dict.fromkeys(values)) for name, values in whole.items()}
    return Table({}, **once).notes


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
