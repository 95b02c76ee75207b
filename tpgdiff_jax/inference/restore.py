"""Restore images with a trained system: batches of one size, or whatever people have."""

import functools
import os
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from tpgdiff_jax.checkpoints.published import load_system
from tpgdiff_jax.data.images import open_image
from tpgdiff_jax.diffusion import samplers
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.inference.forms import Form, form_of
from tpgdiff_jax.inference.tiling import tiled
from tpgdiff_jax.models.tpgdiff import TPGDiff
from tpgdiff_jax.priors.degradation import class_probabilities

# Images are padded to multiples of this, so that a folder of mixed sizes needs few programs.
_BUCKET = 64
# Larger images are seen in windows; whole ones need about 4.5 GiB per megapixel at full width.
_LARGEST_WHOLE = 2**20  # pixels
_TILE = 768


@functools.partial(
    jax.jit, static_argnames=("model", "sde", "sampler", "steps", "prediction", "clamp", "tile")
)
def restore_batch(
    variables: Any,
    lq: jax.Array,
    keys: jax.Array,
    *,
    model: TPGDiff,
    sde: IRSDE,
    sampler: str,
    steps: int,
    prediction: str,
    clamp: bool = False,
    tile: int = 0,
) -> jax.Array:
    """Restore images: priors once, then one compiled loop over the sampler's steps.

    Args:
      variables: the system's {"params", "frozen"}; `params` the running average of a trained run.
      lq: degraded images, uint8 [B, H, W, 3], or float in [0, 1].
      keys: one random key per image [B]; an image's result depends on its own key only.
      model, sde: the system and the SDE it was trained with.
      sampler, steps, prediction, clamp: see `samplers.sample`.
      tile: side of the windows the network sees, pixels; 0 for the whole image.

    Returns:
      [B, H, W, 3]: uint8 for uint8, else float32 in [0, 1].
    """
    is_bytes = lq.dtype == jnp.uint8
    mu = lq.astype(jnp.float32) / (255 if is_bytes else 1)
    priors = model.apply(variables, mu, method="extract_priors")

    def denoise(x_t, mu, t):
        windows = x_t.shape[0] // lq.shape[0]
        theirs = jax.tree.map(lambda p: jnp.tile(p, (windows, *[1] * (p.ndim - 1))), priors)
        return model.apply(variables, x_t, mu, t, theirs, method="denoise")

    denoise = tiled(denoise, tile, tile // 8) if tile else denoise
    restored = samplers.sample(
        sampler, denoise, sde, mu, keys, steps=steps, prediction=prediction, clamp=clamp
    )
    restored = jnp.clip(restored, 0, 1)
    return jnp.round(restored * 255).astype(jnp.uint8) if is_bytes else restored


@functools.partial(jax.jit, static_argnames="model")
def _classify(variables: Any, lq: jax.Array, *, model: TPGDiff) -> jax.Array:
    return model.apply(variables, lq, method="priors_and_logits")[1]


class Restorer:
    """Restore any picture.

    An image's result depends on the image, its name and the seed alone, not on what it is restored
    together with.

    Attributes:
      config: what the weights were trained with.
    """

    def __init__(self, model: TPGDiff, variables: Any, config: ConfigDict):
        """Wrap a system; see `load`.

        Args:
          model, variables: the system and its {"params", "frozen"}.
          config: its configuration; reads `diffusion`, `model`, `eval`, `priors`, `data`.
        """
        self.config = config
        self._model, self._sde = model, IRSDE(**config.diffusion)
        self._variables = jax.device_put(variables)

    @staticmethod
    def load(path: str | os.PathLike) -> "Restorer":
        """Load published weights, as --mode=export and --mode=convert write them.

        Args:
          path: the `.safetensors` file.

        Raises:
          ValueError: no such file, a damaged one, or one that holds no whole system.
        """
        return Restorer(*load_system(path))

    def __call__(
        self,
        images: Any,
        *,
        steps: int | None = None,
        sampler: str | None = None,
        seed: int = 0,
        clamp: bool | None = None,
        tile: int | None = None,
        batch_size: int = 4,
        names: Sequence[str] | None = None,
    ) -> Any:
        """Restore one image or several.

        Args:
          images: an image, or a list of them: a path, a PIL image, or an array uint8, uint16 or
            float in [0, 1], [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (alpha is kept).
          steps: network calls per image; the weights' own number by default.
          sampler: one of `samplers.SAMPLERS`; the weights' own by default.
          seed: of the sampling noise.
          clamp: clip every estimate of the clean image to [0, 1]; the weights' own choice by
            default.
          tile: side of the windows in which the network sees large images, blended at every step;
            0 for always the whole image.  By default images above a megapixel are tiled.
          batch_size: images of similar size that are restored together.
          names: of the images in a list; with the seed they decide the noise.  A path has its
            file's name, other images have none.

        Returns:
          for each image one of the same size and kind (an array for a path, 8-bit unless the image
          is deeper); a list for a list.

        Raises:
          ValueError: an array of another shape or type, or a sampler that does not exist.
          UnreadableImageError: a path that is no image.
        """
        one = not isinstance(images, list | tuple)
        forms = [self._form(image) for image in ([images] if one else images)]
        for form, name in zip(forms, names or (), strict=bool(names)):
            form.name = name
        options = {
            "sampler": sampler or self.config.eval.sampler,
            "steps": steps or self.config.eval.steps,
            "clamp": self.config.eval.clamp if clamp is None else clamp,
        }
        samplers.check_sampler(options["sampler"], self._sde, options["steps"])
        results: list[Any] = [None] * len(forms)
        for chosen in _similar(forms, batch_size):
            batch = [forms[index] for index in chosen]
            options["tile"] = _tile_for(padded(batch[0].rgb).shape, tile)
            for index, restored in zip(chosen, self._run(batch, seed, options), strict=True):
                results[index] = forms[index].rebuild(restored)
        return results[0] if one else results

    def degradations(self, image: Any) -> dict[str, float]:
        """Say what harmed an image.

        Args:
          image: as for `__call__`.

        Returns:
          name of each degradation -> its probability, the likeliest first; {} where the system has
          no classifier.
        """
        if self._model.encoder is None and self._model.degradation is None:
            return {}
        rgb = padded(self._form(image).rgb)[None]
        logits = _classify(self._variables, rgb, model=self._model)
        probabilities = class_probabilities(logits[0], self.config.priors.classification)
        named = zip(self.config.data.degradations, map(float, probabilities), strict=True)
        return dict(sorted(named, key=lambda pair: -pair[1]))

    def _form(self, image: Any) -> Form:
        if isinstance(image, str | os.PathLike):
            form = form_of(np.asarray(_plain(open_image(image))))
            form.name = pathlib.Path(image).name
            return form
        if isinstance(image, Image.Image):
            form = form_of(np.asarray(_plain(image)))
            form.as_picture = True
            return form
        return form_of(np.asarray(image))

    def _run(self, forms: Sequence[Form], seed: int, options: dict[str, Any]) -> list[np.ndarray]:
        """Restore images of one padded size; return them cut back, float32 [H, W, 3]."""
        base = jax.random.key(seed)
        seeds = np.array([zlib.crc32(form.name.encode()) for form in forms], np.uint32)
        restored = restore_batch(
            self._variables,
            np.stack([padded(form.rgb) for form in forms]),
            jax.vmap(jax.random.fold_in, (None, 0))(base, seeds),
            model=self._model,
            sde=self._sde,
            prediction=self.config.model.prediction,
            **options,
        )
        sizes = [form.rgb.shape[:2] for form in forms]
        return [np.asarray(x[:h, :w]) for x, (h, w) in zip(restored, sizes, strict=True)]


def _tile_for(shape: tuple[int, ...], wanted: int | None) -> int:
    """Return the side of the windows for a padded image; 0 for the whole image."""
    if wanted is None:
        return _TILE if shape[0] * shape[1] > _LARGEST_WHOLE else 0
    return wanted if wanted and max(shape[:2]) > wanted else 0


def _plain(image: Image.Image) -> Image.Image:
    """Turn palettes, CMYK and the like into grey, RGB or either with alpha; 16 bit stays."""
    if image.mode in ("L", "LA", "RGB", "RGBA", "I;16"):
        return image.convert("RGBA") if image.mode == "LA" else image
    if image.mode.startswith("I"):
        return Image.fromarray(np.clip(np.asarray(image), 0, 65535).astype(np.uint16))
    has_alpha = "transparency" in image.info or image.mode in ("PA", "La", "RGBa")
    return image.convert("RGBA" if has_alpha else "RGB")


def padded(image: np.ndarray) -> np.ndarray:
    """Reflect-pad an image [H, W, C] at the bottom and right to multiples of 64 pixels."""
    missing = [-side % _BUCKET for side in image.shape[:2]]
    return np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")


def _similar(forms: Sequence[Form], batch_size: int) -> list[list[int]]:
    """Group images that have one padded size."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, form in enumerate(forms):
        size = tuple(-(-side // _BUCKET) for side in form.rgb.shape[:2])
        by_size.setdefault(size, []).append(index)
    return [
        group[start : start + batch_size]
        for group in by_size.values()
        for start in range(0, len(group), batch_size)
    ]
