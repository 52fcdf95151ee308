"""Models on the Hugging Face Hub: ``hf://user/name`` in ``load``, and ``push`` of an exported folder.

Only files of an exported model are fetched, none of which is code: JSON, Parquet, safetensors, and the card. An
exported model holds the histories of its training data, so a repository is private unless it is asked to be public.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
MISSING = "the Hub needs a package: pip install 'diffrec_jax[hub]'"
FILES = ("model.json", "*.parquet", "*.safetensors", "*.npz", "README.md")


def is_hub(path: object) -> bool:
    """Whether it names a model on the Hub."""
    return isinstance(path, str) and path.startswith(SCHEME)


def fetched(path: str) -> Path:
    """The files of ``hf://user/name``, or of ``hf://user/name@revision``, in the cache of the Hub on this machine.

    Raises:
      ValueError: if it is named wrongly, is not there, or may not be read; without a network.
    """
    name, _, revision = path.removeprefix(SCHEME).partition("@")
    _check(name)
    with _explained(name):
        import huggingface_hub

        place = huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=list(FILES))
    return Path(place)


def push(folder: str | Path, name: str, *, public: bool = False) -> str:
    """Put an exported model into a new repository, or into one of yours of that name; its address.

    Args:
      folder: written by ``export_safetensors``.
      name: ``user/name``.
      public: for everybody to read, the histories in it, too.

    Raises:
      ValueError: if the folder is no exported model, or the repository cannot be written.
    """
    folder = Path(folder)
    if not (folder / "model.json").is_file() or not (folder / "weights.safetensors").is_file():
        raise ValueError(f"{folder} is no exported model: push what --format=safetensors wrote")
    _check(name)
    with _explained(name):
        api = _api()
        api.create_repo(name, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message="A model of diffrec_jax",
        )
    return f"{SCHEME}{name}"


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="diffrec_jax")


def _check(name: str) -> None:
    parts = name.split("/")
    if len(parts) != 2 or not all(parts):
        raise ValueError(f"{name!r} is no model on the Hub: write it as user/name, as in hf://user/name")


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """What the Hub and the network raise, as a sentence."""
    try:
        yield
    except ImportError:
        raise ValueError(MISSING) from None
    except Exception as error:
        kind, said = type(error).__name__, (str(error).strip().splitlines() or [""])[0][:200]
        reasons = {
            "LocalTokenNotFoundError": "no token is set: run `hf auth login`, or set HF_TOKEN",
            "RepositoryNotFoundError": "it is not there, or is private: check the name, and log in if it is yours",
            "RevisionNotFoundError": "it has no such revision: name a branch, a tag or a commit behind the @",
            "GatedRepoError": "its owner asks for consent first: open its page and agree",
            "HFValidationError": "the Hub takes no such name",
            "OfflineModeIsEnabled": "the Hub is switched off here (HF_HUB_OFFLINE)",
        }
        status = getattr(getattr(error, "response", None), "status_code", None)
        if kind in reasons:
            raise ValueError(f"{name} on the Hub: {reasons[kind]} ({said})") from error
        if status in (401, 403):
            raise ValueError(
                f"{name} on the Hub: your token may not write there, or the name is taken ({said})"
            ) from error
        if isinstance(error, OSError) or status is not None or "onnect" in kind or "Timeout" in kind:
            raise ValueError(f"{name} on the Hub: it does not answer ({kind}: {said}); try again later") from error
        raise
