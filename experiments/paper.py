"""The experiments of the paper as commands: each is a declared grid of ordinary runs, and goes on where it was.

python -m experiments.paper --experiment=main --data_dir=DATA --seeds=5         # every row of the main table
python -m experiments.paper --experiment=noise_scale --flagfile=ml-1m.flags --data_dir=DATA --seeds=3
python -m experiments.paper --experiment=clusters --flagfile=l-ml-1m.flags --data_dir=DATA --dry_run

Every other flag is one of experiments.run. A cell is a run folder below --out; a finished one is not repeated. At the
end, results.md has a row for every cell with its command, and comparison/ the tests and pictures of cells on the same
data. The values of the grids are ours, around those that the paper uses.
"""

import sys
from collections.abc import Sequence

from experiments.running import grids
from experiments.settings import cli, guard


def main(argv: Sequence[str]) -> int:
    """Run an experiment, or go on with it; the exit code."""
    said = cli.read(argv, grids.Plan, usage=__doc__ or "")
    return grids.start(said.part(grids.Plan), said.values, said.flag_file, cli.typed_names(argv))


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
