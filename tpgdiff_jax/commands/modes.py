"""What each --mode but plan does, from checked configuration to the last line printed."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax
from absl.flags import FlagValues
from ml_collections import ConfigDict

from tpgdiff_jax.commands.ending import INTERRUPTED, stopped_exit_code
from tpgdiff_jax.commands.flags import parse_strengths
from tpgdiff_jax.commands.mode_flags import SAMPLING, chosen_program
from tpgdiff_jax.commands.processes import check_devices
from tpgdiff_jax.commands.together import RESTORED, typed_folder
from tpgdiff_jax.data import folders
from tpgdiff_jax.diffusion import samplers
from tpgdiff_jax.diffusion.irsde import IRSDE
from tpgdiff_jax.distributed import peers, sharding
from tpgdiff_jax.inference import job, plan
from tpgdiff_jax.inference.log import log_name
from tpgdiff_jax.inference.passes import Passes
from tpgdiff_jax.inference.restore import Restorer
from tpgdiff_jax.inference.sampling import Sampling
from tpgdiff_jax.inference.summary import describe
from tpgdiff_jax.inference.weights import load_suited
from tpgdiff_jax.precision import use_precision
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import printable
from tpgdiff_jax.runs import on_store, preemption
from tpgdiff_jax.runs.workdir import check_writable
from tpgdiff_jax.stores.outputs import writing
from tpgdiff_jax.stores.places import shown, with_addresses
from tpgdiff_jax.stores.sending import send_folder
from tpgdiff_jax.stores.urls import is_url, join, named

# Functions import what their mode alone needs: restoring a photo waits for no training.


def run(config: ConfigDict, flags: FlagValues) -> None:
    """Run the program that the flags choose, which is not a plan.

    Args:
      config: the checked configuration.
      flags: of `mode_flags.define_flags`, parsed and checked.
    """
    program, folder = chosen_program(flags), typed_folder(flags)
    # A benchmark sets threads before; the others need no device.
    if program not in ("prepare", "convert", "benchmark"):
        check_devices()
    match program:
        case "train":
            train(config, folder)
        case "eval":
            eval_(config, folder)
        case "benchmark":
            benchmark(config, flags, folder)
        case "restore":
            restore(flags, {name: flags[name].value for name in SAMPLING})
        case "serve":
            serve(flags.host, flags.port, flags.checkpoint, flags.compile_cache)
        case "export":
            export(config, folder, flags.output, flags.weights_dtype)
        case "prepare":
            prepare(config, flags.input, flags.output, flags.preview)
        case "convert":
            convert(config, flags.input, flags.output, flags.to, flags.weights_dtype)


def train(config: ConfigDict, workdir: str | pathlib.Path) -> None:
    """Train (or continue) the run in `workdir`, then restore photos it has not trained on.

    A run that is stopped before its end leaves with the exit code for that, if it is not 0.
    """
    from tpgdiff_jax.training import experiment

    with on_store.training_in(workdir) as folder:
        is_finished = experiment.train(config, folder)
    if is_finished:
        return
    if peers.is_first():
        text = f"Stopped before its end; the same command continues the run in {named(workdir)}."
        print(text, flush=True)
    if preemption.was_interrupted():
        sys.exit(INTERRUPTED)
    if code := stopped_exit_code():
        sys.exit(code)


def eval_(config: ConfigDict, workdir: str | pathlib.Path) -> None:
    """Score the newest checkpoint in `workdir` on the images of `data.eval_folder`."""
    from tpgdiff_jax.training import experiment
    from tpgdiff_jax.training.state import averaged

    if not config.data.eval_folder:
        raise UserError("config.data.eval_folder is empty; name a folder of photos or pairs:PATH.")
    whole = on_store.reading(workdir)
    stage, folder, state, mesh, frozen = experiment.load(config, whole)
    check_writable(folder)  # before all is scored
    source = experiment.open_eval_data(stage.config)
    params = averaged(state, stage.config)
    experiment.score(stage, folder, source, params, frozen, mesh)
    if is_url(workdir) and jax.process_index() == 0:
        below = (folder / experiment.REPORT).relative_to(whole)
        send_folder(whole / below, join(named(workdir), below.as_posix()))


def benchmark(config: ConfigDict, flags: FlagValues, folder: str | pathlib.Path) -> None:
    """Score published weights, or somebody's outputs, on every test set; write the report.

    Args:
      config: reads `benchmark` and `mesh`.
      flags: `checkpoint` or `predictions`, `share`, `merge`.
      folder: of the job.
    """
    from tpgdiff_jax.benchmark.program import check_mesh, fix_cpu_threads
    from tpgdiff_jax.benchmark.report.tables import short_table
    from tpgdiff_jax.benchmark.run import run_benchmark
    from tpgdiff_jax.benchmark.settings import read_settings
    from tpgdiff_jax.benchmark.worker import System

    checkpoint, predictions = flags.checkpoint, flags.predictions
    if checkpoint and predictions:
        raise UserError("--checkpoint and --predictions exclude each other; give one.")
    if flags.share and flags.merge:
        raise UserError("--share scores, and --merge writes the report afterwards; give one.")
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
        for variant in settings.variants(own.sampler, own.steps, own.passes):
            samplers.check_sampler(variant.sampler, sde, variant.steps)
            Passes.of(variant.passes, system.config)
    mesh = sharding.make_mesh(config.mesh)
    check_mesh(mesh)
    with on_store.scoring_in(folder, flags.share) as here:
        summary = run_benchmark(
            settings,
            here,
            mesh,
            system=system,
            predictions=folders.here(predictions) if predictions else None,
            weights=weights,
            title=pathlib.Path(checkpoint or predictions).stem,
            share=flags.share,
            merge=flags.merge,
        )
    if flags.share:
        index, count = flags.share
        print(
            f"Share {index} of {count} is scored. Once all are, the same command with --merge in "
            f"the place of --share writes the report: {shown(folder)}"
        )
    if summary is not None:
        print(f"\n{short_table(summary)}\n\nReport: {shown(folder)}/report.html")


def restore(flags: FlagValues, options: dict[str, Any]) -> None:
    """Restore files with trained weights; leaves with exit code 1 if not all were restored.

    Args:
      flags: of `mode_flags.define_flags`, parsed.
      options: those flags that say how to restore.
    """
    if not flags.input:
        raise UserError("--mode=restore needs --input: an image, a folder or a pattern.")
    output = pathlib.Path(flags.output or RESTORED)
    sampling = Sampling(**options | {"guidance": parse_strengths(options["guidance"])})
    every_task = plan.plan(flags.input, output, flags.format)
    besides = {"deviation": sampling.samples > 1, "side_by_side": flags.side_by_side}
    plan.check_besides(every_task, [kind for kind, is_wanted in besides.items() if is_wanted])
    plan.check_output(output)
    index, count = flags.share or (jax.process_index(), jax.process_count())
    peers.part()  # nothing is shared from here on: the first to finish must not end the others
    devices = jax.local_devices()
    mesh = None
    if len(devices) > 1:
        shape = {"data": -1, "fsdp": 1, "tensor": 1, "spatial": flags.spatial}
        mesh = sharding.make_mesh(shape, devices)
    elif flags.spatial != 1:
        raise UserError(f"--spatial={flags.spatial}, but there is one device.")
    restorer = Restorer.load(flags.checkpoint, mesh=mesh, compile_cache=flags.compile_cache)
    tasks = plan.share(every_task, index, count)
    log = log_name(index if count > 1 else None)
    with on_store.logging_in(output, log) as folder:
        summary = job.run(
            restorer,
            tasks,
            folder,
            sampling=restorer.checked(sampling),
            batch_size=flags.batch_size,
            side_by_side=flags.side_by_side,
            log_name=log,
            exists=plan.results_in(output),
            newest_logs=lambda: on_store.logs_in(output),
        )
    part = "share" if flags.share else "process"
    whose = f"{part} {index} of {count}, {len(tasks)} of {len(every_task)} files: "
    said = (whose if count > 1 else "") + describe(summary, output)
    print(printable(said, sys.stdout.encoding), flush=True)
    if not summary.is_complete:
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
    config: ConfigDict, workdir: str | pathlib.Path, output: str | None, weights_dtype: str
) -> None:
    """Publish the averaged weights of the newest checkpoint in `workdir` as one file."""
    from tpgdiff_jax.training import experiment

    if not output:
        raise UserError("--mode=export needs --output=FILE.safetensors.")
    with writing(output) as path:
        stage, _, state, mesh, _ = experiment.load(config, on_store.reading(workdir))
        experiment.publish(stage, state, mesh, path, dtype=weights_dtype)
    print(f"Written: {shown(path)}, described in the .json beside it.")


def prepare(config: ConfigDict, inputs: Sequence[str], output: str | None, preview: bool) -> None:
    """Write a fixed paired test set from clean photos, or a contact sheet of what would be done."""
    from tpgdiff_jax.data.prepare import paired_set as prepared
    from tpgdiff_jax.data.sources import PhotoFolder

    if len(inputs) != 1 or not output:
        raise UserError("--mode=prepare needs one --input (a folder of photos) and --output.")
    photos = PhotoFolder(inputs[0])
    with writing(output) as target:
        if preview:
            prepared.write_preview(photos, config, target)
            said = "Contact sheet"
        else:
            count = prepared.prepare(photos, config, target)
            said = with_addresses(f"{count} pairs of {photos.summary()}")
    print(f"{said}: {shown(target)}")


def convert(
    config: ConfigDict, inputs: Sequence[str], output: str | None, to: str, weights_dtype: str
) -> None:
    """Convert weights: PyTorch files to one published file, or such a file to released ones."""
    from tpgdiff_jax.checkpoints import assemble

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
        with writing(output) as folder:
            paths = assemble.export_released(inputs[0], str(folder))
        for path in paths:
            print(f"Written: {shown(path)}")
        return
    with writing(output) as target:
        rows, remarks = assemble.assemble(inputs, str(target), config, weights_dtype)
    print(assemble.table(rows))
    print("missing 0, unexpected 0, misshapen 0", *remarks, sep="\n")
    print(f"Written: {shown(output)}, described in the .json beside it.")
