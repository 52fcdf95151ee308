"""Short histories, small models and logs with an order, for the tests of models of order."""

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.events import CSR
from diffrec_jax.data.rows import make_rows
from diffrec_jax.models import Catalogue

I = 21


def batch(lengths=(1, 4, 6, 7, 12, 0), users=None):
    """Rows of at most 12 of 21 items."""
    rng = np.random.default_rng(0)
    items = np.stack([rng.permutation(I)[:12] for _ in lengths])
    users = jnp.arange(len(lengths)) if users is None else users
    return make_rows(jnp.asarray(items, jnp.int32), jnp.asarray(lengths), users, n_items=I)


def initial(model, n_items=I):
    """Parameters none of which is 0 or 1."""
    params = jax.jit(lambda: model.init(jax.random.key(1), Catalogue(n_items=n_items, n_users=9)))()
    return jax.tree.map(lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), params)


def loss_of(model, params, rows, key=5, memory=None):
    """The loss of a batch."""
    now = {"key": jax.random.key(key), "step": jnp.asarray(0), "epoch": jnp.asarray(0)}
    return model.loss(params, memory, rows, **now)[0]


def chains(n_users=200, n_items=30, shuffled=False):
    """Every item is followed by the next one, from a random start on; the last event is held out."""
    rng = np.random.default_rng(0)
    items = (rng.integers(0, n_items, n_users)[:, None] + np.arange(9)) % n_items
    train = np.stack([rng.permutation(n_items)[:8] for _ in range(n_users)]) if shuffled else items[:, :-1]
    users = np.arange(n_users)

    def csr(items):
        return CSR.from_pairs(np.repeat(users, items.shape[1]), items.ravel(), n_users=n_users, n_items=n_items)

    return csr(train), csr(items[:, -1:])
