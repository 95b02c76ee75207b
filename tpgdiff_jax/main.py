"""The one entry point: start-up and dispatch.

python -m tpgdiff_jax.main --config=configs/quickstart.py [--workdir=DIR] [--config.key=value]
python -m tpgdiff_jax.main --mode=restore --input=IMAGES [--output=FOLDER] [--checkpoint=FILE]
python -m tpgdiff_jax.main --mode=serve [--port=7860] [--checkpoint=FILE]
python -m tpgdiff_jax.main --mode=eval --config=configs/eval_5d.py --checkpoint=FILE
python -m tpgdiff_jax.main --mode=prepare --config=... --input=PHOTOS --output=FOLDER [--preview]
python -m tpgdiff_jax.main --mode=convert --input=FILE [--input=FILE ...] --output=FILE
python -m tpgdiff_jax.main [--mode=MODE] --help

Once installed, `tpgdiff` is short for `python -m tpgdiff_jax.main`.
"""

from absl import app, flags, logging

from tpgdiff_jax.commands import flags as typed
from tpgdiff_jax.commands.ending import ending_on_ctrl_c, stopped_exit_code
from tpgdiff_jax.commands.processes import check_processes, join_processes, joining
from tpgdiff_jax.reporting.errors import plain_errors

FLAGS = flags.FLAGS


def main(_) -> None:
    """Check the configuration, start JAX, run the mode."""
    stopped_exit_code()  # a mistake in it is told now, not once a run stops
    experiment = FLAGS["config"].value
    config = typed.checked_config(experiment)
    from tpgdiff_jax.commands.addresses import check_addresses

    check_addresses(None if experiment is None else config, FLAGS)
    typed.quiet_libraries()
    wanted = joining(FLAGS)
    check_processes(wanted)
    join_processes(wanted)
    # Imported after the checks: a mistyped key should not cost the import of JAX.
    from tpgdiff_jax.commands.mode_flags import chosen_program
    from tpgdiff_jax.commands.together import ending_together, folder_of
    from tpgdiff_jax.distributed import peers
    from tpgdiff_jax.inference.compile_cache import keep_compiled_programs
    from tpgdiff_jax.precision import use_precision
    from tpgdiff_jax.stores.places import naming_addresses

    peers.watch()
    logging.set_verbosity(logging.INFO if peers.is_first() else logging.WARNING)
    use_precision(config.model.matmul_precision)
    if FLAGS.compile_cache:
        shared = folder_of(FLAGS) / ".compiled" if peers.are_watched() else None
        keep_compiled_programs(shared)
    if chosen_program(FLAGS) == "plan":
        from tpgdiff_jax.planning.command import run
    else:
        from tpgdiff_jax.commands.modes import run
    with ending_together(folder_of(FLAGS)), naming_addresses():
        run(config, FLAGS)


def start() -> None:
    """Run the program; also what the installed command `tpgdiff` calls."""
    with plain_errors(), ending_on_ctrl_c():
        app.run(main, flags_parser=typed.parse_flags)


if __name__ == "__main__":
    start()
