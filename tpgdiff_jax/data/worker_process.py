"""What a process that makes batches does first, and how it ends."""

import multiprocessing
import os
import signal
import threading

import cv2

_SECONDS = 60  # that a worker goes on after it was asked to end


def prepare(index: int, count: int) -> None:
    """Let a worker use one core, go on for a minute after SIGTERM or Ctrl-C, and end with its run.

    OpenCV would start threads for every core in every worker.  Job managers and terminals send
    these signals to all processes of a run; the main one still needs its next batch then, to finish
    the step after which it saves.  A main process that is killed tells nobody: its workers would
    wait for ever, with their photos in memory.

    Args:
      index, count: of the workers; see grain's `worker_init_fn`.
    """
    cv2.setNumThreads(1)
    if hasattr(signal, "alarm"):  # Windows has none, and sends no SIGTERM
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_SECONDS))
        signal.signal(signal.SIGINT, lambda *_: signal.alarm(_SECONDS))
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent) -> None:
    parent.join()
    os._exit(1)  # other threads of this process may be waiting for ever
