"""Search the hyper-parameters of a model by validation, within a stated budget; the test part is never looked at.

python -m experiments.sweep --model=ease --dataset=ml-100k --trials=20
python -m experiments.sweep --model=t_diffrec --recency=power --dataset=ml-100k --trials=30 --minutes=60
python -m experiments.sweep --flagfile=ml-1m.flags --tune=lr,dropout --trials=10
python -m experiments.run --flagfile=sweeps/ml-100k-ease/best.flags

Every model declares what may be searched. A flag that is given is fixed, unless --tune names it. The same command
again goes on where it was; a larger budget goes on beyond it. Afterwards, the folder holds best.flags, trials.csv and
the study itself (study.db, Optuna).
"""

import shlex
import sys
from collections.abc import Sequence

from experiments.settings import cli, guard
from experiments.settings.config import configure


def main(argv: Sequence[str]) -> int:
    """Search, or go on, or show what was found; the exit code."""
    from experiments.running import sweeping  # here, so that a missing Optuna is a sentence

    said = cli.read(argv, sweeping.Budget, usage=__doc__ or "")
    command = shlex.join(word for word in argv[1:] if not word.startswith(("--data_dir", "--workdir")))
    config, budget = configure(**said.values), said.part(sweeping.Budget)
    return sweeping.start(config, budget, said.values.keys(), said.flag_file, command=command)


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
