"""The one entry point: flags, start-up of several processes, dispatch by --mode.

python -m tpgdiff_jax.main --config=configs/quickstart.py [--workdir=DIR] [--config.key=value]
python -m tpgdiff_jax.main --mode=restore --input=IMAGES [--output=FOLDER] [--checkpoint=FILE]
python -m tpgdiff_jax.main --mode=eval --config=configs/eval_5d.py --checkpoint=FILE
python -m tpgdiff_jax.main --mode=prepare --config=... --input=PHOTOS --output=FOLDER [--preview]
python -m tpgdiff_jax.main --mode=convert --input=FILE [--input=FILE ...] --output=FILE
"""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from tpgdiff_jax.commands import flags as typed
from tpgdiff_jax.reporting.errors import plain_errors

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "Experiment file, e.g. configs/quickstart.py.")
MODES = ["train", "eval", "restore", "export", "prepare", "convert"]
flags.DEFINE_enum("mode", "train", MODES, "What to do.")
flags.DEFINE_multi_string(
    "input",
    [],
    "restore: image, folder or pattern; convert: weight file or folder; may be repeated.  "
    "prepare: folder of photos.",
)
flags.DEFINE_string(
    "output", None, "Where to write: a folder (restore: restored/), or a .safetensors file."
)
flags.DEFINE_string("predictions", None, "eval: folder of somebody's outputs to score instead.")
RESTORE_OPTIONS = typed.define_restore_flags()
flags.DEFINE_bool("preview", False, "prepare: write a contact sheet (--output=PICTURE) instead.")
flags.DEFINE_enum("to", "ours", ["ours", "released"], "convert: whose format to write.")
TYPES = ["float32", "float16", "bfloat16"]
flags.DEFINE_enum("weights_dtype", "float32", TYPES, "export, convert: how kernels are stored.")
flags.DEFINE_string("workdir", None, "Folder of the run; runs/<name of the config> by default.")
flags.DEFINE_bool("distributed", False, "Join several processes (TPU pod, Slurm, Open MPI, ...).")
flags.DEFINE_string("coordinator", None, "host:port of process 0, where JAX cannot find it itself.")
flags.DEFINE_integer("num_processes", None, "Number of processes; goes with --coordinator.")
flags.DEFINE_integer("process_id", None, "This process's number; goes with --coordinator.")


def main(_) -> None:
    """Check the configuration, start JAX, run the mode."""
    config = typed.checked_config(FLAGS["config"].value)
    processes = (FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    typed.check_processes(FLAGS.distributed, *processes)
    # Imported after the checks: a mistyped key should not cost the import of JAX.
    import jax

    if FLAGS.distributed or FLAGS.coordinator:
        jax.distributed.initialize(*processes)
    from tpgdiff_jax.commands import modes
    from tpgdiff_jax.inference.compile_cache import keep_compiled_programs
    from tpgdiff_jax.precision import use_precision

    logging.set_verbosity(logging.INFO)
    typed.quiet_libraries()
    use_precision(config.model.matmul_precision)
    if FLAGS.compile_cache:
        keep_compiled_programs()
    match FLAGS.mode:
        case "train":
            modes.train(config, _workdir())
        case "eval":
            if FLAGS.checkpoint or FLAGS.predictions:
                folder = pathlib.Path(FLAGS.output or _workdir())
                modes.benchmark(config, FLAGS.checkpoint, FLAGS.predictions, folder)
            else:
                modes.eval_(config, _workdir())
        case "restore":
            options = {name: FLAGS[name].value for name in RESTORE_OPTIONS}
            modes.restore(FLAGS, options)
        case "export":
            modes.export(config, _workdir(), FLAGS.output, FLAGS.weights_dtype)
        case "prepare":
            modes.prepare(config, FLAGS.input, FLAGS.output, FLAGS.preview)
        case "convert":
            modes.convert(config, FLAGS.input, FLAGS.output, FLAGS.to, FLAGS.weights_dtype)


def _workdir() -> pathlib.Path:
    return pathlib.Path(FLAGS.workdir or typed.default_workdir(sys.argv))


if __name__ == "__main__":
    with plain_errors():
        app.run(main, flags_parser=typed.parse_flags)
