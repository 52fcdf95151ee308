"""Full-catalogue evaluation: every user with held-out items, every item, all metrics; only metrics leave the device."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.stages import Compiled

from diffrec_jax.data.events import CSR, overlap
from diffrec_jax.data.rows import DeviceCSR, Rows, device_csr, take_rows
from diffrec_jax.evaluation import conventions
from diffrec_jax.evaluation import metrics as metrics_lib
from diffrec_jax.evaluation.beyond import ListCounts, beyond_accuracy
from diffrec_jax.evaluation.outcome import Evaluation
from diffrec_jax.evaluation.ranking import hits, mask_seen, top_k
from diffrec_jax.evaluation.standing import Standing
from diffrec_jax.evaluation.streaming import streamed_top_k, streams
from diffrec_jax.finite import check_scores, rankable, unranked
from diffrec_jax.mesh import Layout, replicated
from diffrec_jax.models.contract import Catalogue, Params, Prepared, Scorer
from diffrec_jax.types import PyTree

KS = (10, 20, 50, 100)
TIED = "tied@"  # a column beside the metrics, while they are on the device
UNRANKED = "unranked"  # likewise: whose scores are no numbers
MANY_TIES = 0.01  # share of lists decided by ties that a person is told of
Judged: TypeAlias = tuple[dict[str, jax.Array], ListCounts | None]  # of one batch of users
SCORES_AT_ONCE = 2**27  # at most about so many in a batch, where items are not streamed
SAMPLE_SEED = 20  # of the users that a sample ranks: the same for all models and seeds of one split
AHEAD = 8  # batches given to the device beyond the one it works on, so that an evaluation can be given up


def _drawn(users: np.ndarray, sample: int) -> tuple[np.ndarray, int]:
    """``sample`` of the users, ascending, and of how many; all of them, and 0, where it is 0."""
    if not sample:
        return users, 0
    if sample > len(users):
        raise ValueError(
            f"a sample of {sample:,} users is more than the {len(users):,} who have held-out items: choose fewer, or 0 "
            "for all of them"
        )
    return np.sort(np.random.default_rng(SAMPLE_SEED).choice(users, sample, replace=False)), len(users)


class Evaluator:
    """A compiled evaluation of one model on one split; call it with parameters.

    Users are batched by the length of their history, since a batch costs what its longest history costs; a score
    does not depend on its batch.
    """

    def __init__(
        self,
        model: Scorer,
        *,
        history: CSR,
        seen: CSR,
        truth: CSR,
        standing: Standing,
        mesh: Mesh,
        seed: int = 0,
        ks: Sequence[int] = KS,
        batch_size: int = 400,
        beyond: bool = False,
        mask_seen: bool = True,
        others: bool = False,
        sample: int = 0,
    ) -> None:
        """Put the data on the devices.

        Args:
          model: what is evaluated.
          history: host ``CSR`` the scores are computed from.
          seen: host ``CSR`` of items not to be recommended.
          truth: host ``CSR`` of held-out items.
          standing: what decides where the model does not.
          mesh: the devices.
          seed: of noise at inference, where the model uses any.
          ks: list lengths; beyond the end of a small catalogue a list goes on without hits.
          batch_size: users per batch.
          beyond: also judge the lists beyond accuracy.
          mask_seen: leave ``seen`` out of the ranking; if not, it is there for ``others`` alone.
          others: also judge the other rankings of the same scores (``conventions``): with or without ``seen``, and,
            where no user has more than one held-out item, with ties shared.
          sample: how many of the users with truth are ranked, drawn the same way every time; 0 ranks all of them.
        """
        seen, truth = seen.once(), truth.once()  # as sets
        self.model, self.mesh = model, mesh
        self.ks = tuple(sorted(ks))
        self.beyond = beyond
        self.judged = conventions.judged(seen, truth, mask_seen=mask_seen, others=others)  # names, the first is told
        self.streams = streams(model, truth.n_items, mesh)
        if self.streams:
            self.judged = tuple(name for name in self.judged if name in (conventions.MASKED, conventions.UNMASKED))
        users, self.sampled = _drawn(np.flatnonzero(np.diff(truth.indptr)).astype(np.int32), sample)
        self.n_users = truth.n_users if not self.sampled else round(truth.n_users * len(users) / self.sampled)
        self.users = users[np.argsort(np.diff(history.indptr)[users], kind="stable")]
        rows = mesh.shape["users"]
        if not self.streams:
            batch_size = min(batch_size, max(SCORES_AT_ONCE // truth.n_items, 1))
        batch_size = -(-min(batch_size, max(len(users), 1)) // rows) * rows
        padded = np.pad(self.users, (0, -len(users) % batch_size), constant_values=-1)
        self._batches = [jax.device_put(batch, replicated(mesh)) for batch in padded.reshape(-1, batch_size)]
        self.standing = jax.device_put(standing, replicated(mesh))
        sets = (device_csr(csr, mesh=mesh, timeless=True) for csr in (seen, truth))
        self._data = (self.standing, device_csr(history, mesh=mesh), *sets)
        self._key = jax.jit(lambda: jax.random.fold_in(jax.random.key(seed), 3), out_shardings=replicated(mesh))()
        self.layout = Layout(mesh, model.item_axes)
        self._catalogue = Catalogue(n_items=truth.n_items, n_users=truth.n_users)
        ranked = np.isin(truth.users(), users) if self.sampled else slice(None)
        self._truth = np.bincount(truth.indices[ranked], minlength=truth.n_items).astype(np.int32)
        self.masked = overlap(seen, truth) if self.judged[0] == conventions.MASKED else 0
        self._compiled: tuple[Compiled, Compiled, Compiled] | None = None
        self.compile_seconds = 0.0

    def __call__(self, params: Params, *, between_batches: Callable[[], None] = lambda: None) -> Evaluation:
        """Rank the catalogue for every user with truth.

        Args:
          params: of the model.
          between_batches: called before every batch; may raise, to give the evaluation up.

        Raises:
          NonFiniteScoresError: if the scores of a user are no numbers.
        """
        if not self._batches:
            return Evaluation(users=self.users, per_user={}, n_users=self.n_users)
        prepare, evaluate, summarise = self.compile(params)
        params = self.layout.place(params)
        start = time.perf_counter()
        tables, counts, batches = prepare(params), self._no_counts(), []
        for n, users in enumerate(self._batches):
            between_batches()
            found, counts = evaluate(params, tables, self._key, users, counts, *self._data)
            batches.append(found)
            if n >= AHEAD:
                jax.block_until_ready(batches[n - AHEAD])
        fetched, beyond, per_item = jax.device_get((batches, *summarise(counts, self.standing)))
        seconds = time.perf_counter() - start
        order = np.argsort(self.users)
        columns = {
            name: np.concatenate([part[name] for part in fetched])[: len(self.users)][order] for name in fetched[0]
        }
        check_scores(columns.pop(UNRANKED), self.model)
        ties = {str(k): int(columns.pop(f"{TIED}{k}").sum()) for k in self.ks}
        if self.beyond:
            per_item |= {"popularity": np.asarray(self.standing.users), "truth": self._truth}
        others: dict[str, dict[str, np.ndarray]] = {}
        for column in [name for name in columns if conventions.BETWEEN in name]:
            name, _, metric = column.partition(conventions.BETWEEN)
            others.setdefault(name, {})[metric] = columns.pop(column)
        beyond = {name: float(value) for name, value in beyond.items()}
        return Evaluation(
            self.users[order],
            columns,
            self.n_users,
            seconds,
            self.compile_seconds,
            beyond,
            per_item,
            ties,
            self.masked,
            self._notes(ties, columns),
            self.judged[0],
            others,
        )

    @property
    def sampling(self) -> str:
        """Who is ranked, where not everybody is."""
        sizes = f"{len(self.users):,} of the {self.sampled:,} users with held-out items"
        return f"a sample is ranked: {sizes}, drawn by a fixed seed"

    def _shown(self, columns: Mapping[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
        """Recall and NDCG at one list length, that of most tables where it was asked for."""
        k = 20 if 20 in self.ks else self.ks[0]
        return [(name, columns[name]) for name in (f"recall@{k}", f"ndcg@{k}")]

    def _half_width(self, values: np.ndarray) -> float:
        """Of the interval of the mean over all users, from a sample of those with truth."""
        left = 1.0 - len(values) / self.sampled
        of_mean = float(np.std(values, ddof=1)) * (left / len(values)) ** 0.5 if len(values) > 1 else 0.0
        return 1.96 * of_mean * len(values) / self.n_users

    def _notes(self, ties: Mapping[str, int], columns: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        notes = []
        if self.sampled:
            half = ", ".join(f"{name} ± {self._half_width(values):.4f}" for name, values in self._shown(columns))
            notes.append(f"{self.sampling}; 95 in 100 samples lie within {half}")
        if self.masked:
            notes.append(
                f"{self.masked:,} of {int(self._truth.sum()):,} held-out interactions are among the seen ones, which "
                "are not recommended: they can never be hits"
            )
        k, most = max(ties.items(), key=lambda entry: entry[1])
        if most > MANY_TIES * len(self.users):
            notes.append(
                f"in {most:,} of {len(self.users):,} lists of {k} items of equal score stand before and behind the "
                "end: a fixed key of the item ids decided"
            )
        return tuple(notes)

    def compile(self, params: Params) -> tuple[Compiled, Compiled, Compiled]:
        """The programs, for parameters (or their abstract form); those of a ``Model`` may lie on the mesh already.
        Compiled once.
        """
        if self._compiled is None:
            start = time.perf_counter()
            seen = self.model.shapes(self._catalogue)
            if seen is None:
                seen = jax.eval_shape(lambda tree: tree, params)
            seen_tables = jax.eval_shape(self._prepare, seen)
            abstract = self.layout.abstract(jax.eval_shape(self.layout.pad, params))
            tables = self.layout.abstract(jax.eval_shape(self.layout.pad, seen_tables))

            def prepare(params: Params) -> Prepared:
                return self.layout.pad(self._prepare(self.layout.cut(params, seen)))

            def evaluate(params: Params, tables: Prepared, *rest: PyTree) -> Judged:
                return self._evaluate(self.layout.cut(params, seen), self.layout.cut(tables, seen_tables), *rest)

            counts, shardings = self._no_counts(), self.layout.shardings(tables)
            everywhere = replicated(self.mesh)  # metrics are small, and every process reads them
            rest = (self._key, self._batches[0], counts, *self._data)
            self._compiled = (
                jax.jit(prepare, out_shardings=shardings).lower(abstract).compile(),
                jax.jit(evaluate, donate_argnums=4, out_shardings=everywhere).lower(abstract, tables, *rest).compile(),
                jax.jit(self._summarise).lower(counts, self.standing).compile(),
            )
            self.compile_seconds = time.perf_counter() - start
        return self._compiled

    def _prepare(self, params: Params) -> Prepared:
        """What every batch needs: with the item vectors where items are streamed."""
        tables = self.model.prepare(params)
        return (tables, self.model.item_vectors(params)) if self.streams else tables

    def _lists(
        self,
        params: Params,
        tables: Prepared,
        key: jax.Array,
        rows: Rows,
        masked: Rows,
        standing: Standing,
        k: int,
    ) -> tuple[dict[str, tuple[jax.Array, jax.Array]], dict[str, jax.Array]]:
        """``(values [B, K], items [B, K])`` of each ranking by score and key, and the scores ``[B, I]`` behind it, none
        of which are held where items are streamed.
        """
        by_key = [name for name in self.judged if name in (conventions.MASKED, conventions.UNMASKED)]
        if self.streams:
            users = self.model.user_vectors(params, rows, key=key, tables=tables[0])
            hidden = {name: masked.items if name == conventions.MASKED else None for name in by_key}
            return streamed_top_k(users, tables[1], rows.lengths, standing, k, hidden=hidden), {}
        scores = self.model.scores(params, rows, key=key, tables=tables)
        scores = rankable(jax.lax.optimization_barrier(scores))  # without it: 3.5 s for 2.0 at ML-1M's shape
        scores = standing.settle(scores, rows.lengths)
        every = {conventions.MASKED: mask_seen(scores, masked), conventions.UNMASKED: scores}
        return {n: top_k(every[n], k, place=standing.place, mesh=self.mesh) for n in by_key}, every

    def _evaluate(
        self,
        params: Params,
        tables: Prepared,
        key: jax.Array,
        users: jax.Array,
        counts: ListCounts | None,
        standing: Standing,
        history: DeviceCSR,
        seen: DeviceCSR,
        truth: DeviceCSR,
    ) -> Judged:
        """Metrics of one batch of users, and the counts with its lists added."""
        rows = take_rows(history, users, recency=self.model.recency, mesh=self.mesh)
        masked = take_rows(seen, users, mesh=self.mesh)
        longest, n_items = max(self.ks), self._catalogue.n_items
        lists, every = self._lists(params, tables, key, rows, masked, standing, min(longest + 1, n_items))
        values, items = lists[self.judged[0]]
        bad = unranked(values, n_items - masked.lengths * (self.judged[0] == conventions.MASKED))
        tied = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -jnp.inf)  # whether places j + 1 and j + 2 are
        tied = jnp.pad(tied, ((0, 0), (0, max(longest - tied.shape[1], 0)))) & (users >= 0)[:, None]
        k = min(longest, n_items)
        values, items = values[:, :k], items[:, :k]
        held_out = take_rows(truth, users, mesh=self.mesh)
        listed = values > -jnp.inf  # a list may run out of unseen items
        found = hits(items, held_out) & listed
        if counts is not None:  # lists are short: every device counts all of them
            real = listed & (users >= 0)[:, None]
            everywhere: tuple[jax.Array, jax.Array, jax.Array] = jax.lax.with_sharding_constraint(
                (items, found, real), replicated(self.mesh)
            )
            counts = counts.add(*everywhere, self.ks)
        found = jnp.pad(found, ((0, 0), (0, longest - k)))
        columns = metrics_lib.ranking_metrics(found, held_out.lengths, self.ks)
        for name in self.judged[1:]:
            columns |= conventions.metrics(name, lists, every, held_out, self.ks)
        return columns | {f"{TIED}{k}": tied[:, k - 1] for k in self.ks} | {UNRANKED: bad}, counts

    def _no_counts(self) -> ListCounts | None:
        if not self.beyond:
            return None
        create = jax.jit(ListCounts.create, static_argnums=(0, 1), out_shardings=replicated(self.mesh))
        nothing: ListCounts = create(self.ks, self._catalogue.n_items)
        return nothing

    def _summarise(
        self, counts: ListCounts | None, standing: Standing
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Metrics beyond accuracy, and how often each item was listed and rightly so, at each K."""
        beyond: dict[str, jax.Array] = {}
        per_item: dict[str, jax.Array] = {}
        if counts is None:
            return beyond, per_item
        for k, listed, found in zip(self.ks, *counts.cumulated()):
            of_k = beyond_accuracy(listed, standing.users, self.n_users, standing.place)
            beyond |= {f"{name}@{k}": value for name, value in of_k.items()}
            per_item |= {f"listed@{k}": listed, f"hits@{k}": found}
        return beyond, per_item
