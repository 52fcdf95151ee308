"""What a run will take on a Cloud TPU, before you rent one: the real programs, compiled for chips that are not here.

python -m experiments.tpu_plan --flagfile=amazon.flags --topology=v5e:2x4
python -m experiments.tpu_plan --flagfile=amazon.flags --topology=v5e:2x4 --mesh=users:2,items:4 --dtype=bfloat16
python -m experiments.tpu_plan --all --topology=v5e:2x4,v4:2x2x1          # every shipped flag file, as Markdown
"""

import argparse
import sys
from collections.abc import Sequence

from experiments.running import tpu_costs
from experiments.settings import cli, guard


def main(argv: Sequence[str]) -> int:
    """Plan what the command line asks for; the exit code."""
    args, rest = arguments().parse_known_args(argv[1:])
    topologies = tpu_costs.checked(args.topology.split(","))
    if args.all:
        return tpu_costs.of_all(topologies, rest)
    config = cli.parse([argv[0], *rest], usage=__doc__ or "")
    return tpu_costs.of_one(config, topologies, search=not args.no_search)


def arguments() -> argparse.ArgumentParser:
    """The command line, but for the flags of a run."""
    usage = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.tpu_plan", description=__doc__, formatter_class=usage)
    parser.add_argument("--topology", default="v5e:2x4", help="such as v5e:2x4; several with commas")
    parser.add_argument("--all", action="store_true", help="every shipped flag file of a trained model, as Markdown")
    parser.add_argument("--no_search", action="store_true", help="do not look for the smallest topology that fits")
    parser.epilog = "every flag of experiments.run may follow, --flagfile above all"
    return parser


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
