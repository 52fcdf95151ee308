"""Look-ups: an id is found however it is spelled, and nothing is found that is not there."""

import uuid

import numpy as np
import pytest

from diffrec_jax.serving import Vocabulary

LONG = [7, 1112486027000000001, 1112486027000000002, -9223372036854775808, 9223372036854775807, 0]


def numbers(ids, asked):
    ids = np.array(ids) if isinstance(ids[0], int) else np.array(ids, object)
    return Vocabulary(ids, ids).users(asked)[0].tolist()


@pytest.mark.parametrize("spell", [str, int, np.int64, lambda id_: f" {id_} "])
def test_whole_numbers_of_64_bits_are_found_as_text_and_as_numbers(spell):
    assert numbers(LONG, [spell(id_) for id_ in LONG]) == list(range(len(LONG)))


def test_what_is_written_otherwise_than_an_integer_prints_is_no_whole_number():
    assert (
        numbers(LONG, ["007", "+7", "-0", "7.0", "٧", "", " ", "7 7", "9223372036854775808", "9" * 5000]) == [-1] * 10
    )


def test_text_ids_are_found_without_the_spaces_around_them():
    ids = ["a", "New York", "12", str(2**70), str(uuid.UUID(int=5))]
    asked = [" a", "New York\n", 12, 2**70, uuid.UUID(int=5), b"a", "b", "NewYork", "012", None, True]
    assert numbers(ids, asked) == [0, 1, 2, 3, 4, 0, -1, -1, -1, -1, -1]
    assert numbers([" a", "a"], [" a", "a"]) == [0, 1]  # as an older version kept them
