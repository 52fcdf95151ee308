"""What the service is asked, and what a person should read beside the answer: nothing is left out in silence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffrec_jax.serving.histories import Asked, Histories, of_pairs, united
from diffrec_jax.serving.vocabulary import Vocabulary

AT_MOST_NAMED = 5
UNKNOWN = {  # field of a request -> what its unknown ids are: one, several
    "candidates": ("candidate is", "candidates are", "not in the model: left out"),
    "exclude": ("item to exclude is", "items to exclude are", "not in the model: nothing to leave out"),
    "items": ("item is", "items are", "not in the model: no score"),
}


@dataclass(frozen=True, eq=False)
class Question:
    """One request for a list, or for the scores of given items."""

    asked: Asked  # one person
    k: int
    exclude_seen: bool = True
    candidates: np.ndarray | None = None  # item numbers
    explain: bool = False
    exclude: np.ndarray | None = None  # item numbers
    wanted: np.ndarray | None = None  # item numbers to score, instead of a list
    k_asked: int | None = None  # where it is more than the catalogue holds
    unknown: Mapping[str, Sequence[object]] = field(
        default_factory=dict
    )  # ids that are no item, by field of the request

    @property
    def cold(self) -> bool:
        """Whether there is no history to go by."""
        return not len(self.asked.histories.items)

    def hidden(self, n_items: int) -> Histories:
        """Items that must not appear in the list."""
        seen = self.asked.seen
        hidden = seen if self.exclude_seen else Histories(seen.items[:0], np.zeros(2, np.int64), seen.users)
        if self.exclude is None:
            return hidden
        return united(hidden, of_pairs(np.zeros(len(self.exclude)), self.exclude, 1, n_items), n_items)

    def notes(self, vocabulary: Vocabulary, answered: int) -> list[str]:
        """Sentences: what is unknown, what was left out and why, what was answered by popularity.

        Args:
          vocabulary: of the model.
          answered: how many items the answer holds.
        """
        notes = []
        if self.asked.unknown_items:
            number, shown = len(self.asked.unknown_items), _named(self.asked.unknown_items)
            notes.append(f"{number} items are not in the model and were left out: {shown}")
        for name, ids in self.unknown.items():
            if ids:
                notes.append(f"{len(ids)} {UNKNOWN[name][len(ids) > 1]} {UNKNOWN[name][2]} ({_named(ids)})")
        if self.candidates is not None:
            notes += self._of_candidates(vocabulary, answered)
        elif self.wanted is not None and not answered:
            notes.append("no item is left to score")
        elif self.wanted is None and answered < (self.k_asked or self.k):
            left = f"only {answered} items are" if answered != 1 else "only 1 item is"
            notes.append(f"{left} left to recommend, fewer than k={self.k_asked or self.k}")
        if self.cold and answered:
            what = "these are the most popular items" if self.wanted is None else "the scores are popularity"
            notes.append(f"there is no history to go by, so {what}")
        return notes

    def _of_candidates(self, vocabulary: Vocabulary, answered: int) -> list[str]:
        """Why candidates are missing from the answer."""
        notes = []
        candidates = np.unique(np.asarray(self.candidates, np.int64))
        excluded = np.isin(candidates, [] if self.exclude is None else self.exclude)
        seen = np.isin(candidates, self.asked.seen.items) & self.exclude_seen & ~excluded
        reasons = (
            (seen, "what this person already has: left out; exclude_seen=false keeps them"),
            (excluded, "also in exclude: left out"),
        )
        for those, why in reasons:
            number = int(those.sum())
            if number:
                ids = [vocabulary.in_json(item) for item in candidates[those][:AT_MOST_NAMED].tolist()]
                notes.append(f"{number} candidate{'s are' if number > 1 else ' is'} {why} ({_named(ids, number)})")
        if not answered:
            notes.append("no candidate is left to recommend")
        return notes


def _named(ids: Sequence[object], number: int | None = None) -> str:
    """The first few ids."""
    shown = ", ".join(map(str, ids[:AT_MOST_NAMED]))[:200]
    return shown + (", …" if (number or len(ids)) > AT_MOST_NAMED else "")
