"""One page of results from finished run folders: ours beside the published numbers, the command under each row.

python -m experiments.results runs/* --out=docs/results.md
python -m experiments.results new/* --out=docs/results.md --keep      # beside the rows that the page has
python -m experiments.results runs/paper/steps/* --heading=steps --out=docs/results.md --keep    # cells, in their order
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from diffrec_jax.evaluation import PROTOCOLS
from diffrec_jax.files import write_atomically
from experiments.reporting import results_page, systems
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
    args = parser.parse_intermixed_args(argv[1:])
    out = Path(args.out)
    if not out.parent.is_dir():
        raise ValueError(f"--out={args.out}: there is no folder {out.parent}; make it first")
    finished = [
        path for path in map(Path, args.runs) if all((path / n).is_file() for n in ("result.json", "config.json"))
    ]
    if not finished:
        raise ValueError(
            f"none of the {len(args.runs)} folder(s) holds a finished run: name run folders, such as runs/*"
        )
    runs = []
    for path in finished:
        try:
            runs.append(systems.read(path))
        except ValueError as error:  # of an older version, or damaged
            print(f"left out: {error}")
    for run in [run for run in runs if not run.config]:
        print(f"left out: {run.path} holds lists of somebody else, which have no command: see them in a comparison")
        runs.remove(run)
    if not runs:
        raise ValueError("none of these runs can stand on the page, as said above")
    for run, same in systems.repeated(runs):
        print(f"left out: {run.path} has the configuration and the seed of {same.path}")
    text = results_page.page(runs, protocol=args.protocol, heading=args.heading)
    if args.keep and out.is_file():
        old = out.read_text()
        if old.partition("\n\n## ")[0] != text.partition("\n\n## ")[0]:
            raise ValueError(f"--keep: {args.out} is no page of the {args.protocol} protocol: choose another --out")
        text = results_page.merged(text, old)
    write_atomically(out, text)
    print(f"written: {out}, from {len(runs)} runs; {len(args.runs) - len(runs)} not finished or no run folders")
    return 0


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
