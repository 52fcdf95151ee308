"""Published test results, R@10 / R@20 / N@10 / N@20 in the ``official`` convention.

Source: the DiffRec paper (arXiv 2304.04971), Tables 2, 3 and 5.
"""

from collections.abc import Mapping

PAPER: dict[tuple[str, str], tuple[float, float, float, float]] = {
    ("diffrec", "amazon-book_clean"): (0.0695, 0.1010, 0.0451, 0.0547),
    ("diffrec", "yelp_clean"): (0.0581, 0.0960, 0.0363, 0.0478),
    ("diffrec", "ml-1m_clean"): (0.1058, 0.1787, 0.0901, 0.1148),
    ("diffrec", "amazon-book_noisy"): (0.0546, 0.0822, 0.0335, 0.0419),
    ("diffrec", "yelp_noisy"): (0.0507, 0.0853, 0.0309, 0.0414),
    ("diffrec", "ml-1m_noisy"): (0.0658, 0.1236, 0.0488, 0.0703),
    ("l_diffrec", "amazon-book_clean"): (0.0694, 0.1028, 0.0440, 0.0540),
    ("l_diffrec", "yelp_clean"): (0.0585, 0.0970, 0.0353, 0.0469),
    ("l_diffrec", "ml-1m_clean"): (0.1060, 0.1809, 0.0868, 0.1122),
    ("l_diffrec", "amazon-book_noisy"): (0.0586, 0.0876, 0.0347, 0.0434),
    ("l_diffrec", "yelp_noisy"): (0.0521, 0.0876, 0.0311, 0.0419),
    ("l_diffrec", "ml-1m_noisy"): (0.0665, 0.1272, 0.0493, 0.0710),
    ("t_diffrec", "amazon-book_clean"): (0.0819, 0.1139, 0.0565, 0.0661),
    ("t_diffrec", "yelp_clean"): (0.0601, 0.0987, 0.0377, 0.0494),
    ("lt_diffrec", "amazon-book_clean"): (0.0838, 0.1188, 0.0560, 0.0665),
    ("lt_diffrec", "yelp_clean"): (0.0604, 0.0982, 0.0369, 0.0484),
}
COLUMNS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
SHOWN = ("recall", "ndcg")  # the metrics of every table


def columns(*measured: Mapping[str, float]) -> tuple[str, ...]:
    """What a table shows of the metrics of its rows: those of ``SHOWN`` that all rows have, at the paper's K where all
    rows have its four columns, else at every K.
    """
    shared = [name for name in measured[0] if all(name in other for other in measured[1:])]
    of = COLUMNS if set(COLUMNS) <= set(shared) else shared
    ks = sorted({int(name.partition("@")[2]) for name in of if name.startswith("recall@")})
    return tuple(name for name in (f"{metric}@{k}" for metric in SHOWN for k in ks) if name in shared)


def list_length(*measured: Mapping[str, float]) -> int:
    """The K of what is shown at one K only: 20 where it was evaluated, else the longest that all rows have."""
    ks = {int(name.partition("@")[2]) for name in columns(*measured)}
    return 20 if 20 in ks or not ks else max(ks)


def published(model: str, dataset: str) -> dict[str, float] | None:
    """The paper's numbers for a model and a dataset, or None."""
    row = PAPER.get((model, dataset))
    return None if row is None else dict(zip(COLUMNS, row))
