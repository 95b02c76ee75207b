"""What the page takes, and the sentence for what it does not take."""

import dataclasses
import os
import pathlib

from tpgdiff_jax.data.pictures import door
from tpgdiff_jax.data.pictures.errors import UnreadableImageError
from tpgdiff_jax.reporting.errors import UserError

_REMEDY = "python -m tpgdiff_jax.main --mode=restore has no such limit"


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much one visitor may ask for.

    Attributes:
      file_bytes: of an upload.
      pixels: of a picture that is restored; phones make 12 megapixels.
      clean_pixels: of one that is degraded first, which needs more memory.
      side: of its longer side, pixels.
      waiting: pictures that may wait for the device, of all visitors.
      seconds: after which what was uploaded or made is removed.
      stalled_seconds: for which an upload may stand still.
      upload_seconds: that an upload may take in all.
      held_bytes: of all visitors' files together, above which no more are taken.
    """

    file_bytes: int = 64 * 2**20
    pixels: int = 2**24
    clean_pixels: int = 2**22
    side: int = 8192
    waiting: int = 20
    seconds: float = 3600.0
    stalled_seconds: float = 60.0
    upload_seconds: float = 900.0
    held_bytes: int = 4 * 2**30

    def check_file(self, path: pathlib.Path, name: str) -> tuple[int, int]:
        """Look at an uploaded file, without decoding its pixels.

        Args:
          path: where it lies.
          name: what the visitor calls it.

        Returns:
          (height, width), upright.

        Raises:
          UserError: no picture, damaged as far as its header tells, or too large; one sentence.
        """
        size = os.path.getsize(path)
        if size > self.file_bytes:
            raise UserError(
                f"{name}: the file has {size / 2**20:.0f} MiB, and this page takes at most "
                f"{self.file_bytes / 2**20:.0f}; {_REMEDY}."
            )
        try:
            height, width = door.read_size(path)
        except UnreadableImageError as error:
            raise UserError(f"{name}: {error.reason}.") from error
        _check_pixels(name, (height, width), self.pixels, "takes at most", _REMEDY)
        if max(height, width) > self.side:
            raise UserError(
                f"{name}: {width}x{height} is too long for this page, which takes at most "
                f"{self.side} pixels a side; {_REMEDY}."
            )
        return height, width

    def check_clean(self, name: str, size: tuple[int, int]) -> None:
        """Raise UserError where a picture of (height, width) is too large to be degraded first."""
        remedy = "choose a smaller one, or press Restore for a picture that is degraded already"
        _check_pixels(name, size, self.clean_pixels, "degrades at most", remedy)


def _check_pixels(name, size, most, what, remedy):
    height, width = size
    if height * width > most:
        raise UserError(
            f"{name}: {width}x{height} are {height * width / 1e6:.1f} megapixels, and this page "
            f"{what} {most / 1e6:.1f}; {remedy}."
        )
