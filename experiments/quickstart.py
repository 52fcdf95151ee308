"""From nothing to titles: DiffRec on MovieLens-100K beside popularity and EASE, and what three users would be shown.

python -m experiments.quickstart
"""

import sys
from collections.abc import Sequence

from experiments.running import first_run
from experiments.settings import cli, guard


def main(argv: Sequence[str]) -> int:
    """Train, print the table, show recommendations; the exit code."""
    argv = [argv[0], "--dataset=ml-100k", "--workdir=runs/quickstart", *argv[1:]]
    return first_run.start(cli.parse(argv, usage=__doc__ or ""))


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
