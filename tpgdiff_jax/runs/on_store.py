"""A run's folder in a store: what is copied of it to each machine, and who sends what."""

import contextlib
import pathlib
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import jax

from tpgdiff_jax.distributed import machines, peers
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores.copies import Wanted, local
from tpgdiff_jax.stores.following import followed_folder, following
from tpgdiff_jax.stores.keeping import keeping, kept_folder
from tpgdiff_jax.stores.sending import complete_steps, step_of
from tpgdiff_jax.stores.urls import as_disk, is_url, normal
from tpgdiff_jax.user_cache import user_cache

_NEWEST = 2  # steps; the second where the first is damaged
# What every process writes for itself.
_OWN = re.compile(r"(.*/)?(bad_step_|crash_process_|skipped_)[^/]*")
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


def training_in(folder: str | pathlib.Path) -> AbstractContextManager[pathlib.Path]:
    """Yield the folder that a run is trained in; of an address, the copy that the store's follows.

    Each machine has a copy of its own, as the run was at the start; process 0 writes the run.

    Raises:
      UserError: another program trains there, or the store cannot be used.
    """
    return _keeping(folder, "train", wanted=complete_steps, is_whole=True)


def scoring_in(
    folder: str | pathlib.Path, share: tuple[int, int] | None
) -> AbstractContextManager[pathlib.Path]:
    """Yield the folder that a benchmark writes to; of an address, a copy, see `training_in`.

    Args:
      folder: a path or an address.
      share: of the benchmark; shares write at the same time, and need no pictures of the others.
    """

    def wanted(names: Iterable[str]) -> list[str]:
        return [name for name in names if not (share and name.startswith("restored/"))]

    name = "benchmark" if share is None else f"benchmark_{share[0]}"
    remedy = "Score it in shares, one on each machine (--share=0/2, 1/2), then --merge."
    return _keeping(folder, name, wanted=wanted, one_machine=remedy)


def logging_in(output: pathlib.Path, log_name: str) -> AbstractContextManager[pathlib.Path]:
    """Yield the folder that a process writes the log of its restorations to, see `training_in`.

    Args:
      output: a path or an address.
      log_name: of this process's log; the others' are copied, to be read.
    """
    if not is_url(output):
        return contextlib.nullcontext(output)
    return keeping(normal(output), pathlib.Path(log_name).stem, wanted=_logs_among)


def logs_in(output: pathlib.Path) -> pathlib.Path:
    """Return where the logs of restorations can be read; of an address, a copy as they are now.

    Raises:
      OSError: the store refuses, or cannot be reached.
    """
    with as_disk():
        return local(output, _logs_among, "logs")


def _logs_among(names: Iterable[str]) -> list[str]:
    return [name for name in names if "/" not in name and name.endswith(".jsonl")]


def reading(folder: str | pathlib.Path) -> pathlib.Path:
    """Return the folder of a run to read; of an address, a copy with every step that is whole.

    Raises:
      UserError: nothing lies there, or the run went on while the processes copied it.
    """
    if not is_url(folder):
        return pathlib.Path(folder)
    here = local(folder, complete_steps, "runs")
    found = (path.relative_to(here) for path in here.glob("**/checkpoints/*"))
    steps = " ".join(sorted(path.as_posix() for path in found if path.name.isdigit()))
    if peers.said_by_first(f"steps of {normal(folder)}", steps) != steps:
        raise UserError(
            f"{normal(folder)}: the run went on while it was copied; start this command again."
        )
    return here


@contextlib.contextmanager
def _keeping(
    folder: str | pathlib.Path,
    name: str,
    *,
    wanted: Wanted,
    is_whole: bool = False,
    one_machine: str = "",
) -> Iterator[pathlib.Path]:
    """`stores.keeping` for all processes of a job: the first one copies, and sends what it wrote.

    Args:
      folder, name, wanted, is_whole: as there.
      one_machine: what to do instead, where the job is one for the processes of one machine.
    """
    if not is_url(folder):
        yield pathlib.Path(folder)
        return
    url = normal(folder)
    index, firsts = jax.process_index(), machines.sharing(user_cache())
    first = firsts[index]
    if one_machine and any(firsts):
        raise UserError(
            f"{url}: process {max(firsts)} is on another machine than process 0, or has another "
            f"cache (XDG_CACHE_HOME), and what is written here is joined on one. {one_machine}"
        )
    here = followed_folder(url) if first else kept_folder(url, name)
    peers.keep_crashes_in(here)
    with contextlib.ExitStack() as stack:
        if index == 0:
            stack.enter_context(keeping(url, name, wanted=wanted, is_whole=is_whole))
        peers.said_by_first(f"{url} is copied", "yes")
        if first and index == first:
            stack.enter_context(following(url, wanted, _OWN))
        if first:
            peers.said_by_first(f"{url} is copied by {first}", "yes", first=first)
        yield here
