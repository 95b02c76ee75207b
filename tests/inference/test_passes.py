"""What still looks degraded is restored again, and nothing else is."""

import jax
import numpy as np
import pytest

from tpgdiff_jax.config import base_config
from tpgdiff_jax.inference import restore, stepwise
from tpgdiff_jax.inference.batch import run_batch
from tpgdiff_jax.inference.passes import ONCE, Passes
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.reporting.errors import UserError

RNG = np.random.default_rng(1)
IMAGES = [
    RNG.integers(low, high, (8, 8, 3)).repeat(8, 0).repeat(8, 1) / np.float32(255)
    for low, high in ((0, 60), (60, 200))
]


def with_bias(restorer, bias):
    """Return the restorer with another bias of its classifier, of independent answers."""
    config = restorer.config.copy_and_resolve_references().unlock()
    config.priors.classification = "multi"
    variables = jax.tree.map(np.array, jax.device_get(restorer._variables))
    variables["params"]["encoder"]["classes"]["bias"][:] = bias
    return Restorer(restorer._model, variables, config)


@pytest.fixture
def between(restorer):
    """A restorer that takes its result of one of `IMAGES` for noisy, and not that of the other."""
    none = with_bias(restorer, -9)
    shown = [none.degradations(none(image))["noise"] for image in IMAGES]
    logits = np.log(shown) - np.log1p(-np.array(shown))
    return with_bias(restorer, [-9 - logits.mean(), -99]), int(np.argmax(logits))


@pytest.mark.parametrize("options", [{}, {"samples": 2}, {"ensemble": 2}, {"tile": 64}])
def test_what_still_looks_degraded_is_restored_again_and_nothing_else(between, options):
    restorer, noisy = between
    once = restorer.restore_all(IMAGES, passes=1, **options)
    twice = restorer.restore_all(IMAGES, passes=2, **options)
    assert [found.passes for found in once] == [1, 1]
    assert [found.passes for found in twice] == [1 + (noisy == 0), 1 + (noisy == 1)]
    clean = 1 - noisy
    np.testing.assert_array_equal(twice[clean].image, once[clean].image)
    again = restorer.restore_all([once[noisy].image], **options)[0]
    np.testing.assert_allclose(twice[noisy].image, again.image, atol=1e-5)
    assert np.abs(again.image - once[noisy].image).max() > 1e-3
    for name in ("degradations", "verdict"):  # of the picture that came
        assert getattr(twice[noisy], name) == getattr(once[noisy], name)


def test_passes_end_where_nothing_is_shown_or_at_the_most(restorer):
    assert with_bias(restorer, -99).restore_all(IMAGES[:1], passes=5)[0].passes == 1
    shown = with_bias(restorer, 99)
    assert shown.restore_all(IMAGES[:1], passes=3)[0].passes == 3
    thrice = shown(shown(shown(IMAGES[0])))
    np.testing.assert_allclose(shown(IMAGES[0], passes=3), thrice, atol=1e-5)


def test_the_weights_decide_how_often_unless_told_otherwise(restorer):
    shown = with_bias(restorer, 99)
    shown.config.eval.passes = 2
    assert shown.restore_all(IMAGES[:1])[0].passes == 2
    assert shown.restore_all(IMAGES[:1], passes=1)[0].passes == 1


def test_another_number_of_passes_needs_no_other_program(restorer):
    shown = with_bias(restorer, 99)
    stepwise.KEPT.clear()
    taken = [shown.restore_all(IMAGES[:1], passes=most)[0].passes for most in (1, 2, 3)]
    assert taken == [1, 2, 3]
    assert [each._cache_size() for each in (stepwise.prepare, stepwise.advance)] == [1, 1]


def test_who_watches_is_told_of_further_passes_once_they_are_needed(restorer):
    told = []
    options = {"steps": 2, "passes": 2, "watch": lambda *steps: told.append(steps)}
    list(with_bias(restorer, 99).iterate(IMAGES[:1], **options))
    assert told == [(0, 2), (1, 2), (2, 4), (3, 4), (4, 4)]
    told.clear()
    list(with_bias(restorer, -99).iterate(IMAGES[:1], **options))
    assert told == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("ensemble", [1, 2])
def test_one_program_of_all_passes_gives_the_same_pictures(between, monkeypatch, ensemble):
    """Validation and benchmarks run it."""
    restorer, _ = between
    options = {"passes": 2, "ensemble": ensemble}
    expected = restorer.restore_all(IMAGES, **options)
    monkeypatch.setattr(
        restore, "run_stepwise", lambda *args, watch, **options: run_batch(*args, **options)
    )
    for one, other in zip(restorer.restore_all(IMAGES, **options), expected, strict=True):
        np.testing.assert_allclose(one.image, other.image, atol=1e-5)
        assert one.degradations == pytest.approx(other.degradations, abs=1e-4)
        assert one.passes == other.passes


def test_a_result_that_is_no_number_is_told_and_not_restored_again(restorer):
    shown = with_bias(restorer, 99)
    shown._variables["params"]["unet"]["final_conv"]["bias"] += np.nan
    with pytest.raises(UserError, match="finite"):
        shown(IMAGES[0], passes=2)


def test_weights_that_call_no_picture_clean_refuse_several_passes(restorer):
    with pytest.raises(
        UserError, match=r"passes=2: these weights cannot tell .* 'single'.*passes=1"
    ):
        restorer(IMAGES[0], passes=2)
    config = base_config()
    config.priors.update({"classification": "multi", "encoder": "none"})
    with pytest.raises(UserError, match=r"they have no classifier .*; use passes=1") as caught:
        Passes.of(2, config)
    assert "'" not in str(caught.value)  # no value of a key that their user never typed
    assert Passes.of(1, config) == ONCE


def test_classes_are_those_that_a_second_call_removes():
    config = base_config()
    config.priors.classification = "multi"
    config.data.degradations = ("blur", "rain", "jpeg", "low_light")
    assert Passes.of(3, config) == Passes(3, (1, 3))


def test_the_number_is_checked_before_there_are_weights():
    with pytest.raises(UserError, match=r"passes=1\.5 must be a whole number"):
        Sampling(passes=1.5)


@pytest.mark.parametrize("options", [{}, {"samples": 3}, {"ensemble": 2}])
def test_a_further_pass_needs_no_more_memory_than_the_first(restorer, options):
    held = []

    def watch(done, total):
        held.append(sum(array.nbytes for array in jax.live_arrays()))

    options = {"steps": 1, "passes": 2, "watch": watch} | options
    list(with_bias(restorer, 99).iterate(IMAGES[:1], **options))
    first, second = held[0], held[len(held) // 2]
    assert second - first < IMAGES[0].nbytes / 2
