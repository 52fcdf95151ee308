"""Classes of one's own that a command is told to import: a folder never causes an import by itself."""

import argparse
import os
import sys


def look_here(model: str) -> None:
    """Let Python find the class ``package.module:Class`` in the current folder, as it does for ``python -m``."""
    if ":" in model and not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def add_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--model`` to a command that reads a folder."""
    parser.add_argument(
        "--model",
        default="",
        type=_named,
        help="package.module:Class, where the model is of a class of your own: only what is named here is imported",
    )


def _named(model: str) -> str:
    look_here(model)
    return model
