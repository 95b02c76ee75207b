"""Pictures to upload, good and bad, and waiting for what becomes of them."""

import io
import struct
import time
import zlib

import numpy as np
from PIL import Image

from tpgdiff_jax.app.limits import Limits

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(60, 200, (5, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)  # 40 x 48
LIMITS = Limits(file_bytes=2**20, pixels=300_000, side=2048, waiting=3)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    """Return a picture's file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of(width: int, height: int) -> bytes:
    """Return a PNG of zeros: small as a file, as large as its header says once unpacked."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def finished(job, seconds: float = 120):
    """Wait until a job is over; return it."""
    end = time.monotonic() + seconds
    while not job.is_over:
        assert time.monotonic() < end, f"{job.state} for {seconds} s"
        time.sleep(0.01)
    return job
