"""Show results: a table per degradation, a JSON of all scores, one picture."""

import pathlib
from collections.abc import Sequence

import numpy as np
import tabulate
from PIL import Image, ImageDraw, ImageFont

from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.reporting import json_text
from tpgdiff_jax.reporting.files import write_text
from tpgdiff_jax.training.validate import Result

_PROTOCOL = "PSNR (dB) and SSIM on RGB, 8 bit, whole crop, no border removed"
_GAP, _HEADER = 4, 22


def mean_scores(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Average the scores of each degradation, and of all degradations alike (`mean`).

    Returns:
      degradation -> {psnr_input, psnr, gain, ssim_input, ssim}, in the order first met.
    """
    names = list(dict.fromkeys(result.pair.recipe.name for result in results))
    table = {}
    for name in names:
        chosen = [r for r in results if r.pair.recipe.name == name]
        row = {
            field: float(np.mean([getattr(r, field) for r in chosen]))
            for field in ("psnr_input", "psnr", "ssim_input", "ssim")
        }
        table[name] = row | {"gain": row["psnr"] - row["psnr_input"]}
    fields = table[names[0]]
    table["mean"] = {f: float(np.mean([table[name][f] for name in names])) for f in fields}
    return table


def format_table(results: Sequence[Result], style: str = "simple") -> str:
    """Return the table of `mean_scores` as text, in one of tabulate's styles."""
    rows = [
        (
            name,
            f"{row['psnr_input']:.2f}",
            f"{row['psnr']:.2f}",
            f"{row['gain']:+.2f}",
            f"{row['ssim_input']:.3f}",
            f"{row['ssim']:.3f}",
            f"{row['ssim'] - row['ssim_input']:+.3f}",
        )
        for name, row in mean_scores(results).items()
    ]
    headers = ("", "PSNR input", "PSNR", "gain", "SSIM input", "SSIM", "gain")
    align = ("left", *["right"] * 6)
    return tabulate.tabulate(rows, headers, style, colalign=align, disable_numparse=True)


def write_report(results: Sequence[Result], folder: pathlib.Path) -> pathlib.Path:
    """Write `scores.json`, `table.md` and `restored.png` into a folder.

    Equal images have an infinite PSNR, which the JSON holds as the text "inf".

    Args:
      results: what `evaluate` returned; at least one.
      folder: where to; made if missing, older reports in it are replaced.

    Returns:
      the picture's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = [
        {
            "photo": r.pair.photo,
            "degradation": r.pair.recipe.name,
            "recipe": r.pair.recipe.to_json(),
            "psnr_input": r.psnr_input,
            "psnr": r.psnr,
            "ssim_input": r.ssim_input,
            "ssim": r.ssim,
        }
        for r in results
    ]
    scores = {"protocol": _PROTOCOL, "means": mean_scores(results), "images": images}
    write_text(folder / "scores.json", json_text.dumps(scores, indent=2) + "\n")
    write_text(folder / "table.md", f"{format_table(results, 'github')}\n\n{_PROTOCOL}.\n")
    picture = folder / "restored.png"
    write_image(picture, comparison_picture(results))
    return picture


def comparison_picture(results: Sequence[Result], most_photos: int = 3) -> np.ndarray:
    """Draw one row per degradation: degraded | restored | truth, for each of a few photos.

    Args:
      results: scored images; those of the first `most_photos` photos are drawn.
      most_photos: photos side by side.

    Returns:
      uint8 [H, W, 3].
    """
    photos = list(dict.fromkeys(r.pair.photo for r in results))[:most_photos]
    names = list(dict.fromkeys(r.pair.recipe.name for r in results))
    panels = {(r.pair.photo, r.pair.recipe.name): _panel(r) for r in results}
    rows = [
        join([panels[p, n] for p in photos if (p, n) in panels], axis=1, gap=3 * _GAP)
        for n in names
    ]
    return join(rows, axis=0)


def _panel(result: Result) -> np.ndarray:
    """Degraded, restored and true image side by side under a line of text."""
    return captioned(
        (result.pair.lq, result.restored, result.pair.gt),
        (
            f"{result.pair.recipe.name}  {result.psnr_input:.2f} dB",
            f"restored  {result.psnr:.2f} dB",
            "truth",
        ),
    )


def captioned(images: Sequence[np.ndarray], captions: Sequence[str]) -> np.ndarray:
    """Put images of one size, uint8 [H, W, 3], side by side under a line of text each."""
    strip = join(images, axis=1)
    canvas = Image.new("RGB", (strip.shape[1], strip.shape[0] + _HEADER), "white")
    canvas.paste(Image.fromarray(strip), (0, _HEADER))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    step = images[0].shape[1] + _GAP
    for index, caption in enumerate(captions):
        draw.text((index * step + 2, 2), caption, "black", font)
    return np.asarray(canvas)


def join(images: Sequence[np.ndarray], axis: int, gap: int = _GAP) -> np.ndarray:
    """Put images uint8 [H, W, 3] beside (axis 1) or below (axis 0) each other on white."""
    across = 1 - axis
    extent = max(image.shape[across] for image in images)
    pieces = []
    for index, image in enumerate(images):
        pad = [(0, 0), (0, 0), (0, 0)]
        pad[across] = (0, extent - image.shape[across])
        pad[axis] = (0, gap if index < len(images) - 1 else 0)
        pieces.append(np.pad(image, pad, constant_values=255))
    return np.concatenate(pieces, axis=axis)
