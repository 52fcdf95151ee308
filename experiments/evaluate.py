"""Judge lists that somebody else made: on the test part of a split, user by user, and beside our runs in ``compare``.

python -m experiments.evaluate --lists=theirs.csv --name=theirs --like=runs/a --workdir=runs/theirs
python -m experiments.evaluate --lists=theirs.parquet --name=als --dataset=ml-100k --list_score=prediction
python -m experiments.compare runs/a runs/theirs

The file (csv, tsv or txt, also in .gz, Parquet or JSON lines) has a line for each place of each list: a user, an item,
and a rank or a score; without either, the order of the lines is that of the lists. Ids are those of the log. --like
takes the data and its split from a run folder; without it, the flags of experiments.run that make data do. A line keeps
its place: an item that is unknown, repeated, or in the user's training or validation part is no hit, and is counted.
"""

import sys
from collections.abc import Sequence

from experiments.running import given_lists
from experiments.settings import cli, guard


def main(argv: Sequence[str]) -> int:
    """Judge what the command line names; the exit code."""
    said = cli.read(argv, given_lists.Lists, usage=__doc__ or "")
    lists = said.part(given_lists.Lists)
    return given_lists.start(lists, given_lists.configured(lists, said.values))


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
