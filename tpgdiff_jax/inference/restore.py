"""Restore whatever people have, with a trained system."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from tpgdiff_jax.checkpoints.fingerprint import fingerprint_of, groups_of
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.distributed.sharding import AXES, make_mesh
from tpgdiff_jax.inference import sizes
from tpgdiff_jax.inference.batch import classify, name_hashes, noise_keys
from tpgdiff_jax.inference.compile_cache import keep_compiled_programs
from tpgdiff_jax.inference.devices import Devices
from tpgdiff_jax.inference.engine import Finish, Outcome, stream
from tpgdiff_jax.inference.guidance import AS_TRAINED, Guidance, is_guidable
from tpgdiff_jax.inference.input_images import InputImage, NotFiniteError, Restored, as_input
from tpgdiff_jax.inference.passes import Passes
from tpgdiff_jax.inference.reading import read_named, require_several, windows, with_names
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.inference.stepwise import Watch, run_stepwise
from tpgdiff_jax.inference.weights import load_suited
from tpgdiff_jax.models.tpgdiff import TPGDiff
from tpgdiff_jax.precision import at_precision
from tpgdiff_jax.priors.degradation import named_probabilities
from tpgdiff_jax.reporting.errors import require_known, require_whole


class Restorer:
    """Restore any picture.

    An image's result depends on the image, its name and the seed; what it is restored together with
    changes it within one grey level, by the rounding of sums; more at the edge of a further pass.

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
        self._sde, self._devices = IRSDE(**config.diffusion), Devices(mesh, config.model)
        self._variables = self._devices.replicate(variables)
        self._model = self._devices.lay_over(model)

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
          dtype: of the computation; see `inference.weights.load_suited`.

        Raises:
          UserError: no such file, a damaged one, one of another version, or one that holds no
            whole system; a mesh of other axes.
        """
        if isinstance(mesh, Mapping):
            for axis in mesh:
                require_known("mesh: axis", axis, AXES)
            mesh = make_mesh(dict.fromkeys(AXES, 1) | dict(mesh))
        model, variables, config, fingerprint = load_suited(path, dtype)
        if compile_cache:
            keep_compiled_programs()
        return Restorer(model, variables, config, mesh, fingerprint)

    def __call__(self, images: Any, **options: Any) -> Any:
        """Restore one image or several.

        Args:
          images: an image, or a list of them: a path, a PIL image, or an array uint8, uint16 or
            float in [0, 1], [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (alpha is kept).
          options: as for `iterate`, such as `steps`, `sampler`, `seed`.

        Returns:
          for each image one of the same size and kind (an array for a path, 8-bit unless the image
          is deeper), or with `samples` a `Restored`; a list for a list.  Files and PIL images come
          back upright: an EXIF orientation is applied first.

        Raises:
          UserError: an array of another shape or type, an option that does not fit, or a result
            that is not finite, as of damaged weights.
          UnreadableImageError: a path that is no image.
        """
        one = not isinstance(images, list | tuple)
        found = self.restore_all([images] if one else images, **options)
        results = found if options.get("samples", 1) > 1 else [each.image for each in found]
        return results[0] if one else results

    def restore_all(self, images: Sequence[Any], **options: Any) -> list[Restored]:
        """Restore images and tell what degraded them; also how sure the result is, where asked.

        Args:
          images: as for `__call__`, a list.
          options: as for `iterate`.

        Raises:
          Exception: as `__call__`, or whatever else an image failed with.
        """
        results = []
        for restored in self.iterate(images, **options):
            if restored.error is not None:
                raise restored.error
            results.append(restored)
        return results

    def iterate(
        self,
        images: Iterable[Any],
        *,
        batch_size: int = 4,
        names: Iterable[str] | None = None,
        watch: Watch | None = None,
        **options: Any,
    ) -> Iterator[Restored]:
        """Restore images one after the other, reading ahead; memory holds only a few of them.

        Args:
          images: as for `__call__`; any number of them, in any iterable.
          batch_size: images of similar size that each device restores together, at most; large
            ones come in smaller batches, and so do those that do not fit into memory.
          names: of the images; with the seed they decide the noise.  A path has its file's name,
            other images have none.
          watch: called with the steps done and all steps of a batch, before the first and after
            each; what it raises ends the iteration.
          options: the fields of `sampling.Sampling`: steps, sampler, seed, clamp, tile, windows,
            guidance, samples, ensemble, passes, exact_size.

        Returns:
          an iterator over a `Restored` for each image, in their order; that of an image that
          failed has an `error` and no `image`.

        Raises:
          UserError: an option that does not fit, or one image in the place of several; where images
            or names cannot be counted, a wrong number of names ends the iteration.
        """
        sampling = self.checked(Sampling(**options))
        require_whole("batch_size", batch_size)
        require_several(images)
        named = with_names(images, names)

        def results() -> Iterator[Restored]:
            chunks = windows(named, 4 * batch_size * self._devices.sharing)
            made = self.outcomes(chunks, read_named, batch_size, sampling, watch=watch)
            for index, each in enumerate(made):
                error = each.error
                if isinstance(error, NotFiniteError):
                    error = NotFiniteError(f"{each.item.name or f'image {index}'}: {error}")
                yield each.result or Restored(None, None, {}, error=error)

        return results()

    def outcomes(
        self,
        chunks: Iterable[Sequence[Any]],
        read: Callable[[Any], InputImage],
        batch_size: int,
        sampling: Sampling,
        wanted: Callable[[Any], bool] = lambda source: True,
        watch: Watch | None = None,
    ) -> Iterator[Outcome]:
        """Yield what becomes of every image, in order; arguments as for `iterate` and `stream`."""

        def group(pictures: Sequence[InputImage]) -> Iterator[list[int]]:
            shapes = [picture.rgb.shape[:2] for picture in pictures]
            return self.groups(shapes, batch_size, sampling)

        def read_if_it_fits(source: Any) -> InputImage:
            picture = read(source)
            self._devices.check_memory(picture.rgb.shape[:2], sampling)
            return picture

        start = functools.partial(self.start, sampling=sampling, watch=watch)
        return stream(chunks, read_if_it_fits, group, start, wanted)

    def checked(self, sampling: Sampling) -> Sampling:
        """Fill in what the weights decide, and check the rest; see `Sampling.checked`."""
        return sampling.checked(self.config, self._sde, self._devices.spatial)

    def degradations(self, image: Any, *, exact_size: bool = False) -> dict[str, float]:
        """Say what degraded an image.

        Args:
          image: as for `__call__`.
          exact_size: as for `Sampling`.

        Returns:
          name of each degradation -> its probability, the likeliest first; {} where the system has
          no classifier.  Of weights with `priors.classification` `single` the probabilities sum to
          1; with `multi` each is of its own, and those of a clean photo may all be small.
        """
        if self._model.encoder is None and self._model.degradation is None:
            return {}
        rgb = as_input(image).rgb
        padded = sizes.padded_to(self._devices.padded(rgb.shape[:2], exact_size), rgb)[None]
        with self._precision():
            logits = classify(self._variables, padded, model=self._model)
        names, kind = self.config.data.degradations, self.config.priors.classification
        return named_probabilities(logits[0], names, kind)

    def groups(
        self, shapes: Sequence[tuple[int, int]], batch_size: int, sampling: Sampling
    ) -> Iterator[list[int]]:
        """Yield indices of images [(height, width)] that are restored together."""
        return self._devices.groups(shapes, batch_size, sampling)

    def windows(self, shape: tuple[int, int], sampling: Sampling) -> int:
        """Return how many windows an image of (height, width) is restored in; 1 is the whole."""
        return self._devices.window_count(shape, sampling)

    def start(
        self, pictures: Sequence[InputImage], sampling: Sampling, watch: Watch | None = None
    ) -> Finish:
        """Begin to restore pictures of one padded size, some that `groups` puts together.

        Args:
          pictures, sampling: what, and how.
          watch: see `iterate`.

        Returns:
          what waits for their `Restored`, each of its picture's size; see `engine.stream`.
        """
        devices, samples = self._devices, sampling.samples
        size = devices.padded(pictures[0].rgb.shape[:2], sampling.exact_size)
        tile = devices.tile(size, sampling)
        # A tiled image is alone, and its windows fill the devices.  Other batches are filled up
        # with copies, so that few programs serve all numbers of images.
        rows = 1 if tile else sizes.filled_up(len(pictures), devices.sharing)
        filled = [*pictures, *pictures[:1] * (rows - len(pictures))]
        images = np.stack([sizes.padded_to(size, picture.rgb) for picture in filled])
        # Weights whose strengths may vary have one program for all of them.
        varies = sampling.guidance or is_guidable(self.config)
        keys = noise_keys(sampling.seed, name_hashes([picture.name for picture in filled], samples))
        with self._precision():
            answer = run_stepwise(
                self._variables,
                devices.place(images, by_rows=not tile),
                devices.replicate(keys),
                model=self._model,
                sde=self._sde,
                sampler=sampling.sampler,
                steps=sampling.steps,
                prediction=self.config.model.prediction,
                clamp=sampling.clamp,
                tile=tile,
                windows=devices.windows(sampling),
                guidance=Guidance.of(sampling.guidance) if varies else AS_TRAINED,
                samples=samples,
                at_once=devices.samples_at_once(size, sampling),
                ensemble=sampling.ensemble,
                passes=Passes.of(sampling.passes, self.config),
                mesh=devices.mesh,
                watch=watch,
            )

        def finish() -> list[Restored | NotFiniteError]:
            found = jax.device_get(answer)
            names, kind = self.config.data.degradations, self.config.priors.classification
            return [each.restored(found, row, names, kind) for row, each in enumerate(pictures)]

        return finish

    def _precision(self) -> contextlib.AbstractContextManager:
        # Of these weights alone: others in this process may ask for another.
        return at_precision(self.config.model.matmul_precision)
