"""Weights as safetensors: a header and plain arrays, readable from any language, and never code."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

MISSING = "reading and writing .safetensors needs the package safetensors: pip install 'diffrec_jax[export]'"


def write_weights(path: str | Path, params: Any) -> None:
    """Write a pytree of arrays; an array is named by its path in the tree, as in ``params/out_items``."""
    try:
        from safetensors.numpy import save_file
    except ImportError:
        raise ValueError(MISSING) from None
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    save_file({_name(where): np.ascontiguousarray(leaf) for where, leaf in leaves}, str(path))


def read_weights(path: str | Path, shapes: Any) -> Any:
    """Read what ``write_weights`` wrote into the tree of ``shapes``; None takes the names as nested dictionaries.

    Raises:
      ValueError: for a missing or damaged file, or arrays of other names or shapes.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ValueError(MISSING) from None
    try:
        with safe_open(str(path), framework="numpy") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): export the model again") from None
    if shapes is None:
        return found["array"] if list(found) == ["array"] else _nested(found)
    leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
    for where, wanted in leaves:
        array = found.get(_name(where))
        if array is None or array.shape != wanted.shape:
            there = "nothing" if array is None else f"shape {array.shape}"
            raise ValueError(f"{path}: {_name(where)} should have shape {wanted.shape}, found {there}: export again")
    return jax.tree_util.tree_unflatten(tree, [found[_name(where)] for where, _ in leaves])


def _name(where: Any) -> str:
    return (
        "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in where) or "array"
    )


def _nested(found: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, array in found.items():
        *path, last = name.split("/")
        inside = tree
        for key in path:
            inside = inside.setdefault(key, {})
        inside[last] = array
    return tree
