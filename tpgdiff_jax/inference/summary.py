"""What a job over many files did, and how that is said."""

import dataclasses
import pathlib

from absl import logging

from tpgdiff_jax.inference.plan import Task
from tpgdiff_jax.inference.present import Present
from tpgdiff_jax.reporting.files import printable
from tpgdiff_jax.stores.places import shown
from tpgdiff_jax.stores.urls import named


@dataclasses.dataclass
class Summary:
    """What a job did.

    Attributes:
      done: files restored now.
      changed: how many of these had a result already, and have changed since that was made.
      present: files whose result was there already.
      other_settings: how many of those the log says were made with other settings or weights.
      side_by_side: how many of those got the picture of that kind which they lacked.
      others: file -> what its result is and was made from, where the log names another file.
      failed: file -> why it could not be restored.
      stopped: why the job stopped early; "" if it did not.
      left: files it did not come to then.
    """

    done: int = 0
    changed: int = 0
    present: int = 0
    other_settings: int = 0
    side_by_side: int = 0
    others: dict[str, str] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    stopped: str = ""
    left: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether every file has its result."""
        return not (self.failed or self.others or self.stopped)

    def tell_of(self, there: Present) -> None:
        """Take over whose results were there, and how they were made."""
        self.other_settings += there.other_settings
        self.others |= there.others
        if there.others:
            logging.warning("%d results there were made from other files.", len(there.others))

    def fail(self, task: Task, reason: str) -> None:
        """List a file that could not be restored."""
        self.failed[named(task.source)] = reason
        logging.warning("Skipping %s: %s", printable(named(task.source)), reason)


def describe(summary: Summary, output: pathlib.Path) -> str:
    """Say what a job did, with every file that failed."""
    lines = [
        f"{summary.done} restored, {summary.present} were there already, {len(summary.failed)} "
        f"failed: {shown(output)}"
    ]
    if summary.changed:
        lines.append(f"  {summary.changed} of the restored had changed since their last result")
    if summary.side_by_side:
        lines.append(f"  {summary.side_by_side} of those there got their side-by-side picture")
    if summary.other_settings:
        lines.append(
            f"  {summary.other_settings} of those there were made with other settings or weights; "
            "remove them, or choose another --output, to restore them anew"
        )
    if summary.others:
        lines.append(
            f"  {len(summary.others)} were not restored: their results there were made from other "
            "files; choose another --output, or remove these results"
        )
    lines += [f"  not restored: {file}: {what}" for file, what in summary.others.items()]
    lines += [f"  failed: {file}: {reason}" for file, reason in summary.failed.items()]
    if summary.stopped:
        lines.append(f"  stopped: {summary.stopped}; {summary.left} files are left, run it again")
    return "\n".join(lines)
