"""Clean photos of other tone: smooth, only when asked, and dark ones with their highlights."""

import numpy as np
import pytest

from tpgdiff_jax.data.degradations.registry import DEGRADATIONS
from tpgdiff_jax.data.tone import dark_photo, pale_photo, random_tone, soft_photo, vivid_photo

RAMP = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)


def test_tone_changes_smoothly_and_only_when_asked():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(random_tone(rng, RAMP, 0.0), RAMP)
    for _ in range(20):
        changed = random_tone(rng, RAMP, 0.5)
        assert changed.dtype == np.uint8
        assert (changed[0, 0] == 0).all()
        assert (changed[0, -1] == 255).all()
        assert (np.diff(changed[0].astype(int), axis=0) >= 0).all()
        assert (changed[..., 0] != changed[..., 1]).any()


@pytest.mark.parametrize("seed", range(24))
def test_dark_photos_are_darker_and_keep_highlights(seed):
    # Each level everywhere in the frame, so that wherever a lamp shines it meets a white pixel.
    image = np.random.default_rng(0).permutation(np.tile(RAMP[0], (64, 1))).reshape(128, 128, 3)
    dark = dark_photo(np.random.default_rng(seed), image)
    assert dark.dtype == np.uint8
    assert dark.mean() < 0.93 * image.mean()
    assert (dark <= image + 1.0).all()
    entry = DEGRADATIONS["low_light"]
    lacking = entry.apply(
        image.astype(np.float32) / 255, **entry.sample(np.random.default_rng(seed), 1.0)
    )
    # The brightest per mille, which noise can hardly lift.
    assert np.quantile(dark / 255, 0.999) > np.quantile(lacking, 0.99)


@pytest.mark.parametrize("seed", range(24))
def test_dark_photos_without_white_are_brighter_than_lacking_light_can_be(seed):
    # Stripes of mid-tones, as of coloured paper: what `low_light` would leave of white says nothing
    # of them, since there is none.
    rng = np.random.default_rng(seed)
    image = np.repeat(rng.integers(10, 170, (1, 16, 3)).astype(np.uint8), 8, axis=1)
    image = np.repeat(image, 128, axis=0)
    dark = dark_photo(rng, image)
    brightest, was = (np.quantile(x.max(axis=-1) / 255, 0.998) for x in (dark, image))
    assert min(was, 0.5) - 0.01 <= brightest <= was
    entry = DEGRADATIONS["low_light"]
    lacking = entry.apply(image.astype(np.float32) / 255, **entry.sample(rng, 1.0))
    assert brightest > np.quantile(lacking.max(axis=-1), 0.99) + 0.1


def test_some_dark_photos_have_deeper_colours():
    image = np.broadcast_to(np.array((180, 120, 90), np.uint8), (32, 32, 3))
    dark = [dark_photo(np.random.default_rng(seed), image)[16, 16] for seed in range(40)]
    shares = [least / most for most, _, least in dark]
    assert min(shares) < 0.25
    assert max(shares) > 0.4


def test_dark_photos_differ_in_how_dark_they_are():
    image = np.full((32, 32, 3), 128, np.uint8)
    means = [dark_photo(np.random.default_rng(seed), image).mean() for seed in range(60)]
    assert min(means) < 50
    assert np.std(means) > 12


def test_vivid_photos_reach_black_and_white():
    rng = np.random.default_rng(0)
    pale = np.random.default_rng(1).integers(110, 170, (64, 64, 3)).astype(np.uint8)
    for _ in range(10):
        vivid = vivid_photo(rng, pale)
        assert vivid.shape == pale.shape
        assert vivid.dtype == np.uint8
        assert vivid.min() < 60
        assert vivid.max() > 200


def test_vivid_photos_of_one_colour_stay_finite():
    flat = np.full((16, 16, 3), 100, np.uint8)
    assert len(np.unique(vivid_photo(np.random.default_rng(0), flat))) == 1


@pytest.mark.parametrize("shape", [(64, 48, 3), (1, 5, 3)])
def test_soft_photos_lose_their_finest_detail_and_keep_their_size(shape):
    photo = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    soft = soft_photo(np.random.default_rng(0), photo)
    assert soft.shape == shape
    assert soft.dtype == np.uint8
    if min(shape[:2]) > 8:
        steps = [np.abs(np.diff(x.astype(int), axis=1)).mean() for x in (photo, soft)]
        assert steps[1] < 0.8 * steps[0]


@pytest.mark.parametrize("shape", [(64, 48, 3), (1, 5, 3)])
def test_pale_photos_have_no_black_and_hardly_any_colour(shape):
    photo = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    for seed in range(20):
        pale = pale_photo(np.random.default_rng(seed), photo)
        assert pale.shape == shape
        assert pale.dtype == np.uint8
        assert pale.min() > 12
        assert np.ptp(pale.astype(int), axis=-1).max() < 0.2 * np.ptp(photo, axis=-1).max()


def test_pale_photos_keep_what_is_brighter_than_what():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 8, axis=1)[..., None].repeat(3, -1)
    rows = pale_photo(np.random.default_rng(0), ramp)[:, 0, 0].astype(int)
    assert (np.diff(rows) >= 0).all()
    assert 0.25 * 255 - 1 <= rows[-1] - rows[0] <= 0.85 * 255 + 1
