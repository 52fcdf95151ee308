"""The device mesh ``users × items``: one code path from a laptop (1 × 1) to a pod.

Rows are spread over ``users``; what is as long as the catalogue is spread over ``items`` (``Layout``); the rest is
replicated. The mesh is passed, never set globally, and its axis types are stated.
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import KeyPath

from diffrec_jax.types import HasShape, PyTree


def make_mesh(*, users: int | None = None, items: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
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


def parse_mesh(text: str, *, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of ``users:4,items:2``; an axis that is not named takes what the other leaves, and "" is all ``users``.

    Raises:
      ValueError: if the text is no mesh, or its numbers do not multiply to the number of devices.
    """
    sizes = mesh_sizes(text)
    devices = jax.devices() if devices is None else devices
    if "items" not in sizes and "users" in sizes:
        sizes["items"] = max(len(devices) // sizes["users"], 1)
    return make_mesh(**sizes, devices=devices)


def mesh_sizes(text: str) -> dict[str, int]:
    """``{"users": 4, "items": 2}`` of ``users:4,items:2``.

    Raises:
      ValueError: if the text is no mesh.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, size = part.strip().partition(":")
        if name not in ("users", "items") or name in sizes or not (size.isascii() and size.isdigit() and int(size)):
            raise ValueError(f"mesh={text!r} is no mesh: write users:4,items:2, whose product is the number of devices")
        sizes[name] = int(size)
    return sizes


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def batch_size_on(mesh: Mesh, batch_size: int) -> int:
    """The batch size, rounded up so that every device holds the same number of rows; the extra rows are padding."""
    users: int = mesh.shape["users"]
    return -(-batch_size // users) * users


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the arrays of a tree lie: what is as long as the catalogue over ``items``, all else on every device.

    An array is known by its name, the last one on its path in the tree, so that the moments of an optimizer and an
    average of the parameters lie where the parameters do. A catalogue rarely divides by the number of shards: its axes
    are *stored* with zeros behind them, up to a multiple of it. A model sees what ``cut`` leaves of them; inside jit
    both ``pad`` and ``cut`` are local to each device. With one shard nothing is padded and nothing is cut.

    Attributes:
      mesh: the devices.
      axes: the name of each array that is as long as the catalogue, or as a part of it, and which of its axes is.
    """

    mesh: Mesh
    axes: Mapping[str, int]

    def pad(self, tree: PyTree) -> PyTree:
        """Zeros behind the catalogue's axes, up to a multiple of the shards."""

        def padded(path: KeyPath[Hashable], leaf: jax.Array) -> jax.Array:
            axis = self._axis(path, leaf)
            missing = 0 if axis is None else -leaf.shape[axis] % self.mesh.shape["items"]
            return jnp.pad(leaf, [(0, missing if i == axis else 0) for i in range(leaf.ndim)]) if missing else leaf

        return jax.tree_util.tree_map_with_path(padded, tree)

    def cut(self, tree: PyTree, like: PyTree) -> PyTree:
        """What a model sees of a stored tree: arrays of the shapes of ``like``."""
        if self.mesh.shape["items"] == 1:
            return tree

        def cut(leaf: jax.Array, shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.Array:
            leaf = leaf if leaf.shape == shape.shape else leaf[tuple(slice(n) for n in shape.shape)]
            placed: jax.Array = jax.lax.with_sharding_constraint(leaf, sharding)
            return placed

        return jax.tree.map(cut, tree, like, self.shardings(tree))

    def shardings(self, tree: PyTree) -> PyTree:
        """The sharding of each array of a stored tree."""

        def sharding(path: KeyPath[Hashable], leaf: HasShape) -> NamedSharding:
            axis = self._axis(path, leaf)
            if axis is None or leaf.shape[axis] % self.mesh.shape["items"]:
                return replicated(self.mesh)
            return NamedSharding(self.mesh, P(*("items" if i == axis else None for i in range(axis + 1))))

        return jax.tree_util.tree_map_with_path(sharding, tree)

    def abstract(self, tree: PyTree) -> PyTree:
        """Shapes and shardings of a stored tree."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            tree,
            self.shardings(tree),
        )

    def place(self, tree: PyTree) -> PyTree:
        """Store a tree on the devices; one that is stored already stays as it is."""
        tree = self.pad(tree)
        return jax.tree.map(jax.device_put, tree, self.shardings(tree))

    def collect(self, tree: PyTree, like: PyTree) -> PyTree:
        """What a model sees of a stored tree, whole on every device."""
        if self.mesh.shape["items"] == 1:
            return tree
        return jax.jit(lambda tree: self.cut(tree, like), out_shardings=replicated(self.mesh))(tree)

    def _axis(self, path: KeyPath[Hashable], leaf: HasShape) -> int | None:
        """The catalogue's axis of one array; None if it has none, or there is one shard."""
        if self.mesh.shape["items"] == 1:
            return None
        names = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        axis = self.axes.get(next((name for name in reversed(names) if not name.isdigit()), ""))
        return axis if axis is not None and axis < leaf.ndim else None


def bytes_per_device(tree: PyTree) -> int:
    """What the arrays of a tree (or their abstract form) take on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
