"""What people pass as ids: every container that is clear gives the same lists, every other one a sentence."""

import decimal
import uuid

import numpy as np
import pyarrow as pa
import pytest

import diffrec_jax as dr
from diffrec_jax.models.baselines import EASE
from diffrec_jax.serving import ModelFolder, Recommender, Vocabulary, asked_ids


@pytest.fixture(scope="module")
def numbered(make, split):
    """The shop with whole-number ids: user n is 100 + n, item n is 200 + n."""
    shop = make(EASE(l2=10.0))
    content = shop.content
    ids = Vocabulary(np.arange(content.train.n_users) + 100, np.arange(content.train.n_items) + 200)
    return Recommender(ModelFolder(content.model, ids, content.train, content.valid, {}), shop.ranker.params)


def series(library, values, **options):
    return pytest.importorskip(library).Series(values, **options)


CONTAINERS = {
    "tuple": tuple,
    "set": set,
    "generator": lambda ids: (id_ for id_ in ids),
    "array": np.array,
    "floats": lambda ids: np.array(ids, float),
    "objects": lambda ids: np.array(ids, object),
    "text": lambda ids: [str(id_) for id_ in ids],
    "array of text": lambda ids: np.array([str(id_) for id_ in ids]),
    "array of bytes": lambda ids: np.array([str(id_).encode() for id_ in ids]),
    "decimals": lambda ids: [decimal.Decimal(id_) for id_ in ids],
    "list of floats": lambda ids: [float(id_) for id_ in ids],
    "Arrow array": pa.array,
    "Arrow floats": lambda ids: pa.array(ids, pa.float64()),
    "Arrow text": lambda ids: pa.array([str(id_) for id_ in ids], pa.string_view()),
    "Arrow dictionary": lambda ids: pa.array(ids).dictionary_encode(),
    "Arrow column of chunks": lambda ids: pa.chunked_array([ids[:1], ids[1:]]),
    "Arrow scalars": lambda ids: list(pa.array(ids)),
    "table of one column": lambda ids: pa.table({"id": ids}),
    "pandas": lambda ids: series("pandas", ids),
    "pandas floats": lambda ids: series("pandas", ids, dtype=float),
    "pandas with gaps": lambda ids: series("pandas", ids, dtype="Int64"),
    "polars": lambda ids: series("polars", ids),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_column_of_any_kind_gives_the_same_lists(numbered, kind):
    wrap = CONTAINERS[kind]
    users, items = [101, 103], [203, 207, 211]
    expected = numbered.recommend(users=users, k=3)
    assert expected["user"].tolist() == [101] * 3 + [103] * 3
    assert numbered.recommend(users=wrap(users), k=3)["item"].tolist() == expected["item"].tolist()
    few = numbered.recommend(users=users, k=3, candidates=items, exclude_seen=False)
    assert sorted(few["item"][:3]) == items
    again = numbered.recommend(users=users, k=3, candidates=wrap(items), exclude_seen=False)
    assert again["item"].tolist() == few["item"].tolist() and not again.unknown_items
    assert set(numbered.similar_items(wrap(items), k=2)["item"]) == set(items)
    assert set(numbered.explain(histories=[[201, 202]], items=wrap(items))["item"]) == set(items)
    if kind == "set":
        with pytest.raises(ValueError, match="a set has no order: give the oldest item first"):
            numbered.recommend(histories=[wrap(items)])
    else:
        one = numbered.recommend(histories=[items], k=3)
        assert numbered.recommend(histories=[wrap(items)], k=3)["item"].tolist() == one["item"].tolist()


@pytest.mark.parametrize(
    "wrap",
    [
        pa.array,
        lambda lists: pa.array(lists, pa.large_list(pa.int32())),
        lambda lists: pa.array(lists, pa.list_(pa.float64())),
        lambda lists: pa.chunked_array([lists[:1], lists[1:]], pa.list_(pa.int64())),
        lambda lists: pa.table({"history": lists}),
        lambda lists: (iter(each) for each in lists),
        lambda lists: np.array([np.array(each) for each in lists] + [None], object)[:-1],
        lambda lists: series("pandas", lists),
        lambda lists: series("polars", lists),
    ],
)
def test_histories_may_be_a_column_of_lists(numbered, wrap):
    lists = [[201, 202], [203], [204, 205, 206]]
    expected = numbered.recommend(histories=lists, k=3)
    assert numbered.recommend(histories=wrap(lists), k=3)["item"].tolist() == expected["item"].tolist()
    matrix = numbered.recommend(histories=np.array([[201, 202]]), k=3)
    assert matrix["item"].tolist() == expected["item"][:3].tolist()


def test_times_of_histories_may_be_columns_too(make):
    recommender = make("exponential")
    histories, days = [["sku1", "sku2"], ["sku3"]], [[1_600_000_000, 1_600_086_400], [1_600_000_000]]
    expected = recommender.recommend(histories=histories, history_times=days, k=3)
    moments = [np.array(each, "datetime64[s]") for each in days]
    nanoseconds = pa.array([each.astype("datetime64[ns]") for each in moments], pa.list_(pa.timestamp("ns")))
    for times in (pa.array(days), moments, nanoseconds, (tuple(each) for each in days)):
        found = recommender.recommend(histories=histories, history_times=times, k=3)
        np.testing.assert_allclose(found["score"], expected["score"], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"users": 101}, r"users=101 must be a list of user ids, such as \[101\]"),
        ({"users": np.int64(101)}, r"users=101 must be a list of user ids, such as \[101\]"),
        ({"users": {101: "a"}}, "must be a list of user ids"),
        ({"users": pa.table({"user": [101], "age": [3]})}, r"users is a table of 2 columns \(user, age\): pass one"),
        ({"users": object()}, "users is of type object"),
        ({"users": [[101]]}, r"users holds \[101\], which is of type list"),
        ({"users": [True]}, "users holds True: give the user ids themselves"),
        ({"users": pa.array([["a"]])}, "users is a column of type list"),
        ({"users": np.array(["2020-01-01"], "datetime64[D]")}, "users is a column of type date32"),
        ({"users": [2.0**60]}, "a float beyond 2\\^53, where several ids become one"),
        ({"users": [101], "candidates": np.zeros(60, bool)}, "candidates holds true and false: give the item ids"),
        ({"users": [101], "candidates": "sku1"}, r"candidates='sku1' must be a list of item ids, such as \['sku1'\]"),
        ({"users": [101], "candidates": 203}, "candidates=203 must be a list of item ids"),
        ({"users": [101], "candidates": [203, [204]]}, "candidates mixes ids and lists of ids"),
        ({"users": [101], "candidates": [[203], [204]]}, "2 lists of candidates for 1 people"),
        ({"users": [101], "exclude": "203"}, "exclude='203' must be a list"),
        ({"users": [101], "exclude": [[203], [204]]}, "2 lists of exclude for 1 people"),
        ({"users": [101], "exclude": [b"\xff"]}, "no UTF-8 text"),
        ({"histories": "sku1"}, r"histories='sku1' must be a list of lists of item ids, such as \[\['sku1'\]\]"),
        ({"histories": pa.array([201, 202])}, "history 0 is 201, and must be a list of item ids"),
        ({"histories": pa.array([[201], None])}, "history 1 is None, and must be a list"),
        ({"histories": [{"a": 1}]}, "history 0 is {'a': 1}"),
        ({"histories": {"a": [1]}}, "must be a list of lists"),
        ({"histories": pa.table({"user": [1], "item": [201]})}, "histories is a table of 2 columns"),
        ({"histories": [[[201]]]}, r"histories holds \[201\]"),
        ({"histories": [[201]], "history_times": "2020"}, "history_times='2020' must be a list of lists of times"),
        ({"histories": [[201]], "history_times": [1_600_000_000]}, r"history_times\[0\] is 1600000000, and must be"),
    ],
)
def test_what_is_not_clear_is_refused(numbered, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        numbered.recommend(**options)


def test_one_item_is_no_list_of_its_letters(numbered, shop):
    for ask in (shop.similar_items, lambda items: shop.explain(histories=[["sku1"]], items=items)):
        with pytest.raises(ValueError, match=r"items='sku1' must be a list of item ids, such as \['sku1'\]"):
            ask("sku1")
    with pytest.raises(ValueError, match="items=203 must be a list"):
        numbered.similar_items(203)
    with pytest.raises(ValueError, match="users='u1' must be a list"):
        next(shop.stream("u1"))


def test_missing_and_broken_numbers_are_unknown_ids(numbered):
    found = numbered.recommend(users=pa.array([101.0, None, 102.5]), k=2)
    assert set(found["user"]) == {101} and found.unknown_users == (None, 102.5)
    repeated = numbered.recommend(users=["nobody", "nobody"], k=2)
    assert repeated.unknown_users == ("nobody",) and len(repeated) == 0
    identifier = uuid.UUID(int=7)
    ids = Vocabulary(np.array([str(identifier)], object), np.arange(1))
    assert asked_ids.look_up(ids.users, [identifier], "users")[0].tolist() == [0]


def test_streams_take_columns_and_lists_of_each(shop):
    users = pa.chunked_array([shop.vocabulary.user_ids.tolist()])
    own = [[f"sku{n % 60}", f"sku{(n + 1) % 60}"] for n in range(len(users))]
    parts = list(shop.stream(users, 2, chunk=7, candidates=own, exclude_seen=False))
    whole = shop.recommend(users=users, k=2, candidates=own, exclude_seen=False)
    assert np.concatenate([part["item"] for part in parts]).tolist() == whole["item"].tolist()
    with pytest.raises(ValueError, match="2 lists of exclude for 40 users: give one for each"):
        list(shop.stream(users, 2, exclude=[["sku1"], ["sku2"]]))


def test_the_library_passes_everything_on():
    data = dr.Interactions.from_arrays([0, 0, 1, 1, 2, 2], [5, 6, 6, 7, 5, 7])
    fitted = dr.fit(EASE(l2=1.0), data)
    assert fitted.recommend(users=pa.array([0.0]), exclude=[7]).short == (0,)
    assert fitted.recommend(users=np.array([0.0]))["item"].tolist() == [7]
    assert repr(fitted) == "Fitted(EASE: 3 users, 3 items, 6 interactions, 9 parameters)"
