"""Restoring whatever people have."""

import numpy as np
import pytest
from PIL import Image

import tpgdiff_jax
from tpgdiff_jax.data.images import UnreadableImageError
from tpgdiff_jax.inference import restore

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(60, 200, (5, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)  # 40 x 48


def test_the_result_has_the_size_and_type_of_the_image_and_is_another_one(restorer):
    restored = restorer(PHOTO)
    assert restored.shape == PHOTO.shape
    assert restored.dtype == np.uint8
    assert 1 < np.abs(restored.astype(int) - PHOTO).mean() < 120


def test_what_else_is_restored_changes_nothing(restorer):
    others = [PHOTO[::-1], PHOTO[:20, :20], PHOTO]
    alone = restorer(PHOTO)
    np.testing.assert_allclose(restorer(others)[2].astype(int), alone, atol=1)
    np.testing.assert_allclose(restorer(others, batch_size=1)[2].astype(int), alone, atol=1)


def test_seed_and_name_decide_the_noise(restorer):
    first = restorer(PHOTO, seed=1)
    np.testing.assert_array_equal(first, restorer(PHOTO, seed=1))
    assert (first != restorer(PHOTO, seed=2)).any()
    assert (first != restorer([PHOTO], seed=1, names=["other"])[0]).any()


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (65, 2)])
def test_any_size_is_restored(restorer, size):
    image = RNG.integers(0, 256, (*size, 3), np.uint8)
    assert restorer(image).shape == image.shape


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "I;16", "1"])
def test_every_kind_of_file_is_restored(restorer, tmp_path, mode):
    path = tmp_path / "image.tif" if mode == "CMYK" else tmp_path / "image.png"
    if mode == "I;16":
        Image.fromarray((PHOTO[..., 0].astype(np.uint16)) * 257).save(path)
    else:
        Image.fromarray(PHOTO).convert(mode).save(path)
    restored = restorer(path)
    assert restored.shape[:2] == PHOTO.shape[:2]
    assert restored.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    channels = {"L": 2, "I;16": 2, "LA": 4, "RGBA": 4}.get(mode, 3)
    assert channels == (2 if restored.ndim == 2 else restored.shape[2])
    picture = restorer(Image.open(path))
    assert isinstance(picture, Image.Image)
    assert picture.size == (48, 40)


def test_similar_sizes_share_a_program(restorer):
    restore.restore_batch.clear_cache()
    sizes = [(40, 48), (33, 64), (64, 64), (20, 10), (1, 64)]
    for height, width in sizes:
        restorer(RNG.integers(0, 256, (height, width, 3), np.uint8))
    assert restore.restore_batch._cache_size() == 1
    restorer(RNG.integers(0, 256, (65, 10, 3), np.uint8))
    assert restore.restore_batch._cache_size() == 2


def test_degradations_come_with_probabilities(restorer):
    found = restorer.degradations(PHOTO)
    assert found.keys() == {"noise", "haze"}
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_mistakes_are_named(restorer, tmp_path):
    with pytest.raises(ValueError, match="ddim"):
        restorer(PHOTO, sampler="ddim")
    with pytest.raises(UnreadableImageError, match=r"nothing\.png"):
        restorer(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="is no file"):
        restore.Restorer.load(tmp_path / "nothing.safetensors")


def test_it_stands_at_the_root_of_the_package():
    assert tpgdiff_jax.Restorer is restore.Restorer
    with pytest.raises(AttributeError, match="Restore"):
        _ = tpgdiff_jax.Restore


def test_tiles_restore_much_as_the_whole_does(restorer):
    image = np.tile(PHOTO, (3, 3, 1))  # 120 x 144: several windows of 64 pixels
    whole, tiles = (restorer(image, tile=tile).astype(int) for tile in (0, 64))
    assert tiles.shape == image.shape
    difference = np.abs(tiles - whole)
    assert 0 < difference.mean() < 3  # windows see less, so they are not the same
    assert np.abs(whole - image).mean() > 5 * difference.mean()
    np.testing.assert_allclose(
        restorer([image, image[::-1]], tile=64)[0].astype(int), tiles, atol=1
    )


def test_large_images_are_tiled_unless_asked_otherwise():
    assert restore._tile_for((1024, 1024, 3), None) == 0
    assert restore._tile_for((1088, 1024, 3), None) == 768
    assert restore._tile_for((4096, 4096, 3), 0) == 0
    assert restore._tile_for((512, 512, 3), 512) == 0
    assert restore._tile_for((512, 576, 3), 512) == 512
