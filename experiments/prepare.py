"""Read, filter, number and split a log once, into a folder that any run, and every process of it, reads.

python -m experiments.prepare --data=log.parquet --user_col=user --item_col=sku --time_col=at --out=prepared/shop
python -m experiments.run --data=prepared/shop --model=sasrec
python -m experiments.prepare --data=events/ --time_col=at --engine=duckdb --memory=4GB --out=prepared/shop
python -m experiments.prepare --append --data=today.parquet --split_dates=2026-03-01,2026-03-08 --out=prepared/shop

The third is for a log that memory does not hold: pip install 'diffrec_jax[large]'.

The same command again goes on where it was stopped. docs/data.md says what lies in the folder, and who else can write
it.
"""

import sys
import time
from collections.abc import Sequence

from rich.console import Console

from diffrec_jax.data.prepared import append, prepare
from experiments.settings import guard, plain_flags
from experiments.settings.data_options import DataOptions
from experiments.settings.recipes import MEANINGLESS, PrepareOptions, added_with, recipe_of, titles_of


def main(argv: Sequence[str]) -> int:
    """Prepare what the command line names; the exit code."""
    found = plain_flags.read(argv, PrepareOptions, DataOptions, usage=__doc__ or "", leave_out=MEANINGLESS)
    how, data = found[PrepareOptions], found[DataOptions]
    console, started = Console(soft_wrap=True), time.perf_counter()

    def say(line: str) -> None:
        console.print(f"{time.perf_counter() - started:7.1f} s  {line}", markup=False, highlight=False)

    if how.append:
        meta = append(how.out, data.data, cuts=added_with(how, data), say=say)
        console.print(f"  {meta.history[-1]}", markup=False, highlight=False)
        return 0
    recipe, titles = recipe_of(data, parts=how.parts), titles_of(data, encoding=data.encoding or None)
    meta = prepare(how.out, recipe, engine=how.engine, memory=how.bytes, name=data.name, titles=titles, say=say)
    counts = ", ".join(f"{n:,} {part}" for part, n in meta.n_events.items())
    say(f"{how.out}: {meta.n_users:,} users x {meta.n_items:,} items, {counts}; {meta.n_parts} parts, {meta.checksum}")
    for line in (meta.guarantee, *meta.notes):
        console.print(f"  {line}", markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
