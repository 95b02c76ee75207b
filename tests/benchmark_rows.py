"""The lines of a benchmark, to be compared."""

from tpgdiff_jax.benchmark.job import ROWS
from tpgdiff_jax.benchmark.rows import read_rows


def plain_rows(folder):
    """Return the lines of a job without what depends on clocks."""
    clocks = ("seconds", "files")
    rows = read_rows(folder / ROWS).items()
    return {key: {k: v for k, v in row.items() if k not in clocks} for key, row in rows}
