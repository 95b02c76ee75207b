"""The TFDS builders `restoration_photos` and `restoration_pairs`; importing registers them.

They describe what `writing.write_tfds` wrote.  TFDS reads such folders without them, too.
"""

import tensorflow_datasets as tfds

from tpgdiff_jax.reporting.errors import UserError


class _Info(tfds.core.DatasetInfo):
    """A description that never asks Google's bucket of public data sets about ours."""

    def initialize_from_bucket(self) -> None:
        pass


class _Written(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What both builders share: they are written by `write_tfds`, not downloaded."""

    VERSION = tfds.core.Version("1.0.0")
    # Other configurations are found by their folders.
    BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="default"),)

    def _split_generators(self, dl_manager):
        raise UserError(
            f"{self.name} cannot be downloaded, and {self.data_dir} does not hold it; "
            "write it with tpgdiff_jax.data.tfds.writing.write_tfds, or name its data_dir."
        )

    def _generate_examples(self):
        raise NotImplementedError  # _split_generators has raised before


class RestorationPhotos(_Written):
    """Clean photos."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": _png(), "name": tfds.features.Text()}
        return _Info(
            builder=self,
            description="Clean photos to learn restoration from.",
            features=tfds.features.FeaturesDict(features),
        )


class RestorationPairs(_Written):
    """Degraded photos with their ground truths; the recipe is JSON, "" if unknown."""

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "lq": _png(),
            "gt": _png(),
            "label": tfds.features.ClassLabel(),  # names: label.labels.txt beside the records
            "name": tfds.features.Text(),
            "recipe": tfds.features.Text(),
        }
        return _Info(
            builder=self,
            description="Degraded photos (lq) and what they were made from (gt).",
            features=tfds.features.FeaturesDict(features),
        )


def _png() -> tfds.features.Image:
    return tfds.features.Image(shape=(None, None, 3), encoding_format="png")
