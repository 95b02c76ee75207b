"""Look parameters up in a table of names."""

import re
from collections.abc import Callable, Mapping, Sequence

from tpgdiff_jax.checkpoints.layouts import Layout, Source, standard_layout
from tpgdiff_jax.reporting.errors import UserError

# Pattern of our path, with slashes -> names there, in which \1 stands for the pattern's first
# group, and a layout.  A pattern matches either one parameter's whole path, or the path of its
# module; then PyTorch's name of the parameter is appended, and the layout, if any, is its kernel's.
Table = Mapping[str, tuple[Sequence[str], Layout | None]]

Path = tuple[str, ...]

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def reader(table: Table) -> Callable[[Mapping[Path, int]], dict[Path, Source]]:
    """Return a function that finds all parameters of a network by one table.

    Args:
      table: the names.

    Returns:
      {path of each of our parameters: number of its axes} -> {path: source}; raises UserError for
      a parameter that the table does not have.
    """

    def sources(ndims: Mapping[Path, int]) -> dict[Path, Source]:
        return {path: look_up(path, ndim, table) for path, ndim in ndims.items()}

    return sources


def look_up(path: tuple[str, ...], ndim: int, table: Table) -> Source:
    """Find where one of our parameters stands in a PyTorch file.

    Args:
      path: of the parameter.
      ndim: number of its axes.
      table: the names.

    Returns:
      its source.

    Raises:
      UserError: the table has no such parameter.
    """
    *modules, leaf = path
    for pattern, (names, layout) in table.items():
        if match := re.fullmatch(pattern, "/".join(path)):
            return Source(tuple(map(match.expand, names)), layout or standard_layout(leaf, ndim))
        if leaf in _LEAVES and (match := re.fullmatch(pattern, "/".join(modules))):
            keys = tuple(f"{match.expand(name)}.{_LEAVES[leaf]}" for name in names)
            special = layout if leaf == "kernel" else None
            return Source(keys, special or standard_layout(leaf, ndim))
    raise UserError(f"Parameter {'/'.join(path)} has no name in PyTorch files.")
