"""The quickstart's first part, and what the package's own weights do for its photos."""

import json
import pathlib
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tpgdiff_jax.checkpoints import published
from tpgdiff_jax.checkpoints.published import ASSETS, DEFAULT_WEIGHTS
from tpgdiff_jax.inference.input_images import Restored
from tpgdiff_jax.inference.restore import Restorer

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPT = runpy.run_path(str(ROOT / "launch" / "first_restoration.py"), run_name="script")
# What a file of the released package holds beside the sources.
PROJECT = ("pyproject.toml", "README.md", "LICENSE", "requirements.txt")
# Mean gain over the bundled pairs, and the most that any of them may lose, dB.
LEAST_GAIN, MOST_LOSS = 8.0, 0.5


def psnr(image, gt):
    return 10 * np.log10(255**2 / np.mean((image.astype(float) - gt) ** 2))


def check_gains(pairs, restored):
    gains = [
        psnr(image, pair.gt) - psnr(pair.lq, pair.gt)
        for pair, image in zip(pairs, restored, strict=True)
    ]
    assert np.mean(gains) >= LEAST_GAIN, gains
    assert min(gains) >= -MOST_LOSS, gains


@pytest.fixture(scope="module")
def samples():
    return SCRIPT["samples"]()


@pytest.fixture(scope="module")
def pairs(samples):
    return [sample for sample in samples if sample.gt is not None]


def test_the_photos_have_one_padded_size_and_are_the_same_every_time(samples, pairs):
    assert len(pairs) == len(samples) - 2
    assert {sample.lq.shape for sample in pairs} == {(192, 256, 3)}
    assert all(128 < sample.lq.shape[0] <= 192 for sample in samples)
    assert {sample.lq.shape[1] for sample in samples} == {256}
    for first, again in zip(samples, SCRIPT["samples"](), strict=True):
        np.testing.assert_array_equal(first.lq, again.lq)


def test_table_and_picture_show_every_photo(samples):
    results = [Restored(sample.lq, None, {}, ("nothing", 0.9)) for sample in samples]
    text = SCRIPT["table"](samples, results)
    assert text.count("+0.00") == len(samples) - 2
    assert "camera moved" in text
    picture = SCRIPT["picture"](samples, results)
    assert picture.dtype == np.uint8
    assert picture.shape[0] > 192 * len(samples) / 2
    assert picture.shape[1] > 6 * 256


def test_the_weights_of_the_package_are_small_and_described():
    assert DEFAULT_WEIGHTS.stat().st_size <= 32_000_000
    description, _ = published.load(DEFAULT_WEIGHTS, ())
    assert json.loads(DEFAULT_WEIGHTS.with_suffix(".json").read_text()) == description
    assert published.fingerprint(DEFAULT_WEIGHTS) == description["weights"]
    assert (ASSETS / "MODEL_CARD.md").is_file()


def test_the_weights_of_the_package_restore_the_bundled_photos(pairs):
    restorer = Restorer.load()
    check_gains(pairs, restorer([pair.lq for pair in pairs], batch_size=1))


def project_copy(folder):
    """Copy what a wheel is built of; building leaves files beside the sources."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tpgdiff_jax", folder / "tpgdiff_jax", ignore=ignore)
    for name in PROJECT:
        shutil.copy(ROOT / name, folder / name)
    return folder


def pip(*arguments):
    words = [sys.executable, "-m", "pip", *map(str, arguments), "--no-deps", "--no-index"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing but the package, installed from its wheel."""
    pytest.importorskip("setuptools", "77", reason="building a wheel offline needs setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    source = project_copy(folder / "source")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    pip("install", "--target", folder / "installed", wheel)
    return folder / "installed"


@pytest.mark.slow
def test_the_wheel_holds_what_the_package_does(installed):
    def files(folder):
        found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return {path for path in found if path.suffix != ".pyc"}

    assert files(installed / "tpgdiff_jax") == files(ROOT / "tpgdiff_jax")


@pytest.mark.slow
def test_the_wheel_restores_elsewhere(installed, pairs, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, pair in enumerate(pairs):
        Image.fromarray(pair.lq).save(photos / f"{index}.png")
    environment = {"PYTHONPATH": str(installed), "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    code = "import tpgdiff_jax; print(tpgdiff_jax.__file__)"
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    said = subprocess.run([sys.executable, "-c", code], check=True, **options).stdout
    assert pathlib.Path(said.strip()).is_relative_to(installed)
    words = ["-m", "tpgdiff_jax.main", "--mode=restore", "--input=photos", "--batch_size=1"]
    done = subprocess.run([sys.executable, *words], check=False, **options)
    assert done.returncode == 0, done.stderr
    assert f"{len(pairs)} restored, 0 were there already, 0 failed: {tmp_path}" in done.stdout
    restored = [
        np.asarray(Image.open(tmp_path / "restored" / f"{i}.png")) for i in range(len(pairs))
    ]
    check_gains(pairs, restored)
