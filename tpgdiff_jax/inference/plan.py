"""Which files are restored, and where each result goes."""

import dataclasses
import functools
import glob
import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tpgdiff_jax.data.folders import home, is_below_itself, list_images, pictures_among
from tpgdiff_jax.data.pictures.writing import WRITTEN
from tpgdiff_jax.inference import result_names
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import stays_inside
from tpgdiff_jax.stores import sending
from tpgdiff_jax.stores.copies import Stamp, listing, stamp_in, stamp_of
from tpgdiff_jax.stores.urls import file_system, is_url, key_of, normal, reaching


@dataclasses.dataclass(frozen=True)
class Task:
    """One file to restore and where its result goes.

    Attributes:
      source, target: the file and its result.
      listed: the stamp of an object in a store.
    """

    source: pathlib.Path
    target: pathlib.Path
    listed: Stamp | None = dataclasses.field(default=None, compare=False)

    def stamp(self) -> Stamp | None:
        """Return the source's size and time of change; None where it is gone."""
        return self.listed or stamp_of(self.source)

    def beside(self, kind: str) -> pathlib.Path:
        """Return where a further picture of this task goes, such as photo.deviation.png."""
        return self.target.with_name(f"{self.target.stem}.{kind}.png")


def plan(inputs: Sequence[str], output: pathlib.Path, suffix: str = ".png") -> list[Task]:
    """List what is to be restored; names and sub-folders are kept.

    Args:
      inputs: files, folders (searched with their sub-folders, linked ones too, hidden ones not)
        or patterns such as `photos/**/*.jpg`; of folders and patterns what lies in `output` is
        left out.  Addresses in stores are the same, of objects; each is a path in a task.
      output: the folder results go to.
      suffix: of the results; decides their format.

    Returns:
      tasks in the order of their results' names.

    Raises:
      UserError: an input that matches nothing, an unknown format, an `output` that is named like a
        picture, a result outside it, or inputs and results in one folder.
    """
    if suffix.lower() not in WRITTEN:
        raise UserError(f"--format={suffix!r}: expected one of {', '.join(WRITTEN)}.")
    if output.suffix.lower() in WRITTEN and not output.is_dir():
        raise UserError(
            f"--output={output} is named like a picture, but results go to a folder and keep the "
            f"names of the inputs: --output=FOLDER --format={output.suffix}"
        )
    found: dict[pathlib.Path, tuple[str, _Found]] = {}  # source -> how it was named
    seen: set[str] = set()
    for text in inputs:
        for each in _files(text, output):
            source = each.root / each.name
            if (place := os.path.abspath(source)) not in seen:
                found[source] = text, each
            seen.add(place)
    places = {source: (each.root, each.name) for source, (_, each) in found.items()}
    targets = result_names.targets(places, suffix, output)
    tasks = [Task(s, output / target, found[s][1].stamp) for s, target in targets.items()]
    inside = functools.cache(lambda folder: stays_inside(folder / "result", output))
    real = _real_paths()
    for task in tasks:
        if not inside(task.target.parent):
            raise UserError(
                f"--input={found[task.source][0]}: the result of {task.source} would be "
                f"{task.target}, which lies outside --output={output}; name the inputs without "
                "'..' behind a wildcard, and keep links to other folders out of --output."
            )
        if real(task.target) == real(task.source):
            raise UserError(
                f"{task.source} would be its own result; choose another --output or --format."
            )
    return sorted(tasks, key=lambda task: task.target)


class _Found(NamedTuple):
    """A file: the folder it was looked for in, its name within that; the stamp of an object."""

    root: pathlib.Path
    name: str
    stamp: Stamp | None = None


def _real_paths() -> Callable[[str | os.PathLike], str]:
    """Return `os.path.realpath` for many files, which looks at a folder once."""
    of_folder = functools.cache(os.path.realpath)

    def real(path: str | os.PathLike) -> str:
        if os.path.islink(path):
            return os.path.realpath(path)
        folder, name = os.path.split(path)
        return os.path.join(of_folder(folder), name)

    return real


def check_besides(tasks: Sequence[Task], kinds: Sequence[str]) -> None:
    """Raise UserError where a picture beside one result would be another result.

    Args:
      tasks: of `plan`.
      kinds: of pictures that are written beside each result, see `Task.beside`.
    """
    pictures = {task.beside(kind): (task, kind) for task, kind in itertools.product(tasks, kinds)}
    key = result_names.telling_apart([*(task.target for task in tasks), *pictures])
    results = {key(task.target): task for task in tasks}
    for picture, (task, kind) in pictures.items():
        if other := results.get(key(picture)):
            raise UserError(
                f"{other.target} would be the result of {other.source} and the {kind} picture of "
                f"{task.source}; rename one of the two, or restore them into different folders."
            )


def _files(text: str, output: pathlib.Path) -> Iterator[_Found]:
    """Yield the files an input means."""
    if is_url(text):
        yield from _objects(normal(text), output)
        return
    path = home(text)
    if path.is_file() or (path.is_symlink() and not path.exists()):
        yield _Found(path.parent, path.name)
        return
    if path.is_dir():
        if path.resolve() == output.resolve():
            raise UserError(
                f"--input={text} and --output are one folder; results would be taken for inputs "
                "the next time. Choose another --output."
            )
        listing = list_images(path)
        # What cannot be read is a task that fails, so that it is listed as other bad files are.
        names = _without_results(path, [*listing.names, *listing.troubles], output)
        if not names:
            besides = f" but {listing.left_out()}" if listing.left_out() else ""
            raise UserError(f"--input={text}: the folder holds no image files{besides}.")
        yield from (_Found(path, name) for name in names)
        return
    root = _fixed_part(path)
    pattern = os.path.join(glob.escape(str(root)), path.relative_to(root))
    matches = sorted(glob.glob(pattern, recursive=True))
    folders = [name for name in matches if os.path.isdir(name)]
    matches = [name for name in matches if name not in set(folders)]
    if folders and not matches:
        raise UserError(
            f"--input={text} matches folders alone, such as {folders[0]}; name a folder by itself, "
            "or write /** behind the pattern."
        )
    names = [str(pathlib.Path(name).relative_to(root)) for name in matches]
    # `a/../b` goes through one folder twice without any link.
    loops = functools.cache(lambda folder: is_below_itself(root, os.path.join(folder, "file")))
    names = [n for n in names if ".." in pathlib.PurePath(n).parts or not loops(os.path.dirname(n))]
    names = _without_results(root, names, output)
    if not names:
        besides = " besides results of --output" if matches else ""
        raise UserError(f"--input={text} is no file, no folder, and matches nothing{besides}.")
    yield from (_Found(root, name) for name in names)


def _objects(url: str, output: pathlib.Path) -> Iterator[_Found]:
    """Yield the objects that an address means, of pictures alone.

    The address is that of one, of what they lie below, or a pattern.
    """
    if is_url(output) and normal(output) == url:
        raise UserError(
            f"--input={url} and --output are one folder; results would be taken for inputs the "
            "next time. Choose another --output."
        )
    root = pathlib.Path(url)
    stamps = listing(url)
    is_one = list(stamps) == [""]  # which may be called anything
    if is_one:
        root, stamps = root.parent, {root.name: stamps[""]}
    elif not stamps and glob.has_magic(url):
        while glob.has_magic(str(root)):
            root = root.parent
        with reaching(url):
            matches = file_system(url).glob(key_of(url), detail=True)
        start = len(key_of(normal(root))) + 1
        files = {key: info for key, info in matches.items() if info["type"] == "file"}
        stamps = {key[start:]: stamp_in(info) for key, info in files.items()}
    names = list(stamps) if is_one else pictures_among(stamps)
    if is_url(output):
        names = [n for n in names if not normal(root / n).startswith(f"{normal(output)}/")]
    if not names:
        raise UserError(f"--input={url}: nothing there is an image; check bucket and name.")
    yield from (_Found(root, name, stamps[name]) for name in sorted(names))


def _without_results(root: pathlib.Path, names: list[str], output: pathlib.Path) -> list[str]:
    """Leave out what lies in `output`, where that is a folder below `root`."""
    results, real = output.resolve(), _real_paths()
    if root.resolve() not in results.parents:
        return names
    return [n for n in names if not pathlib.Path(real(root / n)).is_relative_to(results)]


def _fixed_part(pattern: pathlib.Path) -> pathlib.Path:
    """Return the folder before the first wildcard; sub-folders behind it are kept.

    A folder that is really called `photos [2024]` is no pattern.
    """
    fixed = pattern.parent
    while glob.has_magic(str(fixed)) and not fixed.is_dir():
        fixed = fixed.parent
    return fixed


def share(tasks: Sequence[Task], index: int, count: int) -> list[Task]:
    """Return what process `index` of `count` restores; all processes must see the same files."""
    return list(tasks[index::count])


def results_in(output: pathlib.Path) -> Callable[[pathlib.Path], bool]:
    """Return what tells whether a result is there; a store is asked once, for all of them."""
    if not is_url(output):
        # Not Path.exists: it raises for names too long for the disk, which are to be listed later.
        return os.path.exists
    there = {f"{normal(output)}/{name}" for name in listing(normal(output))}
    return lambda target: normal(target) in there


def is_there_now(target: pathlib.Path) -> bool:
    """Tell whether a result is there now; it may be another job's."""
    return sending.is_there(normal(target)) if is_url(target) else os.path.exists(target)


def check_output(output: pathlib.Path) -> None:
    """Make the folder results go to.

    Raises:
      UserError: it cannot be made or written to.
    """
    if is_url(output):
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output, prefix=".") as file:
            file.write(b"x")
    except OSError as error:
        raise UserError(
            f"--output={output} cannot be written ({error.strerror}); choose another folder."
        ) from error
