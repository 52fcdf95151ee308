"""The named datasets, whether they are here, and what their terms are.

python -m experiments.datasets                      # the list
python -m experiments.datasets ml-100k              # fetch if need be, prepare, split, and say what came out
"""

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from diffrec_jax.data import datasets
from diffrec_jax.data.fetch import cache_folder
from experiments.settings import guard


def main(argv: Sequence[str]) -> int:
    """List the catalogue, or load and describe one dataset; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m experiments.datasets", description="Named datasets, their state.")
    parser.add_argument("name", nargs="?", help="load this one (fetching it if need be) and describe its split")
    parser.add_argument("--data_dir", default="data", help="where released folders lie (default: data)")
    parser.add_argument("--cache_dir", default=None, help="where fetched files are kept (default: $DIFFREC_JAX_CACHE)")
    args = parser.parse_args(argv[1:])
    console = Console()
    if args.name is None:
        console.print(overview(args.data_dir, args.cache_dir))
        for line in sources():
            console.print(line, markup=False, highlight=False)
        where = f"Fetched files: {cache_folder(args.cache_dir)}. Released folders: {args.data_dir}."
        console.print(where, markup=False)
        return 0
    split = datasets.load(args.name, data_dir=args.data_dir, cache_dir=args.cache_dir)
    counts = " / ".join(f"{len(log):,}" for log in split)
    lines = [f"{split.name}: {split.n_users:,} users x {split.n_items:,} items; train / valid / test {counts}."]
    for line in (*lines, f"Split {split.rule}: {split.guarantee}", *split.notes):
        console.print(line, markup=False)
    return 0


def overview(data_dir: str, cache_dir: str | None) -> Table:
    """One row per dataset: name, what it is, size, state, how it is prepared."""
    table = Table(title="Datasets")
    for column in ("name", "what", "size", "state", "prepared as"):
        table.add_column(column, overflow="fold")
    for entry in datasets.DATASETS.values():
        state = datasets.state(entry.name, data_dir=data_dir, cache_dir=cache_dir)
        table.add_row(entry.name, entry.title, entry.size, state, entry.preparation)
    return table


def sources() -> list[str]:
    """One line per dataset: where it comes from, its checksum if it can be fetched, and its terms."""
    lines = []
    for entry in datasets.DATASETS.values():
        checksum = f" ({entry.sources[0].checksum})" if entry.sources else ""
        lines.append(f"{entry.name}: {entry.where}{checksum}. {entry.terms}")
    return lines


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
