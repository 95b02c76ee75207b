"""Work in a folder of this machine that a store's is kept like."""

import contextlib
import itertools
import os
import pathlib
import signal
from collections.abc import Iterator

from absl import logging

from tpgdiff_jax.reporting.errors import RunStoppedError, UserError
from tpgdiff_jax.reporting.locks import held
from tpgdiff_jax.stores import urls
from tpgdiff_jax.stores.copies import Wanted, copy, listing, stamp_of
from tpgdiff_jax.stores.places import own_path, place, remember
from tpgdiff_jax.stores.sending import (
    STEP_MARK,
    Sender,
    read_record,
    step_of,
    unsent,
    write_record,
)
from tpgdiff_jax.stores.writer import Writer, WriterError


def kept_folder(url: str, name: str) -> pathlib.Path:
    """Return the folder of this machine that `keeping` works in; none lies in another."""
    path = place(f"kept/{name}", url)
    path = path.with_name(f"{path.name}.kept")
    remember(path, url)
    return path


@contextlib.contextmanager
def keeping(
    url: str, name: str, *, wanted: Wanted = list, is_whole: bool = False
) -> Iterator[pathlib.Path]:
    """Yield a folder with what the store has; what is written there is sent, as long as this lasts.

    The folder stays, so that the next program on this machine need not copy it again.

    Args:
      url: its address.
      name: of what is written; others may write other parts at the same time.
      wanted: which objects are copied at the start.
      is_whole: whether all below the address is written here alone: objects go when their files
        go, and what a killed program had not sent yet is sent by the next one on this machine,
        before it begins.

    Raises:
      WriterError: another program writes this part.
      StoreError: the store refuses, or cannot be reached; at the end, what it lacks is named.
    """
    url, folder = urls.normal(url), kept_folder(url, name)
    folder.mkdir(parents=True, exist_ok=True)
    refused = RunStoppedError(f"{url}: another program of this machine writes there; wait for it.")
    with held(folder.with_name(f".{folder.name}.lock"), folder, refused):
        before = read_record(folder)
        writer = Writer(url, name, before["writer"], _end_this_program)
        try:
            why = "" if is_whole else "is copied anew"
            if not writer.before or writer.before != before["writer"]:
                why = "was written by another program since"
            else:
                write_record(folder, writer.token, before["files"])  # it may be killed from here on
                if is_whole and not _has_newest(url, folder):
                    why = "lost its newest checkpoint since, so it goes back"
            if why:
                _start_from_store(url, folder, wanted, is_whole, why)
            write_record(folder, writer.token, read_record(folder)["files"])
            sender = Sender(folder, url, writer.token, removes=is_whole, confirm=writer.confirm)
            try:
                sender.send()
                yield folder
            except BaseException as error:
                try:
                    _finish(url, folder, writer, sender)
                except UserError as failed:  # what ended the work matters more
                    error.add_note(str(failed))
                    logging.error("%s", failed)
                raise
            _finish(url, folder, writer, sender)
        finally:
            writer.end()


def _has_newest(url: str, folder: pathlib.Path) -> bool:
    """Tell whether the store has the newest step that was sent: who removes it wants to go back."""
    newest: dict[str, tuple[int, str]] = {}  # of each folder of steps
    for name, stamp in read_record(folder)["files"].items():
        steps, _, number = step_of(name).rpartition("/")
        if name == f"{steps}/{number}/{STEP_MARK}" and stamp_of(folder / name) == stamp:
            newest[steps] = max(newest.get(steps, (-1, "")), (int(number), name))
    stored = listing(url) if newest else {}
    return all(name in stored for _, name in newest.values())


def _start_from_store(
    url: str, folder: pathlib.Path, wanted: Wanted, is_whole: bool, why: str
) -> None:
    """Make the folder what the store has; another program may have gone on there."""
    # What a process says of its end is no part of the run.
    left = [name for name in unsent(folder) if "crash_process_" not in name]
    if is_whole and left:
        names = (folder.with_name(f"{folder.name}.unsent_{n}") for n in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        os.replace(folder, aside)
        folder.mkdir()
        text = "%s %s; what an older program left here is in %s: %s"
        logging.warning(text, url, why, own_path(aside), ", ".join(left[:3]))
    write_record(folder, "", copy(url, folder, wanted))


def _finish(url: str, folder: pathlib.Path, writer: Writer, sender: Sender) -> None:
    sender.stop()
    try:
        sender.send()
        writer.confirm()
    except WriterError as error:
        raise RunStoppedError(
            f"{url}: another program has taken over, since the store had no sign of this one for "
            f"long. What it had not sent is in {own_path(folder)}."
        ) from error
    except urls.StoreError as error:
        left = unsent(folder)
        raise RunStoppedError(
            f"{error} {len(left)} files are not sent, such as {left[0] if left else '-'}; they are "
            f"in {own_path(folder)}, and the same command on this machine sends them."
        ) from error


def _end_this_program() -> None:
    os.kill(os.getpid(), signal.SIGTERM)  # training saves its state, and ends
