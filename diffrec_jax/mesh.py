"""The device mesh ``users × items``: one code path from a laptop (1 × 1) to a pod.

Rows are spread over ``users``; what is as long as the catalogue may be spread over ``items``; the rest is replicated.
The mesh is passed, never set globally, and its axis types are stated.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def make_mesh(*, users: int | None = None, items: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of ``users × items`` devices.

    Args:
      users: how many ways the batch is split; None takes every device that ``items`` leaves.
      items: how many ways the catalogue is split.
      devices: which devices; None takes all.

    Raises:
      ValueError: if the two do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    users = len(devices) // items if users is None else users
    if users < 1 or items < 1 or users * items != len(devices):
        raise ValueError(
            f"a mesh of users:{users},items:{items} does not fit {len(devices)} device(s): choose two numbers whose "
            f"product is {len(devices)}"
        )
    return jax.make_mesh((users, items), ("users", "items"), devices=devices, axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def batch_size_on(mesh: Mesh, batch_size: int) -> int:
    """The batch size, rounded up so that every device holds the same number of rows; the extra rows are padding."""
    users = mesh.shape["users"]
    return -(-batch_size // users) * users
