"""Which files are restored, and where each result goes."""

import dataclasses
import glob
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

from tpgdiff_jax.data.images import EXTENSIONS
from tpgdiff_jax.data.sources import image_names, is_below_itself
from tpgdiff_jax.reporting.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """One file to restore and where its result goes."""

    source: pathlib.Path
    target: pathlib.Path

    def beside(self, kind: str) -> pathlib.Path:
        """Return where a further picture of this task goes, such as photo.deviation.png."""
        return self.target.with_name(f"{self.target.stem}.{kind}.png")


def plan(inputs: Sequence[str], output: pathlib.Path, suffix: str = ".png") -> list[Task]:
    """List what is to be restored; names and sub-folders are kept.

    Args:
      inputs: files, folders (searched with their sub-folders, linked ones too, hidden ones not)
        or patterns such as `photos/**/*.jpg`; of folders and patterns what lies in `output` is
        left out.
      output: the folder results go to.
      suffix: of the results; decides their format.

    Returns:
      tasks in the order of their results' names.

    Raises:
      UserError: an input that matches nothing, an unknown format, two files with one result, a
        result outside `output`, or inputs and results in one folder.
    """
    if suffix.lower() not in EXTENSIONS:
        raise UserError(f"--format={suffix!r}: expected one of {', '.join(EXTENSIONS)}.")
    tasks: dict[pathlib.Path, Task] = {}
    results = output.resolve()
    for text in inputs:
        for root, name in _files(text, output):
            task = Task(root / name, output / pathlib.Path(name).with_suffix(suffix))
            # Of the folder: a result that is a link itself would be replaced, not followed.
            if not task.target.parent.resolve().is_relative_to(results):
                raise UserError(
                    f"--input={text}: the result of {task.source} would be {task.target}, which "
                    f"lies outside --output={output}; name the inputs without '..' behind a "
                    "wildcard, and keep links to other folders out of --output."
                )
            if task.target.resolve() == task.source.resolve():
                raise UserError(
                    f"{task.source} would be its own result; choose another --output or --format."
                )
            other = tasks.setdefault(task.target, task)
            if other.source != task.source:
                raise UserError(
                    f"{other.source} and {task.source} would both become {task.target}; "
                    "restore them into different folders."
                )
    return [tasks[target] for target in sorted(tasks)]


def _files(text: str, output: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """Yield (folder, name within it) of the files an input means."""
    path = pathlib.Path(text)
    if path.is_file():
        yield path.parent, path.name
        return
    if path.is_dir():
        if path.resolve() == output.resolve():
            raise UserError(
                f"--input={text} and --output are one folder; results would be taken for inputs "
                "the next time. Choose another --output."
            )
        names = _without_results(path, image_names(path), output)
        if not names:
            raise UserError(f"--input={text}: the folder holds no image files.")
        yield from ((path, name) for name in names)
        return
    matches = sorted(name for name in glob.glob(text, recursive=True) if os.path.isfile(name))
    root = _fixed_part(path)
    names = [str(pathlib.Path(name).relative_to(root)) for name in matches]
    # `a/../b` goes through one folder twice without any link.
    names = [n for n in names if ".." in pathlib.PurePath(n).parts or not is_below_itself(root, n)]
    names = _without_results(root, names, output)
    if not names:
        besides = " besides results of --output" if matches else ""
        raise UserError(f"--input={text} is no file, no folder, and matches nothing{besides}.")
    yield from ((root, name) for name in names)


def _without_results(root: pathlib.Path, names: list[str], output: pathlib.Path) -> list[str]:
    """Leave out what lies in `output`, where that is a folder below `root`."""
    results = output.resolve()
    if root.resolve() not in results.parents:
        return names
    return [name for name in names if not (root / name).resolve().is_relative_to(results)]


def _fixed_part(pattern: pathlib.Path) -> pathlib.Path:
    """Return the folder before the first wildcard; sub-folders behind it are kept."""
    fixed = pattern
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return fixed


def share(tasks: Sequence[Task], index: int, count: int) -> list[Task]:
    """Return what process `index` of `count` restores; all processes must see the same files."""
    return list(tasks[index::count])


def check_output(output: pathlib.Path) -> None:
    """Make the folder results go to.

    Raises:
      UserError: it cannot be made or written to.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output, prefix=".") as file:
            file.write(b"x")
    except OSError as error:
        raise UserError(
            f"--output={output} cannot be written ({error.strerror}); choose another folder."
        ) from error
