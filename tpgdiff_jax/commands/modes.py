"""What each --mode does, from checked configuration to the last line printed."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl.flags import FlagValues
from ml_collections import ConfigDict

from tpgdiff_jax.benchmark.program import check_mesh, fix_cpu_threads
from tpgdiff_jax.benchmark.report.tables import short_table
from tpgdiff_jax.benchmark.run import run_benchmark
from tpgdiff_jax.benchmark.settings import read_settings
from tpgdiff_jax.benchmark.worker import System
from tpgdiff_jax.checkpoints import assemble
from tpgdiff_jax.commands.ending import INTERRUPTED
from tpgdiff_jax.commands.flags import default_workdir, parse_strengths
from tpgdiff_jax.commands.mode_flags import MODES, SAMPLING, program_of
from tpgdiff_jax.commands.processes import check_devices
from tpgdiff_jax.data.prepare import paired_set as prepared
from tpgdiff_jax.data.sources import PhotoFolder
from tpgdiff_jax.diffusion import samplers
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.distributed import sharding
from tpgdiff_jax.inference import job, plan
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.precision import use_precision
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import printable
from tpgdiff_jax.runs import preemption
from tpgdiff_jax.runs.load import load_suited
from tpgdiff_jax.training import experiment
from tpgdiff_jax.training.state import averaged

# Where --mode=restore writes without --output; it says so at its end.
RESTORED = "restored"


def run(config: ConfigDict, flags: FlagValues) -> None:
    """Run the program that the flags choose.

    Args:
      config: the checked configuration.
      flags: of `mode_flags.define_flags`, parsed and checked.
    """
    given = [name for name in ("checkpoint", "predictions") if flags[name].value]
    program = program_of(flags.mode, given)
    workdir = pathlib.Path(".")
    if "workdir" in MODES[program].reads:
        workdir = pathlib.Path(flags.workdir or default_workdir(sys.argv))
    if program not in ("prepare", "convert", "benchmark"):  # a benchmark sets threads before
        check_devices()
    match program:
        case "train":
            train(config, workdir)
        case "eval":
            eval_(config, workdir)
        case "benchmark":
            folder = pathlib.Path(flags.output or workdir)
            benchmark(config, flags.checkpoint, flags.predictions, folder)
        case "restore":
            restore(flags, {name: flags[name].value for name in SAMPLING})
        case "serve":
            serve(flags.host, flags.port, flags.checkpoint, flags.compile_cache)
        case "export":
            export(config, workdir, flags.output, flags.weights_dtype)
        case "prepare":
            prepare(config, flags.input, flags.output, flags.preview)
        case "convert":
            convert(config, flags.input, flags.output, flags.to, flags.weights_dtype)


def train(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Train (or continue) the run in `workdir`, then restore photos it has not trained on."""
    if experiment.train(config, workdir):
        return
    print(f"Stopped before its end; the same command continues the run in {workdir}.", flush=True)
    if preemption.was_interrupted():
        sys.exit(INTERRUPTED)


def eval_(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Score the newest checkpoint in `workdir` on the images of `data.eval_folder`."""
    if not config.data.eval_folder:
        raise UserError("config.data.eval_folder is empty; name a folder of photos or pairs:PATH.")
    stage, workdir, state, mesh, frozen = experiment.load(config, workdir)
    source = experiment.open_eval_data(stage.config)
    params = averaged(state, stage.config)
    experiment.score(stage, workdir, source, params, frozen, mesh)


def benchmark(
    config: ConfigDict, checkpoint: str | None, predictions: str | None, folder: pathlib.Path
) -> None:
    """Score published weights, or somebody's outputs, on every test set; write the report."""
    if checkpoint and predictions:
        raise UserError("--checkpoint and --predictions exclude each other; give one.")
    settings = read_settings(config)
    if settings.exact:
        fix_cpu_threads()
    check_devices()
    system, weights = None, ""
    if checkpoint:
        *parts, weights = load_suited(checkpoint)
        system = System(*parts)
        use_precision(system.config.model.matmul_precision)
        sde, own = IRSDE(**system.config.diffusion), system.config.eval
        for variant in settings.variants(own.sampler, own.steps):
            samplers.check_sampler(variant.sampler, sde, variant.steps)
    mesh = sharding.make_mesh(config.mesh)
    check_mesh(mesh)
    summary = run_benchmark(
        settings,
        folder,
        mesh,
        system=system,
        predictions=pathlib.Path(predictions) if predictions else None,
        weights=weights,
        title=pathlib.Path(checkpoint or predictions).stem,
    )
    if summary is not None:
        print(f"\n{short_table(summary)}\n\nReport: {(folder / 'report.html').absolute()}")


def restore(flags: FlagValues, options: dict[str, Any]) -> None:
    """Restore files with trained weights; leaves with exit code 1 if not all were restored.

    Args:
      flags: of `flags.define_restore_flags`, and `input`, `output`.
      options: those flags that say how to restore.
    """
    if not flags.input:
        raise UserError("--mode=restore needs --input: an image, a folder or a pattern.")
    if flags.batch_size < 1:
        raise UserError(f"--batch_size={flags.batch_size} must be at least 1.")
    output = pathlib.Path(flags.output or RESTORED)
    sampling = Sampling(**options | {"guidance": parse_strengths(options["guidance"])})
    every_task = plan.plan(flags.input, output, flags.format)
    plan.check_output(output)
    index, count = jax.process_index(), jax.process_count()
    if count > 1:
        # Nothing is shared from here on, so the first to finish must not end the others.
        jax.distributed.shutdown()
    devices = jax.local_devices()
    mesh = None
    if len(devices) > 1:
        shape = {"data": -1, "fsdp": 1, "tensor": 1, "spatial": flags.spatial}
        mesh = sharding.make_mesh(shape, devices)
    elif flags.spatial != 1:
        raise UserError(f"--spatial={flags.spatial}, but there is one device.")
    restorer = Restorer.load(flags.checkpoint, mesh=mesh, compile_cache=flags.compile_cache)
    tasks = plan.share(every_task, index, count)
    summary = job.run(
        restorer,
        tasks,
        output,
        sampling=restorer.checked(sampling),
        batch_size=flags.batch_size,
        side_by_side=flags.side_by_side,
        log_name=f"restored_{index}.jsonl" if count > 1 else job.LOG_NAME,
    )
    whose = f"process {index} of {count}, {len(tasks)} of {len(every_task)} files: "
    said = (whose if count > 1 else "") + job.describe(summary, output)
    print(printable(said, sys.stdout.encoding), flush=True)
    if summary.failed or summary.stopped:
        sys.exit(1)


def serve(host: str, port: int, checkpoint: str | None, compile_cache: bool) -> None:
    """Show a page to restore on, until Ctrl-C; arguments are the flags."""
    try:
        from tpgdiff_jax.app import server  # starts Gradio, which few need
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("tpgdiff_jax"):
            raise
        raise UserError(
            f"--mode=serve needs Gradio ({error}): pip install 'tpgdiff_jax[app]'."
        ) from error
    with server.listening(host, port) as ear:  # a port that is taken is said at once
        server.serve(Restorer.load(checkpoint, compile_cache=compile_cache), ear)


def export(
    config: ConfigDict, workdir: pathlib.Path, output: str | None, weights_dtype: str
) -> None:
    """Publish the averaged weights of the newest checkpoint in `workdir` as one file."""
    if not output:
        raise UserError("--mode=export needs --output=FILE.safetensors.")
    stage, _, state, mesh, _ = experiment.load(config, workdir)
    experiment.publish(stage, state, mesh, pathlib.Path(output), dtype=weights_dtype)
    print(f"Written: {pathlib.Path(output).absolute()}, described in the .json beside it.")


def prepare(config: ConfigDict, inputs: Sequence[str], output: str | None, preview: bool) -> None:
    """Write a fixed paired test set from clean photos, or a contact sheet of what would be done."""
    if len(inputs) != 1 or not output:
        raise UserError("--mode=prepare needs one --input (a folder of photos) and --output.")
    photos = PhotoFolder(inputs[0])
    target = pathlib.Path(output)
    if preview:
        if target.exists():
            raise UserError(f"--output={target} exists already; choose another name.")
        prepared.write_preview(photos, config, target)
        print(f"Contact sheet: {target.absolute()}")
        return
    count = prepared.prepare(photos, config, target)
    print(f"{count} pairs of {photos.summary()}: {target.absolute()}")


def convert(
    config: ConfigDict, inputs: Sequence[str], output: str | None, to: str, weights_dtype: str
) -> None:
    """Convert weights: PyTorch files to one published file, or such a file to released ones."""
    if not inputs or not output:
        raise UserError("--mode=convert needs --input (one or several) and --output.")
    if to == "released":
        if weights_dtype != "float32":
            raise UserError(
                f"--to=released writes float32; --weights_dtype={weights_dtype} goes with our "
                "own format."
            )
        if len(inputs) > 1:
            raise UserError("--to=released takes one --input: a published .safetensors file.")
        for path in assemble.export_released(inputs[0], output):
            print(f"Written: {path.absolute()}")
        return
    rows, remarks = assemble.assemble(inputs, output, config, weights_dtype)
    print(assemble.table(rows))
    print("missing 0, unexpected 0, misshapen 0", *remarks, sep="\n")
    print(f"Written: {pathlib.Path(output).absolute()}, described in the .json beside it.")
