"""The three protocols, against scikit-image on whole images and in padded batches."""

import jax
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tpgdiff_jax.evaluation import metrics
from tpgdiff_jax.evaluation.protocols import (
    PROTOCOLS,
    add_noise,
    as_scored,
    centre_cropped,
    cropped_size,
    scores,
)

RNG = np.random.default_rng(0)
SIZES = ((53, 70), (48, 48), (61, 40))
REFERENCE_SSIM = {
    "tpgdiff": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
    "promptir": {},  # scikit-image's defaults
    "moceir": {"gaussian_weights": True},
}


def pair(size):
    coarse = RNG.integers(0, 256, (size[0] // 4 + 1, size[1] // 4 + 1, 3))
    gt = np.kron(coarse, np.ones((4, 4, 1)))[: size[0], : size[1]].astype(np.uint8)
    output = gt / 255 + RNG.normal(0, 0.06, gt.shape)
    return output.astype(np.float32), gt


def by_scikit_image(protocol, output, gt):
    """Follow the table of the protocols in float64."""
    if protocol.multiple > 1:
        top, left = (gt.shape[0] % 16) // 2, (gt.shape[1] % 16) // 2
        height, width = gt.shape[0] // 16 * 16, gt.shape[1] // 16 * 16
        crop = np.s_[top : top + height, left : left + width]
        output, gt = output[crop], gt[crop]
    output, gt = np.clip(output, 0, 1).astype(np.float64), gt / 255
    if protocol.name == "tpgdiff":
        output = np.round(output * 255) / 255
        output, gt = output[4:-4, 4:-4], gt[4:-4, 4:-4]
    return (
        peak_signal_noise_ratio(gt, output, data_range=1),
        structural_similarity(
            gt, output, data_range=1, channel_axis=-1, **REFERENCE_SSIM[protocol.name]
        ),
    )


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_scikit_image_finds_the_same_in_a_padded_batch(protocol):
    pairs = [pair(size) for size in SIZES]
    cut = [[centre_cropped(protocol, image) for image in images] for images in pairs]
    assert [gt.shape[:2] for _, gt in cut] == [cropped_size(protocol, size) for size in SIZES]
    batch = [
        np.stack(
            [
                np.pad(
                    image, ((0, 64 - image.shape[0]), (0, 80 - image.shape[1]), (0, 0)), "reflect"
                )
                for image in images
            ]
        )
        for images in zip(*cut, strict=True)
    ]
    sizes = np.array([gt.shape[:2] for _, gt in cut])
    scored = jax.jit(
        lambda output, gt, sizes: scores(protocol, as_scored(protocol, output), gt, sizes)
    )(*batch, sizes)
    for index, images in enumerate(pairs):
        psnr, ssim = by_scikit_image(protocol, *images)
        assert float(scored["psnr"][index]) == pytest.approx(psnr, abs=1e-4)
        assert float(scored["ssim"][index]) == pytest.approx(ssim, abs=1e-5)


def test_golden_scores_of_the_released_program(golden):
    arrays = golden("metrics")
    output, gt = (arrays[key][None] for key in ("prediction", "target"))
    sizes = np.array([gt.shape[1:3]])
    protocol = PROTOCOLS["tpgdiff"]
    found = jax.jit(lambda x: scores(protocol, as_scored(protocol, x / 255), gt, sizes))(output)
    for name, tolerance in (("psnr", 1e-4), ("psnr_y", 1e-4), ("ssim", 1e-5), ("ssim_y", 1e-5)):
        expected = float(arrays[f"{name}_4"])
        assert float(found[name][0]) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_file_that_equals_its_truth_has_an_infinite_psnr(protocol):
    gt = RNG.integers(0, 256, (1, 48, 48, 3), np.uint8)
    found = jax.jit(
        lambda file: scores(protocol, as_scored(protocol, file / 255), gt, np.array([[48, 48]]))
    )(gt.astype(np.float32))
    assert {key: float(value[0]) for key, value in found.items() if "psnr" in key} == dict.fromkeys(
        ("psnr", "psnr_y", "psnr_gt_mean"), np.inf
    )


def test_aligned_brightness_is_a_score_of_its_own():
    output, gt = pair((48, 48))
    protocol, sizes = PROTOCOLS["promptir"], np.array([[48, 48]])
    dark = as_scored(protocol, 0.5 * np.clip(output, 0, 1))[None]
    names = ("psnr", "psnr_gt_mean")
    found = jax.jit(lambda x: scores(protocol, x, gt[None], sizes, names))(dark)
    assert float(found["psnr_gt_mean"][0]) > float(found["psnr"][0]) + 3


def test_noise_is_truncated_or_rounded_as_the_protocol_says():
    clean, normal = np.full((1, 2, 3), 100, np.uint8), np.full((1, 2, 3), 0.039)
    assert (add_noise(PROTOCOLS["promptir"], clean, normal, 25.0) == 100).all()
    assert (add_noise(PROTOCOLS["tpgdiff"], clean, normal, 25.0) == 101).all()
    dark = add_noise(PROTOCOLS["moceir"], np.zeros((1, 1, 3), np.uint8), -normal[:, :1], 25.0)
    assert (dark == 0).all()


def test_windows_outside_an_image_count_for_nothing():
    mask = np.asarray(metrics.inside((1, 12, 14, 3), np.array([[9, 11]]), border=1, window=3))
    assert mask.shape == (1, 10, 12, 1)
    assert mask.sum() == (9 - 2 - 2) * (11 - 2 - 2)
    assert [bool(mask[0, row, 1, 0]) for row in (0, 1, 5, 6)] == [False, True, True, False]
