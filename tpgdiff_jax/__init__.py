"""TPGDiff in JAX: one diffusion model that restores photographs, guided by three priors.

Paper: "TPGDiff" (arXiv 2601.20306).  docs/layout.md describes the rooms of this package and their
floors; a room imports only from rooms below it.
"""

__version__ = "0.1.0"


def __getattr__(name: str):
    """Import `Restorer` only when it is asked for, since that takes JAX and seconds."""
    if name == "Restorer":
        from tpgdiff_jax.inference.restore import Restorer

        return Restorer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
