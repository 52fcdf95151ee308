"""A linear path beside a network: its scores plus a share of EASE's, each fitted on its own.

    scores = network(history) + weight · x · B,     B as in ``EASE``                       (1)

Both predict the same row, the network through a few hundred hidden units, the linear map with a weight for every pair
of items; they err on different items. Training the network on what the linear map leaves does worse than either: it
learns to undo the regularisation of the linear map. DiffRec's scores are of the size of EASE's, which predict the row
too: weights around 1 are usual. Those of L-DiffRec, MultVAE and MultiDAE are logits: weights around 20 are.

Source: ours. B costs 4·I² bytes; ``EASE.check_size`` refuses a catalogue that is too large for it.
"""

import dataclasses

import jax

from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import Rows
from diffrec_jax.models.baselines import EASE
from diffrec_jax.models.composite import Composite
from diffrec_jax.models.contract import Model, Params, Prepared


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearPath(Composite):
    """A network with a linear path; parameters are ``{"network": its own, "linear": EASE's}``.

    Attributes:
      network: is trained, and its epoch chosen, as if it were alone.
      linear: is fitted in closed form.
      weight: of Eq. 1.
    """

    network: Model
    linear: EASE
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not self.weight > 0.0:
            raise ValueError(f"weight={self.weight} of the linear path must be positive: 0.5, or leave the path out")
        shared = {
            "recency": (self.network.recency, self.linear.recency),
            "forecast": (self.network.forecast, self.linear.forecast),
        }
        for name, (ours, theirs) in shared.items():
            if ours != theirs:
                raise ValueError(f"{name} is {ours} of the network and {theirs} of the linear path: give both the same")

    @property
    def recency(self) -> Recency | None:  # type: ignore[override]
        """The kernel of both."""
        return self.network.recency

    def prepare(self, params: Params) -> Prepared:
        """What the network prepares."""
        return self.network.prepare(params["network"])

    def scores(self, params: Params, rows: Rows, *, key: jax.Array, tables: Prepared = None) -> jax.Array:
        """Eq. 1, ``[B, I]``."""
        return self.network.scores(params["network"], rows, key=key, tables=tables) + self.weight * self.linear.scores(
            params["linear"], rows
        )
