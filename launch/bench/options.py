"""The flags of `python launch/bench`."""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from launch.bench.presets import PRESETS, sized
from tpgdiff_jax.reporting.errors import UserError

_CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
PHOTOS = _CONFIGS / "quickstart_photos"  # bundled: train/ and eval/
# Experiment files of measurements where none is named; others take `unet`.
_DEFAULTS = {"priors": "priors", "restore": "restore"}


def parse(arguments: Sequence[str], names: Sequence[str]) -> tuple[str, flags.FlagValues]:
    """Parse a command line.

    Args:
      arguments: without the program's name.
      names: of the measurements.

    Returns:
      (the measurement's name, "" for a preset; the flags).

    Raises:
      UserError: an unknown measurement or a wrong flag.
    """
    words = [word for word in arguments if not word.startswith("-")]
    before, sys.argv = sys.argv, ["launch/bench", *arguments]  # where --config.key is looked for
    try:
        values = _define(_DEFAULTS.get(words[0] if words else "", "unet"))
        rest = values(sys.argv)[1:]
    except (flags.Error, OSError) as error:
        raise UserError(str(error)) from error
    finally:
        sys.argv = before
    if not rest and values.preset:
        return "", values
    if len(rest) != 1 or rest[0] not in names:
        raise UserError(
            f"{' '.join(rest) or 'nothing'} is no measurement; expected one of "
            f"{', '.join(names)}, or --preset={'|'.join(PRESETS)}."
        )
    return rest[0], values


def config_of(values: flags.FlagValues) -> ConfigDict:
    """Return the configuration with what the flags say of batch, size and type."""
    return sized(values["config"].value, values.batch, values.size, values.dtype)


def sizes_of(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Read sizes such as 256x480, height first.

    Raises:
      UserError: another form.
    """
    sizes = []
    for text in texts:
        height, _, width = text.partition("x")
        if not (height.isdecimal() and width.isdecimal()):
            raise UserError(f"--sizes={text}: expected HEIGHTxWIDTH, e.g. 256x480.")
        sizes.append((int(height), int(width)))
    return sizes


def _define(config: str) -> flags.FlagValues:
    """Return the flags, apart from those of other programs; `config` names the usual file."""
    values = flags.FlagValues()
    own = {"flag_values": values}
    path = str(_CONFIGS / "bench" / f"{config}.py")
    config_flags.DEFINE_config_file("config", path, "Experiment file.", **own)
    flags.DEFINE_enum("preset", None, list(PRESETS), "Several measurements in one call.", **own)
    flags.DEFINE_string("output", None, "JSON file to write, too.", **own)
    flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "Of the computation.", **own)
    flags.DEFINE_integer("batch", None, "Images at once.", lower_bound=1, **own)
    flags.DEFINE_integer("size", None, "Side of the images, pixels.", lower_bound=1, **own)
    flags.DEFINE_integer("repeats", 5, "Counted runs, after one to warm up.", 1, **own)
    flags.DEFINE_integer(
        "steps", None, "Network calls per image; by default the configuration's.", 1, **own
    )
    flags.DEFINE_string("checkpoint", None, "A .safetensors file or a run's folder.", **own)
    flags.DEFINE_string(
        "reference", None, "model, sample: a checkout of the released program, to compare.", **own
    )
    flags.DEFINE_string("photos", None, "Folder of clean photos; bundled ones by default.", **own)
    flags.DEFINE_string("pairs", None, "samplers, tiles: folder of SET/LQ and SET/GT.", **own)
    flags.DEFINE_integer("each", 2, "samplers, tiles: pairs of each set.", 1, **own)
    flags.DEFINE_integer(
        "crop", 128, "samplers, naming: side of the centre crop, pixels.", 1, **own
    )
    flags.DEFINE_integer("draws", 1, "naming: how often each photo is degraded.", 1, **own)
    flags.DEFINE_list("sizes", None, "restore: pictures, e.g. 256x256,1080x1920.", **own)
    flags.DEFINE_integer("batches", 20_000, "memory: how many to follow.", 1, **own)
    flags.DEFINE_float("seconds", 20.0, "data: that each mixture is followed.", 0, **own)
    flags.DEFINE_integer("peak_side", None, "Side of the product that tells the peak.", 8, **own)
    return values
