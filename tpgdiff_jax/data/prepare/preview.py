"""Draw what degradations do to photographs, side by side on one sheet."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tpgdiff_jax.data.images import square_of

_BAND = 30  # Height of the labels above the photos, in pixels: two lines.
_GAP = 4


def contact_sheet(
    photos: Sequence[np.ndarray],
    columns: Sequence[tuple[str, Sequence[tuple[str, float]]]],
    degrade: Callable[[np.ndarray, Sequence[tuple[str, float]], int], np.ndarray],
    cell: int = 160,
) -> np.ndarray:
    """Show photos in rows and what degraded them in columns.

    Args:
      photos: clean, uint8 [H, W, 3] of any size; their central square is shown.
      columns: (label, steps) each, where steps are (name of a degradation, severity) in the order
        of a recipe; no steps for the clean photo.  A label of two lines holds a line break.
      degrade: (image uint8 [cell, cell, 3], steps, seed) -> degraded image of the same kind; each
        row has its own seed, the same for all its columns.
      cell: side of a picture in pixels.

    Returns:
      uint8 [rows * cell + margins, columns * cell + margins, 3].
    """
    squares = [square_of(photo, cell, Image.Resampling.LANCZOS) for photo in photos]
    pitch = cell + _GAP
    size = (len(columns) * pitch + _GAP, len(squares) * pitch + _BAND + _GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=11)
    for column, (label, steps) in enumerate(columns):
        left = _GAP + column * pitch
        draw.multiline_text((left, 2), label, fill="black", font=font, spacing=1)
        for row, square in enumerate(squares):
            picture = degrade(square, steps, row) if steps else square
            sheet.paste(Image.fromarray(picture), (left, _BAND + row * pitch))
    return np.asarray(sheet)
