"""A run's folder: made once, recognised afterwards, never shared by two configurations."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from tpgdiff_jax import config as configuration
from tpgdiff_jax.reporting.errors import RunStoppedError, UserError
from tpgdiff_jax.reporting.files import write_text
from tpgdiff_jax.reporting.locks import held

_NEEDED = 2**16  # bytes; what a start writes takes less


def prepare_workdir(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Make the run's folder, or check that the run in it is this one.

    Raises:
      UserError: the folder cannot be written, holds another configuration's run, or holds files
        that are no run's; says which and what to do.
    """
    check_writable(workdir)
    if (workdir / "config.json").exists():
        check_same_run(config, workdir)
        return
    # Another process of this run may have listed bad files already; the quickstart restores photos
    # before it trains.
    ours = (".", "skipped_", "first_restoration.", "crash_process_")
    strangers = sorted(p.name for p in workdir.iterdir() if not p.name.startswith(ours))
    if strangers:
        raise UserError(
            f"--workdir={workdir} holds files but no run (no config.json): "
            f"{', '.join(strangers[:5])}. Choose an empty or a new folder."
        )


def check_writable(workdir: pathlib.Path) -> None:
    """Make a run's folder where it is missing, and check that files can be written there.

    Raises:
      UserError: they cannot.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir, prefix=".") as file:
            file.write(bytes(_NEEDED))  # a full disk still makes files
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be written ({error.strerror}). Check free space and "
            "permissions, or choose another folder."
        ) from error


def check_same_run(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Check that the run in a folder has this configuration; nothing is written.

    Raises:
      UserError: it has another one; lists the keys.
    """
    if changed := configuration.differences(config, workdir / "config.json"):
        raise UserError(
            f"--workdir={workdir} holds a run with another configuration; continue it with "
            "that one, or choose another folder. Different keys:\n  " + "\n  ".join(changed)
        )


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Say in a sentence that a part of a run cannot be written.

    Raises:
      RunStoppedError: as said.
    """
    try:
        yield
    except OSError as error:
        raise RunStoppedError(
            f"{what} cannot be written: {error.strerror or error}. Check free space and "
            "permissions, then start the same command again."
        ) from error


@contextlib.contextmanager
def only_run(workdir: pathlib.Path) -> Iterator[None]:
    """Hold a run's folder for this program alone while it trains; the first process does for all.

    Raises:
      RunStoppedError: another program is training in it.
    """
    if jax.process_index() != 0:
        yield
        return
    refused = RunStoppedError(
        f"--workdir={workdir}: another program is training in this folder; wait for it, or end it "
        "(SIGTERM and Ctrl-C save first)."
    )
    with held(workdir / ".lock", workdir, refused):
        yield


def check_there(workdir: pathlib.Path) -> None:
    """Check that a run's folder is still where it was: whoever writes would make a second one.

    Raises:
      RunStoppedError: it was moved or removed.
    """
    if not (workdir / "config.json").exists():
        raise RunStoppedError(
            f"--workdir={workdir} was moved or removed while the run trains. Put it back, then "
            "start the same command again: it goes on from the newest checkpoint there."
        )


def write_config(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Store the resolved configuration of a run; the first process writes for all.

    Of a run that is continued it is stored anew where it differs: keys that may change, such as
    where frozen weights lie, are then those with which the run's weights are used.
    """
    path, text = workdir / "config.json", configuration.to_json(config)
    if jax.process_index() == 0 and not (path.exists() and path.read_text() == text):
        write_text(path, text)
