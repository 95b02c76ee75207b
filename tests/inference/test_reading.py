"""Images meet their names; many files are looked at in threads, answers come in their order."""

import threading

import pytest

from tpgdiff_jax.inference import reading
from tpgdiff_jax.reporting.errors import UserError


@pytest.mark.parametrize("count", [0, 1, 7, 300, 5000])
def test_answers_come_in_the_order_of_the_files(count):
    assert list(reading.in_threads(lambda n: 2 * n, range(count))) == list(range(0, 2 * count, 2))


def test_few_files_are_looked_at_together():
    """On a network disk each of them waits."""
    together = threading.Barrier(4, timeout=20)
    assert len(list(reading.in_threads(lambda _: together.wait(), range(4)))) == 4


def test_what_goes_wrong_with_a_file_is_raised():
    with pytest.raises(ZeroDivisionError):
        list(reading.in_threads(lambda n: 1 // n, range(3)))


@pytest.mark.parametrize(
    ("count", "words"), [(3, "the names end after 3"), (5, "the images end after 4")]
)
def test_names_that_nobody_can_count_are_missed_when_one_side_ends(count, words):
    """With `zip`'s own words nobody would know which option is meant."""
    named = reading.with_names(iter("abcd"), map(str, range(count)))
    with pytest.raises(UserError, match=f"^names: {words}, the others go on. Give one text for"):
        list(named)


def test_each_image_gets_its_name_or_none():
    assert list(reading.with_names("ab", iter(["x", None]))) == [("a", "x"), ("b", None)]
    assert list(reading.with_names(iter("ab"), None)) == [("a", None), ("b", None)]
