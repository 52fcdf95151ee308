"""Weights as safetensors: a header and plain arrays, readable from any language, and never code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffrec_jax.models.contract import Params
from diffrec_jax.types import PyTree

MISSING = "reading and writing .safetensors needs the package safetensors: pip install 'diffrec_jax[export]'"


def write_weights(path: str | Path, params: Params) -> None:
    """Write a pytree of arrays; an array is named by its path in the tree, as in ``params/out_items``."""
    try:
        from safetensors.numpy import save_file
    except ImportError:
        raise ValueError(MISSING) from None
    save_file({name: np.asarray(leaf, order="C") for name, leaf in flatten(params).items()}, str(path))


def read_weights(path: str | Path, shapes: Params | None) -> Params:
    """Read what ``write_weights`` wrote into the tree of ``shapes``; None takes the names as nested dictionaries.

    Raises:
      ValueError: for a missing or damaged file, or arrays of other names or shapes.
    """
    found = read_arrays(path)
    if shapes is None:
        return found["array"] if list(found) == ["array"] else _nested(found)
    wanted = flatten(shapes)
    for name, shape in ((name, leaf.shape) for name, leaf in wanted.items()):
        if name not in found or found[name].shape != shape:
            there = f"shape {found[name].shape}" if name in found else "nothing"
            raise ValueError(f"{path}: {name} should have shape {shape}, found {there}: export again")
    return jax.tree.unflatten(jax.tree.structure(shapes), [found[name] for name in wanted])


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of a file by name.

    Raises:
      ValueError: for a missing or damaged file.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ValueError(MISSING) from None
    try:
        with safe_open(str(path), framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): export the model again") from None


def flatten(tree: PyTree) -> dict[str, jax.Array]:
    """The leaves of a pytree by their path, in the order of the tree."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/") or "array": leaf for path, leaf in leaves}


def _nested(found: Mapping[str, np.ndarray]) -> PyTree:
    tree: dict[str, Any] = {}
    for name, array in found.items():
        *path, last = name.split("/")
        inside = tree
        for key in path:
            inside = inside.setdefault(key, {})
        inside[last] = array
    return tree
