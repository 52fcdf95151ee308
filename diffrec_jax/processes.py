"""Several processes that run the same program on one mesh: who writes, and how they agree."""

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh


def is_writer() -> bool:
    """Whether this process writes what all of them share: files, and lines on the terminal."""
    return jax.process_index() == 0


def agree(mesh: Mesh, *values: int) -> np.ndarray:
    """What every process of the mesh says, ``[processes, values]``; all must call it, and wait for each other."""
    if not mesh.is_multi_process:
        return np.asarray([values])
    return np.asarray(multihost_utils.process_allgather(np.asarray(values, np.int32)))


def same_everywhere(array: np.ndarray) -> np.ndarray:
    """The array of the writer, in every process; all of them must call it with arrays of one shape and type."""
    return array if jax.process_count() == 1 else np.asarray(multihost_utils.broadcast_one_to_all(array))
