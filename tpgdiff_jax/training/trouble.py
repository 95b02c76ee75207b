"""Steps that went wrong: found when metrics are read, written down, and stopped or skipped."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from tpgdiff_jax.reporting import json_text
from tpgdiff_jax.reporting.errors import RunStoppedError
from tpgdiff_jax.reporting.files import write_text
from tpgdiff_jax.runs.workdir import writing


class NonFiniteError(RunStoppedError):
    """Training met a loss or gradient that is NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class StepRecord:
    """A step whose metrics have not been read yet.

    Attributes:
      step: its number.
      metrics: on the devices, perhaps still being computed.
      recipes: how this process's part of the batch was made, see `recipes_of`.
    """

    step: int
    metrics: dict[str, jax.Array]
    recipes: dict[str, np.ndarray]

    def described(self, config: ConfigDict) -> dict[str, Any]:
        """Return what somebody needs to look into this step, as plain JSON data."""
        return {
            "step": self.step,
            "seed": config.seed,
            "metrics": {name: repr(float(value)) for name, value in self.metrics.items()},
            "degradations": list(config.data.degradations),
            "process": jax.process_index(),
            "batch": {name: values.tolist() for name, values in self.recipes.items()},
        }


def recipes_of(example: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what made a batch, without its images: many steps may wait to be read."""
    names = ("label", "severity", "recipe_seed")
    return {name: np.array(example[name]) for name in names if name in example}


class Watch:
    """Collect the metrics of steps, and notice those that were not finite.

    With `optim.non_finite="stop"` the first one ends the run; with `skip` the step itself has
    changed nothing (see `step.train_step`) and more than `optim.max_skipped` in a row end it.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: pathlib.Path,
        tell: Callable[[str], None] = logging.warning,
    ):
        """Start with nothing pending.

        Args:
          config: a whole configuration; reads `optim`, `seed`, `data`.
          workdir: where bad steps are written down, `bad_step_NUMBER.json`.
          tell: called with a sentence about each step that is skipped.
        """
        self._config, self._workdir, self._tell = config, workdir, tell
        self._records: list[StepRecord] = []
        self._in_a_row = 0

    @property
    def pending(self) -> int:
        """How many steps have not been read yet."""
        return len(self._records)

    def add(self, record: StepRecord) -> None:
        """Remember a step; does not wait for it."""
        self._records.append(record)

    def collect(self) -> dict[str, float]:
        """Wait for the pending steps and return the means of their metrics.

        Returns:
          each metric's mean over the steps where it is a number, NaN where there is none;
          `skipped_steps`, if any were.

        Raises:
          NonFiniteError: as the class says; names the step and the file it is described in.
        """
        records, self._records = self._records, []
        values = jax.device_get([record.metrics for record in records])
        good = []
        for record, row in zip(records, values, strict=True):
            if row["bad_step"]:
                self._meet(record, row)
            else:
                self._in_a_row = 0
                good.append(row)
        means = {name: _mean([row[name] for row in good]) for name in values[0]}
        means.pop("bad_step")
        skipped = len(records) - len(good)
        return means | ({"skipped_steps": skipped} if skipped else {})

    def _meet(self, record: StepRecord, row: dict[str, np.ndarray]) -> None:
        self._in_a_row += 1
        path = self._write(record)
        what = f"Step {record.step}: loss {row['loss']}, gradient norm {row['gradient_norm']}"
        if self._config.optim.non_finite == "skip":
            if self._in_a_row <= self._config.optim.max_skipped:
                self._tell(f"{what}. It is skipped; its batch is described in {path}.")
                return
            what += f", bad step number {self._in_a_row} in a row"
        raise NonFiniteError(
            f"{what}. Its batch is described in {path}; the last checkpoint is kept. "
            f"{_remedies(self._config)}"
        )

    def _write(self, record: StepRecord) -> pathlib.Path:
        suffix = f"_{jax.process_index()}" if jax.process_count() > 1 else ""
        path = self._workdir / f"bad_step_{record.step}{suffix}.json"
        with writing(path):
            write_text(path, json_text.dumps(record.described(self._config), indent=2) + "\n")
        return path


def _remedies(config: ConfigDict) -> str:
    """Say what to do, with the keys that the user types, and which of them this run may take."""
    is_stage_one = config.stage == "priors"
    optim = "config.stage_one.optim" if is_stage_one else "config.optim"
    skip = f"skip such steps ({optim}.non_finite='skip')"
    if config.optim.non_finite == "skip":
        skip = f"skip more of them ({optim}.max_skipped)"
    start = (
        ""
        if is_stage_one
        else (
            ", which can start from this run's weights (--mode=export writes a file for "
            "--config.init_from)"
        )
    )
    return (
        f"Continue with the same command and {skip}, or lower {optim}.learning_rate or set "
        f"{optim}.clip_norm in a new --workdir{start}."
    )


def _mean(values: list[np.ndarray]) -> float:
    numbers = np.array(values, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    return float(numbers.mean()) if len(numbers) else math.nan
