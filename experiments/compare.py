"""Compare finished runs: paired tests per user, intervals, deviation over seeds, lists, time and memory.

python -m experiments.compare runs/a-s* runs/b-s*                        # seeds of one configuration go together
python -m experiments.compare runs/a runs/b --test=t --out=table.tex     # or .md, or .csv
"""

import argparse
import sys
from collections.abc import Sequence

from diffrec_jax.evaluation import PROTOCOLS
from diffrec_jax.evaluation.significance import TESTS
from experiments.reporting import compare_report
from experiments.settings import guard


def main(argv: Sequence[str]) -> int:
    """Compare what the command line names; the exit code."""
    return compare_report.start(arguments().parse_intermixed_args(argv[1:]))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    usage = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.compare", description=__doc__, formatter_class=usage)
    parser.add_argument("runs", nargs="+", help="run folders, the reference first")
    parser.add_argument("--metrics", help="separated by commas (default: the paper's four, or what all runs have)")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="official", help="default: %(default)s")
    parser.add_argument("--segments", default="", help="also by user group: a table with the columns user and group")
    parser.add_argument("--test", choices=TESTS, default="wilcoxon", help="default: %(default)s")
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals (default: %(default)s)")
    parser.add_argument("--nobaselines", action="store_true", help="leave out the baselines kept in the run folders")
    parser.add_argument("--report", default="", help="folder of report.html and report.md; comparison/ beside the runs")
    parser.add_argument("--out", default="", help="also write the tables to a .md, .tex or .csv file")
    return parser


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
