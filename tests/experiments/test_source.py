"""A log of one's own at the command line: how it is written, and the titles of its items."""

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from experiments.running import source
from experiments.running.fingerprints import fingerprint
from experiments.settings import cli

LOG = "".join(f"u{u};é{i};{10 * u + i};{1 + i % 5}\n" for u in range(6) for i in range(7))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.dat").write_bytes(LOG.encode("latin-1"))
    (tmp_path / "items.csv").write_bytes("code,product\né0,Eau d'été\né1,\n".encode("latin-1"))
    return tmp_path


def load(*flags):
    return source.load(cli.parse(["run.py", *flags], usage=""))


def test_delimiter_encoding_no_header_and_titles(folder):
    titles = ["--titles=items.csv", "--title_item_col=code", "--title_col=product"]
    split = load(
        "--data=log.dat", "--delimiter=;", "--encoding=latin-1", "--header=false", "--user_col=0", "--item_col=1",
        "--time_col=2", "--rating_col=3", *titles,
    )  # fmt: skip
    assert (split.n_users, split.n_items, sum(map(len, split))) == (6, 7, 42)
    assert dict(zip(split.item_ids, split.item_titles)) == {"é0": "Eau d'été"} | {f"é{i}": f"é{i}" for i in range(1, 7)}
    named = pyarrow.csv.read_csv(
        folder / "log.dat",
        pyarrow.csv.ReadOptions(column_names=["user", "item", "time", "stars"], encoding="latin-1"),
        pyarrow.csv.ParseOptions(delimiter=";"),
    )
    pq.write_table(named, folder / "log.parquet")  # the encoding is that of the titles alone
    assert load("--data=log.parquet", "--encoding=latin-1", *titles).item_titles.tolist()[0] == "Eau d'été"


def test_titles_of_other_items_are_refused(folder):
    (folder / "log.csv").write_text("user,item\n" + "".join(f"{u},{i}\n" for u in range(6) for i in range(7)))
    (folder / "items.csv").write_text("item,title\nx1,One\n")
    with pytest.raises(
        ValueError, match=r"no title of any item of log.csv: its ids are like 'x1' and the log's like '0'"
    ):
        load("--data=log.csv", "--titles=items.csv")


def test_weights_of_a_column_reach_the_split_and_its_fingerprint(folder):
    (folder / "log.csv").write_text(
        "user,item,amount\n" + "".join(f"{u},{i},{1 + (u + i) % 4}\n" for u in range(6) for i in range(7))
    )
    plain, weighed = load("--data=log.csv"), load("--data=log.csv", "--weight_col=amount")
    assert plain.train.weights is None and sorted(set(weighed.train.weights)) == [1.0, 2.0, 3.0, 4.0]
    assert fingerprint(plain) != fingerprint(weighed)
    (folder / "bad.csv").write_text("user,item,amount\n1,1,1\n1,2,-3\n")
    with pytest.raises(ValueError, match="row 2: weight -3 in column 'amount' must be above 0"):
        load("--data=bad.csv", "--weight_col=amount")
