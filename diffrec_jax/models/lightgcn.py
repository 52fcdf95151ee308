"""LightGCN: embeddings of users and items, smoothed over the graph of interactions; a recommender of its own.

With Â = D^{-1/2} A D^{-1/2}, A the adjacency of users and items and D its degrees::

    F   = P(E) = (E + Â E + … + Â^K E) / (K + 1)                                           (1)
    L   = mean over (u, i, j) of -log σ(F_u·F_i - F_u·F_j)  +  reg · ½ mean (‖E_u‖² + ‖E_i‖² + ‖E_j‖²)  (2)
    ∂L/∂E = P(∂L/∂F) + …                                                                   (3)

(u, i) is an interaction and j an item that u has not met. Eq. 3: P is linear and symmetric, so that a gradient
passes it by being propagated itself. As P costs the same for one triple as for all, batches are large; the
penalty of Eq. 2 is taken in expectation, which needs no draws.

``NeighbourLists`` makes Â cheap on any backend: nodes are grouped by degree, so that a sum over neighbours is one
gather per position and group. No adjacency is dense, nothing is scattered over it, and no list is padded to more than
twice its length, or four. On a CPU this took a sixth of the time of a segment sum over the edges.

Source: He et al., *LightGCN* (SIGIR 2020, Eq. 3-8 and 15). Ours: the large batches, with few updates at a large
learning rate, drawn from the interactions (the paper: from the users); Eq. 3 and the lists.
Letters: U users, I items, N interactions, D embedding width, K layers, B rows or triples of a batch, L neighbours.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from diffrec_jax.data.events import CSR
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import Rows
from diffrec_jax.models.contract import ClosedForm, Prepared
from diffrec_jax.options import check, internal, option
from diffrec_jax.ranges import Real, Whole

SHORTEST = 4  # nodes with at most this many neighbours share a group


class NeighbourLists(struct.PyTreeNode):
    """For each node, the nodes on the other side of the graph it is joined to."""

    groups: tuple[jax.Array, ...]  # each [L, n] int32: neighbours of n nodes; padding holds the size of the other side
    place: jax.Array  # [nodes] int32: where each node is when the groups are put side by side
    scale: jax.Array  # [nodes, 1] float32: degree^{-1/2}, 0 without neighbours

    @classmethod
    def create(cls, nodes: np.ndarray, neighbours: np.ndarray, *, n_nodes: int, n_neighbours: int) -> "NeighbourLists":
        """From edges ``(nodes [N], neighbours [N])``."""
        degree = np.bincount(nodes, minlength=n_nodes)
        start = np.cumsum(degree) - degree
        neighbours = np.append(neighbours[np.argsort(nodes, kind="stable")], n_neighbours)
        bound = np.maximum(np.ceil(np.log2(np.maximum(degree, SHORTEST))), 0).astype(int)
        groups, members = [], []
        for exponent in np.unique(bound):
            node = np.flatnonzero(bound == exponent)
            position = np.arange(max(int(np.max(degree[node])), 1))[:, None]
            entry = np.where(position < degree[node], start[node] + position, len(neighbours) - 1)
            groups.append(jnp.asarray(neighbours[entry], jnp.int32))
            members.append(node)
        place = np.empty(n_nodes, np.int32)
        place[np.concatenate(members)] = np.arange(n_nodes)
        scale = np.where(degree > 0, 1.0 / np.sqrt(np.maximum(degree, 1)), 0.0)
        return cls(tuple(groups), jnp.asarray(place), jnp.asarray(scale[:, None], jnp.float32))

    def sum(self, x: jax.Array) -> jax.Array:
        """``[nodes, D]``: for each node the sum of its neighbours' rows of ``x [other side, D]``."""
        x = jnp.pad(x, ((0, 1), (0, 0)))  # what padding points to

        def group_sum(lists: jax.Array) -> jax.Array:
            def body(j: jax.Array, total: jax.Array) -> jax.Array:
                neighbour = jax.lax.dynamic_index_in_dim(lists, j, keepdims=False)
                return total + x.at[neighbour].get(mode="promise_in_bounds")

            added: jax.Array = jax.lax.fori_loop(
                0, lists.shape[0], body, jnp.zeros((lists.shape[1], x.shape[1]), x.dtype)
            )
            return added

        sums = jnp.concatenate([group_sum(lists) for lists in self.groups])
        return sums.at[self.place].get(mode="promise_in_bounds")


class Graph(struct.PyTreeNode):
    """Interactions, seen from both sides."""

    users: jax.Array  # [N] int32
    items: jax.Array  # [N] int32, ascending within a user
    indptr: jax.Array  # [U + 1] int32
    of_users: NeighbourLists
    of_items: NeighbourLists

    @classmethod
    def create(cls, train: CSR) -> "Graph":
        """From the host CSR of the training interactions."""
        users, items = train.users(), train.indices
        items = items[np.lexsort((items, users))]
        U, I = train.n_users, train.n_items
        return cls(
            users=jnp.asarray(users),
            items=jnp.asarray(items),
            indptr=jnp.asarray(train.indptr),
            of_users=NeighbourLists.create(users, items, n_nodes=U, n_neighbours=I),
            of_items=NeighbourLists.create(items, users, n_nodes=I, n_neighbours=U),
        )

    def has(self, users: jax.Array, items: jax.Array) -> jax.Array:
        """``[B]``: whether each user has met the paired item, by bisection."""
        low, end = (self.indptr.at[users + k].get(mode="promise_in_bounds") for k in (0, 1))

        def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = (low + high) // 2
            right = (self.items.at[middle].get(mode="clip") < items) & (low < high)
            return jnp.where(right, middle + 1, low), jnp.where(right, high, middle)

        low, _ = jax.lax.fori_loop(0, 32, halve, (low, end))
        found: jax.Array = (low < end) & (self.items.at[low].get(mode="clip") == items)
        return found


Embeddings = dict[str, jax.Array]  # {"users": [U, D], "items": [I, D]}


def propagate(graph: Graph, embeddings: Embeddings, *, layers: int) -> Embeddings:
    """P of Eq. 1."""
    by_user, by_item = graph.of_users, graph.of_items

    def layer(_: int, carry: tuple[Embeddings, Embeddings]) -> tuple[Embeddings, Embeddings]:
        now, total = carry
        now = {
            "users": by_user.scale * by_user.sum(by_item.scale * now["items"]),
            "items": by_item.scale * by_item.sum(by_user.scale * now["users"]),
        }
        return now, jax.tree.map(jnp.add, total, now)

    _, total = jax.lax.fori_loop(0, layers, layer, (embeddings, embeddings))
    mean: Embeddings = jax.tree.map(lambda x: x / (layers + 1), total)
    return mean


def bpr_loss(smoothed: Embeddings, users: jax.Array, items: jax.Array, others: jax.Array, real: jax.Array) -> jax.Array:
    """The first term of Eq. 2 over the triples ``(users, items, others)``, each ``[B]``, that are ``real``."""
    u, i, j = smoothed["users"][users], smoothed["items"][items], smoothed["items"][others]
    losses = jax.nn.softplus(jnp.sum(u * (j - i), axis=1))
    return jnp.sum(jnp.where(real, losses, 0.0)) / jnp.maximum(jnp.sum(real), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightGCN(ClosedForm):
    """Hyper-parameters of LightGCN and its functions; see ``models.contract.ClosedForm``. ``layers`` is K.

    Attributes:
      seed: of everything random.
      recency: scores everybody, known or not, by the weighted sum of the items of their history: another model than the
        one without, also where all weights are 1.
    """

    dim: int = option(64, "width of the embeddings", at_least=1, search=Whole(16, 256, log=True))
    layers: int = option(3, "number of propagation layers", at_least=1, search=Whole(1, 4))
    lr: float = option(0.03, "learning rate of Adam", above=0.0, search=Real(1e-3, 0.1, log=True))
    reg: float = option(1e-4, "strength of the penalty on embeddings", at_least=0.0, search=Real(1e-6, 1e-2, log=True))
    updates: int = option(200, "steps of gradient descent", at_least=1, search=Whole(50, 800, log=True))
    triples: int = option(2**17, "triples (user, item, other item) per step", at_least=1)
    seed: int = internal(0)
    recency: Recency | None = None

    keeps_params: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check(self)

    @property
    def weighs(self) -> bool:
        """The graph does not; with a recency kernel everybody's history is weighed."""
        return self.recency is not None

    @property
    def item_axes(self) -> Mapping[str, int]:
        """See ``models.contract.Scorer.item_axes``."""
        return {"items": 0}

    def fit(self, train: CSR) -> Embeddings:
        """Train, and smooth the result (Eq. 1): ``{"users": [U, D], "items": [I, D]}``; users without interactions have
        zeros.

        Raises:
          ValueError: without interactions.
        """
        if not train.n_interactions:
            raise ValueError("LightGCN has nothing to learn from: there are no training interactions")
        found = jax.jit(self._train)(Graph.create(train), jax.random.key(self.seed))
        return {**found, "users": jnp.where(jnp.asarray(train.lengths() > 0)[:, None], found["users"], 0.0)}

    def _train(self, graph: Graph, key: jax.Array) -> Embeddings:
        U, I = len(graph.of_users.place), len(graph.of_items.place)
        N, B = graph.users.shape[0], self.triples
        init_key, key = jax.random.split(key)
        start = 0.1 * jax.random.normal(init_key, (U + I, self.dim))
        embeddings = {"users": start[:U], "items": start[U:]}
        share = {  # how often a triple's penalty meets each user and item
            "users": jnp.bincount(graph.users, length=U)[:, None] / N,
            "items": jnp.bincount(graph.items, length=I)[:, None] / N + 1.0 / I,
        }
        optimizer = optax.adam(self.lr)

        def step(n: jax.Array, carry: tuple[Embeddings, optax.OptState]) -> tuple[Embeddings, optax.OptState]:
            embeddings, state = carry
            edge_key, item_key = jax.random.split(jax.random.fold_in(key, n))
            edge = jax.random.randint(edge_key, (B,), 0, N)
            others = jax.random.randint(item_key, (B,), 0, I)
            users, items = graph.users[edge], graph.items[edge]
            smoothed = propagate(graph, embeddings, layers=self.layers)
            gradient = jax.grad(bpr_loss)(smoothed, users, items, others, ~graph.has(users, others))
            gradient = propagate(graph, gradient, layers=self.layers)  # Eq. 3
            gradient = jax.tree.map(lambda g, s, e: g + self.reg * s * e, gradient, share, embeddings)
            updates, state = optimizer.update(gradient, state)
            return optax.apply_updates(embeddings, updates), state

        embeddings, _ = jax.lax.fori_loop(0, self.updates, step, (embeddings, optimizer.init(embeddings)))
        return propagate(graph, embeddings, layers=self.layers)

    def scores(
        self, params: Embeddings, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None
    ) -> jax.Array:
        """``F_u · F_i``, ``[B, I]``. A user without training interactions is the sum of the items of their history, if
        any; with a recency kernel everybody is. Known users are what training made of them, whatever the history.
        """
        return jnp.matmul(self._users(params, rows), params["items"].T)

    @property
    def factored(self) -> bool:
        """Always."""
        return True

    def user_vectors(
        self, params: Embeddings, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None
    ) -> jax.Array:
        """``[F_u, 1]``, ``[B, D + 1]``."""
        return jnp.pad(self._users(params, rows), ((0, 0), (0, 1)), constant_values=1.0)

    def item_vectors(self, params: Embeddings) -> jax.Array:
        """``[F_i, 0]``, ``[I, D + 1]``: there are no biases."""
        return jnp.pad(params["items"], ((0, 0), (0, 1)))

    def _users(self, params: Embeddings, rows: Rows) -> jax.Array:
        if self.recency is not None:
            return rows.product(params["items"])
        known = params["users"].at[rows.users].get(mode="clip")
        trained = (rows.users >= 0) & jnp.any(known != 0.0, axis=1)
        return jnp.where(trained[:, None], known, rows.product(params["items"]))
