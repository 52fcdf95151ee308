"""Train a model, evaluate it honestly, and leave a run folder that can be taken up again and understood.

python -m experiments.run --flagfile=ml-1m.flags
python -m experiments.run --dataset=ml-100k --seed=1
python -m experiments.run --dataset=ml-100k --seeds=5                 # seeds 0-4, one folder each; mean ± deviation
python -m experiments.run --flagfile=runs/ml-100k-s1/flags.txt        # goes on where it was
"""

import sys
from collections.abc import Sequence

from experiments.running import one_run
from experiments.settings import cli, guard


def main(argv: Sequence[str]) -> int:
    """Run what the command line asks for; the exit code."""
    return one_run.start(cli.parse(argv, usage=__doc__ or ""))


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
