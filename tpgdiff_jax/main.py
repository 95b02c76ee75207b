"""The one entry point: flags, start-up of several processes, dispatch by --mode.  No logic here.

python -m tpgdiff_jax.main --config=configs/quickstart.py [--workdir=DIR] [--config.key=value]
"""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from tpgdiff_jax import command_line

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "Experiment file, e.g. configs/quickstart.py.")
flags.DEFINE_enum("mode", "train", ["train", "eval"], "What to do with the model.")
flags.DEFINE_string("workdir", None, "Folder of the run; runs/<name of the config> by default.")
flags.DEFINE_bool("distributed", False, "Join several processes (TPU pod, Slurm, Open MPI, ...).")
flags.DEFINE_string("coordinator", None, "host:port of process 0, where JAX cannot find it itself.")
flags.DEFINE_integer("num_processes", None, "Number of processes; goes with --coordinator.")
flags.DEFINE_integer("process_id", None, "This process's number; goes with --coordinator.")


def main(_) -> None:
    """Check the configuration, start JAX, run the mode."""
    config = command_line.checked_config(FLAGS["config"].value)
    workdir = pathlib.Path(FLAGS.workdir or command_line.default_workdir(sys.argv))
    # Imported after the checks: a mistyped key should not cost the import of JAX.
    import jax

    if FLAGS.distributed or FLAGS.coordinator:
        jax.distributed.initialize(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    from tpgdiff_jax import modes

    logging.set_verbosity(logging.INFO)
    command_line.quiet_libraries()
    run = {"train": modes.train, "eval": modes.eval_}[FLAGS.mode]
    run(config, workdir)


if __name__ == "__main__":
    with command_line.plain_errors():
        app.run(main, flags_parser=command_line.parse_flags)
