"""Whether this machine's memory holds what the restoration of a picture needs."""

from tpgdiff_jax.data.pictures import memory

# Bytes per pixel.  On a CPU all lies in this memory: peaks of 1.41 GiB for 4.2 megapixels and 2.37
# for 9.4 are 196, in windows and with the bundled weights; 48 more are another picture's, which is
# read or written at the same time.
ON_CPU = 244
# Of an accelerator: what comes, padded, in its batch; or the result, and its form for the file.
BESIDE_A_DEVICE = 48
# On a CPU: a sample, and three copies where all are brought together; 38 were measured for four.
EACH_FURTHER_SAMPLE = 48
# On a CPU, where views are averaged: their sum, the picture they are made of, and the view of the
# moment; 34 were measured.
VIEWS = 36
# On a CPU, of each pixel that the network sees at once: arrays of its first level that live
# together.  3.7 (oneDNN, bfloat16) to 5.3 (XLA, float32) were measured for the lean network, 7.8
# for the released one; who is refused needs as much at the least.
ARRAYS = 3.5
_SAMPLED = f"draw fewer samples, or {memory.REMEDY}"
_IN_WINDOWS = "let it be seen in smaller windows (tile), by default of 768 pixels"


def check(
    size: tuple[int, int],
    samples: int,
    seen: int,
    bytes_per_seen: int,
    is_here: bool,
    ensemble: int = 1,
) -> None:
    """Raise UserError where a picture alone needs more memory than there is.

    Args:
      size: its (height, width).
      samples: drawn of it.
      seen: pixels that the network sees at once, on all devices together.
      bytes_per_seen: of one array of the network's first level.
      is_here: whether the devices compute in this memory.
      ensemble: views of it that are averaged.
    """
    pixels = size[0] * size[1]
    if not is_here:
        memory.check_work(*size, pixels * BESIDE_A_DEVICE)
        return
    own = pixels * (ON_CPU + EACH_FURTHER_SAMPLE * (samples - 1) + VIEWS * (ensemble > 1))
    memory.check_work(*size, own, memory.REMEDY if samples == 1 else _SAMPLED)
    memory.check_work(*size, own + round(ARRAYS * seen * bytes_per_seen), _IN_WINDOWS)
