"""Keep compiled programs on the disk, so that the next start need not compile them again.

Every mode of `main.py` does so, and `Restorer.load`.
"""

import os
import pathlib

import jax
from jax.experimental.compilation_cache import compilation_cache

from tpgdiff_jax.user_cache import user_cache

_MAX_BYTES = 2 << 30  # the programs used longest ago are removed
# JAX keeps what took a second to compile; a start is made of many smaller programs, too.
_MIN_SECONDS = 0.1
_MIN_SECONDS_SETTING = "jax_persistent_cache_min_compile_time_secs"


def default_folder() -> pathlib.Path:
    """Return the folder of this user: $XDG_CACHE_HOME/tpgdiff_jax, by default in ~/.cache."""
    return user_cache() / "compiled"


def keep_compiled_programs(shared: pathlib.Path | None = None) -> pathlib.Path | None:
    """Let JAX store what it compiles from now on; for the whole process, all programs.

    A folder that JAX was told to use before (JAX_COMPILATION_CACHE_DIR) stays in use, and
    JAX_ENABLE_COMPILATION_CACHE=false stays off.

    Args:
      shared: of several processes: a folder that all of them see.  Process 0 alone writes what it
        has compiled, and the others can read it there only.  It is made when it is needed.

    Returns:
      the folder; None where it cannot be written, and nothing is kept then.
    """
    if not jax.config.jax_enable_compilation_cache:
        return None
    if jax.config.jax_compilation_cache_dir:
        return pathlib.Path(jax.config.jax_compilation_cache_dir)
    folder = default_folder() if shared is None else shared
    if shared is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None  # a home that is read-only costs time, not results
        if not os.access(folder, os.W_OK):
            return None
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    if _MIN_SECONDS_SETTING.upper() not in os.environ:
        jax.config.update(_MIN_SECONDS_SETTING, _MIN_SECONDS)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # JAX looks at its settings once, at the first compilation
    return folder
