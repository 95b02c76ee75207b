"""Show results: a table per degradation, a JSON of all scores, one picture."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tabulate
from PIL import Image, ImageDraw, ImageFont

from tpgdiff_jax.data.images import write_image
from tpgdiff_jax.reporting import json_text
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import write_text
from tpgdiff_jax.training.validate import NOTHING_SCORED, Result

REPORT, SCORES = "evaluation", "scores.json"  # of a run: the folder, and what is written last
_PROTOCOL = "PSNR (dB) and SSIM on RGB, 8 bit, whole crop, no border removed"
_FIELDS = ("psnr_input", "psnr", "ssim_input", "ssim")
_GAP, _HEADER = 4, 22


class Report:
    """The numbers of all results, and the pictures of the first few; no other image is kept."""

    def __init__(self, results: Iterable[Result], most_photos: int = 3):
        """Gather results.

        Args:
          results: what `evaluate` yields.
          most_photos: images of the source that are drawn.
        """
        self._rows: list[dict[str, Any]] = []
        self._panels: dict[tuple[str, str], np.ndarray] = {}  # (image, degradation) -> picture
        photos: dict[str, None] = {}  # in the order met
        for result in results:
            pair = result.pair
            names = {"photo": pair.image, "degradation": pair.degradation}
            recipe = {} if pair.recipe is None else {"recipe": pair.recipe.to_json()}
            self._rows.append(names | recipe | {name: getattr(result, name) for name in _FIELDS})
            if len(photos) < most_photos or pair.image in photos:
                photos[pair.image] = None
                self._panels[pair.image, pair.degradation] = _panel(result)

    def means(self) -> dict[str, dict[str, float]]:
        """Average the scores of each degradation, and of all degradations alike (`mean`).

        Returns:
          degradation -> {psnr_input, psnr, gain, ssim_input, ssim}, in the order first met.

        Raises:
          UserError: not one picture was scored.
        """
        if not self._rows:
            raise UserError(NOTHING_SCORED)
        table = {}
        for name in self._degradations():
            chosen = [row for row in self._rows if row["degradation"] == name]
            row = {field: float(np.mean([each[field] for each in chosen])) for field in _FIELDS}
            table[name] = row | {"gain": row["psnr"] - row["psnr_input"]}
        fields = next(iter(table.values()))
        mean = {field: float(np.mean([row[field] for row in table.values()])) for field in fields}
        return table | {"mean": mean}

    def table(self, style: str = "simple") -> str:
        """Return the table of `means` as text, in one of tabulate's styles."""
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
            for name, row in self.means().items()
        ]
        headers = ("", "PSNR input", "PSNR", "gain", "SSIM input", "SSIM", "gain")
        align = ("left", *["right"] * 6)
        return tabulate.tabulate(rows, headers, style, colalign=align, disable_numparse=True)

    def picture(self) -> np.ndarray:
        """Draw one row per degradation: degraded | restored | truth; uint8 [H, W, 3]."""
        rows = []
        for name in self._degradations():
            panels = [panel for (_, way), panel in self._panels.items() if way == name]
            rows += [join(panels, axis=1, gap=3 * _GAP)] if panels else []
        return join(rows, axis=0)

    def write(self, folder: pathlib.Path) -> pathlib.Path:
        """Write `scores.json`, `table.md` and `restored.png` into a folder.

        Equal images have an infinite PSNR, which the JSON holds as the text "inf".

        Args:
          folder: where to; made if missing, older reports in it are replaced.

        Returns:
          the picture's path.
        """
        folder.mkdir(parents=True, exist_ok=True)
        scores = {"protocol": _PROTOCOL, "means": self.means(), "images": self._rows}
        write_text(folder / "table.md", f"{self.table('github')}\n\n{_PROTOCOL}.\n")
        picture = folder / "restored.png"
        write_image(picture, self.picture())
        write_text(folder / SCORES, json_text.dumps(scores, indent=2) + "\n")
        return picture

    def _degradations(self) -> list[str]:
        return list(dict.fromkeys(row["degradation"] for row in self._rows))


def _panel(result: Result) -> np.ndarray:
    """Degraded, restored and true image side by side under a line of text."""
    return captioned(
        (result.pair.lq, result.restored, result.pair.gt),
        (
            f"{result.pair.degradation}  {result.psnr_input:.2f} dB",
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
