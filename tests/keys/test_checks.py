"""What values may be, and the words that say so."""

import math

import pytest

from tpgdiff_jax.keys.checks import (
    any_of,
    flag,
    number,
    one_of,
    pair_of,
    share,
    some_of,
    text,
    tuple_of,
    whole,
)

LETTERS = ("a", "b")


@pytest.mark.parametrize(
    ("check", "good", "bad", "words"),
    [
        (whole(1), [1, 7], [0, -1, 1.0, True, "1", None], "a whole number of 1 or more"),
        (whole(0, 9), [0, 9], [-1, 10], "a whole number from 0 to 9"),
        (whole(2, multiple=2), [2, 8], [3, 0], "a whole number of 2 or more, a multiple of 2"),
        (number(), [-1, 2.5], [math.nan, math.inf, "1", False, None], "a finite number"),
        (number(above=0), [1e-9], [0, -1], "a finite number above 0"),
        (number(least=0, below=1), [0, 0.9], [1, -0.1], "a finite number of 0 or more, below 1"),
        (number(above=0, most=1), [1], [0, 1.1], "a finite number above 0, at most 1"),
        (share(), [0, 1, 0.5], [-0.1, 1.1], "a finite number from 0 to 1"),
        (flag(), [True, False], [0, 1, "True"], "True or False"),
        (text(), ["", "a"], [1, None, ["a"]], "text"),
        (one_of(LETTERS), ["a"], ["c", "", 1, ["a"], {}], "one of a, b"),
        (one_of(("", "a")), ["", "a"], ["b"], "one of '', a"),
        (some_of(LETTERS), [("a",), ["a", "b"]], [(), "a", ("c",), ({},)], "a non-empty tuple of"),
        (any_of(LETTERS), [(), ("a",)], ["a", ("c",)], "a tuple of names out of a, b"),
        (
            tuple_of(whole(1), rising=True),
            [(), (1,), [1, 5]],
            [(1, 1), (2, 1), (0,), ("a", "b"), 3],
            "a tuple of whole numbers of 1 or more, each larger than the one before",
        ),
        (
            pair_of(share()),
            [(0, 1), [0.5, 0.5]],
            [(), (1, 0), (0,), (0, 0.5, 1), 0.5],
            "a pair (least, most) of finite numbers from 0 to 1",
        ),
        (pair_of(share(), may_lack=True), [(), (0, 1)], [(0,)], "() or a pair"),
    ],
)
def test_a_check_takes_what_its_words_say_and_nothing_else(check, good, bad, words):
    assert [value for value in good if not check.fits(value)] == []
    assert [value for value in bad if check.fits(value)] == []
    assert check.words.startswith(words)
