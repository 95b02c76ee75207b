"""Pictures of every kind come back as they came."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tpgdiff_jax.inference.input_images import as_input, input_of_array

shapes = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda size: st.sampled_from([size, (*size, 1), (*size, 2), (*size, 3), (*size, 4)])
)


@given(shapes, st.sampled_from(["uint8", "uint16", "float32", "float64"]), st.integers(0, 99))
def test_a_picture_that_is_not_changed_comes_back_as_it_came(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    top = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    image = (rng.random(shape) * top).astype(dtype)
    form = input_of_array(image)
    assert form.rgb.shape == (*shape[:2], 3)
    assert form.rgb.dtype == np.float32
    assert 0 <= form.rgb.min() <= form.rgb.max() <= 1
    back = form.rebuild(form.rgb)
    assert back.shape == image.shape
    assert back.dtype == image.dtype
    if top > 1:
        np.testing.assert_array_equal(back, image)
    else:
        np.testing.assert_allclose(back, image, atol=1e-6)


def test_alpha_is_kept_whatever_happens_to_the_colours():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 4), np.uint8)
    back = input_of_array(image).rebuild(np.zeros((4, 5, 3), np.float32))
    np.testing.assert_array_equal(back[..., 3], image[..., 3])
    assert not back[..., :3].any()


def test_a_pil_image_comes_back_as_one():
    form = input_of_array(np.zeros((4, 5, 3), np.uint8))
    form.as_picture = True
    assert isinstance(form.rebuild(form.rgb), Image.Image)


def reloaded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return Image.open(buffer)


def test_a_picture_that_lies_on_its_side_is_turned_upright(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = reloaded(Image.fromarray(pixels), exif=exif)
    lying.save(tmp_path / "phone.png", exif=exif)
    forms = [as_input(lying), as_input(tmp_path / "phone.png")]
    for form in forms:
        np.testing.assert_array_equal(np.asarray(form.rebuild(form.rgb)), np.rot90(pixels, -1))
    back = forms[0].rebuild(forms[0].rgb)
    assert back.size == (4, 6)
    assert 0x0112 not in back.getexif()
    assert lying.size == (6, 4)  # what was given stays as it was


@pytest.mark.parametrize(
    ("mode", "transparent", "back"), [("L", 7, "LA"), ("RGB", (7, 7, 7), "RGBA")]
)
def test_one_colour_that_stands_for_transparent_becomes_alpha(tmp_path, mode, transparent, back):
    grey = np.full((3, 4), 50, np.uint8)
    grey[1, 2] = 7
    image = reloaded(Image.fromarray(grey).convert(mode), transparency=transparent)
    image.save(tmp_path / "a.png", transparency=transparent)
    alpha = np.where(grey == 7, 0, 255)
    form = as_input(image)
    picture = form.rebuild(form.rgb)
    assert picture.mode == back
    np.testing.assert_array_equal(np.asarray(picture)[..., -1], alpha)
    form = as_input(tmp_path / "a.png")
    np.testing.assert_array_equal(form.rebuild(form.rgb)[..., -1], alpha)
    np.testing.assert_array_equal(form.rebuild(form.rgb)[..., 0], grey)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((4, 5, 5), np.uint8), r"shape \(4, 5, 5\)"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
        (np.zeros((1, 4, 5, 3), np.uint8), r"shape \(1, 4, 5, 3\)"),
        (np.zeros((4, 5, 3), np.int64), "type int64"),
        (np.full((4, 5, 3), 200.0), r"outside \[0, 1\].*from 200 to 200\. Divide"),
        (np.full((4, 5, 3), np.nan), "not finite"),
    ],
)
def test_what_is_no_picture_is_refused(image, words):
    with pytest.raises(ValueError, match=words):
        input_of_array(image)


@pytest.mark.parametrize("image", [b"\xff\xd8", io.BytesIO(b"\xff\xd8"), None, {1}, iter([])])
def test_what_is_no_array_either_is_named_by_its_type(image):
    with pytest.raises(ValueError, match=f"A {type(image).__name__} was given; expected a path"):
        as_input(image)
