"""Scores of other packages, used where they are installed and their weights are at hand.

FID by `fidax`, NIQE and MUSIQ by `pyiqa` (PyTorch).  Whatever is missing is said, never guessed.
These scores belong to a whole set of 8-bit images.
"""

import importlib
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tpgdiff_jax.data.folders import home

_INCEPTION = "inception_v3_weights_fid.pickle"
_WITHOUT_TRUTH = ("niqe", "musiq")
NAMES = ("fid", *_WITHOUT_TRUTH)
# Restored and true image, uint8 [H, W, 3], cut as the other scores see them.
Pair = tuple[np.ndarray, np.ndarray]
Score = Callable[[Sequence[pathlib.Path], Iterable[Pair]], float]
_PACKAGES = {"fid": "fidax", "niqe": "pyiqa", "musiq": "pyiqa"}


class NotComputedError(Exception):
    """A score that cannot be had here; the message says why."""


def load(name: str, inception_weights: str = "") -> Score:
    """Return the function of (restored files, pairs of images) that computes a score of a set.

    Files and pairs are of the same images, in one order; which of them a score reads is its own.

    Args:
      name: one of `NAMES`.
      inception_weights: folder that holds the Inception weights of FID.

    Raises:
      NotComputedError: the package or its weights are missing.
    """
    package = _PACKAGES[name]
    try:
        module = importlib.import_module("fidax.fid" if name == "fid" else package)
    except ImportError as error:
        raise NotComputedError(f"the package {package} cannot be imported ({error})") from error
    if name != "fid":
        return _by_pyiqa(module, name)
    weights = home(inception_weights or ".") / _INCEPTION
    if not weights.is_file():
        raise NotComputedError(
            f"{weights} is missing; put fidax's Inception weights into a folder and name it in "
            "config.benchmark.inception_weights"
        )
    metric_of = module.FrechetInceptionDistance

    def fid(files: Sequence[pathlib.Path], pairs: Iterable[Pair]) -> float:
        if len(files) < 2:
            raise NotComputedError("a distance of distributions needs two images or more")
        metric = metric_of(metric_dtype=np.float32, weights_cache_dir=str(weights.parent))
        for pair in pairs:
            for image, is_real in zip(pair, (False, True), strict=True):
                metric.update(image[None].astype(np.float32) / 255, real=is_real)
        return float(metric.compute())

    return fid


def _by_pyiqa(module, name: str) -> Score:
    try:
        metric = module.create_metric(name)
    # Weights that can be neither found nor downloaded, or do not fit the installed PyTorch.
    except (OSError, RuntimeError, ValueError, ImportError, KeyError) as error:
        raise NotComputedError(f"pyiqa cannot make it: {error}") from error

    def mean(files: Sequence[pathlib.Path], _) -> float:
        return float(np.mean([float(metric(str(file))) for file in files]))

    return mean


def needs_truth(name: str) -> bool:
    """Tell whether a score compares with true images."""
    return name not in _WITHOUT_TRUTH
