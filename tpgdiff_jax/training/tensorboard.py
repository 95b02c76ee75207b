"""What TensorBoard shows of a run, written by who reports it.

tensorboardX's own SummaryWriter writes in a thread.  That ends at the first error (a full disk),
and whoever reports then waits for it for ever.
"""

import pathlib
import sys
import time
import types
from typing import Any

import numpy as np

_SECONDS = 10.0  # between two flushes, at least: each waits for the disk


class EventFile:
    """A file of TensorBoard's events; what cannot be written raises OSError."""

    def __init__(self, folder: pathlib.Path, purge_step: int):
        """Begin a file.

        Args:
          folder: of the files of all starts.
          purge_step: what older files have from this step on is not shown.
        """
        self._summary, self._events, writer = _tensorboardx()
        folder.mkdir(exist_ok=True)
        self._file = writer.EventsWriter(str(folder / "events"))
        self._flushed = 0.0
        status = self._events.SessionLog(status=self._events.SessionLog.START)
        self._write(purge_step, session_log=status)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve."""
        self._write(step, summary=self._summary.scalar(name, value))

    def add_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Add a picture, uint8 [H, W, 3]."""
        self._write(step, summary=self._summary.image(name, image, dataformats="HWC"))

    def add_text(self, name: str, text: str, step: int) -> None:
        """Add a text."""
        text = text.encode(errors="replace").decode()  # names of files need not be UTF-8
        self._write(step, summary=self._summary.text(name, text))

    def close(self) -> None:
        """Bring the rest to the disk."""
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        event = self._events.Event(wall_time=time.time(), step=step, **content)
        self._file.write_event(event)
        if time.monotonic() - self._flushed > _SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()


def _tensorboardx() -> tuple[types.ModuleType, ...]:
    """Import tensorboardX alone: it would load PyTorch, for seconds, wherever that is installed."""
    is_hidden = "torch" not in sys.modules
    if is_hidden:
        sys.modules["torch"] = None  # for this one import, as if it were not installed
    try:
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2
    finally:
        if is_hidden:
            del sys.modules["torch"]
    return summary, event_pb2, event_file_writer
