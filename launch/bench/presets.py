"""Several measurements in one call, compiled side by side before the first is run."""

import concurrent.futures
import copy
import time
from typing import Any

from ml_collections import ConfigDict

from launch.bench import model, parity, sample
from launch.bench.model import Row

# What one H200 is measured by, at full width; `calls` of the network per image.
H200 = {"dtype": "bfloat16", "batch": 16, "size": 256, "calls": (10, 100), "parity_batch": 4}
PRESETS = {"h200": H200}


def run_preset(
    config: ConfigDict,
    preset: dict[str, Any],
    repeats: int,
    photos: str,
    checkpoint: str | None,
    side: int | None = None,
) -> list[Row]:
    """Measure the train step, sampling at each number of calls, and bfloat16 against float32.

    Args:
      config: the system.
      preset: one of `PRESETS`.
      repeats: counted runs of each.
      photos: clean photos for the parity.
      checkpoint: weights for the parity; random ones by default.
      side: see `measure.matrix_peak`.
    """
    config = sized(config, preset["batch"], preset["size"], preset["dtype"])
    started, rows = time.perf_counter(), []

    def say(text: str) -> None:
        print(f"{time.perf_counter() - started:6.1f} s: {text}", flush=True)

    few = sized(config, preset["parity_batch"], None, None)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        step = model.plan(config, "train step", pool)  # takes longest
        chains = {steps: sample.plan(config, steps, pool) for steps in preset["calls"]}
        gt, parities = parity.plan(few, checkpoint, photos, max(preset["calls"]), pool)
        forward = model.plan(config, "forward", pool)
        say("all traced; waiting for the compiler")
        planned = [forward, *chains.values(), *parities.values(), step]
        say(f"compiled, in {[round(each.program.compile_seconds) for each in planned]} s")
    # From little memory to much, since a device remembers only its peak.
    rows.append(model.measure(config, "forward", forward, repeats, side))
    for steps, chain in chains.items():
        turns = max(1, 10 * repeats // steps)
        rows.append(sample.measure(config, steps, chain, turns, side))
        say(f"{steps} calls measured")
    rows.append(model.measure(config, "train step", step, repeats, side))
    say("train step measured")
    rows += parity.compare(gt, parities)
    say("parity measured")
    return rows


def sized(config: ConfigDict, batch: int | None, size: int | None, dtype: str | None) -> ConfigDict:
    """Return a copy of a configuration with another batch, size in pixels, or type, where given."""
    config = copy.deepcopy(config)
    with config.unlocked():
        if batch:
            config.data.batch_size = batch
        if size:
            config.data.crop_size = size
        if dtype:
            config.model.dtype = dtype
    return config.lock()
