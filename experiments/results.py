"""One page of results from finished run folders: ours beside the published numbers, the command under each row.

python -m experiments.results runs/* --out=docs/results.md
python -m experiments.results new/* --out=docs/results.md --keep      # beside the rows that the page has
python -m experiments.results runs/paper/steps/* --heading=steps --out=docs/results.md --keep    # cells, in their order
"""

import argparse
import sys
from collections.abc import Sequence

from diffrec_jax.evaluation import PROTOCOLS
from experiments.reporting import results_page
from experiments.settings import guard


def main(argv: Sequence[str]) -> int:
    """Write the page; the exit code."""
    usage = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.results", description=__doc__, formatter_class=usage)
    parser.add_argument("runs", nargs="+", help="run folders; those that are not finished are left out")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="official", help="default: %(default)s")
    parser.add_argument("--out", default="docs/results.md", help="default: %(default)s")
    parser.add_argument("--keep", action="store_true", help="keep the rows of --out that these runs do not replace")
    parser.add_argument(
        "--heading", default="", help="of sections of their own, with rows in the order of what is varied"
    )
    return results_page.start(parser.parse_intermixed_args(argv[1:]))


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
