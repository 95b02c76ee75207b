"""Restoring whatever people have."""

import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageCms

import tpgdiff_jax
from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.checkpoints.fingerprint import fingerprint_of
from tpgdiff_jax.config import to_json
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.inference import restore, sizes, stepwise
from tpgdiff_jax.inference.input_images import Restored, as_input
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.inference.tiling import starts
from tpgdiff_jax.runs.manager import RunCheckpoints
from tpgdiff_jax.training.state import TrainState

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
    channels = {"1": 2, "L": 2, "I;16": 2, "LA": 2, "RGBA": 4}.get(mode, 3)
    assert channels == (2 if restored.ndim == 2 else restored.shape[2])
    picture = restorer(Image.open(path))
    assert isinstance(picture, Image.Image)
    assert picture.size == (48, 40)


def test_similar_sizes_share_a_program(restorer):
    stepwise.KEPT.clear()
    sizes = [(40, 48), (33, 64), (64, 64), (20, 10), (1, 64)]
    for height, width in sizes:
        restorer(RNG.integers(0, 256, (height, width, 3), np.uint8))
    assert stepwise.advance._cache_size() == 1
    restorer(RNG.integers(0, 256, (65, 10, 3), np.uint8))
    assert stepwise.advance._cache_size() == 2


def test_exact_size_shows_the_priors_the_picture_alone(restorer, monkeypatch):
    seen = []
    real = restore.run_stepwise

    def watched(variables, lq, keys, **options):
        seen.append(lq.shape[1:3])
        return real(variables, lq, keys, **options)

    monkeypatch.setattr(restore, "run_stepwise", watched)
    padded, exact = restorer(PHOTO), restorer(PHOTO, exact_size=True)
    assert seen == [(64, 64), (40, 48)]
    assert exact.shape == PHOTO.shape
    assert 0 < np.abs(exact.astype(int) - padded).mean() < 60
    one, other = (restorer.degradations(PHOTO, exact_size=exact) for exact in (False, True))
    assert one.keys() == other.keys()
    assert one != other


def test_degradations_come_with_probabilities(restorer):
    found = restorer.degradations(PHOTO)
    assert found.keys() == {"noise", "haze"}
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_several_degradations_have_probabilities_of_their_own(restorer):
    config = restorer.config.copy_and_resolve_references().unlock()
    config.priors.classification = "multi"
    variables = jax.tree.map(np.array, jax.device_get(restorer._variables))
    bias = variables["params"]["encoder"]["classes"]["bias"]
    found = {}
    for name, value in (("clean", -9), ("both", 9)):
        bias[:] = value
        multi = Restorer(restorer._model, variables, config)
        found[name] = multi.degradations(PHOTO)
        restored = multi.restore_all([PHOTO])[0]
        assert restored.degradations == pytest.approx(found[name], abs=1e-4)
        wanted = {"clean": ("nothing",), "both": ("noise+haze", "haze+noise")}
        assert restored.verdict[0] in wanted[name]
        assert restored.verdict[1] > 0.9
    assert all(probability < 0.1 for probability in found["clean"].values())
    assert all(probability > 0.9 for probability in found["both"].values())


def test_mistakes_are_named(restorer, tmp_path):
    with pytest.raises(ValueError, match="ddim"):
        restorer(PHOTO, sampler="ddim")
    with pytest.raises(UnreadableImageError, match=r"nothing\.png"):
        restorer(tmp_path / "nothing.png")
    with pytest.raises(ValueError, match="is no file"):
        restore.Restorer.load(tmp_path / "nothing.safetensors")
    with pytest.raises(ValueError, match="axis='dta' is unknown; expected one of data, fsdp"):
        restore.Restorer.load(mesh={"dta": 8})


@pytest.mark.parametrize("one", ["photo.jpg", PHOTO, PHOTO[..., 0], Image.fromarray(PHOTO)])
def test_one_image_is_not_taken_for_several(restorer, one):
    """Its letters or rows would be."""
    for call in (restorer.iterate, restorer.restore_all):
        with pytest.raises(ValueError, match=r"One image was given.* put it into a list"):
            call(one)


def test_a_stack_of_images_is_several(restorer):
    assert len(restorer.restore_all(np.stack([PHOTO, PHOTO]), steps=1)) == 2


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


def test_windows_leave_no_seams(restorer):
    """The step across the borders of windows is not larger than the steps elsewhere."""
    y, x = np.mgrid[0:96, 0:232] / 232
    image = np.stack([0.3 + 0.3 * x, 0.5 - 0.2 * y, 0.4 + 0.1 * np.sin(9 * x)], -1)
    tiles, whole = (restorer(image.astype(np.float32), tile=tile) for tile in (64, 0))
    change = np.abs(np.diff(tiles - whole, axis=1)).mean(axis=(0, 2))  # of what windows alter
    padded_width = sizes.bucket(232)
    borders = [s for s in starts(padded_width, 64, 8)[1:] if s < 231]
    borders += [s + 64 for s in starts(padded_width, 64, 8)[:-1] if s + 64 < 232]
    at_borders = np.mean([change[border - 1] for border in borders])
    elsewhere = np.delete(change, [border - 1 for border in borders])
    assert at_borders <= np.quantile(elsewhere, 0.9)


def test_several_samples_give_a_mean_and_a_deviation(restorer):
    found = restorer(PHOTO, samples=3, seed=5)
    assert isinstance(found, Restored)
    assert found.image.shape == PHOTO.shape
    assert found.image.dtype == np.uint8
    assert found.degradations.keys() == {"noise", "haze"}
    # The same three restorations, one by one.
    names = ["", "/sample 1", "/sample 2"]
    one_by_one = [restorer([PHOTO / 255.0], seed=5, names=[name])[0] for name in names]
    np.testing.assert_allclose(found.image, 255 * np.mean(one_by_one, 0), atol=1)
    expected = np.sqrt(np.var(one_by_one, axis=0, ddof=1).mean(-1))
    assert expected.mean() > 1e-3
    np.testing.assert_allclose(found.deviation, expected, atol=1e-4)
    picture = found.deviation_picture()
    np.testing.assert_allclose(picture, np.clip(2550 * found.deviation, 0, 255), atol=1)
    with pytest.raises(ValueError, match="samples=2 or more"):
        restorer.restore_all([PHOTO])[0].deviation_picture()


@pytest.mark.parametrize("tile", [0, 64])
def test_samples_that_do_not_fit_together_are_drawn_in_turns(restorer, monkeypatch, tile):
    image = np.tile(PHOTO, (1, 2, 1))[:, : 50 + tile] / 255  # whole 64 x 64; else two windows
    options = {"samples": 4, "tile": tile, "seed": 5}
    together = restorer(image, **options)
    assert together.deviation.shape == image.shape[:2]
    assert together.deviation.mean() > 1e-3
    seen, real = [], restore.run_stepwise

    def spy(*args, **options):
        seen.append((args[1].shape[0], options["at_once"]))
        return real(*args, **options)

    monkeypatch.setattr(restore, "run_stepwise", spy)
    monkeypatch.setattr(sizes, "LARGEST_WHOLE", 2 * 64 * 64)
    turns = restorer([image, image], names=["", ""], **options)
    assert seen == [(1, 2), (1, 2)]
    for found in turns:
        np.testing.assert_allclose(found.image, together.image, atol=1e-5)
        np.testing.assert_allclose(found.deviation, together.deviation, atol=1e-5)


def test_a_result_that_is_no_number_is_an_error_and_not_a_black_picture(restorer):
    variables = jax.tree.map(np.array, jax.device_get(restorer._variables))
    variables["params"]["unet"]["final_conv"]["bias"][1] = np.nan
    broken = Restorer(restorer._model, variables, restorer.config)
    with pytest.raises(ValueError, match="image 0: its restoration is not finite"):
        broken(PHOTO)
    with pytest.raises(ValueError, match=r"photo\.png: its restoration is not finite"):
        broken.restore_all([PHOTO], names=["photo.png"], samples=2)
    (failed,) = broken.iterate([PHOTO])
    assert failed.image is None
    assert "not finite" in str(failed.error)


def test_one_result_that_is_no_number_leaves_the_others(restorer, monkeypatch):
    real = restore.run_stepwise

    def second_fails(*args, **options):
        answer = real(*args, **options)
        return answer.replace(finite=answer.finite.at[1].set(False))

    monkeypatch.setattr(restore, "run_stepwise", second_fails)
    found = restorer.iterate([PHOTO, PHOTO, PHOTO[::-1]])
    assert [each.error is None for each in found] == [True, False, True]


def test_images_come_one_after_the_other_and_a_bad_one_carries_its_reason(restorer, tmp_path):
    """In their order, of any kind and size, while those behind are not made yet."""
    Image.fromarray(PHOTO).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    kinds = (PHOTO, tmp_path / "bad.png", PHOTO[:, :20], tmp_path / "good.png", PHOTO[..., 0] / 2)
    asked = []

    def endless():
        for index in itertools.count():
            asked.append(index)
            yield kinds[index % len(kinds)]

    results = restorer.iterate(endless(), batch_size=2, seed=3)
    found = list(itertools.islice(results, 2 * len(kinds)))
    assert len(asked) < 60
    results.close()
    for index, restored in enumerate(found):
        kind = kinds[index % len(kinds)]
        if restored.error is None:
            expected = restorer(kind, seed=3)
            np.testing.assert_allclose(restored.image.astype(float), expected, atol=1)
            assert restored.degradations.keys() == {"noise", "haze"}
    reasons = [str(restored.error) for restored in found if restored.error is not None]
    assert len(reasons) == 4  # and the array whose values are no image
    assert "bad.png: not an image" in reasons[0]
    assert "outside [0, 1]" in reasons[1]
    with pytest.raises(ValueError, match="steps=0"):
        restorer.iterate([PHOTO], steps=0)  # at once, not with the first image


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": 0}, "samples=0"),
        ({"windows": 0}, "windows=0"),
        ({"tile": 5}, "tile=5 must be"),
        ({"tile": -64}, "tile=-64 must be"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 4.0}, r"steps=4\.0 must be a whole number"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number"),
        ({"names": []}, "names: 0 for 1 images. Give one text for each image"),
        ({"names": "a.png"}, "names='a.png': expected a list of names"),
        ({"names": [7]}, "names: 7 is no text"),
        ({"guidance": {"semantics": 1}}, "'semantics' is no branch"),
        ({"guidance": {"structure": -1}}, "structure=-1 must be"),
        ({"guidance": {"semantic": 0}}, "have no semantic branch"),
        ({"guidance": {"structure": 2}}, "dropout_structure above 0"),
    ],
)
def test_options_that_do_not_fit_are_named(restorer, options, words):
    with pytest.raises(ValueError, match=words):
        restorer(PHOTO, **options)


def test_another_strength_needs_no_other_program(restorer):
    config = restorer.config.copy_and_resolve_references().unlock()
    config.model.dropout_structure = 0.1
    flexible = Restorer(restorer._model, restorer._variables, config)
    stepwise.KEPT.clear()
    found = [flexible(PHOTO / 255.0, guidance={"structure": s}) for s in (0.5, 2.0, 3.0)]
    assert stepwise.advance._cache_size() == 1
    assert np.abs(found[0] - found[1]).max() > 1e-3
    # The answers lie on a line: what the branch adds counts twice, then three times.
    one = flexible(PHOTO / 255.0, steps=1, guidance={"structure": 1})
    two, three = (flexible(PHOTO / 255.0, steps=1, guidance={"structure": s}) for s in (2, 3))
    inside = np.all([(image > 0) & (image < 1) for image in (one, two, three)], axis=0)
    np.testing.assert_allclose((three - two)[inside], (two - one)[inside], atol=1e-4)
    flexible(PHOTO / 255.0, guidance={"structure": 0}, steps=3, sampler="ode2", seed=9)
    flexible(PHOTO / 255.0)
    assert stepwise.advance._cache_size() == 1


def test_a_branch_left_out_changes_the_result(restorer):
    as_trained = restorer(PHOTO / 255.0)
    np.testing.assert_array_equal(restorer(PHOTO / 255.0, guidance={"structure": 1}), as_trained)
    without = restorer(PHOTO / 255.0, guidance={"structure": 0, "degradation": 0})
    assert np.abs(without - as_trained).max() > 1e-3


def test_a_profile_of_colours_is_kept_where_it_fits():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode, expected in (("RGB", profile), ("L", None)):
        picture = Image.fromarray(PHOTO).convert(mode)
        picture.info["icc_profile"] = profile
        form = as_input(picture)
        assert form.rebuild(form.rgb).info.get("icc_profile") == expected


def test_a_run_is_loaded_as_its_export_is(restorer, tmp_path):
    """A run's folder and the file exported from it hold the same system."""
    config, params = restorer.config, jax.device_get(restorer._variables["params"])
    published.save(tmp_path / "w.safetensors", params, published.describe(config))
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(to_json(config))
    with RunCheckpoints(run / "checkpoints", keep=1) as checkpoints:
        state = TrainState(
            jnp.int32(7), jax.tree.map(jnp.zeros_like, params), params, {"m": params}
        )
        checkpoints.save(7, state, {"batches": 7, "frozen": fingerprint_of({})})
    found = [Restorer.load(path, compile_cache=False) for path in (run, tmp_path / "w.safetensors")]
    assert found[0].fingerprint == found[1].fingerprint == restorer.fingerprint
    np.testing.assert_array_equal(found[0](PHOTO), restorer(PHOTO))

    with pytest.raises(ValueError, match=r"no config\.json"):
        Restorer.load(tmp_path)
    shutil.rmtree(run / "checkpoints" / "7")
    with pytest.raises(ValueError, match="holds no complete checkpoint"):
        Restorer.load(run)
    (run / "config.json").write_text('{"modell": 1}')
    with pytest.raises(ValueError, match="does not fit this version"):
        Restorer.load(run)
