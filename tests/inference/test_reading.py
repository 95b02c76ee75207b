"""Many files are looked at in threads, and answers come in their order."""

import threading

import pytest

from tpgdiff_jax.inference import reading


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
