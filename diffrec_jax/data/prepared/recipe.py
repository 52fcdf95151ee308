"""What becomes of a log on its way into a prepared folder: columns, filters, split; the same for every engine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from diffrec_jax.data.cuts import cut_moments, share_values

RULES = ("temporal", "leave_one_out", "global_time")
SHARES = (0.7, 0.1, 0.2)
EVENTS_PER_PART = 2_000_000
MOST_PARTS = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a log is read, filtered and split. Filters are those of ``data.preprocess``, splits those of ``data.splits``.

    Attributes:
      path: the log.
      columns: column by role: user, item, time, rating, weight; user and item may be left out where they are usual.
      delimiter, encoding, header: of a text file, as in ``readers.read_csv``.
      min_rating, duplicates, repeats, core, history: as in ``preprocess.prepare``; ``repeats`` keeps repeated pairs.
      rule: ``temporal``, ``leave_one_out`` or ``global_time``.
      shares: of train, valid and test; of ``global_time`` unless it has ``cuts``.
      cuts: moments that begin valid and test, or test alone, as text.
      parts: how many parts the events come in, by users; 0 chooses by their number.
    """

    path: str
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    delimiter: str | None = None
    encoding: str | None = None
    header: bool = True
    min_rating: float | None = None
    duplicates: str = "first"
    repeats: bool = False
    core: int = 5
    history: int = 0
    rule: str = "temporal"
    shares: tuple[float, float, float] = SHARES
    cuts: tuple[str, ...] = ()
    parts: int = 0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(
                f"split={self.rule} cannot be prepared: choose {', '.join(RULES)}, or let the run itself split the log"
            )
        share_values(self.shares)
        if self.cuts:
            if self.rule != "global_time":
                raise ValueError(f"split_dates means nothing to split={self.rule}: drop it, or say --split=global_time")
            cut_moments(self.cuts)
        if self.rule == "global_time" and "time" not in self.columns:
            raise ValueError("split 'global_time' needs times and this log has none; name the time column")
        if self.min_rating is not None and "rating" not in self.columns:
            raise ValueError(
                f"min_rating={self.min_rating:g} needs ratings: name their column (--rating_col), or drop it"
            )
        if not 0 <= self.parts <= 100_000:
            raise ValueError(
                f"parts={self.parts} must be between 1 and 100,000, or 0 to choose by the number of events"
            )

    @property
    def timed(self) -> bool:
        """Whether the log has times."""
        return "time" in self.columns

    @property
    def weighed(self) -> bool:
        """Whether the log says what an event counts."""
        return "weight" in self.columns

    def n_parts(self, n_events: int) -> int:
        """Parts of so many events."""
        return self.parts or min(max(-(-n_events // EVENTS_PER_PART), 1), MOST_PARTS)

    def record(self) -> dict[str, object]:
        """As JSON values, for ``meta.json``: without where the log lay."""
        values = dataclasses.asdict(self) | {"columns": dict(self.columns), "path": Path(self.path).name}
        return json.loads(json.dumps(values))  # type: ignore[no-any-return]

    def key(self) -> str:
        """Tells recipes apart; 16 hexadecimal digits."""
        whole = {**self.record(), "path": str(Path(self.path).resolve())}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]
