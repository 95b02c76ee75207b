"""Measure: seconds, images per second, memory, share of the device's peak, precision.

    python launch/bench model                        forward pass, gradient, training step
    python launch/bench sample --steps=10            the whole chain, priors included
    python launch/bench model --reference=FOLDER     beside the released program, in turns; also
                                                     `sample` (FOLDER: a checkout of it)
    python launch/bench parity --checkpoint=FILE     a bfloat16 chain against a float32 one
    python launch/bench priors                       each branch, in UNet calls
    python launch/bench convolutions --dtype=bfloat16    oneDNN against XLA, by shape
    python launch/bench gradients                    weight gradients: ours against XLA's own
    python launch/bench restore                      by picture size, in windows, a mixed folder
    python launch/bench eval                         what scoring adds to sampling
    python launch/bench data --photos=FOLDER         decoding, degradations, patches per second
    python launch/bench memory --photos=FOLDER       memory of the data pipeline over time
    python launch/bench samplers --checkpoint=FILE --pairs=FOLDER     quality by sampler and calls
    python launch/bench tiles --checkpoint=FILE --pairs=FOLDER        quality in windows
    python launch/bench naming --checkpoint=FILE --photos=FOLDER      degradations named right
    python launch/bench page                         --mode=serve: first paint, 100 requests, memory
    python launch/bench --preset=h200                what one H200 is measured by, in one call

Common flags: --config=FILE [--config.key=value] --dtype= --batch= --size= --repeats= --output=JSON.
Ratios within one run mean more than seconds: machines are noisy.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from absl import flags
from ml_collections import ConfigDict

from launch.bench import options, presets, table
from tpgdiff_jax.commands.config_checks import validate
from tpgdiff_jax.reporting.errors import UserError

Rows = list[dict[str, Any]]

# Measurements import what they need: a GPU machine may lack the libraries of the data pipeline.


def _priors(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import priors

    return priors.bench_priors(config, flag.repeats)


def _model(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import model, versus

    if flag.reference:
        return versus.bench_against(config, flag.reference, flag.repeats)
    return model.bench_model(config, flag.repeats, side=flag.peak_side)


def _sample(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import sample, versus

    steps = flag.steps or config.eval.steps
    if flag.reference:
        return versus.bench_against(config, flag.reference, flag.repeats, steps)
    return sample.bench_sample(config, flag.repeats, steps, flag.peak_side)


def _parity(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import parity

    photos = flag.photos or str(options.PHOTOS / "eval")
    return parity.bench_parity(config, flag.checkpoint, photos, flag.steps)


def _convolutions(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import convolutions

    return convolutions.bench_convolutions(config.model.dtype, flag.repeats)


def _gradients(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import gradients

    return gradients.bench_gradients(config.model.dtype, flag.repeats)


def _restore(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import restore

    sizes = options.sizes_of(flag.sizes) if flag.sizes else restore.SIZES
    folder = [] if flag.sizes else restore.bench_folder(config)
    return folder + restore.bench_sizes(config, flag.steps or config.eval.steps, sizes)


def _eval(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import evaluate

    return evaluate.bench_eval(
        config, flag.photos or str(options.PHOTOS / "eval"), flag.steps or 10
    )


def _data(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import data

    photos = flag.photos or str(options.PHOTOS / "train")
    return data.bench_steps(photos) + data.bench_pipeline(photos, flag.seconds)


def _memory(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import data

    return data.bench_memory(flag.photos or str(options.PHOTOS / "train"), flag.batches)


def _samplers(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import pairs

    calls = (flag.steps,) if flag.steps else pairs.NFE
    return pairs.bench_samplers(flag.checkpoint, _pairs(flag), flag.each, flag.crop, calls)


def _tiles(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import pairs

    return pairs.bench_tiles(flag.checkpoint, _pairs(flag), flag.each)


def _naming(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import naming

    photos = flag.photos or str(options.PHOTOS / "eval")
    return naming.bench_naming(flag.checkpoint, photos, flag.crop, flag.draws)


def _page(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    from launch.bench import page

    restorer = page.Restorer.load(flag.checkpoint)
    return page.bench_paint(flag.repeats) + page.bench_requests(restorer, flag.size or 512)


def _pairs(flag: flags.FlagValues) -> str:
    if not flag.pairs:
        raise UserError("--pairs is missing; name a folder of sets, each with LQ and GT.")
    return flag.pairs


def _preset(config: ConfigDict, flag: flags.FlagValues) -> Rows:
    photos, chosen = flag.photos or str(options.PHOTOS / "eval"), presets.PRESETS[flag.preset]
    return presets.run_preset(config, chosen, flag.repeats, photos, flag.checkpoint)


WORKS = {
    "model": _model,
    "sample": _sample,
    "parity": _parity,
    "priors": _priors,
    "convolutions": _convolutions,
    "gradients": _gradients,
    "restore": _restore,
    "eval": _eval,
    "data": _data,
    "memory": _memory,
    "samplers": _samplers,
    "tiles": _tiles,
    "naming": _naming,
    "page": _page,
}


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, write JSON where asked; return the exit status."""
    if not arguments or {"--help", "-h", "--helpfull"} & set(arguments):
        print(__doc__)
        return 0
    if not flags.FLAGS.is_parsed():  # the data pipeline's worker processes read them
        flags.FLAGS(["launch/bench"])
    try:
        what, flag = options.parse(arguments, list(WORKS))
        config = options.config_of(flag)
        validate(config)
        print(table.header(), flush=True)
        rows = _preset(config, flag) if flag.preset else WORKS[what](config, flag)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table.show(rows), flush=True)
    if flag.output:
        table.write(flag.output, what or f"preset {flag.preset}", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
