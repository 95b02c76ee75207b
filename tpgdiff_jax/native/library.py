"""Load the compiled library, make its calls known to XLA, ask it what it can do."""

import contextlib
import ctypes
import os
import pathlib
import platform
import sys
from collections.abc import Iterator, Sequence

import jax

from tpgdiff_jax.native import build
from tpgdiff_jax.native.build import MissingError

CALLS = "tpgdiff_onednn_"  # how their names in XLA's programs begin
# XLA's name of each custom call, and the symbol behind it.
TARGETS = {
    f"{CALLS}convolution": "TpgdiffConvolution",
    f"{CALLS}product": "TpgdiffProduct",
}
_CPUINFO = pathlib.Path("/proc/cpuinfo")


class Library:
    """The loaded library.

    Attributes:
      version: oneDNN's.
      has_bfloat16: whether the processor computes in bfloat16 (AMX or AVX512-BF16).
    """

    def __init__(self, path: pathlib.Path, version: str, flags: set[str]):
        """Load a library and register its calls.

        Raises:
          OSError: it cannot be loaded.
        """
        self.version = version
        self.has_bfloat16 = bool(flags & {"amx_bf16", "avx512_bf16"})
        with _patient_threads():
            self._functions = ctypes.CDLL(str(path))
        for target, symbol in TARGETS.items():
            function = jax.ffi.pycapsule(getattr(self._functions, symbol))
            jax.ffi.register_ffi_target(target, function, platform="cpu")

    def describe(self, symbol: str, fields: Sequence[int]) -> tuple[bool, str]:
        """Ask whether oneDNN computes a problem.

        Args:
          symbol: the library's function to ask.
          fields: the problem's numbers, as the C++ struct orders them.

        Returns:
          (True, the name of its implementation) or (False, why not).
        """
        function = getattr(self._functions, symbol)
        numbers = (ctypes.c_int64 * len(fields))(*fields)
        text = ctypes.create_string_buffer(256)
        found = function(numbers, text, ctypes.c_size_t(len(text)))
        return bool(found), text.value.decode(errors="replace")


@contextlib.contextmanager
def _patient_threads() -> Iterator[None]:
    """Let OpenMP's threads, made meanwhile, sleep while they wait, unless the user says otherwise.

    They would spin for milliseconds, on cores that XLA's own threads want by then.
    """
    if any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")):
        yield
        return
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # read once, when the library is loaded
    try:
        yield
    finally:
        del os.environ["OMP_WAIT_POLICY"]


def load() -> Library:
    """Find oneDNN, compile what calls it unless that was done before, and load it.

    Raises:
      MissingError: it cannot be had here; says why and what to do.
    """
    flags = _processor_flags()
    onednn = build.find_onednn()
    path = build.library_path(onednn)
    try:
        if not (path.is_file() and build.is_whole(path)):
            build.compile_library(onednn, path)
        return Library(path, onednn.version, flags)
    except (OSError, AttributeError) as error:
        raise MissingError(f"the compiled library {path} cannot be loaded: {error}") from error


def _processor_flags() -> set[str]:
    """Return the processor's abilities.

    Raises:
      MissingError: it is none of those that this path was measured on.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise MissingError(
            f"it is used on Linux on x86-64 only, not on {sys.platform} on {platform.machine()}"
        )
    lines = _CPUINFO.read_text().splitlines() if os.access(_CPUINFO, os.R_OK) else []
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    if "avx512f" not in flags:
        raise MissingError("the processor has no AVX-512, without which it gains little")
    return flags
