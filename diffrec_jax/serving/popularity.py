"""What somebody without a history gets: the items that most users have."""

import numpy as np

from diffrec_jax.data.interactions import CSR


class PopularItems:
    """Items by the number of users who have them; ties go to the lower number."""

    def __init__(self, seen: CSR) -> None:
        counts = np.bincount(seen.indices, minlength=seen.n_items)
        self._order = np.argsort(-counts, kind="stable").astype(np.int32)
        self.share = (counts / max(seen.n_users, 1)).astype(np.float32)  # [I]

    def top_k(
        self, k: int, *, hidden: np.ndarray | None = None, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """``(shares [K], items [K])``, best first; -inf and -1 where fewer than K items remain.

        Args:
          k: list length.
          hidden: item numbers that must not appear.
          allowed: ``[I]`` bool, the only items that may appear.
        """
        order = self._order if allowed is None else self._order[allowed[self._order]]
        if hidden is not None and len(hidden):
            order = order[: k + len(hidden)]
            order = order[~np.isin(order, hidden)]
        items = np.full(k, -1, np.int32)
        shares = np.full(k, -np.inf, np.float32)
        chosen = order[:k]
        items[: len(chosen)], shares[: len(chosen)] = chosen, self.share[chosen]
        return shares, items
