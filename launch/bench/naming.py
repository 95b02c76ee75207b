"""How often weights name right what degraded a picture: fixed recipes on clean photos."""

import itertools
import pathlib
from typing import Any

import numpy as np

from tpgdiff_jax.data.degradations.mix import Recipe, degrade
from tpgdiff_jax.data.folders import list_images
from tpgdiff_jax.data.images import centre_crop, read_rgb
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.priors.degradation import NOTHING, verdict
from tpgdiff_jax.reporting.errors import UserError

SEVERITY = 3.0


def bench_naming(
    weights: str | None, photos: str, crop: int, draws: int = 1
) -> list[dict[str, Any]]:
    """Degrade every photo by each degradation that the weights know, and ask for its name.

    Args:
      weights: a .safetensors file or a run's folder; None for the weights of the package.
      photos: folder of clean photos; the n-th is degraded with seed n, from 1.
      crop: side of the centre crop that is looked at, pixels; smaller photos are taken whole.
      draws: how often each is degraded; the second time with seed 1000 + n, and so on.

    Returns:
      a row for each degradation, one for clean photos and the mean: `first`, the share of photos
      of which the right name is the likeliest; `verdict`, of which it is the only one above one
      half (clean: none is); `instead`, the name most often given first in its place.

    Raises:
      UserError: no photos, or weights that name nothing or one degradation at a time.
    """
    restorer = Restorer.load(weights, compile_cache=False)
    kind = restorer.config.priors.classification
    if kind != "multi" or not restorer.degradations(np.zeros((64, 64, 3), np.uint8)):
        raise UserError(f"{weights or 'default'}: these weights do not name mixed degradations.")
    clean = [centre_crop(read_rgb(path), crop) for path in _paths(pathlib.Path(photos))]
    rows = []
    for name in (*restorer.config.data.degradations, NOTHING):
        firsts, verdicts = [], []
        times = 1 if name == NOTHING else draws
        for draw, (number, image) in itertools.product(range(times), enumerate(clean, 1)):
            lq = image
            if name != NOTHING:
                lq = degrade(image, Recipe(((name, SEVERITY),), 1000 * draw + number))
            found = restorer.degradations(lq)
            firsts.append(next(iter(found)))
            verdicts.append(verdict(found, kind)[0])
        rows.append(_row(name, firsts, verdicts))
        print(rows[-1], flush=True)
    known = rows[:-1]
    means = {key: float(np.mean([row[key] for row in known])) for key in ("first", "verdict")}
    return [
        *rows,
        {"degradation": "mean of the degradations", "pictures": len(clean) * draws, **means},
    ]


def _row(name: str, firsts: list[str], verdicts: list[str]) -> dict[str, Any]:
    wrong = [first for first in firsts if first != name]
    row = {
        "degradation": name,
        "pictures": len(firsts),
        "first": firsts.count(name) / len(firsts),
        "verdict": verdicts.count(name) / len(verdicts),
        "instead": max(sorted(set(wrong)), key=wrong.count) if wrong else "",
    }
    # A clean photo has no right first name: all its probabilities should be small.
    return row | {"first": None, "instead": ""} if name == NOTHING else row


def _paths(folder: pathlib.Path) -> list[pathlib.Path]:
    found = [folder / name for name in list_images(folder).names]
    if not found:
        raise UserError(f"--photos={folder} holds no picture.")
    return found
