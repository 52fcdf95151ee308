"""The released layout: read as it is, and every malformed file refused with a sentence."""

import numpy as np
import pytest

from diffrec_jax.data.datasets import load
from diffrec_jax.data.readers import read_log, read_released

GOOD = {"train": [[0, 2], [0, 1], [1, 0]], "valid": [[0, 3]], "test": [[0, 0], [1, 3]]}


@pytest.fixture
def folder(tmp_path):
    def write(**arrays):
        for part, rows in {**GOOD, **arrays}.items():
            if rows is not None:
                np.save(tmp_path / f"{part}_list.npy", rows)
        return tmp_path

    return write


def test_files_are_kept_as_they_are(folder):
    split = read_released(folder())
    assert (split.rule, split.n_users, split.n_items) == ("released", 2, 4)
    assert split.train.csr().indices.tolist() == [2, 1, 0]
    assert [len(log) for log in split] == [3, 1, 2]
    assert split.item_ids.tolist() == [0, 1, 2, 3]
    assert "validation is later than test" in split.guarantee
    assert "no times" in split.notes[-1]


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16])
def test_integer_types(folder, dtype):
    arrays = {part: np.array(rows, dtype) for part, rows in GOOD.items()}
    assert read_released(folder(**arrays)).train.users.dtype == np.int32


def test_overlap_idle_users_and_repeats_become_notes(folder):
    notes = read_released(folder(train=[[0, 2], [0, 2], [0, 1]], test=[[0, 2], [0, 1], [0, 0], [2, 0]])).notes
    assert notes[0] == "train_list.npy repeats 1 of its 3 pairs; each is used once."
    assert "2 of the 4 test interactions are in train too" in notes[1]
    assert "2 of 3 users have no training history" in notes[2]


@pytest.mark.parametrize(("arrays", "sentence"), [
    ({"train": [[0, -1], [0, 1]]}, r"train_list.npy: row 0 is \[0, -1\]; user and item codes must not be negative"),
    ({"valid": [0, 1, 2]}, r"valid_list.npy has shape \(3,\); expected \(n, 2\)"),
    ({"test": [[0, 1, 2]]}, r"test_list.npy has shape \(1, 3\)"),
    ({"train": [[0.0, 1.0]]}, "train_list.npy holds float64 values; user and item codes must be integers"),
    ({"train": np.array([[None, 1]], object)}, "train_list.npy is not a readable .npy array of integer pairs"),
    ({"train": [[0, 2**40]]}, r"row 0 is \[0, 1099511627776\]; codes must be below"),
    ({"train": [[0, 10**8]]}, "largest item id is 100,000,000 with only 4 interactions"),
    ({"train": np.empty((0, 2), int)}, "train_list.npy holds no interactions"),
])  # fmt: skip
def test_malformed_arrays_are_refused(folder, arrays, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_released(folder(**arrays))


def test_a_damaged_file_is_refused(folder):
    path = folder()
    (path / "valid_list.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(ValueError, match=r"valid_list.npy is not a readable"):
        read_released(path)


def test_what_is_missing_where_and_where_it_is_published(folder, tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read_released(folder(valid=None, test=None))
    for part in ("valid_list.npy and test_list.npy", str(tmp_path), "https://github.com/YiyanXu/DiffRec"):
        assert part in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"no dataset folder .*github.com/YiyanXu/DiffRec"):
        read_released(tmp_path / "nothing")


def test_found_by_name_under_data_dir_or_by_path(folder, tmp_path):
    folder()
    assert load(tmp_path.name, data_dir=tmp_path.parent).n_users == 2
    assert load(str(tmp_path), data_dir="nowhere").name == tmp_path.name
    with pytest.raises(FileNotFoundError, match=r"no dataset 'absent': .*not one of ml-100k.*YiyanXu/DiffRec"):
        load("absent", data_dir=tmp_path)
    with pytest.raises(ValueError, match="is a released split, not a log"):
        read_log(tmp_path)


def test_ml_1m_clean_has_the_published_counts(real_data):
    split = read_released(real_data("ml-1m_clean"))
    assert (split.n_users, split.n_items) == (5_949, 2_810)
    assert [len(log) for log in split] == [403_277, 110_722, 57_532]
    assert split.notes == (
        "Leakage check: pairs shared: 0 train/valid, 0 train/test, 0 valid/test; cold in train: 0 users, 0 items "
        "(0 test events); no times, so order cannot be checked.",
    )


def test_the_diffrec_slices_are_those_of_the_released_ml_1m(real_data):
    """The released files put back together and cut again by the recipe give the released files."""
    from diffrec_jax.data import splits
    from diffrec_jax.data.interactions import Interactions

    released = read_released(real_data("ml-1m_clean"))
    parts = (released.train, released.test, released.valid)  # their order in time
    log = Interactions(
        np.concatenate([p.users for p in parts]),
        np.concatenate([p.items for p in parts]),
        released.user_ids,
        released.item_ids,
    )
    again = splits.diffrec(log, rating=None, core=10)
    for ours, theirs in zip(again, released):
        assert np.array_equal(ours.csr().indptr, theirs.csr().indptr)
        assert np.array_equal(ours.csr().indices, theirs.csr().indices)
