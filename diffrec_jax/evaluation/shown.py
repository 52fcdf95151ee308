"""How an evaluation shows itself, as text and in a notebook: every metric by both protocols, and how they divide."""

from collections.abc import Iterable, Mapping

from diffrec_jax.notebook import html_table

DIVIDE = "official divides by all {all} users, standard by the {truth} users with held-out items."


def evaluation_text(
    means: Mapping[str, Mapping[str, float]], n_users: int, n_truth: int, *, beyond: Mapping[str, float] | None = None
) -> str:
    """A table in plain text.

    Args:
      means: protocol -> metric -> average, as ``Evaluation.means`` gives it.
      n_users: all users, with and without held-out items.
      n_truth: users with held-out items.
      beyond: further numbers, of the lists as a whole.
    """
    rows = [("metric", *means), *((name, *(f"{value:.4f}" for value in values)) for name, *values in _rows(means))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([_title(n_truth), *lines, *_below(n_users, n_truth, beyond or {})])


def evaluation_html(
    means: Mapping[str, Mapping[str, float]], n_users: int, n_truth: int, *, beyond: Mapping[str, float] | None = None
) -> str:
    """The same as HTML; arguments as above."""
    below = _below(n_users, n_truth, beyond or {})
    return html_table(("metric", *means), _rows(means), title=_title(n_truth), below=below)


def _rows(means: Mapping[str, Mapping[str, float]]) -> Iterable[tuple[str, *tuple[float, ...]]]:
    names = next(iter(means.values()), {})
    return ((name, *(averages[name] for averages in means.values())) for name in names)


def _title(n_truth: int) -> str:
    return f"Evaluation of {n_truth:,} user{'s' if n_truth != 1 else ''}" + ("" if n_truth else ": nothing is held out")


def _below(n_users: int, n_truth: int, beyond: Mapping[str, float]) -> list[str]:
    lines = [DIVIDE.format(all=f"{n_users:,}", truth=f"{n_truth:,}")]
    return lines + ([", ".join(f"{name} {value:.4f}" for name, value in beyond.items())] if beyond else [])
