"""Step by step: the same pixels as in one go, told of every step, and few programs."""

import jax
import numpy as np
import pytest

from tpgdiff_jax.inference import restore, stepwise
from tpgdiff_jax.inference.batch import run_batch
from tpgdiff_jax.inference.restore import Restorer

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(60, 200, (5, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)  # 40 x 48


def watched(restorer, image, **options):
    """Return the `Restored` of an image, and what was told of its steps."""
    told = []
    (found,) = restorer.iterate([image], watch=lambda *steps: told.append(steps), **options)
    return found, told


@pytest.mark.parametrize("options", [{}, {"samples": 3}, {"tile": 64}, {"sampler": "ode2"}])
def test_who_watches_gets_the_same_bits(restorer, options):
    image = np.tile(PHOTO, (2, 2, 1)) / np.float32(255)
    (alone,) = restorer.restore_all([image], steps=3, seed=4, **options)
    found, told = watched(restorer, image, steps=3, seed=4, **options)
    np.testing.assert_array_equal(found.image, alone.image)
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_samples_drawn_in_turns_count_as_steps(restorer, monkeypatch):
    monkeypatch.setattr(restore.sizes, "LARGEST_WHOLE", 64 * 64)
    found, told = watched(restorer, PHOTO, steps=2, samples=3)
    assert found.deviation.mean() > 0
    assert [done for done, _ in told] == list(range(7))
    assert {total for _, total in told} == {6}


def test_one_go_in_one_program_gives_the_same_picture(restorer, monkeypatch):
    """Validation and benchmarks compile the whole chain; the network and the noise are the same."""
    images = [PHOTO / 255.0, PHOTO[::-1] / 255.0]
    options = {"steps": 3, "samples": 2, "seed": 5, "ensemble": 2}
    expected = restorer(images, **options)
    monkeypatch.setattr(
        restore, "run_stepwise", lambda *args, watch, **options: run_batch(*args, **options)
    )
    for one, other in zip(restorer(images, **options), expected, strict=True):
        np.testing.assert_allclose(one.image, other.image, atol=1e-5)
        np.testing.assert_allclose(one.deviation, other.deviation, atol=1e-5)


VIEWS = (lambda a: a, lambda a: a[:, ::-1], lambda a: a[::-1], lambda a: a[::-1, ::-1])


@pytest.mark.parametrize(("ensemble", "options"), [(2, {}), (4, {"tile": 64}), (4, {"steps": 1})])
def test_an_ensemble_is_the_mean_of_what_its_views_give(restorer, ensemble, options):
    image = np.tile(PHOTO, (4, 4, 1))[:128, :128] / np.float32(255)  # needs no padding
    options = {"steps": 3, "seed": 2} | options
    alone = np.stack([view(restorer(view(image), **options)) for view in VIEWS[:ensemble]])
    assert np.abs(alone[1] - alone[0]).max() > 1e-3
    found, told = watched(restorer, image, ensemble=ensemble, **options)
    inside = ((alone > 0) & (alone < 1)).all(axis=0)  # only the mean of all views is clipped
    assert inside.mean() > 0.5
    np.testing.assert_allclose(found.image[inside], alone.mean(axis=0)[inside], atol=1e-5)
    calls = ensemble * options["steps"]
    assert told == [(done, calls) for done in range(calls + 1)]


def test_each_sample_of_an_ensemble_is_the_mean_of_its_views(restorer, monkeypatch):
    monkeypatch.setattr(restore.sizes, "LARGEST_WHOLE", 64 * 64)  # samples take turns
    image = np.tile(PHOTO, (2, 2, 1))[:64, :64] / np.float32(255)
    options = {"steps": 2, "samples": 3}
    views = [view(restorer(view(image), **options).image) for view in VIEWS[:2]]
    found = restorer(image, ensemble=2, **options)
    inside = np.all([(view > 0.2) & (view < 0.8) for view in views], axis=0)  # no sample is clipped
    assert inside.mean() > 0.3
    np.testing.assert_allclose(found.image[inside], np.mean(views, axis=0)[inside], atol=1e-5)
    assert 0 < found.deviation.mean() != restorer(image, **options).deviation.mean()


def test_samplers_steps_and_seeds_share_their_programs(restorer):
    restorer(PHOTO)
    before = [program._cache_size() for program in (stepwise.prepare, stepwise.advance)]
    for sampler, steps in (("posterior", 1), ("ode2", 5), ("sde2", 7), ("euler_ode", 100)):
        restorer(PHOTO, sampler=sampler, steps=steps, seed=steps)
    after = [program._cache_size() for program in (stepwise.prepare, stepwise.advance)]
    assert after == before


def test_who_watches_can_stop_between_two_steps(restorer):
    class EnoughError(Exception):
        pass

    told = []

    def watch(done, total):
        told.append(done)
        if done == 2:
            raise EnoughError

    with pytest.raises(EnoughError):
        list(restorer.iterate([PHOTO], steps=5, watch=watch))
    assert told == [0, 1, 2]


def test_a_picture_whose_rows_lie_on_devices_is_watched_as_well(restorer):
    mesh = restore.make_mesh({"data": 1, "fsdp": 1, "tensor": 1, "spatial": 8})
    variables = jax.device_get(restorer._variables)
    many = Restorer(restorer._model, variables, restorer.config, mesh)
    image = np.tile(PHOTO, (2, 1, 1)) / 255.0
    found, told = watched(many, image, steps=2)
    np.testing.assert_array_equal(found.image, many(image, steps=2))
    assert told == [(0, 2), (1, 2), (2, 2)]
