"""Write restored pictures so that no reader ever sees half a file."""

import pathlib

import numpy as np

from tpgdiff_jax.data.pictures.metadata import Metadata
from tpgdiff_jax.data.pictures.writing import encode_picture
from tpgdiff_jax.reporting.files import replacing
from tpgdiff_jax.stores.sending import put
from tpgdiff_jax.stores.urls import is_url, normal


def write_picture(path: pathlib.Path, image: np.ndarray, metadata: Metadata | None = None) -> None:
    """Write a picture under a name of its own, then rename it.

    Args:
      path: where to, also in a store; the ending chooses the format.  Missing folders are made.
      image: as `writing.for_format` returns it.
      metadata: of the picture it was made from; kept as far as the format can hold it.

    Raises:
      OSError: disk full, folder read-only, ...; nothing is left behind.
    """
    data = encode_picture(image, path.suffix, metadata)
    if is_url(path):
        put(normal(path), data)
        return
    with replacing(path) as temporary:
        temporary.write_bytes(data)
