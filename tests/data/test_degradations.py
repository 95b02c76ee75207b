"""Every degradation: pure, in range, as strong as it says, and true to its law."""

import json
import pathlib
import tracemalloc

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from tpgdiff_jax.data import tone
from tpgdiff_jax.data.degradations import (
    atmosphere,
    coding,
    display,
    grain,
    haze,
    image_ops,
    optics,
    rain,
    raindrops,
    sensor,
)
from tpgdiff_jax.data.degradations.registry import DEGRADATIONS, STAGES
from tpgdiff_jax.data.images import read_rgb
from tpgdiff_jax.data.pictures.picture import to_8_bit
from tpgdiff_jax.data.prepare.preview import contact_sheet

PHOTOS = pathlib.Path(__file__).parents[2] / "configs" / "quickstart_photos" / "train"
seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=15, deadline=None)


def photo(name="coffee.jpg", size=256):
    pixels = read_rgb(PHOTOS / name)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return (pixels[top : top + size, left : left + size] / 255).astype(np.float32)


SMALL = photo()[60:108, 40:96]
SMALL.flags.writeable = False


def grey(value, size=48):
    return np.full((size, size, 3), value, np.float32)


def psnr(a, b):
    return -10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2))


def degrade(name, image, severity, seed=0):
    entry = DEGRADATIONS[name]
    return entry.apply(image, **entry.sample(np.random.default_rng(seed), severity))


def test_registry_lists_every_degradation_in_the_order_of_the_stages():
    assert all(name == entry.name for name, entry in DEGRADATIONS.items())
    stages = [STAGES.index(entry.stage) for entry in DEGRADATIONS.values()]
    assert stages == sorted(stages)
    in_stage = {stage: [n for n, e in DEGRADATIONS.items() if e.stage == stage] for stage in STAGES}
    assert in_stage == {
        "scene": ["haze", "haze_patchy", "cloud_thin", "cloud_thick"],
        "weather": ["rain", "snow"],
        "lens": ["raindrops", "poled", "toled", "defocus", "blur", "motion_blur"],
        "exposure": ["low_light"],
        "sensor": ["moire", "camera_noise", "colour_noise", "noise"],
        "coding": ["resample", "jpeg", "webp"],
    }


@pytest.mark.parametrize("severity", [0.5, 1, 3, 5])
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_result_is_an_image_again_and_always_the_same(name, severity):
    first, second = degrade(name, SMALL, severity), degrade(name, SMALL, severity)
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
    assert first.shape == SMALL.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert not np.shares_memory(first, SMALL)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_input_is_left_alone(name):
    image = photo(size=64)
    before = image.copy()
    out = degrade(name, image, 4)
    out *= 0
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_severity_zero_leaves_every_pixel(name, seed):
    image = photo("motorcycle_left.jpg", 96)
    np.testing.assert_array_equal(to_8_bit(degrade(name, image, 0, seed)), to_8_bit(image))


@pytest.mark.parametrize("file", ["coffee.jpg", "motorcycle_left.jpg"])
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_higher_severity_degrades_more(name, file):
    image = photo(file)
    for seed in range(3):
        quality = [psnr(degrade(name, image, severity, seed), image) for severity in range(1, 6)]
        assert all(np.diff(quality) < 0), (seed, quality)
        assert 5 < quality[-1] < quality[0] < 42


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (3, 5), (2, 40), (33, 17)])
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_any_size_will_do(name, size):
    image = np.random.default_rng(1).random((*size, 3), dtype=np.float32)
    for severity in (0, 1, 5):
        out = degrade(name, image, severity)
        assert out.shape == image.shape
        assert np.isfinite(out).all()
        assert out.min() >= 0
        assert out.max() <= 1


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_stay_in_range(name, value):
    out = degrade(name, grey(value), 5)
    assert np.isfinite(out).all()
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_parameters_are_plain_and_severity_draws_nothing(name):
    sample = DEGRADATIONS[name].sample
    rngs = [np.random.default_rng(3) for _ in range(4)]
    params = [sample(rng, severity) for rng, severity in zip(rngs, (0, 0.5, 2.3, 5), strict=True)]
    for drawn in params:
        assert all(type(value) in (int, float, str) for value in drawn.values())
        assert json.loads(json.dumps(drawn, allow_nan=False)) == drawn
        assert drawn.keys() == params[0].keys()
        assert drawn.get("seed") == params[0].get("seed")
    assert len({str(rng.bit_generator.state) for rng in rngs}) == 1
    assert len({str(sample(np.random.default_rng(seed), 3)) for seed in range(20)}) > 1


# ---------------------------------------------------------------- sensor


@few
@given(sigma=st.floats(1, 50), seed=seeds)
def test_noise_has_the_standard_deviation_it_promises(sigma, seed):
    noisy = sensor.noise(grey(0.5, 128), sigma=sigma, seed=seed)
    # Half a per cent for the sample, and what is clipped at 2.5 standard deviations.
    assert abs(((noisy - 0.5) * 255).std() / sigma - 1) < 0.03


@few
@given(shot=st.floats(1e-5, 0.01), read=st.floats(0, 0.02), level=st.floats(0, 1), seed=seeds)
def test_photon_noise_has_the_variance_of_its_law(shot, read, level, seed):
    light = grey(level, 128)
    noise = grain.photon_noise(light, shot, read, seed) - light
    assert np.isclose(noise.std(), np.sqrt(shot * level + read**2), rtol=0.03, atol=1e-6)
    assert abs(noise.mean()) < 0.05 * noise.std() + 1e-6


@few
@given(luma=st.floats(0.6, 0.9), chroma=st.floats(1.0, 2.5), colour=st.floats(0.2, 0.6), seed=seeds)
def test_grain_keeps_the_variance_and_smooths_colour_more(luma, chroma, colour, seed):
    noise = grain.grainy_noise((192, 192, 3), seed, grain.Grain(luma, chroma, colour))
    np.testing.assert_allclose(noise.std((0, 1)), 1, atol=0.12)
    correlation = np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]
    assert abs(correlation - (1 - 1.5 * colour)) < 0.12
    common, blue = noise.mean(-1), noise[..., 2] - noise.mean(-1)
    for field, sigma in ((common, luma), (blue, chroma)):
        neighbours = np.corrcoef(field[:, 1:].ravel(), field[:, :-1].ravel())[0, 1]
        assert abs(neighbours - np.exp(-0.25 / sigma**2)) < 0.08


def test_tone_curves_flatten_noise_in_shadows_and_highlights():
    params = {"shot": 0.001, "read": 0.0005, "red_gain": 1.5, "blue_gain": 1.5, "seed": 1}
    for level, kept in ((0.1, 0.75), (0.5, 1.0), (0.9, 0.75)):
        plain, curved = (
            sensor.camera_noise(grey(level), tone=tone, **params).std() for tone in (0.0, 1.0)
        )
        assert abs(curved / plain - kept) < 0.03


def test_low_light_leaves_no_highlights():
    for seed in range(20):
        assert degrade("low_light", grey(1.0), 1, seed).mean() < 0.5
        assert degrade("low_light", grey(1.0), 5, seed).mean() < 0.25


def test_low_light_that_is_drawn_leaves_less_of_white_than_dark_photos_keep():
    severity = DEGRADATIONS["low_light"].least_drawn
    for seed in range(300):
        params = sensor.sample_low_light(np.random.default_rng(seed), severity)
        params |= {"shot": 0.0, "read": 0.0}
        left = sensor.low_light(np.ones((1, 1, 3), np.float32), **params).max()
        assert left < 0.48 < tone._LEAST_WHITE


def test_camera_noise_is_amplified_where_white_balance_amplifies():
    params = {"shot": 0.002, "read": 0.005, "red_gain": 2.0, "blue_gain": 1.5, "seed": 1}
    noisy = sensor.camera_noise(grey(0.5, 160), **params)
    red, green, blue = image_ops.srgb_to_linear(noisy).std((0, 1))
    light = float(image_ops.srgb_to_linear(np.float32(0.5)))
    assert np.isclose(green**2, 0.002 * light + 0.005**2, rtol=0.05)
    assert np.isclose(red**2, 2 * 0.002 * light + (2 * 0.005) ** 2, rtol=0.05)
    assert green < blue < red


@few
@given(luma=st.floats(2, 15), chroma=st.floats(2, 15), grain=st.floats(1.0, 3.0), seed=seeds)
def test_colour_noise_has_its_strength_and_its_grain(luma, chroma, grain, seed):
    noise = (
        sensor.colour_noise(
            grey(0.5, 192),
            luma_sigma=luma,
            chroma_sigma=chroma,
            luma_grain=0.6,
            chroma_grain=grain,
            seed=seed,
        )
        - 0.5
    ) * 255
    y = image_ops.luma(noise)
    blue = (noise[..., 2] - y) / 1.772
    assert abs(y.std() / (0.7 * luma) - 1) < 0.08
    assert abs(blue.std() / (0.7 * chroma) - 1) < 0.15
    neighbours = np.corrcoef(blue[:, 1:].ravel(), blue[:, :-1].ravel())[0, 1]
    # Smoothing white noise with sigma gives a correlation of exp(-1 / (4 sigma^2)) next door.
    assert abs(neighbours - np.exp(-0.25 / grain**2)) < 0.06


@few
@given(exposure=st.floats(0.05, 1), value=st.floats(0.02, 1))
def test_low_light_scales_linear_light(exposure, value):
    dark = sensor.low_light(
        grey(value), exposure=exposure, contrast=1, warmth=0, shot=0, read=0, seed=0
    )
    light = image_ops.srgb_to_linear(np.float32(value))
    np.testing.assert_allclose(image_ops.srgb_to_linear(dark), exposure * light, atol=1e-5)


# ---------------------------------------------------------------- optics


@few
@given(sigma=st.floats(0.8, 2.5), stretch=st.floats(1, 1.6), angle=st.floats(0, 180))
def test_blur_keeps_the_mean_and_spreads_a_point_by_sigma(sigma, stretch, angle):
    point = np.zeros((51, 51, 3), np.float32)
    point[25, 25] = 1
    spread = optics.blur(point, sigma=sigma, stretch=stretch, angle=angle)[..., 0]
    offsets = np.arange(51) - 25
    covariance = [
        (spread * offsets**2).sum(),
        (spread * offsets[:, None] ** 2).sum(),
    ]
    assert abs(spread.sum() - 1) < 1e-4
    # The trace of a covariance does not turn with the axes; the cut at three sigma costs 3 %.
    assert abs(sum(covariance) / (sigma**2 * (stretch**2 + stretch**-2)) - 1) < 0.06


@few
@given(extent=st.floats(1, 20), shake=st.floats(0, 1), angle=st.floats(0, 360), seed=seeds)
def test_shake_kernel_is_a_path_of_its_extent_around_the_middle(extent, shake, angle, seed):
    kernel = optics.shake_kernel(extent, shake, angle, seed)
    rows, columns = image_ops.centred_grid(len(kernel))
    assert abs(kernel.sum() - 1) < 1e-5
    assert abs((kernel * rows).sum()) < 1e-3
    assert abs((kernel * columns).sum()) < 1e-3
    where = np.argwhere(kernel > 0)
    reach = np.ptp(
        where @ np.array([np.cos(np.arange(0, 3.1, 0.1)), np.sin(np.arange(0, 3.1, 0.1))]), 0
    )
    assert extent - 1 < reach.max() < extent + 3.5


def test_blurred_light_keeps_its_sum_and_blurred_values_theirs():
    image = photo(size=128)
    params = {"sigma": 2.0, "stretch": 1.0, "angle": 0.0}
    values, light = (optics.blur(image, linear=linear, **params) for linear in (0, 1))
    linear = image_ops.srgb_to_linear
    assert abs(values.mean() - image.mean()) < 2e-3
    assert abs(linear(light).mean() - linear(image).mean()) < 2e-3
    assert linear(values).mean() < linear(light).mean() - 1e-3


def test_noise_of_reading_out_follows_blur():
    for name, params in (
        ("blur", {"sigma": 1.0, "stretch": 1.0, "angle": 0.0}),
        ("motion_blur", {"extent": 8.0, "shake": 0.5, "angle": 0.0, "seed": 1}),
        ("defocus", {"radius": 2.0}),
    ):
        apply = DEGRADATIONS[name].apply
        noise = apply(grey(0.5, 128), readout=2.0, readout_seed=3, **params) - 0.5
        assert abs(noise.std() * 255 / 2 - 1) < 0.03


def test_motion_without_shake_is_a_straight_line():
    kernel = optics.shake_kernel(12, 0, 0, seed=5)
    middle = len(kernel) // 2
    assert kernel[middle].sum() > 0.99
    assert np.count_nonzero(kernel[middle] > 0.01) in (12, 13, 14)


@few
@given(radius=st.floats(1, 6))
def test_defocus_spreads_a_point_evenly_over_a_disk(radius):
    point = np.zeros((31, 31, 3), np.float32)
    point[15, 15] = 1
    light = image_ops.srgb_to_linear(optics.defocus(point, radius=radius))[..., 0]
    rows, columns = image_ops.centred_grid(31)
    distance = np.hypot(rows, columns)
    assert abs(light.sum() - 1) < 1e-3
    inside = light[distance < radius - 0.5]
    np.testing.assert_allclose(inside, light[15, 15], rtol=1e-3)
    assert abs(light[15, 15] * np.pi * radius**2 - 1) < 0.15
    assert light[distance > radius + 0.6].max() < 1e-5


def test_raindrops_turn_the_scene_around_and_leave_the_rest():
    ramp = np.tile(np.linspace(0.2, 0.8, 96, dtype=np.float32)[None, :, None], (96, 1, 3))
    turned = 0
    for seed in range(20):
        out = raindrops.raindrops(ramp, density=5, radius=12, softness=0.2, power=3, seed=seed)
        changed = np.abs(out - ramp).max(-1) > 0
        assert 0 < changed.mean() < 0.5
        rows, columns = np.nonzero(scipy.ndimage.binary_erosion(changed, iterations=3))
        if len(columns) > 60:
            turned += np.polyfit(columns, out[rows, columns, 0], 1)[0] < 0
        else:
            turned += 1
    assert turned > 17


# ---------------------------------------------------------------- atmosphere and weather


@few
@given(density=st.floats(0.1, 3), airlight=st.floats(0.5, 1), seed=seeds)
def test_haze_follows_koschmieder(density, airlight, seed):
    depth = np.random.default_rng(seed).random(SMALL.shape[:2], dtype=np.float32)
    veiled = haze.haze(SMALL, density=density, airlight=airlight, seed=0, depth=depth)
    transmission = np.exp(-density * depth)[..., None]
    np.testing.assert_allclose(
        veiled, SMALL * transmission + airlight * (1 - transmission), atol=1e-5
    )
    half = {"density": density / 2, "airlight": airlight, "seed": 0, "depth": depth}
    twice = haze.haze(haze.haze(SMALL, **half), **half)
    np.testing.assert_allclose(twice, veiled, atol=1e-5)


@few
@given(seed=seeds)
def test_guessed_depth_lies_between_near_and_far_and_grows_upwards(seed):
    depth = haze.guess_depth(photo(size=128), seed)
    assert depth.shape == (128, 128)
    assert depth.min() >= 0.1
    assert depth.max() <= 1
    assert haze.guess_depth(grey(0.5), seed)[0].mean() > 0.5


def test_guessed_depth_does_not_see_how_bright_a_flat_picture_is():
    dark, light = (haze.guess_depth(grey(v), 3) for v in (0.1, 0.9))
    np.testing.assert_allclose(dark, light, atol=1e-5)


@few
@given(
    name=st.sampled_from(["snow", "cloud_thin", "cloud_thick"]),
    severity=st.floats(0.1, 5),
    seed=seeds,
    share=st.floats(0, 1),
)
def test_veils_mix_the_image_with_something_of_their_own(name, severity, seed, share):
    """What covers is opaque by a share that does not depend on what it covers."""
    share = np.float32(share)
    images = SMALL, 1 - SMALL, share * SMALL + (1 - share) * (1 - SMALL)
    first, second, between = (degrade(name, image, severity, seed) for image in images)
    np.testing.assert_allclose(between, share * first + (1 - share) * second, atol=1e-5)
    assert (np.abs(first - second) <= np.abs(2 * SMALL - 1) + 1e-5).all()


@pytest.mark.parametrize("scene", haze.SCENES)
def test_every_scene_has_a_depth_for_every_pixel(scene):
    image = photo(size=128)
    depths = [haze.scene_depth(image, scene, seed) for seed in range(8)]
    for depth in depths:
        assert depth.shape == (128, 128)
        assert depth.dtype == np.float32
        assert 0.1 <= depth.min() <= depth.max() <= 1
    assert len({depth.tobytes() for depth in depths}) == 8
    spans = [np.ptp(depth) for depth in depths]
    assert max(spans) < 0.15 if scene == "flat" else max(spans) > 0.4


def test_rooms_and_objects_have_sharp_edges_and_fields_have_none():
    image = photo(size=128)
    steps = {
        scene: max(np.abs(np.diff(haze.scene_depth(image, scene, seed))).max() for seed in range(8))
        for scene in haze.SCENES
    }
    assert min(steps["room"], steps["objects"]) > 0.07
    assert max(steps["smooth"], steps["flat"]) < 0.05


def test_rain_that_hides_mixes_the_image_with_its_streaks():
    for style in ("drops", "streaks"):
        images = SMALL, 1 - SMALL, 0.5 * SMALL + 0.5 * (1 - SMALL)
        first, second, between = (
            rain.rain(image, style=style, angle=15.0, **(RAIN | {"veil": 0.1})) for image in images
        )
        np.testing.assert_allclose(between, 0.5 * first + 0.5 * second, atol=1e-5)
        assert (np.abs(first - second) <= np.abs(2 * SMALL - 1) + 1e-5).all()


def test_patchy_haze_is_patchier_than_haze():
    patchy = degrade("haze_patchy", grey(0.2, 128), 4, 2)[..., 1]
    even = haze.haze(grey(0.2, 128), density=1.4, airlight=0.9, seed=2)[..., 1]
    assert patchy.std() > 1.5 * even.std()


RAIN = {
    "coverage": 0.15,
    "length": 24.0,
    "width": 0.7,
    "layers": 1,
    "spread": 0.0,
    "brightness": 0.8,
    "hardness": 1.0,
    "additive": 0.0,
    "veil": 0.0,
    "seed": 1,
}


def directions(picture):
    """Return the share of a picture's power in 36 directions of its structures, upright first."""
    spectrum = np.abs(np.fft.fft2(picture - picture.mean())) ** 2
    rows, columns = np.meshgrid(*2 * (np.fft.fftfreq(len(picture)),), indexing="ij")
    middle = (np.hypot(rows, columns) > 0.05) & (np.hypot(rows, columns) < 0.3)
    angle = np.degrees(np.arctan2(rows, columns))[middle] % 180
    bins = np.round(angle / 5).astype(int) % 36
    return np.bincount(bins, weights=spectrum[middle], minlength=36) / spectrum[middle].sum()


@pytest.mark.parametrize("style", ["drops", "streaks"])
def test_rain_falls_along_its_angle(style):
    for angle in (0.0, 20.0):
        fallen = rain.rain(grey(0.2, 128), style=style, angle=angle, **RAIN)[..., 0]
        power = directions(fallen)
        turned = {0.0: (35, 0, 1), 20.0: (31, 32, 33)}[angle]
        assert power[list(turned)].sum() > 0.5, power.round(2)


def test_rain_of_several_layers_has_several_directions():
    params = RAIN | {"layers": 4, "spread": 30.0}
    one, many = (
        rain.rain(grey(0.2, 128), style="streaks", angle=0.0, **p)[..., 0] for p in (RAIN, params)
    )
    assert directions(many).max() < 0.7 * directions(one).max()


@few
@given(seed=seeds, coverage=st.floats(0.02, 0.4))
def test_rain_that_adds_light_adds_the_same_grey_to_every_picture(seed, coverage):
    params = RAIN | {"additive": 1.0, "seed": seed, "coverage": coverage}
    added = [
        rain.rain(image, style="streaks", angle=10.0, **params) - image
        for image in (grey(0.0), 0.2 * SMALL[:48, :48])
    ]
    np.testing.assert_allclose(added[0][..., 0], added[0][..., 2], atol=1e-6)
    unclipped = added[0] < 0.8
    np.testing.assert_allclose(added[0][unclipped], added[1][unclipped], atol=1e-5)


@pytest.mark.parametrize("style", ["drops", "streaks"])
def test_rain_covers_what_it_says(style):
    params = RAIN | {"brightness": 1.0, "additive": 1.0, "coverage": 0.1}
    means = [
        rain.rain(grey(0.0, 256), style=style, angle=10.0, **(params | {"seed": s})).mean()
        for s in range(4)
    ]
    assert 0.06 < np.mean(means) < 0.15


def test_dense_weather_keeps_the_flakes_and_streaks_of_light_weather():
    for name in ("rain", "snow"):
        light, heavy = (degrade(name, grey(0.0, 64), severity, 4) for severity in (2, 2.01))
        assert np.corrcoef(light.ravel(), heavy.ravel())[0, 1] > 0.5


# ---------------------------------------------------------------- display


def test_toled_streaks_run_along_the_rows_only():
    stripes = np.tile(SMALL[:, :1], (1, SMALL.shape[1], 1))
    out = display.toled(stripes, scatter=1.0, spacing=3.0, transmission=1.0, shot=0.0, seed=0)
    np.testing.assert_allclose(out, stripes, atol=1e-4)
    out = display.toled(
        stripes.transpose(1, 0, 2), scatter=1.0, spacing=3.0, transmission=1.0, shot=0.0, seed=0
    )
    assert psnr(out, stripes.transpose(1, 0, 2)) < 35


def test_poled_is_much_darker_and_yellower_than_toled():
    white = grey(0.8, 64)
    dark, bright = degrade("poled", white, 3), degrade("toled", white, 3)
    assert dark.mean() < 0.7 * bright.mean()
    assert dark[..., 2].mean() < 0.8 * dark[..., 0].mean()
    assert bright[..., 2].mean() > 0.95 * bright[..., 0].mean()


def test_red_light_is_diffracted_wider_than_blue():
    point = np.zeros((41, 41, 3), np.float32)
    point[20, 20] = 1
    params = {"scatter": 1.0, "spacing": 3.0, "transmission": 1.0, "shot": 0.0, "seed": 0}
    light = image_ops.srgb_to_linear(display.toled(point, **params))
    width = (light[20] * (np.arange(41)[:, None] - 20) ** 2).sum(0) / light[20].sum(0)
    assert width[0] > width[1] > width[2]


@few
@given(strength=st.floats(0.05, 0.4), period=st.floats(14, 64), seed=seeds)
def test_moire_bands_are_coloured_and_slow(strength, period, seed):
    out = display.moire(
        grey(0.5, 128), strength=strength, period=period, angle=30, curl=0.3, grid=0.0, seed=seed
    )
    assert abs(out.mean() - 0.5) < 0.2 * strength
    assert np.abs(out[..., 0] - out[..., 2]).max() > 0.1 * strength
    assert np.abs(np.diff(out, axis=1)).max() < 0.3 * strength


# ---------------------------------------------------------------- coding


@few
@given(low=st.integers(5, 60), gap=st.integers(15, 35))
def test_better_coding_degrades_less(low, gap):
    image = photo(size=96)
    for subsampling in ("4:2:0", "4:4:4"):
        worse, better = (
            psnr(coding.jpeg(image, quality=quality, subsampling=subsampling), image)
            for quality in (low, low + gap)
        )
        assert worse < better
    assert psnr(coding.webp(image, quality=low), image) < psnr(
        coding.webp(image, quality=low + gap), image
    )


def test_an_earlier_compression_degrades_more_wherever_its_blocks_lie():
    image = photo(size=96)
    once = coding.jpeg(image, quality=50, subsampling="4:4:4")
    for shift in range(8):
        twice = coding.jpeg(image, quality=50, subsampling="4:4:4", before=30, shift=shift)
        assert twice.shape == image.shape
        assert psnr(twice, image) < psnr(once, image) - 0.1


@pytest.mark.parametrize("shape", [(2, 65600, 3), (16400, 2, 3)])
def test_pictures_longer_than_a_format_takes_are_compressed_in_parts(shape):
    image = np.random.default_rng(0).random(shape, np.float32)
    for coded in (
        coding.jpeg(image, quality=30, subsampling="4:2:0", before=50, shift=3),
        coding.webp(image, quality=30),
    ):
        assert coded.shape == shape
        assert np.abs(coded - image).max(axis=(-1, np.argmin(shape[:2]))).min() > 0  # to the end


def test_parts_are_compressed_as_the_whole_is(monkeypatch):
    image = np.random.default_rng(0).random((40, 50, 3), np.float32)
    whole = coding.jpeg(image, quality=50, subsampling="4:4:4")
    monkeypatch.setitem(coding._LONGEST, "JPEG", 16)
    np.testing.assert_array_equal(coding.jpeg(image, quality=50, subsampling="4:4:4"), whole)


def test_subsampling_blurs_colours_only():
    image = photo("motorcycle_left.jpg", 128)
    full, half = (
        coding.jpeg(image, quality=95, subsampling=subsampling)
        for subsampling in ("4:4:4", "4:2:0")
    )
    colour = [psnr(x[..., 0] - x[..., 2], image[..., 0] - image[..., 2]) for x in (full, half)]
    assert colour[0] > colour[1] + 1


def test_resampling_by_two_with_boxes_gives_means_of_blocks():
    image = photo(size=64)
    out = coding.resample(image, factor=2.0, down="box", up="nearest")
    means = image.reshape(32, 2, 32, 2, 3).mean((1, 3)).repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(out, means, atol=1 / 255 + 1e-6)  # rounded twice


# ---------------------------------------------------------------- image_ops


def test_srgb_round_trip():
    values = np.linspace(0, 1, 1001, dtype=np.float32)
    light = image_ops.srgb_to_linear(values)
    reference = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    np.testing.assert_allclose(light, reference, atol=1e-6)
    np.testing.assert_allclose(image_ops.linear_to_srgb(light), values, atol=2e-6)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 31)])
@pytest.mark.parametrize("kernel_size", [(3, 5), (9, 9), (1, 7)])
def test_convolve_agrees_with_scipy(size, kernel_size):
    rng = np.random.default_rng(0)
    image, kernel = rng.random((*size, 3)), rng.random(kernel_size)
    expected = scipy.ndimage.convolve(image, kernel[..., None], mode="reflect")
    out = image_ops.convolve(image.astype(np.float32), kernel.astype(np.float32))
    np.testing.assert_allclose(out, expected, rtol=1e-4)
    plane = image_ops.convolve(image[..., 1].astype(np.float32), kernel.astype(np.float32))
    np.testing.assert_allclose(plane, expected[..., 1], rtol=1e-4)
    assert out.dtype == plane.dtype == np.float32


@few
@given(slope=st.floats(0.5, 2.5), stretch=st.floats(1, 4), angle=st.floats(0, 180), seed=seeds)
def test_fractal_field_is_normalised(slope, stretch, angle, seed):
    rng = np.random.default_rng(seed)
    field = image_ops.fractal_field(rng, 40, 60, slope, stretch=stretch, angle=angle)
    assert field.shape == (40, 60)
    assert field.dtype == np.float32
    assert abs(field.mean()) < 1e-4
    assert abs(field.std() - 1) < 1e-4


def test_remap_to_where_a_pixel_is_gives_that_pixel():
    rows, columns = np.indices(SMALL.shape[:2]).astype(np.float32)
    np.testing.assert_array_equal(image_ops.remap(SMALL, rows, columns), SMALL)
    halfway = image_ops.remap(SMALL, rows[:, :-1], columns[:, :-1] + 0.5)
    np.testing.assert_allclose(halfway, (SMALL[:, 1:] + SMALL[:, :-1]) / 2, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 24)])
def test_enlarging_undoes_shrinking_of_a_slope(size):
    field = np.add.outer(np.arange(size[0]), 2 * np.arange(size[1])).astype(np.float32)
    small = image_ops.shrink(field[..., None], 4)[..., 0]
    back = image_ops.enlarge(small, *size, 4)
    assert back.shape == size
    if min(size) >= 16:
        np.testing.assert_allclose(back[2:-2, 2:-2], field[2:-2, 2:-2], atol=1e-4)


@given(severity=st.floats(0, 5))
def test_ramps_pass_through_the_named_levels(severity):
    assert image_ops.ramp(1, 15, 50) == 15
    assert image_ops.ramp(5, 15, 50) == 50
    assert np.isclose(image_ops.geometric_ramp(3, 0.3, 0.06), np.sqrt(0.3 * 0.06))
    assert image_ops.geometric_ramp(0, 0.3, 0.06) == 1
    assert 0 <= image_ops.ramp(severity, 15, 50) <= 50


def test_contact_sheet_shows_every_photo_under_every_recipe():
    photos = [np.full((40, 60, 3), 100, np.uint8), np.full((50, 30, 3), 200, np.uint8)]
    calls = []

    def harm(image, steps, seed):
        calls.append((image.shape, tuple(steps), seed))
        return image // 2

    sheet = contact_sheet(photos, [("clean", []), ("dark\n3", [("low_light", 3)])], harm, cell=32)
    assert sheet.dtype == np.uint8
    assert calls == [((32, 32, 3), (("low_light", 3),), seed) for seed in (0, 1)]
    rows, columns = (sheet.shape[0] - 2 * 36, sheet.shape[1] - 2 * 36)
    assert min(rows, columns) >= 0
    for value in (100, 200, 50):
        assert (sheet == value).all(-1).sum() >= 32 * 32


def test_a_cloud_is_brighter_where_the_light_comes_from(monkeypatch):
    """The shadow falls to the right, so the light comes from the left."""
    rows, columns = np.mgrid[:228, :228] - 114.0  # 200 pixels and a margin of 14
    bump = 3 * np.exp(-(rows**2 + columns**2) / (2 * 30**2)).astype(np.float32)
    monkeypatch.setattr(atmosphere, "fractal_field", lambda *_: bump)
    options = {"opacity": 1.0, "threshold": 1.0, "shadow": 0.5, "slope": 2.0, "seed": 0}
    ground = np.full((200, 200, 3), 0.3, np.float32)
    image = atmosphere.cloud_thick(ground, shadow_x=1.0, shadow_y=0.0, **options)[100, :, 0]
    assert image[85] > image[115] + 0.01
    # And the ground is darker where the shadow falls.
    assert image[100 - 60] > image[100 + 60]


def test_a_long_frame_gets_its_streaks_in_parts_that_fit_together(monkeypatch):
    image = photo()[:90]
    for seed in range(8):
        params = rain.sample_rain(np.random.default_rng(seed), 4.0) | {"style": "streaks"}
        whole = rain.rain(image, **params)
        with monkeypatch.context() as patched:
            patched.setattr(rain, "_LONGEST", 64)
            np.testing.assert_allclose(rain.rain(image, **params), whole, atol=1e-3)


def test_rain_on_a_panorama_needs_no_square_of_its_length():
    panorama = np.full((16, 24_000, 3), 0.5, np.float32)
    params = rain.sample_rain(np.random.default_rng(1), 1.0) | {"style": "streaks", "layers": 1}
    tracemalloc.start()
    try:
        rain.rain(panorama, **params)
        assert tracemalloc.get_traced_memory()[1] < 2**29  # the square would take 4 GiB
    finally:
        tracemalloc.stop()


def test_clouds_over_a_panorama_need_no_square_of_its_length(monkeypatch):
    areas, drawn = [], atmosphere.fractal_field

    def draw(rng, height, width, slope):
        areas.append(height * width)
        return drawn(rng, height, width, slope)

    monkeypatch.setattr(atmosphere, "fractal_field", draw)
    for size in ((8, 4000), (4000, 8), (400, 300), (20, 280)):
        degrade("cloud_thick", np.full((*size, 3), 0.5, np.float32), 3.0)
    # The frame and, on all sides, 7 per cent of its length, as far as it is that wide.
    assert areas == [24 * 4016, 4016 * 24, 456 * 356, 60 * 320]
