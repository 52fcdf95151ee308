"""The model card that travels with every export: data, split, protocol, numbers, terms, and how to load it."""

import json
from collections.abc import Mapping
from typing import TypeAlias, TypedDict

from diffrec_jax.evaluation.conventions import UNMASKED
from diffrec_jax.serving.model_folder import ModelFolder, hyper_parameters

Averages: TypeAlias = Mapping[str, Mapping[str, float]]  # protocol -> metric -> number


class Results(TypedDict, total=False):
    """What of a run's ``result.json`` a card reports."""

    test: Averages
    baselines: Mapping[str, Averages]  # by the name of the model
    eval_history: str
    ranking: str


METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20", "mrr@10")

LOADING = {
    "safetensors": """```python
import diffrec_jax

recommender = diffrec_jax.load("{folder}")
recommender.recommend(users=[{user}], k=10)
recommender.recommend(histories=[[{items}]], k=10)      # somebody never seen
```

Without this library: `weights.safetensors` holds plain arrays, `model.json` the hyper-parameters, `items.parquet` and
`users.parquet` the ids in the order of their numbers.""",
    "jax": """```python
from diffrec_jax.serving import load_program

program = load_program("{folder}")
items, scores = program([[0, 1, 2, 0]], [3])      # item numbers, oldest first, padded; how many count
```

Without this library, with JAX {jax} to about half a year later:

```python
import numpy as np
from jax import export
from safetensors.numpy import load_file

program = export.deserialize(bytearray(open("{folder}/program.jax_export", "rb").read()))
weights = load_file("{folder}/weights.safetensors")
items, scores = program.call(weights, np.array([[0, 1, 2, 0]], np.int32), np.array([3], np.int32))
```

Row n of `items.parquet` is item number n. Lists hold the {k} best items that are not in the history; batch size and
history length are free; it runs on cpu, cuda and tpu.{days}""",
    "vectors": """```python
import faiss, numpy as np
from diffrec_jax.serving import load_program

vectors = np.load("{folder}/item_vectors.npy")       # [items, {width}] float32, row n is item number n
index = faiss.IndexFlatIP(vectors.shape[1])          # exact; an approximate index serves larger catalogues
index.add(vectors)
users = np.asarray(load_program("{folder}")([[0, 1, 2, 0]], [3]))
scores, items = index.search(users, 20)              # leave out what the person already has
```

A score is the inner product of a user vector and an item vector (the last entries are 1 and the item's bias), so that
any index for maximum inner product serves this model. Row n of `items.parquet` is item number n.{days}""",
}


def model_card(
    content: ModelFolder, *, kind: str, folder: str, results: Results | None = None, **loading: str | int
) -> str:
    """The text of a ``README.md``.

    Args:
      content: the model and its data.
      kind: the format, a key of ``LOADING``.
      folder: how a reader would name the export.
      results: what a run found, as in ``result.json``; None says that nothing is recorded.
      loading: what the paragraph on loading mentions.
    """
    about, vocabulary, name = dict(content.about), content.vocabulary, type(content.model).__name__
    recency = content.model.recency
    inputs = {
        "`days` holds the days since the person's first event": recency is not None and recency.kernel == "exponential",
        "`logged` holds what each event counts, by the log's column of weights": content.train.weights is not None,
    }
    further = "; ".join(text for text, there in inputs.items() if there)
    said = f"\n\nFurther inputs (float32, like items), in this order: {further}." if further else ""
    first = {"user": repr(vocabulary.user_ids[:1].tolist()[0])} if vocabulary.n_users else {"user": ""}
    items = ", ".join(repr(i) for i in vocabulary.item_ids[:2].tolist())
    parts = [
        f"# {name} on {about.get('dataset', 'interactions')}",
        f"A recommender trained with diffrec_jax: it ranks {vocabulary.n_items:,} items from the list of items that a "
        "person already has. The DiffRec models are those of [arXiv 2304.04971](https://arxiv.org/abs/2304.04971).",
        "## Load it\n\n(from the folder that holds this one)\n\n"
        + LOADING[kind].format(folder=folder, items=items, days=said, **first, **loading),
        "## Data\n\n" + _data(content),
        "## Numbers\n\n" + _numbers(results),
        "## Terms and limits\n\n"
        "The code is under the Apache licence 2.0. The weights come from the data above, whose terms decide what they "
        "may be used for; sources and terms are among the notes where they are known.\n\n"
        "It recommends what people like these had next in this data: it knows nothing of items or habits that are not "
        "in it, favours what was popular there, and was not examined for effects on groups of people. The user ids and "
        "histories of its training data are personal data where the users are people: "
        + (
            "they are in `users.parquet` and `train.parquet`, so share this folder only as you would share the data."
            if kind == "safetensors"
            else "they are not part of this folder."
        ),
        "## Hyper-parameters\n\n```json\n" + json.dumps(hyper_parameters(content), indent=2) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _data(content: ModelFolder) -> str:
    about, train = content.about, content.train
    valid = 0 if content.valid is None else content.valid.n_interactions
    lines = [
        f"- {about.get('dataset', 'not recorded')}: {train.n_users:,} users, {train.n_items:,} items, "
        f"{train.n_interactions:,} training and {valid:,} validation interactions",
        f"- split: {about.get('split', 'not recorded')}. {about.get('guarantee', '')}".rstrip(),
        f"- epoch chosen by: {about.get('selected_by', 'not recorded')}; seed {about.get('seed', 'not recorded')}",
    ]
    return "\n".join([*lines, *(f"- {note}" for note in about.get("notes", []))])


def _numbers(results: Results | None) -> str:
    if not results or not results.get("test"):
        return "No evaluation is recorded."
    measured = [name for protocol in results["test"].values() for name in protocol]
    others = [name for name in dict.fromkeys(measured) if name.startswith(("recall@", "ndcg@"))]
    shown = METRICS if set(METRICS) & set(measured) else others
    left_out = "nothing" if results.get("ranking") == UNMASKED else "training and validation items"
    lines = [
        f"Whole catalogue ranked, {left_out} left out, history: "
        f"{results.get('eval_history', 'train')}. `official` averages over all users, `standard` over users with "
        "held-out items; numbers of the two must not be compared.",
        "",
        "| test | protocol | " + " | ".join(shown) + " |",
        "|---|---|" + "---|" * len(shown),
    ]
    rows = {"this model": results["test"], **results.get("baselines", {})}
    for name, protocols in rows.items():
        for protocol, metrics in protocols.items():
            cells = [f"{metrics[m]:.4f}" if m in metrics else "-" for m in shown]
            lines.append(f"| {name} | {protocol} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
