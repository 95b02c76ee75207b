"""How large a picture may be: to be read it must fit in half of the machine's memory."""

import functools
import os
import pathlib

from tpgdiff_jax.reporting.errors import UserError

# A reader holds a picture as float32 RGB, and what it is made of.
BYTES_PER_PIXEL = 24
REMEDY = "cut it into parts"
_UNKNOWN = 8 * 2**30  # of machines that do not say how much memory they have
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check(height: int, width: int, stored_bytes: int = 0) -> None:
    """Raise UserError where reading a picture needs more than half of the machine's memory.

    Args:
      height, width: of the picture, pixels.
      stored_bytes: of a pixel as its file has it, unpacked.
    """
    # What is stored is there twice while it is brought to the form that all readers take.
    needed = height * width * max(BYTES_PER_PIXEL, 2 * stored_bytes)
    if needed > total() / 2:
        raise UserError(_sentence(height, width, needed, "half of "))


def check_work(height: int, width: int, needed: int, remedy: str = REMEDY) -> None:
    """Raise UserError where work on a picture needs more than all of the machine's memory.

    Args:
      height, width: of the picture, pixels.
      needed: bytes that the work holds at once.
      remedy: what to do then.
    """
    if needed > total():
        raise UserError(_sentence(height, width, needed, remedy=remedy))


def _sentence(height: int, width: int, needed: int, part: str = "", remedy: str = REMEDY) -> str:
    return (
        f"{width}x{height} pixels need {needed / 2**30:.3g} GiB of memory, more than {part}the "
        f"{total() / 2**30:.3g} GiB there are; {remedy}"
    )


@functools.cache
def total() -> int:
    """Return how many bytes of memory this process may use at most."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        found = _UNKNOWN
    for limit in _CGROUP_LIMITS:
        try:
            text = pathlib.Path(limit).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found = min(found, int(text))
    return found
