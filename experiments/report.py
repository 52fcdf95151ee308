"""``report.md`` and ``report.html`` of a run folder: its table, its curves, and whom it serves how well.

python -m experiments.report runs/a runs/b        # every run writes its own; this writes them anew
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.reporting import run_report, systems
from experiments.settings import guard


def main(argv: Sequence[str]) -> int:
    """Write the reports of the named folders; the exit code."""
    usage = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.report", description=__doc__, formatter_class=usage)
    parser.add_argument("runs", nargs="+", help="finished run folders")
    folders = [Path(name) for name in parser.parse_args(argv[1:]).runs]
    for run in [systems.read(folder) for folder in folders]:
        run_report.build(run).write(run.path)
        print(f"report: {run.path / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
