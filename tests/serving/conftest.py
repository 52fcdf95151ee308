"""Fixtures of this folder."""

from shop import make, run_folder, shop, split

__all__ = ["make", "run_folder", "shop", "split"]
