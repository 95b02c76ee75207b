"""Scores against the released program and the definitions."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from tpgdiff_jax.evaluation import metrics

RNG = np.random.default_rng(0)
TARGET = RNG.integers(0, 256, (3, 33, 40, 3), np.uint8)
NOISY = np.clip(TARGET + RNG.normal(0, 20, TARGET.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("border", [0, 4])
@pytest.mark.parametrize(
    ("name", "tolerance"), [("psnr", 1e-4), ("psnr_y", 1e-4), ("ssim", 1e-5), ("ssim_y", 1e-5)]
)
def test_scores_of_the_released_program(golden, name, border, tolerance):
    arrays = golden("metrics")
    images = (arrays[key][None] for key in ("prediction", "target"))
    score = getattr(metrics, name)(*images, crop_border=border)
    assert score.shape == (1,)
    assert float(score[0]) == pytest.approx(float(arrays[f"{name}_{border}"]), abs=tolerance)


def test_ssim_agrees_with_scikit_image():
    for prediction, target in zip(NOISY, TARGET, strict=True):
        expected = structural_similarity(
            prediction,
            target,
            data_range=255,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )[1][5:-5, 5:-5].mean()
        score = metrics.ssim(prediction[None], target[None])[0]
        assert float(score) == pytest.approx(expected, abs=1e-5)


def test_equal_images():
    assert np.isinf(metrics.psnr(TARGET, TARGET)).all()
    np.testing.assert_allclose(metrics.ssim(TARGET, TARGET), 1, atol=1e-6)


def test_scores_of_a_batch_are_those_of_its_images():
    whole = metrics.psnr(NOISY, TARGET)
    alone = [metrics.psnr(n[None], t[None])[0] for n, t in zip(NOISY, TARGET, strict=True)]
    np.testing.assert_allclose(whole, alone, rtol=1e-6)


def test_psnr_is_its_definition():
    error = np.mean((NOISY.astype(np.float64) - TARGET) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(
        metrics.psnr(NOISY, TARGET), 10 * np.log10(255**2 / error), rtol=1e-6
    )


def test_unequal_or_too_small_images_are_refused():
    with pytest.raises(ValueError, match="differ in size"):
        metrics.psnr(TARGET, TARGET[:, 1:])
    with pytest.raises(ValueError, match="11x11"):
        metrics.ssim(TARGET[:, :12], TARGET[:, :12], crop_border=1)
    with pytest.raises(ValueError, match="1x1 pixels inside the border; got -1x6"):
        metrics.psnr(TARGET[:, :33], TARGET, crop_border=17)


@pytest.mark.parametrize("image", [TARGET / 255, TARGET.astype(np.float32), TARGET[0]])
def test_what_would_be_scored_wrongly_is_refused(image):
    with pytest.raises(ValueError, match=r"prediction: .* need uint8 \[B, H, W, 3\]"):
        metrics.psnr(image, TARGET)


def test_images_of_many_sizes_share_programs():
    programs = metrics._scored._cache_size()
    for side in (12, 20, 27, 33):  # each with memory maps of its own would end a long loop
        pair = [image[:1, :side, :side] for image in (NOISY, TARGET)]
        error = np.mean((pair[0].astype(np.float64) - pair[1]) ** 2)
        assert float(metrics.psnr(*pair)[0]) == pytest.approx(10 * np.log10(255**2 / error))
    assert metrics._scored._cache_size() <= programs + 1
