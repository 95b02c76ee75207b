"""Whether this machine's memory holds what the restoration of a picture needs."""

import jax
from jax.sharding import Mesh

from tpgdiff_jax.data.pictures import memory

# Bytes per pixel.  On a CPU all lies in this memory: peaks of 1.41 GiB for 4.2 megapixels and 2.37
# for 9.4 are 196, in windows and with the bundled weights; 48 more are another picture's, which is
# read or written at the same time.
ON_CPU = 244
# Of an accelerator: what comes, padded, in its batch; or the result, and its form for the file.
BESIDE_A_DEVICE = 48
# On a CPU: a sample, and three copies where all are brought together; 38 were measured for four.
EACH_FURTHER_SAMPLE = 48


def check(size: tuple[int, int], samples: int, mesh: Mesh | None) -> None:
    """Raise UserError where a picture alone needs more memory than there is.

    Args:
      size: its (height, width).
      samples: drawn of it.
      mesh: devices that restore; None for the default one.
    """
    device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
    is_here = device.platform == "cpu"
    further = EACH_FURTHER_SAMPLE * (samples - 1)
    memory.check_work(*size, ON_CPU + further if is_here else BESIDE_A_DEVICE)
