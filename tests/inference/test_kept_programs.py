"""Programs of few shapes are kept, whatever shapes come, and every call gets its result."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpgdiff_jax.inference import batch, stepwise
from tpgdiff_jax.inference.kept_programs import KeptPrograms

RNG = np.random.default_rng(0)


def counted():
    """Return a jitted function and the shapes it was traced with."""
    traced = []

    @jax.jit
    def double(x):
        traced.append(x.shape[0])
        return 2 * jnp.cumsum(x)

    return double, traced


def test_programs_of_a_bounded_number_of_shapes_are_kept():
    double, traced = counted()
    kept = KeptPrograms(double, most=3)
    for length in (1, 2, 3, 1, 2, 3, 4, 4, 1):
        kept.make_room(length)
        double(np.ones(length))
        assert double._cache_size() <= 3
    assert traced == [1, 2, 3, 4, 1]


def test_threads_get_their_results_while_programs_are_freed():
    double, _ = counted()
    kept = KeptPrograms(double, most=1)

    def work(number):
        length = 1 + number % 4
        kept.make_room(length)
        return np.asarray(double(np.ones(length)))[-1] == 2 * length

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(24)))
    assert double._cache_size() <= 4


def test_a_restorer_keeps_programs_of_few_sizes(restorer, monkeypatch):
    programs = (stepwise.prepare, stepwise.begin, stepwise.advance, stepwise.finish)
    stepwise.KEPT.clear()
    monkeypatch.setattr(stepwise, "KEPT", KeptPrograms(*programs, most=1))
    images = [RNG.integers(0, 256, (9, width, 3), np.uint8) for width in (9, 99)]
    first = [restorer(image, steps=1) for image in images]
    assert [program._cache_size() for program in programs] == [1] * 4
    np.testing.assert_array_equal(restorer(images[0], steps=1), first[0])
    assert [program._cache_size() for program in programs] == [1] * 4


@pytest.mark.parametrize("exact_size", [False, True])
def test_the_classifier_keeps_programs_of_few_sizes(restorer, monkeypatch, exact_size):
    batch.KEPT_CLASSIFIERS.clear()
    monkeypatch.setattr(batch, "KEPT_CLASSIFIERS", KeptPrograms(batch._classify, most=1))
    for width in (9, 99):
        restorer.degradations(np.zeros((9, width, 3), np.uint8), exact_size=exact_size)
        assert batch._classify._cache_size() == 1
