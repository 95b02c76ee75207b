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

    def add(row: Row) -> None:  # said at once: a later measurement may fail
        rows.append(row)
        rate, share = row["images_per_second"], row["share_of_peak"]
        say(f"{row['what']}: {row['seconds']:.4g} s, {rate:.4g} images/s, {share:.1%} of the peak")

    # From little memory to much, since a device remembers only its peak.
    add(model.measure(config, "forward", forward, repeats, side))
    for steps, chain in chains.items():
        turns = max(1, 10 * repeats // steps)
        add(sample.measure(config, steps, chain, turns, side))
    add(model.measure(config, "train step", step, repeats, side))
    rows += parity.compare(gt, parities)
    say(f"bfloat16 to float32: {rows[-1]['db_between']:.1f} dB between, parity measured")
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
