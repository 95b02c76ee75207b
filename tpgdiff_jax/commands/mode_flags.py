"""Every flag, and which mode reads it: one table for parsing, refusing and --help."""

import dataclasses
import os
import textwrap
from collections.abc import Collection

from absl import flags
from ml_collections import config_flags

SHARE = "I/N with I from 0 to N - 1"  # what --share takes
SEEDS = 2**32  # random generators take seeds below this
_WEIGHTS_TYPES = ("float32", "float16", "bfloat16")
PROCESSES = ("distributed", "coordinator", "num_processes", "process_id")
# How to restore; those of `--mode=restore` that say nothing of files or devices.
SAMPLING = (
    *("steps", "sampler", "seed", "samples", "ensemble", "passes", "guidance"),
    *("tile", "windows", "exact_size"),
)


@dataclasses.dataclass(frozen=True)
class Mode:
    """What one mode is.

    Attributes:
      typed: what chooses it.
      words: what it does.
      reads: the flags it reads, in the order in which --help names them.
      keys: beginnings of the configuration's keys that it reads; "" is every key, () none.
      kept: what a Ctrl-C leaves behind, as a sentence.
    """

    typed: str
    words: str
    reads: tuple[str, ...]
    keys: tuple[str, ...] = ("",)
    kept: str = "Nothing was written."


# `eval` is two programs: without weights or outputs it scores a run's own checkpoint.
MODES = {
    "train": Mode(
        "--mode=train (if none is named)",
        "Train, or continue, the experiment of --config in --workdir.",
        ("config", "workdir", *PROCESSES),
        kept="The run stays at its last checkpoint; the same command continues there.",
    ),
    "restore": Mode(
        "--mode=restore",
        "Restore photos with the weights that come with tpgdiff_jax, or with others.",
        (
            *("input", "output", "checkpoint", "format", "side_by_side"),
            *SAMPLING,
            *("batch_size", "spatial", "share", *PROCESSES),
        ),
        keys=(),
        kept="Results that are there are whole; the same command makes those that are missing.",
    ),
    "serve": Mode(
        "--mode=serve",
        "Open a page to try it on, in the browser of this machine (extra: app).",
        ("checkpoint", "host", "port"),
        keys=(),
        kept="What was uploaded and made is removed.",
    ),
    "benchmark": Mode(
        "--mode=eval with --checkpoint or --predictions",
        "Score weights, or somebody's outputs, on test sets, and write a report.",
        (
            *("config", "checkpoint", "predictions", "output", "workdir"),
            *("share", "merge", *PROCESSES),
        ),
        keys=("benchmark.", "mesh.", "model.matmul_precision"),
        kept="Scores made so far are kept; the same command makes those that are missing.",
    ),
    "eval": Mode(
        "--mode=eval",
        "Score the newest checkpoint of the run in --workdir on config.data.eval_folder.",
        ("config", "workdir", *PROCESSES),
    ),
    "export": Mode(
        "--mode=export",
        "Publish the averaged weights of the run in --workdir as one file.",
        ("config", "workdir", "output", "weights_dtype", *PROCESSES),
    ),
    "prepare": Mode(
        "--mode=prepare",
        "Degrade clean photos once, for a fixed test set, or show how (--preview).",
        ("config", "input", "output", "preview"),
        keys=("prepare.", "data.degradations"),
        kept="What --output holds is not complete: remove it before the same command.",
    ),
    "convert": Mode(
        "--mode=convert",
        "Convert weights: PyTorch files to one published file, or back.",
        ("config", "input", "output", "to", "weights_dtype"),
    ),
    "plan": Mode(
        "--mode=plan",
        "Compile what --config would run on TPU pods, without one: memory, traffic, hours.",
        ("config", "topology", "mesh", "what", "by", "remedies", "output"),
        kept="Nothing was written; what was compiled so far is printed above.",
    ),
}
TYPED_MODES = tuple(name for name in MODES if name != "benchmark")
WITHOUT_CONFIG = ("restore", "serve", "convert")  # weights bring their own settings
EVERY_MODE = ("mode", "compile_cache")


class _Path(flags.ArgumentParser):
    """A path; `~` is the user's folder, which a shell leaves alone after '='."""

    def parse(self, argument: str) -> str:
        return os.path.expanduser(argument)

    def flag_type(self) -> str:
        return "path"


class _Share(flags.ArgumentParser):
    """A part of the work, I/N; its value is (I, N)."""

    def parse(self, argument: str | tuple[int, int]) -> tuple[int, int]:
        if isinstance(argument, tuple):  # absl parses a flag's value anew
            return argument
        index, _, count = argument.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise ValueError("no I/N")
        return int(index), int(count)

    def flag_type(self) -> str:
        return SHARE


def define_flags() -> None:
    """Define every flag, once; later calls do nothing."""
    if "mode" in flags.FLAGS:
        return
    config_flags.DEFINE_config_file("config", None, "Experiment file: FILE.py, or FILE.py:TASK.")
    flags.DEFINE_enum("mode", "train", TYPED_MODES, "What to do.")
    flags.DEFINE_bool("compile_cache", True, "Keep compiled programs for the next run.")
    _define_files()
    _define_sampling()
    _define_plan()
    flags.DEFINE_integer("batch_size", 4, "Images a device restores together, at most.", 1)
    flags.DEFINE_integer("spatial", 1, "Devices that share the rows of each image.", 1)
    words = "Do part I of N alone, such as one task of an array job; parts may run again."
    flags.DEFINE(_Share(), "share", None, words)
    flags.DEFINE_bool("merge", False, "Score nothing: write the report of what all shares scored.")
    words = (
        "Whether to join other processes; auto: where a TPU pod, GKE, Slurm or MPI has started "
        "several."
    )
    flags.DEFINE_enum("distributed", "auto", ("auto", "on", "off"), words)
    words = "Address the page listens at; others than 127.0.0.1 let other machines in."
    flags.DEFINE_string("host", "127.0.0.1", words)
    flags.DEFINE_integer("port", 7860, "Port of the page; 0: any that is free.", 0, 2**16 - 1)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if JAX cannot find it.")
    flags.DEFINE_integer("num_processes", None, "Number of processes; with --coordinator.", 1)
    flags.DEFINE_integer("process_id", None, "Number of this process; with --coordinator.", 0)


def _define_plan() -> None:
    flags.DEFINE_multi_string("topology", [], "Chips, e.g. v5e:4x4 or h100:8.  May be repeated.")
    words = "Devices along data x fsdp x tensor x spatial, e.g. 16x1x1x1, if not config.mesh."
    flags.DEFINE_multi_string("mesh", [], f"{words}  May be repeated.")
    whats = ["train", "sample", "evaluate"]
    flags.DEFINE_multi_enum("what", ["train"], whats, "Which program.  May be repeated.")
    flags.DEFINE_enum("by", None, ["operation"], "Also print what moves the most bytes.")
    words = "Where a program does not fit, compile what might make it fit."
    flags.DEFINE_bool("remedies", True, words)


def _define_files() -> None:
    def path(name: str, words: str) -> None:
        flags.DEFINE(_Path(), name, None, words)

    several = "Image, folder or pattern; convert: file or folder.  May be repeated."
    flags.DEFINE_multi(_Path(), flags.ArgumentSerializer(), "input", [], several)
    path(
        "output",
        "Where to write.  restore (restored/ by default), eval, convert --to=released: a folder; "
        "export, convert, plan, prepare --preview: a file; prepare: as its format wants.",
    )
    path("workdir", "Folder of the run; runs/<name of the config> by default.")
    path(
        "checkpoint",
        "A .safetensors file, a run's folder, or 'default': the weights that come with "
        "tpgdiff_jax, which restore takes by itself.",
    )
    path("predictions", "Folder of somebody's outputs to score.")
    flags.DEFINE_string("format", ".png", "Suffix of the results.")
    flags.DEFINE_bool("side_by_side", False, "Also write degraded | restored.")
    flags.DEFINE_bool("preview", False, "Write a contact sheet (--output=PICTURE) instead.")
    flags.DEFINE_enum("to", "ours", ["ours", "released"], "Whose format to write.")
    words = "How kernels are stored."
    flags.DEFINE_enum("weights_dtype", "float32", _WEIGHTS_TYPES, words)


def _define_sampling() -> None:
    flags.DEFINE_integer("steps", None, "Network calls, if not the weights' own number.", 1)
    flags.DEFINE_string("sampler", None, "Which sampler, if not the weights' own.")
    flags.DEFINE_integer("seed", 0, "Of the sampling noise.", 0, SEEDS - 1)
    flags.DEFINE_integer("samples", 1, "Draws per image; 2 or more show the uncertainty.", 1)
    words = "Views of each image that are averaged: 1, 2 (its mirror image), 4 (also upside down)."
    flags.DEFINE_integer("ensemble", 1, words)
    words = "Restorations in a row, at most, of what still looks degraded, if not the weights' own."
    flags.DEFINE_integer("passes", None, words, 1)
    flags.DEFINE_multi_string("guidance", [], "BRANCH=STRENGTH, e.g. semantic=2.")
    flags.DEFINE_integer("tile", None, "Window for large images, pixels; 0: always whole.", 0)
    flags.DEFINE_integer("windows", 1, "Windows a device sees at once.", 1)
    words = "Pad no image; every size needs a program of its own."
    flags.DEFINE_bool("exact_size", False, words)


def own_flags() -> list[str]:
    """Return the names of all flags defined here."""
    names = (*EVERY_MODE, *(name for mode in MODES.values() for name in mode.reads))
    return list(dict.fromkeys(names))


def program_of(mode: str, given: Collection[str]) -> str:
    """Return which program of `MODES` a mode and the flags given choose."""
    scores_files = mode == "eval" and not {"checkpoint", "predictions"}.isdisjoint(given)
    return "benchmark" if scores_files else mode


def chosen_program(values: flags.FlagValues) -> str:
    """Return which program of `MODES` the parsed flags choose."""
    given = [name for name in ("checkpoint", "predictions") if values[name].value]
    return program_of(values.mode, given)


def help_text(program: str | None = None) -> str:
    """Return every flag under the modes that read it, in the order of the table.

    Args:
      program: only this one; None is all.
    """
    lines = ["python -m tpgdiff_jax.main --mode=MODE [--FLAG=VALUE ...] [--config.KEY=VALUE ...]"]
    for name, about in MODES.items():
        if program not in (None, name):
            continue
        lines += ["", f"{about.typed}: {about.words}"]
        lines += [_flag_line(flag) for flag in about.reads if flag not in PROCESSES]
        if "distributed" in about.reads:
            lines.append("  and the flags of several processes, below")
    lines += ["", "Several processes:", *map(_flag_line, PROCESSES)]
    lines += ["", "Always:", _flag_line("compile_cache")]
    lines.append("  --flagfile=FILE    Flags from a file, one a line.")
    lines.append("  --version          Print versions, commit and platform, for a report of a bug.")
    return "\n".join(lines)


def _flag_line(name: str) -> str:
    flag = flags.FLAGS[name]
    words = flag.help.partition(";\n")[0]  # absl appends a line to flags that may be repeated
    shows_default = flag.default is not None and flag.default is not False and flag.default != []
    usual = f" [{flag.default_as_str.strip(chr(39))}]" if shows_default else ""
    lines = textwrap.wrap(words + usual, 78)
    return f"  {'--' + name:<18} " + f"\n{'':<21}".join(lines)
