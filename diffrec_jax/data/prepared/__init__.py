"""Prepared folders: a log that was read, filtered, numbered and split once, and the engines that do it."""

from diffrec_jax.data.prepared.append import append
from diffrec_jax.data.prepared.engines import ENGINES, prepare
from diffrec_jax.data.prepared.folder import Meta, is_prepared, read
from diffrec_jax.data.prepared.recipe import Recipe

__all__ = ["ENGINES", "Meta", "Recipe", "append", "is_prepared", "prepare", "read"]
