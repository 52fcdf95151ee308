"""Tables and recommenders in a notebook: first rows, titles, notes; every text escaped."""

import builtins
import re

import pytest

from diffrec_jax.serving import Table


def cells(html):
    return re.findall(r"<t[dh](?: [^>]*)?>(.*?)</t[dh]>", html)


def test_a_table_shows_its_first_rows_with_titles_and_notes(shop):
    found = shop.recommend(users=["u1", "<i>nobody</i>"], k=30, candidates=[f"sku{n}" for n in range(60)])
    shown = found._repr_html_()
    assert cells(shown)[:5] == ["user", "item", "title", "score", "rank"] and len(cells(shown)) == 21 * 5
    first = str(found["item"][0])
    assert cells(shown)[5:8] == ["u1", first, shop.vocabulary.title(shop.vocabulary.items([first])[0][0])]
    assert "10 more of 30 rows" in shown and "&lt;i&gt;nobody&lt;/i&gt;" in shown and "<i>" not in shown
    only = shop.recommend(histories=[["sku1"]], candidates=["sku7"], k=1)
    assert "Émile&#x27;s &lt;b&gt;Größe&lt;/b&gt;" in only._repr_html_() and "1 row<" in only._repr_html_()
    similar = shop.similar_items(["sku3"], k=2)._repr_html_()
    assert cells(similar)[:6] == ["item", "title", "similar", "title of similar", "score", "rank"]
    assert "title of because" in shop.explain(histories=[["sku1", "sku2"]], k=1)._repr_html_()
    assert "0 rows" in shop.recommend(users=[])._repr_html_() and "0 rows" in Table({})._repr_html_()


def test_a_recommender_says_what_it_is(shop):
    assert repr(shop) == (
        "Recommender(model: DiffRec, dataset: shop, users: 40, items: 60, with titles, histories of users: train)"
    )
    assert cells(shop._repr_html_())[2:6] == ["model", "DiffRec", "dataset", "shop"]


def test_tables_become_pandas_frames_where_pandas_is(shop, monkeypatch):
    real = builtins.__import__

    def without_pandas(name, *rest):
        if name == "pandas":
            raise ImportError
        return real(name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "__import__", without_pandas)
        with pytest.raises(ValueError, match="to_pandas needs pandas: pip install pandas"):
            shop.recommend(users=["u1"], k=2).to_pandas()
    pytest.importorskip("pandas")
    frame = shop.recommend(users=["u1"], k=2).to_pandas()
    assert list(frame.columns) == ["user", "item", "score", "rank"] and len(frame) == 2
