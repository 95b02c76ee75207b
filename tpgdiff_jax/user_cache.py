"""Where this user keeps what can be made again: compiled programs and libraries, copies."""

import os
import pathlib


def user_cache() -> pathlib.Path:
    """Return the folder of this user for what can be made again.

    It is $XDG_CACHE_HOME/tpgdiff_jax, by default ~/.cache/tpgdiff_jax.
    """
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "tpgdiff_jax"
