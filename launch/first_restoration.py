"""Restore the quickstart's degraded photos with the weights that come with tpgdiff_jax.

    python launch/first_restoration.py [--checkpoint=FILE] [--output=PICTURE]

Bundled photos are degraded by the recipes of
configs/quickstart_photos/first_restoration.json; two more came blurred from their cameras.  Prints
what was found and won, and writes one picture: degraded | restored | truth.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time

import numpy as np
import tabulate
from PIL import Image, ImageOps

from tpgdiff_jax import Restorer
from tpgdiff_jax.data.degradations.mix import degrade, parse
from tpgdiff_jax.data.images import cut_like, read_rgb, write_image
from tpgdiff_jax.evaluation import metrics
from tpgdiff_jax.inference.input_images import Restored
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.training.validation_report import captioned, join

PHOTOS = pathlib.Path(__file__).resolve().parent.parent / "configs" / "quickstart_photos"
PICTURE = pathlib.Path("runs/quickstart/first_restoration.png")
_COLUMNS = 2  # of the picture


@dataclasses.dataclass(frozen=True)
class Sample:
    """A degraded photo.

    Attributes:
      name: of its file.
      cause: what degraded it.
      lq: uint8 [H, W, 3].
      gt: the photo before that, or None where nobody has it.
    """

    name: str
    cause: str
    lq: np.ndarray
    gt: np.ndarray | None


def samples(folder: pathlib.Path = PHOTOS) -> list[Sample]:
    """Make or read the degraded photos; all have one size, so that one program serves them."""
    plan = json.loads((folder / "first_restoration.json").read_text())
    found = []
    for entry in plan["pairs"]:
        gt = _fitted(read_rgb(folder / entry["photo"]), plan["size"])
        recipe = parse(entry["recipe"], seed=entry["seed"])
        found.append(Sample(_name(entry), recipe.name, degrade(gt, recipe), gt))
    for entry in plan["real"]:
        lq = cut_like(read_rgb(folder / entry["photo"]), plan["size"])
        found.append(Sample(_name(entry), entry["harm"], lq, None))
    return found


def _fitted(photo: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Shrink a photo uint8 [H, W, 3] until it just covers (height, width), and cut the rest."""
    image = ImageOps.fit(Image.fromarray(photo), size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(image)


def _name(entry: dict) -> str:
    return pathlib.PurePath(entry["photo"]).stem


def scores(image: np.ndarray, gt: np.ndarray) -> tuple[float, float]:
    """Return PSNR (dB) and SSIM over RGB of an image uint8 [H, W, 3]."""
    pair = (image[None], gt[None])
    return float(metrics.psnr(*pair)[0]), float(metrics.ssim(*pair)[0])


def table(found: list[Sample], results: list[Restored]) -> str:
    """Lay out what degraded each photo, what the weights took it for, and what they won."""
    rows = []
    for sample, result in zip(found, results, strict=True):
        row = [sample.name, sample.cause, "-" if result.verdict is None else result.verdict[0]]
        if sample.gt is None:
            rows.append([*row, *["-"] * 5])
            continue
        (psnr, ssim), (psnr_out, ssim_out) = (
            scores(image, sample.gt) for image in (sample.lq, result.image)
        )
        numbers = (f"{psnr:.2f}", f"{psnr_out:.2f}", f"{psnr_out - psnr:+.2f}")
        rows.append([*row, *numbers, f"{ssim:.3f}", f"{ssim_out:.3f}"])
    scored = ("PSNR input", "PSNR", "gain", "SSIM input", "SSIM")
    headers = ("photo", "degraded by", "taken for", *scored)
    align = (*["left"] * 3, *["right"] * 5)
    return tabulate.tabulate(rows, headers, colalign=align, disable_numparse=True)


def picture(found: list[Sample], results: list[Restored]) -> np.ndarray:
    """Draw degraded | restored | truth of every photo, uint8 [H, W, 3]."""
    panels = []
    for sample, result in zip(found, results, strict=True):
        images, captions = [sample.lq, result.image], [sample.cause, "restored"]
        if sample.gt is not None:
            images.append(sample.gt)
            captions = [
                f"{text}  {scores(image, sample.gt)[0]:.2f} dB"
                for text, image in zip(captions, images, strict=False)
            ]
            captions.append("truth")
        else:
            images.append(np.full_like(sample.lq, 255))
            captions[0] = f"real photo, {sample.cause}"
        panels.append(captioned(images, captions))
    rows = [
        join(panels[start : start + _COLUMNS], axis=1, gap=16)
        for start in range(0, len(panels), _COLUMNS)
    ]
    return join(rows, axis=0)


def main() -> None:
    """Restore, print and draw; leave with exit code 2 and one sentence where that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="default", help="other weights")
    parser.add_argument("--output", type=pathlib.Path, default=PICTURE, help="the picture")
    flags = parser.parse_args()
    found = samples()
    started = time.perf_counter()
    try:
        restorer = Restorer.load(flags.checkpoint)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    # One at a time: on few cores as fast as together, and one program serves all.
    images, names = [sample.lq for sample in found], [sample.name for sample in found]
    restorer.restore_all(images[:1], names=names[:1])
    ready = time.perf_counter()
    results = restorer.restore_all(images, names=names, batch_size=1)
    seconds = time.perf_counter() - ready
    print(table(found, results))
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    write_image(flags.output, picture(found, results))
    print(
        f"\n{len(found)} photos restored in {seconds:.1f} s, after {ready - started:.1f} s for "
        f"loading and compiling.\nPicture (degraded | restored | truth): {flags.output.absolute()}"
    )


if __name__ == "__main__":
    main()
