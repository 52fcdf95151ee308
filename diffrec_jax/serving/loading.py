"""From a folder to a ``Recommender``: a run folder with checkpoints, or an exported model folder with safetensors."""

from pathlib import Path

import jax
from etils import epath
from jax.sharding import Mesh

from diffrec_jax.data.events import CSR
from diffrec_jax.models.contract import Catalogue, Model, Params, Scorer, check_model
from diffrec_jax.models.registry import check_class, find
from diffrec_jax.serving.hub import fetched, is_hub
from diffrec_jax.serving.model_folder import FOLDER, ModelFolder
from diffrec_jax.serving.recommender import Recommender
from diffrec_jax.serving.weights import read_weights
from diffrec_jax.training.checkpoint import load_best


def load(
    folder: str | Path,
    *,
    history: str = "train",
    model: "Scorer | type[Scorer] | str | None" = None,
    mesh: Mesh | None = None,
    seed: int = 0,
) -> Recommender:
    """A recommender from a run folder (its best checkpoint so far) or from an exported model folder.

    Args:
      folder: what ``fit(workdir=…)`` or ``python -m experiments.run`` wrote, or ``export_safetensors``; or
        ``hf://user/name``, an exported model on the Hugging Face Hub, of which no code is loaded (``hub``).
      history: what the histories of known users hold, ``train`` or ``train+valid``.
      model: the class of the model where it is none of this library's: the class itself, its name as
        ``package.module:Class`` (which is then imported), or a model of it. A folder never causes an import by itself.
      mesh: the devices; None is the default device.
      seed: of noise at inference, where the model uses any.

    Raises:
      ValueError: if the folder is no run and no exported model, or is damaged.
    """
    root = epath.Path(fetched(str(folder)) if is_hub(folder) else folder)
    exported = (root / "model.json").is_file()
    if not exported and not (root / FOLDER / "model.json").is_file():
        there = "is not there" if not root.exists() else f"holds no {FOLDER}/model.json and no model.json"
        raise ValueError(f"{root} {there}: name the --workdir of a run, or an exported model folder")
    content = ModelFolder.read(root if exported else root / FOLDER, model=_named(model))
    catalogue = Catalogue(n_items=content.vocabulary.n_items, n_users=content.vocabulary.n_users)
    if exported:  # what is computed in closed form knows its shapes only then
        params = read_weights(Path(root / "weights.safetensors"), content.model.shapes(catalogue))
    else:
        params = content.params or _of_run(content.model, content.train, root / "checkpoints", catalogue)
    return Recommender(content, params, history=history, mesh=mesh, seed=seed)


def _named(model: "Scorer | type[Scorer] | str | None") -> "Scorer | type[Scorer] | None":
    """What the caller named: a class, or a model."""
    if isinstance(model, str):
        return find(model).model
    if isinstance(model, type):
        check_class(model)
    elif model is not None:
        check_model(model)
    return model


def _of_run(model: Scorer, train: CSR, checkpoints: epath.Path, catalogue: Catalogue) -> Params:
    """The parameters of a run: what was trained from its best checkpoint, what was computed computed again."""
    trained = None if model.trained is None else _trained(model.trained, checkpoints, catalogue)
    return model.assemble(train, trained)


def _trained(model: Model, checkpoints: epath.Path, catalogue: Catalogue) -> Params:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    expected = model.shapes(catalogue)
    return load_best(
        checkpoints, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), expected)
    )
