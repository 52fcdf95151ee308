"""What decides between items where a model does not: the one rule behind every list, evaluated or served.

1. A user without a history gets popularity: an item's score is the share of users who have it in training.
2. An item that nobody has in training is unknown to every model, whatever its parameters say. Its score is the lowest
   of the known items, and among equal scores it stands behind them.
3. Other equal scores go by a fixed key: 8 bytes of the BLAKE2b hash of the item's raw id, written as text. The key
   depends neither on the order of a file, nor on the numbering of ids, nor on popularity.

Letters: B rows, I items, U users.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from diffrec_jax.data.events import CSR


class Standing(struct.PyTreeNode):
    """What a ranking knows of the items beside their scores; host arrays, until they are put on a device."""

    place: jax.Array  # [I] int32, a permutation: where an item stands among items of equal score, 0 first
    users: jax.Array  # [I] int32, training users of each item
    share: jax.Array  # [I] float32, the same divided by U
    all_known: bool = struct.field(pytree_node=False)  # whether every item has a training user

    @classmethod
    def of(cls, item_ids: np.ndarray, train: CSR) -> "Standing":
        """From raw ids ``[I]``, in the order of the item numbers, and the training interactions."""
        users = np.bincount(train.once().indices, minlength=train.n_items).astype(np.int32)
        place = np.empty(train.n_items, np.int32)
        place[np.lexsort((tie_keys(item_ids), users == 0))] = np.arange(train.n_items, dtype=np.int32)
        share = (users / max(train.n_users, 1)).astype(np.float32)
        arrays: Any = {"place": place, "users": users, "share": share}
        return cls(**arrays, all_known=bool(users.all()))

    def settle(self, scores: jax.Array, lengths: jax.Array) -> jax.Array:
        """Scores ``[B, I]`` by rules 1 and 2, inside jit; ``lengths [B]`` are those of the histories."""
        if not self.all_known:
            known = self.users > 0
            lowest = jnp.min(jnp.where(known, scores, jnp.inf), axis=1, keepdims=True)
            scores = jnp.where(known, scores, lowest)
        return jnp.where((lengths == 0)[:, None], self.share, scores)


def tie_keys(ids: Iterable[object]) -> np.ndarray:
    """The keys of rule 3, ``[I]`` uint64."""
    texts = (
        str(id_).encode("utf-8", "surrogatepass") for id_ in (ids.tolist() if isinstance(ids, np.ndarray) else ids)
    )
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, ">u8").astype(np.uint64)
