"""Fixtures of this folder."""

from shop import exported, make, run_folder, shop, split

__all__ = ["exported", "make", "run_folder", "shop", "split"]
