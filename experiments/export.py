"""Take a trained model out of its run folder: weights, a program, or vectors for an index; each with a model card.

python -m experiments.export --workdir=runs/a --format=safetensors --out=exported/a      # load() reads it anywhere
python -m experiments.export --workdir=runs/a --format=safetensors --out=exported/a --push=user/name   # hf://user/name
python -m experiments.export --workdir=runs/a --format=jax --k=100 --out=exported/a-program
python -m experiments.export --workdir=runs/a --format=vectors --out=exported/a-vectors  # for faiss and its like
python -m experiments.export --workdir=runs/a --format=vectors --files=parquet --users --out=exported/a-vectors
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffrec_jax
from diffrec_jax.serving import export, hub
from diffrec_jax.serving.card import Results
from experiments.settings import guard, own_class


def main(argv: Sequence[str]) -> int:
    """Export what the command line asks for; the exit code."""
    args = arguments().parse_args(argv[1:])
    chosen = export.FORMATS[args.format]
    if args.k is not None and not chosen.lists:
        able = ", ".join(name for name, each in export.FORMATS.items() if each.lists)
        raise ValueError(f"--k={args.k} means nothing to --format={args.format}: drop it, or choose one of {able}")
    if args.k is not None and args.k < 1:
        raise ValueError(f"--k={args.k} must be at least 1")
    if (args.files or args.users) and not chosen.vectors:
        flag = f"--files={args.files}" if args.files else "--users"
        raise ValueError(f"{flag} means nothing to --format={args.format}: drop it, or say --format=vectors")
    if args.public and not args.push:
        raise ValueError("--public is of what is pushed: say --push=USER/NAME, or drop it")
    if args.push and args.format != "safetensors":
        raise ValueError(f"--push={args.push} takes models that load() reads: say --format=safetensors")
    if args.push and (Path(args.out) / "model.json").is_file():  # exported before, and not pushed then
        return _push(args)
    if Path(args.out).exists():
        raise ValueError(f"--out={args.out} exists: name another folder, or remove it first")
    recommender = diffrec_jax.load(args.workdir, model=args.model or None)
    results = recorded_results(Path(args.workdir))
    more: dict[str, Any] = {} if args.k is None else {"k": args.k}
    if chosen.vectors:
        more = {"files": [kind for kind in args.files.split(",") if kind], "users": args.users}
    chosen.export(recommender, args.out, results=results, **more)
    for file in sorted(Path(args.out).rglob("*")):
        if file.is_file():
            print(f"{file}  {file.stat().st_size:,} bytes")
    return _push(args) if args.push else 0


def _push(args: argparse.Namespace) -> int:
    """Put an exported model on the Hub; the exit code. The same command again does it if it failed."""
    where = hub.push(args.out, args.push, public=args.public)
    print(f"pushed: {where}, {'public' if args.public else 'private'}; load it by diffrec_jax.load({where!r})")
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    usage = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m experiments.export", description=__doc__, formatter_class=usage)
    parser.add_argument("--workdir", required=True, help="a run folder")
    own_class.add_flag(parser)
    parser.add_argument("--format", required=True, choices=list(export.FORMATS), help="what to write")
    parser.add_argument("--out", required=True, help="the folder to make")
    parser.add_argument("--k", type=int, help="length of the lists of an export that holds some; 100 if not given")
    parser.add_argument(
        "--push", default="", metavar="USER/NAME", help="put it on the Hugging Face Hub, too; safetensors"
    )
    parser.add_argument("--public", action="store_true", help="with --push: for everybody to read, histories included")
    parser.add_argument("--files", default="", help="of vectors: parquet, json (for Vertex AI), or both with a comma")
    parser.add_argument("--users", action="store_true", help="of vectors: those of all known users, too, in --files")
    return parser


def recorded_results(workdir: Path) -> Results | None:
    """What the run found; None if it isn't finished."""
    file = workdir / "result.json"
    return json.loads(file.read_text()) if file.is_file() else None


if __name__ == "__main__":
    sys.exit(guard.guarded(main, sys.argv))
