"""The model folder: what a model is, in files that any program can read; nothing is pickled.

::

    model.json           format, class, hyper-parameters, sizes, and what is known of data, split and protocol
    users.parquet        id
    items.parquet        id, title (where known), one column for each hyper-parameter that has an entry per item
    train.parquet        user, item (numbers, grouped by user, oldest first), time (unix µs, where known)
    valid.parquet        likewise, where there was validation data
    context.parquet      likewise, where more was shown than trained on
    parameters.npz       of a model that is fitted in one go, but not in a moment (LightGCN)
    weights.safetensors  in an exported folder; a run's weights are in its checkpoints

``fit`` writes it below the run folder, as ``<workdir>/model``, before training begins, so that a run can be loaded
while it trains and after it was stopped.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from diffrec_jax import files
from diffrec_jax._version import __version__
from diffrec_jax.data.events import CSR, merge
from diffrec_jax.data.recency import Recency
from diffrec_jax.models.contract import Scorer
from diffrec_jax.models.registry import HOMES, load_class
from diffrec_jax.serving.vocabulary import Vocabulary, read_table

FORMAT = 1
FOLDER = "model"  # below a run folder
PARTS = {"network": "DiffRec", "linear": "EASE"}  # the class of models within a model, in folders that do not say


@dataclasses.dataclass(frozen=True, eq=False)
class ModelFolder:
    """The content of a model folder, weights aside."""

    model: Scorer
    vocabulary: Vocabulary
    train: CSR
    valid: CSR | None
    about: Mapping[str, Any]  # what a model card says of data, split and protocol; JSON values
    params: Mapping[str, Any] | None = None  # arrays, of a model whose ``keeps_params`` says so
    context: CSR | None = None  # what was shown beside ``train`` when people were ranked, and never trained on

    @property
    def known(self) -> CSR:
        """The histories that people were ranked from."""
        return self.train if self.context is None else merge(self.train, self.context)

    def write(self, folder: str | Path) -> None:
        """Write everything to a temporary folder and rename it, over an earlier one if need be.

        Raises:
          ValueError: for hyper-parameters or an ``about`` that JSON cannot hold.
          OSError: if it cannot be written.
        """
        values, per_item = _encode(self.model, self.vocabulary.n_items)
        document = {
            "format": FORMAT,
            "written_by": f"diffrec_jax {__version__}",
            "model": {"class": class_name(self.model), "hyper_parameters": values},
            "n_users": self.vocabulary.n_users,
            "n_items": self.vocabulary.n_items,
            "about": dict(self.about),
            **({"repeats": True} if self.train.repeats else {}),
        }
        text = json.dumps(document, indent=2, default=_refuse) + "\n"
        with files.new_folder(folder) as temporary:
            self.vocabulary.write(temporary, item_columns=per_item)
            for name, csr in (("train", self.train), ("valid", self.valid), ("context", self.context)):
                if csr is not None:
                    _write_csr(csr, temporary / f"{name}.parquet")
            if self.params is not None:
                arrays: dict[str, Any] = {name: np.asarray(array) for name, array in self.params.items()}
                np.savez(temporary / "parameters.npz", **arrays)
            (temporary / "model.json").write_text(text)

    @classmethod
    def read(cls, folder: str | Path, *, model: Scorer | type[Scorer] | None = None) -> "ModelFolder":
        """Read what ``write`` wrote.

        Args:
          folder: the folder.
          model: where its class is none of this library's, that class, or the model itself.

        Raises:
          ValueError: for a damaged folder, a later format or an unknown class.
        """
        root = epath.Path(folder)
        try:
            document = json.loads((root / "model.json").read_text())
            kind, found, about = document["model"]["class"], document["format"], document["about"]
            if found > FORMAT:
                raise ValueError(
                    f"{folder} is of format {found} and this version reads up to {FORMAT}: install a later diffrec_jax"
                )
            vocabulary, per_item = Vocabulary.read(root)
            sizes = (vocabulary.n_users, vocabulary.n_items, document.get("repeats", False))
            parts = (_read_csr(root / f"{name}.parquet", *sizes) for name in ("train", "valid", "context"))
            train, valid, context = parts
            params = _read_params(root / "parameters.npz")
        except (KeyError, json.JSONDecodeError, pa.ArrowInvalid, FileNotFoundError, zipfile.BadZipFile) as error:
            raise ValueError(f"{folder} is damaged ({error}): export or train the model again") from None
        if train is None:
            raise ValueError(f"{folder} is damaged (no train.parquet): export or train the model again")
        if model is None or isinstance(model, type):
            own = {} if model is None else {model.__name__: model}
            model = _decode(kind, document["model"]["hyper_parameters"], per_item, own)
        return cls(model, vocabulary, train, valid, about, params, context)


def hyper_parameters(content: ModelFolder) -> dict[str, object]:
    """The hyper-parameters as JSON values, without those that have an entry per item."""
    return _encode(content.model, content.vocabulary.n_items)[0]


def known_models() -> dict[str, type]:
    """The models of this library by class name; see ``models.registry``."""
    return {name: load_class(home) for name, home in HOMES.items()}


def class_name(model: Scorer) -> str:
    """The name of a model's class: of this library by itself, of one's own as ``package.module:Class``."""
    kind = type(model)
    home = HOMES.get(kind.__name__, "").partition(":")[0]
    return kind.__name__ if kind.__module__ == f"diffrec_jax.models.{home}" else f"{kind.__module__}:{kind.__name__}"


def _encode(model: Scorer, n_items: int) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Hyper-parameters as JSON values; those with an entry per item apart."""
    values: dict[str, Any] = {}
    per_item: dict[str, np.ndarray] = {}
    kind: Any = type(model)
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"{kind.__name__} is no dataclass, so its hyper-parameters cannot be written: make it one")
    for field in dataclasses.fields(kind):
        value = getattr(model, field.name)
        value = getattr(value, "of_item", value)  # clusters
        if isinstance(value, np.ndarray):
            if value.shape != (n_items,):
                raise ValueError(f"{field.name} has shape {value.shape}: an array must have one entry per item")
            per_item[field.name] = value
        elif isinstance(value, Scorer):  # a model within a model
            of_part, per_item_of_part = _encode(value, n_items)
            values[field.name] = {"class": class_name(value), "hyper_parameters": of_part}
            per_item.update(per_item_of_part)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            values[field.name] = dataclasses.asdict(value)
        else:
            values[field.name] = value
    return values, per_item


def _decode(
    kind: str, values: Mapping[str, object], per_item: dict[str, np.ndarray], own: Mapping[str, type[Scorer]]
) -> Scorer:
    """The model of recorded hyper-parameters; ``own`` are classes by name that the caller trusts."""
    name = kind.rpartition(":")[2]
    if kind not in HOMES and name not in own:
        raise ValueError(
            f"the model is a {kind}, which is none of {', '.join(sorted(HOMES))}, and a folder never causes an import "
            f"by itself: if you trust that class, say --model={kind}, or load(folder, model={name})"
        )
    known: Any = own[name] if name in own else load_class(HOMES[kind])
    fields = {field.name for field in dataclasses.fields(known)}
    given: dict[str, Any] = {name: _value(name, value, per_item, own) for name, value in values.items()}
    given.update({name: column for name, column in per_item.items() if name in fields})
    unknown = sorted(set(given) - fields)
    if unknown:
        raise ValueError(f"{kind} has no hyper-parameter {unknown[0]!r}: it was saved by a later diffrec_jax")
    model: Scorer = known(**given)
    return model


def _value(name: str, value: Any, per_item: dict[str, np.ndarray], own: Mapping[str, type[Scorer]]) -> Any:
    if isinstance(value, list):
        return tuple(_value(name, each, per_item, own) for each in value)
    if name == "recency" and value is not None:
        return Recency(**value)
    if name in PARTS or (isinstance(value, dict) and value.keys() == {"class", "hyper_parameters"}):
        return _decode(value.get("class", PARTS.get(name)), value.get("hyper_parameters", value), per_item, own)
    return value


def _refuse(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise ValueError(f"{value!r} cannot be written as JSON: use numbers, text, lists and dictionaries")


def _read_params(path: epath.Path) -> dict[str, np.ndarray] | None:
    if not path.is_file():
        return None
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
        return dict(arrays)


def _write_csr(csr: CSR, path: Path) -> None:
    columns = {"user": csr.users(), "item": csr.indices}
    if csr.times is not None:
        columns["time"] = csr.times
    if csr.weights is not None:
        columns["weight"] = csr.weights
    pq.write_table(pa.table(columns), path)


def _read_csr(path: epath.Path, n_users: int, n_items: int, repeats: bool) -> CSR | None:
    if not path.is_file():
        return None
    table = read_table(path)
    users, items = table["user"].to_numpy(), table["item"].to_numpy()
    indptr = np.zeros(n_users + 1, np.int32)
    np.cumsum(np.bincount(users, minlength=n_users), out=indptr[1:])
    if len(indptr) != n_users + 1 or (len(items) and (items.min() < 0 or items.max() >= n_items)):
        raise ValueError(f"{path} does not fit the vocabularies beside it: export or train the model again")
    times, weights = (table[name].to_numpy() if name in table.column_names else None for name in ("time", "weight"))
    return CSR(indptr, items, n_items, times, weights, repeats)
