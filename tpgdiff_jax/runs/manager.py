"""Checkpoints of a run: state and data position in one step, with orbax."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from tpgdiff_jax.distributed import peers
from tpgdiff_jax.reporting.errors import UserError, one_line
from tpgdiff_jax.runs import checksums, step_folder
from tpgdiff_jax.runs.apart import ALONE, FollowedSteps, are_apart, on_first_host, steps_of_some
from tpgdiff_jax.runs.keeping import (
    NewestAndBest,
    QuietManager,
    best,
    check_space,
    item_handlers,
    say_errors_once,
)
from tpgdiff_jax.runs.preemption import Preemption
from tpgdiff_jax.runs.reading import CheckpointError, gather, read_all_scores, read_step
from tpgdiff_jax.runs.step_folder import DATA, METADATA, SCORES, STATE
from tpgdiff_jax.stores.sending import UNFINISHED
from tpgdiff_jax.stores.urls import is_url, named

SAVED = ".saved"  # beside the folder of the steps: one has been written, whatever is there now


class RunCheckpoints:
    """Save and restore a run's state together with its place in the data.

    Writing is asynchronous: a step is there once its folder has its final name, and a write that
    failed is raised by the next `save`, `check` or by leaving the context.  The newest steps stay,
    and the best of those saved with metrics.  Reading changes nothing on disk: steps found damaged
    are renamed to `<step>.corrupt` when this run saves for the first time.

    In a run of several processes all of them make the same calls.  If only one of them cannot
    write, `distributed.peers` ends the others; orbax alone would wait 20 minutes for it.  Where
    they share no folder (machines that train in a store), process 0 gathers the state and writes.
    """

    def __init__(
        self,
        folder: os.PathLike | str,
        *,
        keep: int,
        metadata: Mapping[str, Any] | None = None,
        best_by: str = "psnr",
        reads_only: bool = False,
    ):
        """Open (or start) the checkpoints below a folder.

        Args:
          folder: where the steps are kept; of a store, see `on_store.training_in`.
          keep: how many of the newest steps stay, at least 1.
          metadata: JSON data stored with every step: configuration, versions of packages.
          best_by: the metric that decides which step is the best; higher is better.
          reads_only: nothing is made in the folder, which may be one that cannot be written.

        Raises:
          UserError: `keep` is less than 1, an address in a store, or a folder that not all
            processes see.
        """
        if keep < 1:
            raise UserError(f"config.checkpoint.keep={keep}: at least 1 step must stay.")
        if is_url(folder):  # orbax 0.12.8 would make a local folder called s3:
            raise UserError(f"{named(folder)}: checkpoints are written to local folders.")
        self._folder = epath.Path(os.path.abspath(folder))
        self._metadata = dict(metadata or {})
        self._best_by = best_by
        self._scores: dict[int, dict[str, float]] = {}
        say_errors_once()
        self._are_apart = not reads_only and are_apart(self._folder)
        self._manager = (
            FollowedSteps(self._folder, only_whole=False) if reads_only else self._open(keep)
        )
        steps = self._manager.all_steps()
        lacking = steps_of_some(self._folder, steps, may_differ=self._are_apart or reads_only)
        self._damaged = {
            step: f"Step {step} in {self._folder} is not on all machines." for step in lacking
        }
        self._writing: int | None = None
        self._may_write = False
        self._preemption: Preemption | None = None
        self._scores.update(read_all_scores(self._folder, steps))

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, error_type, error, traceback) -> None:
        if error is not None:
            peers.fail(error)  # before the waits for all processes below
        if self._preemption is not None:
            self._preemption.__exit__(None, None, None)
        try:
            self.wait()
        except CheckpointError as failed:
            if error is None:
                raise
            # What ended the run matters more, but must not hide this.
            error.add_note(str(failed))
            logging.error("%s", failed)
        finally:
            self._manager.close()

    @property
    def damaged(self) -> dict[int, str]:
        """Steps that were found damaged by this start and are not set aside yet, and why."""
        return dict(self._damaged)

    def all_steps(self) -> list[int]:
        """Return the steps that are there or being written, oldest first, without damaged ones."""
        return sorted(step for step in self._manager.all_steps() if step not in self._damaged)

    def latest_step(self) -> int | None:
        """Return the newest of `all_steps`, or None for a fresh run."""
        return max(self.all_steps(), default=None)

    def best_step(self) -> int | None:
        """Return the step with the highest metrics[best_by], or None if none was saved with it."""
        return best(self.all_steps(), self._scores, self._best_by)

    def save(
        self,
        step: int,
        state: Any,
        data: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Start writing one step; returns once the state is copied, before it is on disk.

        Waits for the step before, if that is still being written.  The state may be donated to the
        next training step at once.

        Args:
          step: its number; must not be there yet.
          state: a pytree of global arrays.
          data: the place in the data that belongs to this state, as plain JSON data.
          metrics: what was measured of this state; must have `best_by`.  NaN is never the best.

        Raises:
          CheckpointError: this or the last write failed; names folder, step and cause.
          UserError: the step is there already, or metrics lack `best_by`.
        """
        if metrics is not None and self._best_by not in metrics:
            raise UserError(
                f"metrics of a checkpoint need {self._best_by!r}, which decides on the best; "
                f"found {sorted(metrics)}."
            )
        self.wait()
        self._prepare_writing()
        if step in self.all_steps():
            raise UserError(f"{self._folder} holds step {step} already; it is not overwritten.")
        items = {
            STATE: ocp.args.PyTreeSave(state),
            DATA: ocp.args.JsonSave(dict(data)),
            METADATA: ocp.args.JsonSave(self._metadata),
        }
        if metrics is not None:
            self._scores[step] = {name: float(value) for name, value in metrics.items()}
            items[SCORES] = ocp.args.JsonSave(self._scores[step])
        try:
            if self._are_apart:
                items[STATE] = ocp.args.PyTreeSave(state := on_first_host(state))
            self._folder.mkdir(exist_ok=True)  # somebody may have removed it, but not the run's
            check_space(self._folder, state)
            # `force`: the caller decides when to save, orbax would skip what it finds untimely.
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except Exception as error:
            raise self._write_error(step, error) from error
        self._writing = step

    def check(self) -> None:
        """Raise if the last write has failed meanwhile; does not wait for one that goes on.

        Raises:
          CheckpointError: it failed; names folder, step and cause.
        """
        if not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Wait until the last write, if any, is on disk.

        Raises:
          CheckpointError: it failed; names folder, step and cause.
        """
        step, self._writing = self._writing, None
        if step is None:
            return
        try:
            self._manager.wait_until_finished()
            if jax.process_index() == 0:
                self._folder.with_name(SAVED).touch()
        except Exception as error:
            raise self._write_error(step, error) from error

    def reached_preemption(self) -> bool:
        """Tell whether to save and stop after this step; see `Preemption.reached`.

        The first call starts to listen for SIGTERM and Ctrl-C (until the context is left), so make
        it before the first step.  Ask after each step, in every process.
        """
        if self._preemption is None:
            self._preemption = Preemption().__enter__()
        return self._preemption.reached()

    def restore_latest(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Read the newest step that is sound; damaged ones are skipped with a warning.

        Args:
          abstract_state: `jax.ShapeDtypeStruct` with shardings (of any mesh), one per leaf.

        Returns:
          (its number, the state, the place in the data), or None for a fresh run.

        Raises:
          UserError: the newest sound step does not fit; names the parameters and both shapes.
          CheckpointError: there are steps, and all of them are damaged.
        """
        for folder in sorted(self._folder.glob(f"*{UNFINISHED}")):
            name = folder.name.removesuffix(UNFINISHED)
            logging.warning("Checkpoint %s in %s was never finished.", name, self._folder)
        for step in reversed(self.all_steps()):
            try:
                return step, *self.restore(step, abstract_state)
            except CheckpointError as error:
                logging.warning("%s It is skipped in favour of an older one.", error)
                self._damaged[step] = str(error)
        if self._damaged:
            raise CheckpointError(
                f"All checkpoints in {self._folder} are damaged: steps "
                f"{', '.join(map(str, sorted(self._damaged)))}. The newest: "
                f"{self._damaged[max(self._damaged)]} Move {self._folder.parent} away to start "
                "from nothing."
            )
        return None

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """Read one step: (the state, the place in the data); see `reading.read_step`."""
        return read_step(self._folder, step, abstract_state)

    def _open(self, keep: int) -> QuietManager | FollowedSteps:
        if self._are_apart and jax.process_index() != 0:
            return FollowedSteps(self._folder)
        several = ALONE if self._are_apart else ocp.options.MultiprocessingOptions()
        manager = QuietManager(
            self._folder,
            item_handlers=item_handlers(several),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=NewestAndBest(keep, self._scores, self._best_by),
                create=not self._are_apart,  # is made already, where it need not be seen by all
                async_options=ocp.AsyncOptions(post_finalization_callback=self._sum_up),
                multiprocessing_options=several,
            ),
        )
        text = f"A checkpoint could not be written to {self._folder}: "
        manager.tell = lambda error: peers.fail(CheckpointError(text + one_line(error)))
        return manager

    def _prepare_writing(self) -> None:
        """Clear the way before the first write: set damaged steps aside, drop unfinished ones."""
        if self._may_write:
            return
        if jax.process_index() == 0:
            for step in self._damaged:
                step_folder.set_aside(self._folder / str(step))
            for unfinished in self._folder.glob(f"*{UNFINISHED}"):
                unfinished.rmtree()
        gather(True)
        self._manager.reload()
        for step in self._damaged:
            self._scores.pop(step, None)
        self._damaged.clear()
        self._may_write = True

    def _sum_up(self) -> None:
        """Write checksums into the step whose files are all there, but not yet under its name."""
        if jax.process_index() == 0:
            for unfinished in self._folder.glob(f"*{UNFINISHED}"):
                checksums.write(unfinished)

    def _write_error(self, step: int, error: Exception) -> CheckpointError:
        self._scores.pop(step, None)
        self._may_write = False  # what was begun may fill the disk: the next write clears it
        self._manager.reload()
        newest = self.latest_step()
        kept = "none is complete" if newest is None else f"the newest complete one is step {newest}"
        return CheckpointError(
            f"Step {step} could not be written to {self._folder}: {one_line(error)} "
            f"(of the checkpoints there, {kept}). Check free space and permissions, then start the "
            "same command again."
        )
