"""Checkpoints of a run: state and data position in one step, with orbax."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp


class RunCheckpoints:
    """Save and restore a run's state together with its place in the data.

    Writing is asynchronous; a step that was cut off while being written does not count.
    Use as a context manager: leaving it waits for the last write.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int):
        """Open (or start) the checkpoints below a folder.

        Args:
          folder: where the steps are kept.
          keep: how many of the newest steps stay.
        """
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
        )

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, *_) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """Return the newest complete step, or None for a fresh run."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, data: Mapping[str, Any]) -> None:
        """Start writing one step; returns before it is on disk.

        Args:
          step: its number.
          state: a pytree of global arrays.
          data: the place in the data that belongs to this state, as plain JSON data.
        """
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(dict(data))
            ),
        )

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """Read one step.

        Args:
          step: its number.
          abstract_state: `jax.ShapeDtypeStruct` with shardings, one per leaf.

        Returns:
          (the state, the place in the data).
        """
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore()
            ),
        )
        return restored["state"], restored["data"]

    def restore_state(self, step: int, abstract_state: Any) -> Any:
        """Read one step's state alone."""
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        return self._manager.restore(step, args=args)["state"]


def abstract(tree: Any, shardings: Any) -> Any:
    """Attach shardings to the shapes of a tree, as `RunCheckpoints.restore` wants them."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings,
    )
