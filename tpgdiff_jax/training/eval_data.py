"""The photos, or pairs, that a run is evaluated on; none of them is trained on."""

import functools
import os
from collections.abc import Sequence

from absl import logging
from ml_collections import ConfigDict

from tpgdiff_jax.data.open_source import open_source
from tpgdiff_jax.data.pairs import FilePairs
from tpgdiff_jax.data.sources import PhotoFolder, Source
from tpgdiff_jax.data.training_data import folder_or_source
from tpgdiff_jax.evaluation import metrics
from tpgdiff_jax.reporting.errors import UserError


def open_eval_data(config: ConfigDict, training_sources: Sequence[Source] = ()) -> Source | None:
    """Open what is evaluated on; no file of it may be among the training data.

    Args:
      config: a whole configuration; reads `data.eval_folder`: a folder of clean photos, or a source
        of photos or pairs as in `data.train_sources`, such as pairs:PATH.
      training_sources: what is trained on.

    Returns:
      the source; None where the configuration names none.

    Raises:
      UserError: it cannot be opened, has a weight, or shares files with the training data.
    """
    text = config.data.eval_folder
    if not text:
        return None
    spec = folder_or_source(text, "data.eval_folder")
    if "weight" in spec:
        raise UserError(
            f"config.data.eval_folder={text!r}: a source that stands alone has no weight; leave "
            f"out *{spec['weight']:g}."
        )
    classes = tuple(config.data.degradations) if "pairs" in spec["kind"] else None
    source = open_source(spec, min_size=metrics.SSIM_WINDOW, classes=classes)
    logging.info("Evaluation data: %s.", source.summary())
    seen = set().union(*map(_files, training_sources))
    if shared := sorted(_files(source) & seen):
        raise UserError(
            f"config.data.eval_folder={text!r} shares {len(shared)} files with the training data, "
            f"the first is {shared[0]}; keep them apart."
        )
    return source


def _files(source: Source) -> set[str]:
    """Return the files of a source of photos or pairs, links followed; none of records."""
    if not isinstance(source, FilePairs | PhotoFolder):
        return set()
    if isinstance(source, FilePairs):  # also the truths: they may be another's photos
        names = [name for pair in source.pairs for name in pair[:2]]
    else:
        names = [source.name(index) for index in range(len(source))]
    real_folder = functools.cache(os.path.realpath)  # the slow part of a million files

    def real(path: str) -> str:
        folder, name = os.path.split(path)
        is_link = os.path.islink(path)
        return os.path.realpath(path) if is_link else os.path.join(real_folder(folder), name)

    return {real(os.path.join(source.folder, name)) for name in names}
