"""Pack everything that training needs into one folder, for a machine without a network.

    python launch/bundle.py --output=FOLDER --photos=PHOTOS --config=configs/tpgdiff_small.py \\
        --present=PACKAGES.txt [--python_version=3.12] [--pairs=TEST_SETS] [--workdir=RUN]

PACKAGES.txt lists what the machine has, one `name` or `name==version` a line: the output there of
`python3 -m pip list --format=freeze`.  Copy the folder to the machine and start, there:

    bash FOLDER/train.sh --minutes=8 --out=RESULTS [--config.key=value ...]

It trains for so long, or continues where it stopped, and writes weights and metrics to RESULTS;
`bash FOLDER/train.sh --help` tells more.  The folder holds:

    train.sh         what to call
    bundle.json      what was packed: commit, packages, photos
    bundle.env       the same for train.sh, as far as it needs it
    code/            this repository's programs at the current commit (not with --nocode: then start
                     train.sh in a clone)
    configs/         the experiment file, and one that scores the pairs
    wheels/          packages that the machine lacks; present.txt: those that it has
    photos/          training photos; where they would not fit, the largest are encoded again
    eval/  pairs/    photos for the validation, test sets (folders with LQ and GT), where asked for
    state/           the run to continue, where asked for
"""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile

import bundle_photos
import bundle_wheels
from absl import app, flags

from tpgdiff_jax.reporting.errors import UserError, plain_errors

ROOT = pathlib.Path(__file__).resolve().parent.parent
MIB = 1 << 20
_CODE = ("tpgdiff_jax", "configs", "launch", "requirements.txt", "pyproject.toml", "LICENSE")
# Of a run's folder: what continuing it needs, and its history.
_STATE_FILES = ("config.json", "metrics.jsonl", "events.jsonl", "starts.jsonl")

FLAGS = flags.FLAGS
flags.DEFINE_string("output", None, "The folder to write; an older bundle there is replaced.")
flags.DEFINE_string("config", "configs/tpgdiff_small.py", "The experiment file.")
flags.DEFINE_string("photos", None, "Folder of clean training photos.")
flags.DEFINE_string("eval_photos", None, "Folder of other photos, for the validation.")
flags.DEFINE_string("pairs", None, "Folder of test sets, each a folder with LQ and GT.")
flags.DEFINE_string("workdir", None, "Folder of a run to continue; its newest checkpoint is taken.")
flags.DEFINE_bool("code", True, "Pack the code; else train.sh must be started in a clone.")
flags.DEFINE_integer("limit", 60, "Size of the whole folder in MiB, at most.")
flags.DEFINE_string("present", None, "File that lists the packages of the machine.")
flags.DEFINE_list("also", [], "Packages to carry though they are present, for a newer version.")
flags.DEFINE_list("without", bundle_wheels.UNUSED, "Requirements that training does without.")
flags.DEFINE_bool("wheels", True, "Carry packages; else the machine must have all of them.")
flags.DEFINE_string("python_version", "3.12", "Python of the machine.")
flags.DEFINE_list("platform", bundle_wheels.PLATFORMS, "Tags of wheels that run there.")


def main(_) -> None:
    """Pack the folder beside its place, then put it there."""
    output = _checked_output()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".bundle-") as folder:
        packed = pathlib.Path(folder) / "bundle"
        packed.mkdir()
        facts = _pack(packed)
        if output.exists():
            shutil.rmtree(output)
        packed.rename(output)
    print(json.dumps(facts, indent=2))
    print(f"\nOn the machine:  bash {output.name}/train.sh --minutes=8 --out=RESULTS")


def _checked_output() -> pathlib.Path:
    for name in ("output", "photos"):
        if not FLAGS[name].value:
            raise UserError(f"--{name} is missing; name a folder.")
    if FLAGS.wheels and not FLAGS.present:
        raise UserError(
            "--present is missing; name a file that lists the packages of the machine (there: "
            "python3 -m pip list --format=freeze), or carry none with --nowheels."
        )
    output = pathlib.Path(FLAGS.output).absolute()
    is_bundle = (output / "bundle.json").is_file()
    if output.exists() and not is_bundle and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output={output} holds something else; choose another folder.")
    return output


def _pack(folder: pathlib.Path) -> dict:
    """Fill an empty folder; what can be made smaller, the photos, comes last."""
    config = _copy_config(folder)
    commit = _pack_code(folder / "code") if FLAGS.code else _commit()
    wheels = []
    if FLAGS.wheels:
        wheels = bundle_wheels.collect(
            folder / "wheels",
            requirements=ROOT / "requirements.txt",
            present=bundle_wheels.read_present(pathlib.Path(FLAGS.present)),
            also=FLAGS.also,
            without=FLAGS.without,
            python_version=FLAGS.python_version,
            platforms=FLAGS.platform,
        )
        shutil.copy(FLAGS.present, folder / "present.txt")
    if FLAGS.workdir:
        _copy_state(pathlib.Path(FLAGS.workdir), folder / "state")
    if FLAGS.eval_photos:
        shutil.copytree(_folder("eval_photos"), folder / "eval")
    if FLAGS.pairs:
        _copy_pairs(_folder("pairs"), folder)
    _write_script(folder, config)
    used = size_of(folder) + 64 * 1024  # bundle.json, and what file systems add
    if FLAGS.limit * MIB <= used:
        raise UserError(
            f"--limit={FLAGS.limit} MiB: all but the photos takes {used / MIB:.1f} MiB already "
            f"({_sizes(folder)}). Raise it or pack less."
        )
    photos = bundle_photos.pack(_folder("photos"), folder / "photos", FLAGS.limit * MIB - used)
    facts = {
        "commit": commit,
        "config": config,
        "wheels": wheels,
        "photos": photos,
        "mib": {path.name: round(size_of(path) / MIB, 2) for path in sorted(folder.iterdir())},
        "total_mib": round(size_of(folder) / MIB, 2),
    }
    (folder / "bundle.json").write_text(json.dumps(facts, indent=2) + "\n")
    return facts


def _folder(flag: str) -> pathlib.Path:
    path = pathlib.Path(FLAGS[flag].value)
    if not path.is_dir():
        raise UserError(f"--{flag}={path} is no folder.")
    return path


def size_of(path: pathlib.Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def _sizes(folder: pathlib.Path) -> str:
    return ", ".join(f"{p.name} {size_of(p) / MIB:.1f}" for p in sorted(folder.iterdir()))


def _copy_config(folder: pathlib.Path) -> str:
    path = pathlib.Path(FLAGS.config)
    if not path.is_file():
        raise UserError(f"--config={path} is no file; name an experiment file.")
    (folder / "configs").mkdir()
    shutil.copy(path, folder / "configs" / path.name)
    return path.name


def _git(*arguments: str, **options) -> subprocess.CompletedProcess:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, **options)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"{ROOT} is no clone that git can read ({error}); packing the code needs one."
        ) from error


def _commit() -> str | None:
    try:
        return _git("rev-parse", "HEAD", capture_output=True, text=True).stdout.strip()
    except ValueError:
        return None


def _pack_code(folder: pathlib.Path) -> str | None:
    """Copy the programs as they are committed; say so if the files differ from that."""
    changed = _git("status", "--porcelain", "--", *_CODE, capture_output=True, text=True).stdout
    if changed:
        print(f"Not committed, so not packed:\n{changed}", file=sys.stderr)
    with tempfile.TemporaryFile() as file:
        _git("archive", "--format=tar", "HEAD", *_CODE, stdout=file)
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            archive.extractall(folder, filter="data")
    return _commit()


def _copy_state(run: pathlib.Path, folder: pathlib.Path) -> None:
    """Copy what continuing a run needs: its newest complete checkpoint."""
    checkpoints = run / "checkpoints"
    steps = [int(path.name) for path in checkpoints.glob("*") if path.name.isdigit()]
    if not (run / "config.json").is_file() or not steps:
        raise UserError(f"--workdir={run} holds no run of one stage with a checkpoint.")
    newest = str(max(steps))
    shutil.copytree(checkpoints / newest, folder / "checkpoints" / newest)
    for name in _STATE_FILES:
        if (run / name).is_file():
            shutil.copy(run / name, folder / name)


def _copy_pairs(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Copy test sets, and write the experiment file that scores them."""
    names = sorted(p.name for p in source.iterdir() if all((p / x).is_dir() for x in ("LQ", "GT")))
    if not names:
        raise UserError(f"--pairs={source} holds no folder with the sub-folders LQ and GT.")
    for name in names:
        shutil.copytree(source / name, folder / "pairs" / name)
    sets = tuple({"name": re.sub(r"[^\w.-]", "_", name), "folder": name} for name in names)
    text = _PAIRS_CONFIG.format(sets=sets)
    (folder / "configs" / "eval_pairs.py").write_text(text)


_PAIRS_CONFIG = '''"""Score weights on the packed test sets; the root is set by train.sh."""

from tpgdiff_jax.config import base_config


def get_config():
    config = base_config()
    config.benchmark.metrics = ("psnr", "ssim")
    config.benchmark.save_images = False
    config.benchmark.sets = {sets}
    return config
'''


def _write_script(folder: pathlib.Path, config: str) -> None:
    script = ROOT / "launch" / "bundle_train.sh"
    shutil.copy(script, folder / "train.sh")
    versions = bundle_wheels.needed_versions(ROOT / "requirements.txt", FLAGS.without)
    settings = {"BUNDLE_CONFIG": config, "BUNDLE_PACKAGES": " ".join(versions)}
    lines = [f"{key}={shlex.quote(value)}\n" for key, value in settings.items()]
    (folder / "bundle.env").write_text("".join(lines))


if __name__ == "__main__":
    with plain_errors():
        app.run(main)
