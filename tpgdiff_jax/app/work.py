"""One request: a picture, perhaps degraded first, restored as the command restores it."""

import dataclasses
import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from tpgdiff_jax.data.degradations.mix import Recipe, degrade
from tpgdiff_jax.data.images import encode_png
from tpgdiff_jax.data.pictures.kinds import kind_of
from tpgdiff_jax.data.pictures.picture import to_8_bit
from tpgdiff_jax.data.pictures.writing import encode_picture, for_format
from tpgdiff_jax.evaluation import protocols
from tpgdiff_jax.inference.input_images import InputImage, as_input, input_of_array
from tpgdiff_jax.inference.kept_programs import KeptPrograms
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.inference.sizes import padded_size, padded_to
from tpgdiff_jax.inference.stepwise import Watch
from tpgdiff_jax.reporting.foreign import HEAD_BYTES

PROTOCOL = protocols.PROTOCOLS["tpgdiff"]
DIFFERENCE_GAIN = 4
# Kinds that are written as well as read -> their suffix; results of others are PNG.
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


@dataclasses.dataclass(frozen=True)
class Request:
    """What a visitor asks for.

    Attributes:
      path: of the picture.
      name: of the picture; with the seed it decides the noise, as a file's name does.
      sampling: how to restore, as `Restorer.checked` returns it.
      recipe: how to degrade it first; None for a picture that is degraded already.
    """

    path: pathlib.Path
    name: str
    sampling: Sampling
    recipe: Recipe | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a visitor gets.

    Attributes:
      size: (height, width).
      before, after: pictures to be shown, PNG; before is what was restored.
      file: the result in the format of the picture that came; with a recipe PNG.
      file_name: of that.
      degradations: name -> probability, the likeliest first; {} without a classifier.
      verdict: the same in one word, with its probability.
      passes: how often it was restored in a row.
      deviation: the uncertainty, grey PNG; None for one sample.
      scores: "input" and "restored" -> (PSNR in dB, SSIM) against the clean picture; {} where
        there is none, or where it is too small to be scored.
      difference: restored minus clean, times `DIFFERENCE_GAIN`, PNG; None where there is none.
    """

    size: tuple[int, int]
    before: bytes
    after: bytes
    file: bytes
    file_name: str
    degradations: dict[str, float]
    verdict: tuple[str, float] | None = None
    passes: int = 1
    deviation: bytes | None = None
    scores: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    difference: bytes | None = None


def perform(restorer: Restorer, request: Request, watch: Watch) -> Answer:
    """Do what a request asks for.

    Args:
      restorer: the system.
      request: whose file was checked by `Limits.check_file`.
      watch: see `Restorer.iterate`.

    Raises:
      Exception: what reading or restoring raises, and what `watch` raises.
    """
    came = as_input(request.path)
    clean = None
    if request.recipe is not None:
        clean = to_8_bit(came.rgb)
        came = input_of_array(degrade(clean, request.recipe))
    options = dataclasses.asdict(request.sampling)
    (restored,) = restorer.iterate([came], names=[request.name], watch=watch, **options)
    if restored.error is not None:
        raise restored.error
    suffix = ".png" if clean is not None else suffix_of(request.path)
    pixels = np.asarray(restored.image)
    after = to_8_bit(as_input(pixels).rgb)
    deviation = None if restored.deviation is None else restored.deviation_picture()
    answer = Answer(
        size=after.shape[:2],
        before=encode_png(to_8_bit(came.rgb)),
        after=encode_png(after),
        file=encode_picture(for_format(pixels, suffix), suffix, came.metadata),
        file_name=f"{pathlib.Path(request.name).stem}.restored{suffix}",
        degradations=restored.degradations,
        verdict=restored.verdict,
        passes=restored.passes,
        deviation=None if deviation is None else encode_png(deviation),
    )
    return answer if clean is None else _compared(answer, clean, came, after)


def _compared(answer: Answer, clean: np.ndarray, came: InputImage, after: np.ndarray) -> Answer:
    found = {"input": score(to_8_bit(came.rgb), clean), "restored": score(after, clean)}
    far = np.abs(after.astype(np.int16) - clean) * DIFFERENCE_GAIN
    return dataclasses.replace(
        answer,
        scores={name: pair for name, pair in found.items() if pair is not None},
        difference=encode_png(far.clip(0, 255).astype(np.uint8)),
    )


def suffix_of(path: pathlib.Path) -> str:
    """Return the suffix of the result for a picture, by its content: its own kind, or PNG."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return _SUFFIXES.get(kind_of(head, path.name), ".png")


def score(image: np.ndarray, clean: np.ndarray) -> tuple[float, float] | None:
    """Return (PSNR in dB, SSIM) of a picture, by the protocol `tpgdiff`.

    Args:
      image, clean: uint8 [H, W, 3].

    Returns:
      None where the picture is smaller than the protocol's window.
    """
    size = clean.shape[:2]
    if min(size) < PROTOCOL.smallest:
        return None
    padded = padded_size(size)
    pair = [jnp.asarray(padded_to(padded, each))[None] for each in (image, clean)]
    _KEPT.make_room(padded)
    found = _scores(*pair, jnp.asarray([size]))
    psnr, ssim = float(found["psnr"][0]), float(found["ssim"][0])
    return (psnr if math.isfinite(psnr) else math.inf), ssim


@functools.partial(jax.jit)
def _scores(image: jax.Array, clean: jax.Array, sizes: jax.Array) -> dict[str, jax.Array]:
    shown = image.astype(jnp.float32)
    return protocols.scores(PROTOCOL, shown, clean, sizes, ("psnr", "ssim"))


_KEPT = KeptPrograms(_scores)
