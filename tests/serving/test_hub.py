"""Models on the Hub, which a folder of this machine stands in for."""

import shutil

import numpy as np
import pytest

import diffrec_jax as dr
from diffrec_jax.serving import export_safetensors, export_vectors, hub
from experiments import export
from experiments.settings import guard

huggingface_hub = pytest.importorskip("huggingface_hub")


class StandIn:
    """The two calls of the Hub that write, and the one that reads, on a folder."""

    def __init__(self, root):
        self.root, self.private = root, {}

    def create_repo(self, name, *, private, exist_ok):
        assert exist_ok
        self.private[name] = private
        (self.root / name).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        for file in (each for pattern in allow_patterns for each in folder_path.glob(pattern)):
            shutil.copy(file, self.root / repo_id / file.name)

    def snapshot_download(self, name, *, revision, allow_patterns):
        if not (self.root / name).exists():
            raise failure("RepositoryNotFoundError", 404, "401 Client Error: Repository Not Found")
        place = self.root / "fetched" / name
        place.mkdir(parents=True, exist_ok=True)
        for file in (each for pattern in allow_patterns for each in (self.root / name).glob(pattern)):
            shutil.copy(file, place / file.name)
        return str(place)


def failure(kind, status, said):
    class Response:
        status_code = status

    made = type(kind, (Exception,), {"response": Response()})
    return made(said)


@pytest.fixture
def there(tmp_path, monkeypatch):
    stand_in = StandIn(tmp_path / "hub")
    monkeypatch.setattr(hub, "_api", lambda: stand_in)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", stand_in.snapshot_download)
    return stand_in


def test_what_is_pushed_is_loaded_and_nothing_that_is_code(there, shop, tmp_path):
    export_safetensors(shop, tmp_path / "exported")
    (tmp_path / "exported" / "evil.py").write_text("raise SystemExit")
    assert hub.push(tmp_path / "exported", "somebody/shop") == "hf://somebody/shop"
    (there.root / "somebody/shop" / "evil.py").write_text("raise SystemExit")
    loaded = dr.load("hf://somebody/shop")
    assert not list((there.root / "fetched").rglob("*.py")) and there.private == {"somebody/shop": True}
    users = shop.vocabulary.user_ids
    assert np.array_equal(loaded.recommend(users=users)["item"], shop.recommend(users=users)["item"])
    assert dr.load("hf://somebody/shop@main").content.model == shop.content.model


def test_the_command_pushes_privately_unless_told(there, run_folder, tmp_path, capsys):
    for flags, private in (([], True), (["--public"], False)):
        out = f"--out={tmp_path / str(private)}"
        common = ["export.py", f"--workdir={run_folder}", "--format=safetensors", out, "--push=me/mine", *flags]
        assert guard.guarded(export.main, common) == 0
        said = capsys.readouterr().out
        assert there.private["me/mine"] is private and ("private" if private else "public") in said
        assert guard.guarded(export.main, common) == 0  # exported already: only pushed
        assert "pushed: hf://me/mine" in capsys.readouterr().out
    for flags, told in (
        (["--format=jax", "--push=me/mine"], "--push=me/mine takes models that load() reads: say --format=safetensors"),
        (["--format=safetensors", "--public"], "--public is of what is pushed"),
    ):
        command = ["export.py", f"--workdir={run_folder}", f"--out={tmp_path / 'x'}", *flags]
        assert guard.guarded(export.main, command) == 2 and told in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, said",
    [
        (failure("LocalTokenNotFoundError", None, "no token"), "no token is set: run `hf auth login`"),
        (failure("HfHubHTTPError", 403, "Forbidden"), "your token may not write there, or the name is taken"),
        (failure("HfHubHTTPError", 503, "Unavailable"), "it does not answer .*; try again later"),
        (ConnectionError("no route"), "it does not answer"),
    ],
)
def test_what_goes_wrong_is_one_sentence(there, shop, tmp_path, monkeypatch, error, said):
    export_safetensors(shop, tmp_path / "exported")
    monkeypatch.setattr(there, "create_repo", lambda *given, **named: (_ for _ in ()).throw(error))
    with pytest.raises(ValueError, match=f"me/mine on the Hub: {said}"):
        hub.push(tmp_path / "exported", "me/mine")


def test_what_is_no_model_is_refused(there, shop, tmp_path):
    with pytest.raises(ValueError, match="nobody/nothing on the Hub: it is not there, or is private"):
        dr.load("hf://nobody/nothing")
    with pytest.raises(ValueError, match="'shop' is no model on the Hub: write it as user/name"):
        dr.load("hf://shop")
    export_vectors(shop, tmp_path / "vectors")
    with pytest.raises(ValueError, match="is no exported model: push what --format=safetensors wrote"):
        hub.push(tmp_path / "vectors", "me/mine")


def test_without_the_package_it_says_which(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'diffrec_jax\[hub\]'"):
        dr.load("hf://somebody/shop")
