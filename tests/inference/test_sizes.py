"""Few sizes for many pictures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpgdiff_jax.inference import sizes

sides = st.integers(1, 5000)


@given(sides, st.sampled_from([1, 16, 64, 96]))
def test_a_bucket_holds_the_side_and_is_not_much_longer(side, multiple):
    found = sizes.bucket(side, multiple)
    assert found >= side
    assert found % 64 == found % multiple == 0
    if multiple == 1:
        assert found < side + (128 if side <= 1024 else 64)
        assert sizes.bucket(found) == found


def test_sides_of_common_photos_share_buckets():
    assert len({sizes.bucket(side) for side in range(1, 1025)}) == 10
    assert sizes.bucket(1080) == 1088


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (65, 2), (300, 257)])
def test_padding_keeps_the_image_and_repeats_none_of_its_borders(size):
    image = np.random.default_rng(0).random((*size, 3))
    found = sizes.padded_to(sizes.padded_size(size), image)
    assert found.shape[:2] == sizes.padded_size(size)
    np.testing.assert_array_equal(found[: size[0], : size[1]], image)
    if size[0] > 1 and found.shape[0] > size[0]:
        np.testing.assert_array_equal(found[size[0], : size[1]], image[-2])


def test_large_images_are_tiled_unless_asked_otherwise():
    assert sizes.tile_for((1024, 1024), None) == 0
    assert sizes.tile_for((1088, 1024), None) == 768
    assert sizes.tile_for((1088, 1024), None, spatial=2) == 0
    assert sizes.tile_for((4096, 4096), 0) == 0
    assert sizes.tile_for((512, 512), 512) == 0
    assert sizes.tile_for((512, 576), 512) == 512


@given(
    *(st.lists(st.tuples(sides, sides), max_size=12), st.integers(1, 5), st.integers(1, 4)),
    st.integers(1, 8),
)
def test_groups_hold_every_image_once_and_one_padded_size_each(shapes, most, devices, samples):
    found = list(sizes.groups(shapes, most, None, devices=devices, samples=samples))
    assert sorted(index for group in found for index in group) == list(range(len(shapes)))
    for group in found:
        padded = {sizes.padded_size(shapes[index]) for index in group}
        assert len(padded) == 1
        assert len(group) <= most * devices
        height, width = size = padded.pop()
        limit = max(sizes.LARGEST_WHOLE, height * width) * devices
        copies = sizes.samples_at_once(size, samples)
        assert samples % copies == 0
        assert len(group) * copies * height * width <= limit


def test_samples_are_drawn_together_as_far_as_they_fit():
    assert sizes.samples_at_once((512, 512), 8) == 4
    assert sizes.samples_at_once((512, 512), 6) == 3
    assert sizes.samples_at_once((512, 512), 5) == 1
    assert sizes.samples_at_once((512, 512), 3) == 3
    assert sizes.samples_at_once((512, 512), 8, spatial=2) == 8
    assert sizes.samples_at_once((4096, 4096), 8) == 1
    assert sizes.samples_at_once((4096, 4096), 8, tile=768) == 1
    assert sizes.samples_at_once((4096, 4096), 8, tile=256, windows=4) == 4


@given(st.integers(1, 40), st.integers(1, 6))
def test_batches_have_few_lengths(count, devices):
    found = sizes.filled_up(count, devices)
    assert found >= count
    assert found % devices == 0
    assert found == devices or found < 2 * count
    assert (found // devices).bit_count() == 1
