"""Checksums of arrays, computed on the devices, so that a damaged checkpoint is never taken for a good one."""

import jax
import jax.numpy as jnp

from diffrec_jax.types import PyTree

MULTIPLIERS = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)  # odd and large, one for each axis


@jax.jit
def checksum(tree: PyTree) -> jax.Array:
    """A number [] uint32 that any single changed bit of any array of ``tree`` changes.

    It is a sum over entries of their bits times an odd number made of their indices, modulo 2³²: exact in any order,
    so the same on any mesh, and blind to zeros appended along any axis.
    """
    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(tree):
        width = leaf.dtype.itemsize * 8
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{width}")).astype(jnp.uint32)
        place = jnp.zeros(bits.shape, jnp.uint32)
        for axis, multiplier in zip(range(bits.ndim), MULTIPLIERS, strict=False):
            place += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(multiplier)
        total = total * jnp.uint32(31) + jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)
    return total
