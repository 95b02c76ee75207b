"""Restore whatever people have, with a trained system."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints.fingerprint import fingerprint_of, groups_of
from tpgdiff_jax.diffusion import samplers
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.distributed.batches import batch_sharding
from tpgdiff_jax.distributed.sharding import AXES, make_mesh, replicated
from tpgdiff_jax.inference import sizes
from tpgdiff_jax.inference.batch import classify, run_batch, sample_keys
from tpgdiff_jax.inference.compile_cache import keep_compiled_programs
from tpgdiff_jax.inference.forms import Form, Restored, form_of_any
from tpgdiff_jax.inference.guidance import check_strengths
from tpgdiff_jax.models.tpgdiff import TPGDiff
from tpgdiff_jax.precision import use_precision
from tpgdiff_jax.priors.degradation import class_probabilities, verdict
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.runs.load import load_suited

NOT_FINITE = "its restoration is not finite (damaged weights?); try another sampler or more steps"


class Restorer:
    """Restore any picture.

    An image's result depends on the image, its name and the seed alone, not on what it is restored
    together with.

    Attributes:
      config: what the weights were trained with.
      fingerprint: of the weights: the one in their description.
    """

    def __init__(
        self,
        model: TPGDiff,
        variables: Any,
        config: ConfigDict,
        mesh: Mesh | None = None,
        fingerprint: str | None = None,
    ):
        """Wrap a system; see `load`.

        Args:
          model, variables: the system and its {"params", "frozen"}.
          config: its configuration; reads `diffusion`, `model`, `eval`, `priors`, `data`.
          mesh: see `load`.
          fingerprint: of the weights, where it is known.
        """
        self.config = config
        self.fingerprint = fingerprint or fingerprint_of(groups_of(variables))
        self._model, self._sde, self._mesh = model, IRSDE(**config.diffusion), mesh
        self._variables = jax.device_put(variables, None if mesh is None else replicated(mesh))
        # Devices that share a batch of images; devices that share the rows of one, which must
        # divide by them at every level of the network.
        self._sharing = 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]
        self._spatial = 1 if mesh is None else mesh.shape["spatial"]
        self._rows = self._spatial * 2 ** len(config.model.multipliers)

    @staticmethod
    def load(
        path: str | os.PathLike | None = None,
        *,
        mesh: Mesh | Mapping[str, int] | None = None,
        compile_cache: bool = True,
        dtype: str = "auto",
    ) -> "Restorer":
        """Load a trained system.

        Args:
          path: published weights (a `.safetensors` file, as --mode=export and --mode=convert write
            it), or the folder of a training run, whose newest checkpoint is taken.  By default (or
            for "default") the weights that come inside the package.
          mesh: devices to restore on, or their number along the axes, such as {"spatial": 8}:
            batches lie over `data` and `fsdp`, the rows of each image over `spatial`, windows of a
            tiled image over all.  By default one device.
          compile_cache: keep compiled programs in a folder of the user for the next process, see
            `compile_cache.keep_compiled_programs`.
          dtype: of the computation; see `runs.load.load_suited`.

        Raises:
          UserError: no such file, a damaged one, one of another version, or one that holds no
            whole system.
        """
        if isinstance(mesh, Mapping):
            mesh = make_mesh(dict.fromkeys(AXES, 1) | dict(mesh))
        model, variables, config, fingerprint = load_suited(path, dtype)
        use_precision(config.model.matmul_precision)
        if compile_cache:
            keep_compiled_programs()
        return Restorer(model, variables, config, mesh, fingerprint)

    def __call__(self, images: Any, **options: Any) -> Any:
        """Restore one image or several.

        Args:
          images: an image, or a list of them: a path, a PIL image, or an array uint8, uint16 or
            float in [0, 1], [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (alpha is kept).
          options: as for `restore_all`, such as `steps`, `sampler`, `seed`.

        Returns:
          for each image one of the same size and kind (an array for a path, 8-bit unless the image
          is deeper), or with `samples` a `Restored`; a list for a list.  Files and PIL images come
          back upright: an EXIF orientation is applied first.

        Raises:
          UserError: an array of another shape or type, or an option that does not fit.
          UnreadableImageError: a path that is no image.
        """
        one = not isinstance(images, list | tuple)
        found = self.restore_all([images] if one else images, **options)
        results = found if options.get("samples", 1) > 1 else [each.image for each in found]
        return results[0] if one else results

    def restore_all(
        self,
        images: Sequence[Any],
        *,
        steps: int | None = None,
        sampler: str | None = None,
        seed: int = 0,
        clamp: bool | None = None,
        tile: int | None = None,
        windows: int = 1,
        guidance: Mapping[str, float] | None = None,
        samples: int = 1,
        exact_size: bool = False,
        batch_size: int = 4,
        names: Sequence[str] | None = None,
        strict: bool = True,
    ) -> list[Restored | None]:
        """Restore images and tell what degraded them; also how sure the result is, where asked.

        Args:
          images: as for `__call__`, a list.
          steps: network calls per image (and window); the weights' own number by default.
          sampler: one of `samplers.SAMPLERS`; the weights' own by default.
          seed: of the sampling noise.
          clamp: clip every estimate of the clean image to [0, 1]; the weights' own choice by
            default.
          tile: side of the windows in which the network sees large images, blended at every step;
            0 for always the whole image.  By default images above a megapixel are tiled.
          windows: how many of them each device sees at once; memory grows with it.
          guidance: strengths of prior branches, such as {"semantic": 2.0}; see
            `guidance.check_strengths`.
          samples: restorations drawn of each image; 2 or more also give the deviation.  As many
            are drawn together as a whole image may have pixels, the others in turns (one by one
            where their number is prime), so that only the results themselves take more memory.
          exact_size: pad no image before its priors are computed, as the released program; every
            size then needs a program of its own.
          batch_size: images of similar size that each device restores together, at most; large
            ones come in smaller batches.
          names: of the images; with the seed they decide the noise.  A path has its file's name,
            other images have none.
          strict: raise where a result is not finite; else None stands in its place.

        Raises:
          UserError: as `__call__`; or a result is not finite, as of damaged weights.
          UnreadableImageError: as `__call__`.
        """
        options = self.checked_options(
            steps, sampler, clamp, tile, windows, guidance, samples, exact_size
        )
        forms = [form_of_any(image) for image in images]
        for form, name in zip(forms, names or (), strict=bool(names)):
            form.name = name
        shapes = [form.rgb.shape[:2] for form in forms]
        results: list[Any] = [None] * len(forms)
        for chosen in self.groups(shapes, batch_size, options):
            batch = self._run([forms[index] for index in chosen], seed, options)
            for index, restored in zip(chosen, batch, strict=True):
                if restored is None and strict:
                    name = forms[index].name or f"image {index}"
                    raise UserError(f"{name}: {NOT_FINITE}")
                results[index] = restored
        return results

    def checked_options(
        self,
        steps=None,
        sampler=None,
        clamp=None,
        tile=None,
        windows=1,
        guidance=None,
        samples=1,
        exact_size=False,
    ) -> dict[str, Any]:
        """Fill in what the weights decide and check the rest; see `restore_all`.

        Raises:
          UserError: an option that does not exist or does not fit the weights.
        """
        for name, value, least in (("samples", samples, 1), ("windows", windows, 1)):
            if value < least:
                raise UserError(f"{name}={value} must be at least {least}.")
        if tile is not None and (tile < 0 or 0 < tile < 64):
            raise UserError(f"tile={tile} must be 0 (always whole) or at least 64 pixels.")
        options = {
            "sampler": sampler or self.config.eval.sampler,
            "steps": self.config.eval.steps if steps is None else steps,
            "clamp": self.config.eval.clamp if clamp is None else clamp,
            "tile": tile,
            "windows": windows,
            "guidance": check_strengths(guidance, self.config),
            "samples": samples,
            "exact_size": exact_size,
        }
        if exact_size and self._spatial > 1:
            raise UserError("exact_size=True: devices cannot share an image's rows then.")
        samplers.check_sampler(options["sampler"], self._sde, options["steps"])
        return options

    def degradations(self, image: Any, *, exact_size: bool = False) -> dict[str, float]:
        """Say what degraded an image.

        Args:
          image: as for `__call__`.
          exact_size: as for `restore_all`.

        Returns:
          name of each degradation -> its probability, the likeliest first; {} where the system has
          no classifier.  Of weights with `priors.classification` `single` the probabilities sum to
          1; with `multi` each is of its own, and those of a clean photo may all be small.
        """
        if self._model.encoder is None and self._model.degradation is None:
            return {}
        rgb = sizes.padded(form_of_any(image).rgb, exact=exact_size)[None]
        return self._named(classify(self._variables, rgb, model=self._model)[0])

    def groups(
        self,
        shapes: Sequence[tuple[int, int]],
        batch_size: int,
        options: Mapping[str, Any],
    ) -> Iterator[list[int]]:
        """Yield indices of images [(height, width)] that are restored together."""
        devices = (self._rows, self._sharing, self._spatial)
        tile, samples = options.get("tile"), options.get("samples", 1)
        exact = options.get("exact_size", False)
        return sizes.groups(shapes, batch_size, tile, *devices, samples, exact)

    def _named(self, logits: jax.Array) -> dict[str, float]:
        probabilities = class_probabilities(logits, self.config.priors.classification)
        named = zip(self.config.data.degradations, map(float, probabilities), strict=True)
        return dict(sorted(named, key=lambda pair: -pair[1]))

    def _run(
        self, forms: Sequence[Form], seed: int, options: dict[str, Any]
    ) -> list[Restored | None]:
        """Restore images of one padded size and cut them back; None for what is not finite."""
        options = dict(options)
        exact = options.pop("exact_size")
        images = [sizes.padded(form.rgb, self._rows, exact=exact) for form in forms]
        size = images[0].shape[:2]
        tile = sizes.tile_for(size, options["tile"], self._spatial)
        at_once = sizes.samples_at_once(
            size, options["samples"], tile, options["windows"], self._spatial
        )
        options = options | {"tile": tile, "at_once": at_once}
        # A tiled image is alone, and its windows fill the devices.  Other batches are filled up
        # with copies, so that few programs serve all numbers of images.
        rows = 1 if tile else sizes.filled_up(len(forms), self._sharing)
        if self._mesh is not None:
            options["windows"] *= self._mesh.size
        filling = rows - len(forms)
        names = [form.name for form in [*forms, *forms[:1] * filling]]
        keys = sample_keys(names, seed, options["samples"])
        answer = run_batch(
            self._variables,
            self._placed(np.stack(images + images[:1] * filling), by_rows=not tile),
            keys if self._mesh is None else jax.device_put(keys, replicated(self._mesh)),
            model=self._model,
            sde=self._sde,
            prediction=self.config.model.prediction,
            mesh=self._mesh,
            **options,
        )
        answer = jax.device_get(answer)
        results = []
        for index, form in enumerate(forms):
            if not answer.finite[index]:
                results.append(None)
                continue
            height, width = form.rgb.shape[:2]
            deviation, logits = answer.deviation, answer.logits
            found = {} if logits is None else self._named(logits[index])
            results.append(
                Restored(
                    form.rebuild(answer.restored[index, :height, :width]),
                    None if deviation is None else deviation[index, :height, :width],
                    found,
                    verdict(found, self.config.priors.classification) if found else None,
                )
            )
        return results

    def _placed(self, images: np.ndarray, by_rows: bool) -> Any:
        if self._mesh is None:
            return images
        where = batch_sharding(self._mesh, 4) if by_rows else replicated(self._mesh)
        return jax.device_put(images, where)
