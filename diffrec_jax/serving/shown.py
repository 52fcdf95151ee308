"""How tables and recommenders show themselves in a notebook."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from diffrec_jax.notebook import html_table
from diffrec_jax.serving.model_folder import ModelFolder
from diffrec_jax.serving.vocabulary import Vocabulary

ROWS = 20
OF_ITEMS = ("item", "similar", "because")  # columns that hold item ids


def rows_html(columns: Mapping[str, np.ndarray], notes: Sequence[str], vocabulary: Vocabulary | None) -> str:
    """The first rows of a table, with a title beside every item that has one, and the notes below."""
    n = len(next(iter(columns.values()), ()))
    header, shown = list[str](), list[list[object]]()
    for name, values in columns.items():
        header.append(name)
        shown.append(values[:ROWS].tolist())
        if vocabulary is not None and vocabulary.item_titles is not None and name in OF_ITEMS:
            header.append("title" if name == "item" else f"title of {name}")
            shown.append([vocabulary.title(number) for number in vocabulary.items(values[:ROWS])[0].tolist()])
    more = [f"{n - ROWS:,} more of {n:,} rows"] if n > ROWS else [f"{n:,} rows"] if n != 1 else ["1 row"]
    return html_table(header, zip(*shown), below=[*more, *notes])


def recommender_text(content: ModelFolder, history: str) -> str:
    """One line: the model and its size."""
    facts = ", ".join(f"{name}: {value}" for name, value in _facts(content, history))
    return f"Recommender({facts})"


def recommender_html(content: ModelFolder, history: str) -> str:
    """The same as a small table, with what to do next."""
    try_it = "recommend(users=[…]) or recommend(histories=[[…]]), explain, score, similar_items"
    return html_table(("", ""), _facts(content, history), title="Recommender", below=[try_it])


def _facts(content: ModelFolder, history: str) -> Iterator[tuple[str, object]]:
    vocabulary = content.vocabulary
    yield "model", type(content.model).__name__
    if content.about.get("dataset"):
        yield "dataset", content.about["dataset"]
    yield "users", f"{vocabulary.n_users:,}"
    yield "items", f"{vocabulary.n_items:,}" + (", with titles" if vocabulary.item_titles is not None else "")
    yield "histories of users", history
