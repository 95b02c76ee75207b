"""Flags and keys that a mode would not read are refused, and the right ones named."""

from collections.abc import Sequence

from tpgdiff_jax.commands.mode_flags import EVERY_MODE, MODES, Mode
from tpgdiff_jax.reporting.errors import UserError

# What belongs to benchmarks and test sets is read by none of the programs that train or publish.
_OWN_KEYS = {"benchmark.": "benchmark", "prepare.": "prepare"}

# Program -> a flag it does not read -> what does there what the flag promises.
_INSTEAD = {
    "train": {
        "checkpoint": "--config.init_from=FILE trains on from weights",
        "input": "--config.data.train_folder=FOLDER names the photos",
        "output": "--workdir=FOLDER names the run's folder",
        "steps": "--config.optim.steps=N says how long to train",
        "seed": "--config.seed=N seeds the training",
        "batch_size": "--config.data.batch_size=N says how many crops a step sees",
        "spatial": "--config.mesh.spatial=N divides the rows among devices",
        "sampler": "--config.eval.sampler=NAME says how validation restores",
        "weights_dtype": "--config.model.dtype=TYPE says in which type to compute",
    },
    "eval": {
        "share": "with --checkpoint=RUN, benchmarks score a run's weights in shares",
        "input": "--config.data.eval_folder=FOLDER names the photos",
        "output": "--workdir=RUN names the folder; --output goes with --checkpoint, --predictions",
        "steps": "--config.eval.steps=N says how many network calls an image takes",
        "seed": "--config.eval.seed=N seeds degradations and noise",
        "batch_size": "--config.eval.batch_size=N says how many images run together",
        "spatial": "--config.mesh.spatial=N divides the rows among devices",
        "sampler": "--config.eval.sampler=NAME says how to restore",
    },
    "benchmark": {
        "input": "--config.benchmark.root=FOLDER holds the test sets",
        "steps": "--config.benchmark.steps=N says how many network calls an image takes",
        "seed": "--config.benchmark.seed=N seeds degradations and noise",
        "batch_size": "--config.benchmark.batch_size=N says how many images run together",
        "sampler": "--config.benchmark.samplers=NAME says how to restore",
        "tile": "--config.benchmark.tile=N is the window for large images",
    },
    "restore": {
        "config": "weights bring their own settings, and --steps, --sampler, --seed change them",
        "workdir": "--checkpoint=RUN restores with the weights of a run's folder",
        "predictions": "--input=PHOTOS names what to restore",
    },
    "serve": {
        "config": "weights bring their own settings, and the page changes them",
        "workdir": "--checkpoint=RUN serves the weights of a run's folder",
        "input": "pictures are chosen on the page",
        "output": "results are downloaded from the page",
        "steps": "the page has a slider",
        "sampler": "the page has a list",
        "seed": "the page has a field",
        "samples": "the page has a field for the uncertainty",
        "guidance": "the page has sliders",
    },
    "export": {
        "checkpoint": "--workdir=RUN names the run",
        "input": "--workdir=RUN names the run",
        "to": "--mode=convert --to=released writes files of the released program",
    },
    "prepare": {
        "seed": "--config.prepare.seed=N seeds the degradations",
        "workdir": "--output=FOLDER names where to write",
        "format": "--config.prepare.format=folder|records|tfds says as what to write",
    },
    "convert": {
        "checkpoint": "--input=FILE names the weights",
        "workdir": "--output=FILE names where to write",
    },
    "plan": {
        "batch_size": "--config.data.batch_size=N and --config.eval.batch_size=N say how many",
        "spatial": "--mesh=DATAxFSDPxTENSORxSPATIAL names the devices along each axis",
        "steps": "--config.optim.steps=N, --config.eval.steps=N say how many",
        "workdir": "--output=FILE names where to write",
        "checkpoint": "shapes suffice, no weights are read",
    },
}
# Program -> a key it does not read -> what to set instead.
_INSTEAD_OF_KEYS = {
    "restore": {
        "eval.steps": "--steps",
        "eval.sampler": "--sampler",
        "eval.seed": "--seed",
        "eval.batch_size": "--batch_size",
        "seed": "--seed",
        "data.batch_size": "--batch_size",
        "mesh.spatial": "--spatial",
        "benchmark.steps": "--steps",
        "benchmark.tile": "--tile",
    },
    "benchmark": {
        "eval.steps": "--config.benchmark.steps",
        "eval.sampler": "--config.benchmark.samplers",
        "eval.seed": "--config.benchmark.seed",
        "eval.batch_size": "--config.benchmark.batch_size",
        "seed": "--config.benchmark.seed",
        "data.eval_folder": "--config.benchmark.root",
    },
    "prepare": {"seed": "--config.prepare.seed", "data.crop_size": "--config.prepare.crop_size"},
}


def check_given(program: str, given: Sequence[str], keys: Sequence[str]) -> None:
    """Refuse what a program would not read, and name what it reads instead.

    Args:
      program: of `MODES`.
      given: names of the flags that were typed.
      keys: of the configuration that were typed, e.g. "optim.steps".

    Raises:
      UserError: one of them is not read.
    """
    about = MODES[program]
    mode = _mode_of(program)
    for name in given:
        # Of an experiment file and a key in it, the key says better what was wanted.
        if name in (*about.reads, *EVERY_MODE) or (name == "config" and keys):
            continue
        readers = [other.typed for other in MODES.values() if name in other.reads]
        instead = _INSTEAD.get(program, {}).get(name)
        hint = f"{instead}." if instead else f"it goes with {', '.join(readers)}."
        raise UserError(f"--{name} is not read by {mode}: {hint}")
    for key in keys:
        if _reads_key(about, key):
            continue
        owner = next((o for start, o in _OWN_KEYS.items() if key.startswith(start)), program)
        instead = _INSTEAD_OF_KEYS.get(program, {}).get(key)
        if instead:
            hint = f"set {instead}."
        elif owner != program:
            hint = f"it goes with {MODES[owner].typed}."
        elif not about.keys:
            hint = f"weights bring their own settings; see {mode} --help."
        else:
            read = ", ".join(f"{start}*" if start.endswith(".") else start for start in about.keys)
            hint = f"of a configuration it reads {read}."
        raise UserError(f"--config.{key} is not read by {mode}: {hint}")


def _reads_key(about: Mode, key: str) -> bool:
    is_own = key.startswith(tuple(_OWN_KEYS))
    return key.startswith(about.keys) and not (is_own and about.keys == ("",))


def _mode_of(program: str) -> str:
    return MODES[program].typed.partition(" (")[0]
