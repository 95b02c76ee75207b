"""A run's folder in a store: what is copied of it, and one process that writes for all."""

import contextlib
import pathlib
import re
from collections.abc import Iterable, Iterator

import jax

from tpgdiff_jax.distributed import peers
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores.copies import Wanted, local
from tpgdiff_jax.stores.keeping import keeping, kept_folder
from tpgdiff_jax.stores.places import own_path
from tpgdiff_jax.stores.sending import complete_steps, read_record, step_of
from tpgdiff_jax.stores.urls import is_url, normal

_NEWEST = 2  # steps; the second where the first is damaged
_SHOWN = re.compile(r"(.*/)?(tensorboard|pictures|profile)/")  # what shows its training


def newest_steps(names: Iterable[str]) -> list[str]:
    """Leave out, of a run's objects, old and unfinished steps, and what shows its training."""
    names = complete_steps(names)
    steps: dict[str, set[str]] = {}
    for step in {step_of(name) for name in names} - {""}:
        steps.setdefault(step.rpartition("/")[0], set()).add(step)
    newest = {""}
    for found in steps.values():  # those of each stage
        newest |= set(sorted(found, key=lambda step: int(step.rpartition("/")[2]))[-_NEWEST:])
    return sorted(name for name in names if step_of(name) in newest and not _SHOWN.match(name))


@contextlib.contextmanager
def training_in(folder: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the folder that a run is trained in; of an address, the copy that the store's follows.

    Raises:
      UserError: another program trains there, a process does not see the copy of the first one, or
        the store cannot be used.
    """
    with _keeping(folder, "train", wanted=complete_steps, is_whole=True) as here:
        yield here


@contextlib.contextmanager
def scoring_in(folder: str | pathlib.Path, share: tuple[int, int] | None) -> Iterator[pathlib.Path]:
    """Yield the folder that a benchmark writes to; of an address, a copy, see `training_in`.

    Args:
      folder: a path or an address.
      share: of the benchmark; shares write at the same time, and need no pictures of the others.
    """

    def wanted(names: Iterable[str]) -> list[str]:
        return [name for name in names if not (share and name.startswith("restored/"))]

    name = "benchmark" if share is None else f"benchmark_{share[0]}"
    with _keeping(folder, name, wanted=wanted) as here:
        yield here


@contextlib.contextmanager
def logging_in(output: pathlib.Path, log_name: str) -> Iterator[pathlib.Path]:
    """Yield the folder that a process writes the log of its restorations to, see `training_in`.

    Args:
      output: a path or an address.
      log_name: of this process's log; the others' are copied, to be read.
    """
    if not is_url(output):
        yield output
        return

    def wanted(names: Iterable[str]) -> list[str]:
        return [name for name in names if "/" not in name and name.endswith(".jsonl")]

    with keeping(normal(output), pathlib.Path(log_name).stem, wanted=wanted) as here:
        yield here


def reading(folder: str | pathlib.Path) -> pathlib.Path:
    """Return the folder of a run to read; of an address, a copy with every step that is whole.

    Raises:
      UserError: nothing lies there, or the run went on while the processes copied it.
    """
    if not is_url(folder):
        return pathlib.Path(folder)
    here = local(folder, complete_steps, "runs")
    steps = " ".join(sorted(path.as_posix() for path in here.glob("**/checkpoints/*")))
    if peers.said_by_first(f"steps of {normal(folder)}", steps) != steps:
        raise UserError(
            f"{normal(folder)}: the run went on while it was copied; start this command again."
        )
    return here


@contextlib.contextmanager
def _keeping(
    folder: str | pathlib.Path, name: str, *, wanted: Wanted, is_whole: bool = False
) -> Iterator[pathlib.Path]:
    """`stores.keeping` for all processes of a job: the first one copies and sends."""
    if not is_url(folder):
        yield pathlib.Path(folder)
        return
    url = normal(folder)
    with contextlib.ExitStack() as stack:
        if jax.process_index() == 0:
            stack.enter_context(keeping(url, name, wanted=wanted, is_whole=is_whole))
        here = kept_folder(url, name)
        peers.said_by_first(f"{url} is copied", "yes")
        _check_all_see(url, here)
        yield here


def _check_all_see(url: str, folder: pathlib.Path) -> None:
    """Make sure that this process sees the folder that process 0 works in."""
    writer = read_record(folder)["writer"] or ""
    if peers.said_by_first(f"writer of {url}", writer) != writer:
        raise UserError(
            f"{url}: this process does not see {own_path(folder)} of process 0. A folder in a "
            "store is written by the processes of one machine; several machines need a folder that "
            "all of them see, such as a mounted bucket."
        )
