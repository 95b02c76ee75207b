"""Which pictures lie below a folder, and what is left out there, each by its reason."""

import collections
import dataclasses
import fnmatch
import os
import pathlib
import re
from collections.abc import Iterable

from absl import logging

from tpgdiff_jax.data.pictures.errors import as_unreadable
from tpgdiff_jax.data.pictures.kinds import EXTENSIONS, UNREAD, is_picture_name, kind_of
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.reporting.files import printable
from tpgdiff_jax.reporting.foreign import HEAD_BYTES
from tpgdiff_jax.stores.copies import local
from tpgdiff_jax.stores.urls import is_url

_NAMED = 3  # so many places are named in a line
_LINKED = "linked folders followed"
_HIDDEN_FOLDERS, _HIDDEN_FILES = "hidden folders left out", "hidden image files left out"
_LOOPS = "folders left out, since they are links back to a folder they lie in"
_DANGLING = "links left out, since what they name does not exist"
_UNREADABLE = "folders left out, since they cannot be read"
_NO_FILES = "names of pictures left out, since they are pipes, sockets or devices"
_OTHER_KINDS = "pictures left out, of kinds that are not read"
_OTHER_NAMES = f"pictures left out, whose names do not end in one of {', '.join(EXTENSIONS)}"
_USUAL = (_LINKED, _HIDDEN_FOLDERS, _HIDDEN_FILES)  # worth a note, no warning
# Folders of file servers and archives that hold thumbnails and copies, never photos.
_OF_MACHINES = ("@eadir", "__macosx", "#recycle", "$recycle.bin", "system volume information")


@dataclasses.dataclass(frozen=True)
class Listing:
    """What lies below a folder; all names are relative to it.

    Attributes:
      names: the image files, sorted as text.
      troubles: folders that cannot be read and links that lead nowhere -> why; what they hold, or
        name, is missing in `names`.
      met: what was followed or left out, in words -> where.
    """

    names: list[str]
    troubles: dict[str, str]
    met: dict[str, list[str]]

    def lines(self) -> dict[str, str]:
        """Return, for each reason, one line that counts and names the first few."""
        lines = {}
        for what, where in sorted(self.met.items()):
            named = ", ".join(sorted(where)[:_NAMED]) + (", ..." if len(where) > _NAMED else "")
            lines[what] = f"{len(where)} {what}: {named}"
        return lines

    def left_out(self) -> str:
        """Say in one line what was left out; "" for nothing."""
        return "; ".join(line for what, line in self.lines().items() if what != _LINKED)


def home(path: str | os.PathLike) -> pathlib.Path:
    """Replace a leading `~`, which no shell replaces behind a `=`, by the home folder."""
    path = pathlib.Path(path)
    if not path.parts or not path.parts[0].startswith("~") or os.path.lexists(path.parts[0]):
        return path
    return pathlib.Path(os.path.expanduser(path))


def here(path: str | os.PathLike) -> pathlib.Path:
    """Return a folder or picture of this machine: `home`, or of an address the copy.

    Raises:
      UserError: nothing lies at an address, or its store cannot be used.
    """
    return local(path, pictures_among, "pictures") if is_url(path) else home(path)


def pictures_among(names: Iterable[str]) -> list[str]:
    """Return the names of pictures that are not hidden, nor in a hidden folder."""
    return [n for n in names if is_picture_name(n) and not re.search(r"(^|/)\.", n)]


def list_images(folder: pathlib.Path) -> Listing:
    """List the image files below a folder, and log what was followed and what was left out.

    Links to folders are followed, except those that lead back to a folder they lie in.  Hidden
    files and folders are left out: half-written files, and what macOS and file servers leave
    behind.
    """
    names: list[str] = []
    troubles: dict[str, str] = {}
    met: dict[str, list[str]] = collections.defaultdict(list)
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while waiting:
        below, above = waiting.pop()  # a folder relative to the root, and the folders it lies in
        place = os.path.join(folder, below)
        try:
            about = os.stat(place)
            with os.scandir(place) as found:
                entries = list(found)
        except OSError as error:
            met[_UNREADABLE].append(below or ".")
            troubles[below or "."] = getattr(as_unreadable(error, place), "reason", str(error))
            continue
        identity = about.st_dev, about.st_ino
        if identity in above:
            met[_LOOPS].append(below)
            continue
        if os.path.islink(place) and below:
            met[_LINKED].append(below)
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if what := _left_out(entry):
                met[what].append(name)
                if what == _DANGLING and _may_be_pictures(entry.name):
                    troubles[name] = f"a link to {os.readlink(entry.path)}, which does not exist"
            elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                waiting.append((name, (*above, identity)))
            elif not os.path.isfile(entry.path):
                if is_picture_name(entry.name):
                    met[_NO_FILES].append(name)
            elif is_picture_name(entry.name):
                names.append(name)
            elif what := _other_picture(entry):
                met[what].append(name)
    listing = Listing(sorted(names), dict(sorted(troubles.items())), dict(met))
    for what, line in listing.lines().items():
        level = logging.INFO if what in _USUAL else logging.WARNING
        logging.log(level, "%s", printable(f"{folder}: {line}"))
    return listing


def check_side(pattern: str, where: str) -> None:
    """Check the pattern of a set's side, see `images_below`.

    Args:
      pattern: of folders or files.
      where: what gave it, for the error.

    Raises:
      UserError: it leads out of the set's folder, or to any depth.
    """
    for choice in pattern.split("|"):
        if pathlib.PurePath(choice).is_absolute() or "**" in choice:
            raise UserError(
                f"{where}={pattern!r}: expected a folder relative to that of the set, with * for "
                'the name of one level, such as blur or */blur; "" is the folder itself.'
            )


def has_side(folder: pathlib.Path, pattern: str) -> bool:
    """Tell whether anything in a folder fits the pattern of a side, see `images_below`."""
    choices = pattern.split("|")
    return any(not pathlib.PurePath(c).parts or any(folder.glob(c)) for c in choices)


def images_below(folder: pathlib.Path, pattern: str) -> dict[str, pathlib.Path]:
    """List the images of one side of a set, as name -> file.

    Args:
      folder: of the set.
      pattern: the side's folder in it; "" for the folder itself.  `*` in it matches any name, and
        what it matches is a part of the images' names.  A last part with a dot names files, such
        as `*_hazy.*`: then only images of such names are listed, and no sub-folders.  Patterns
        with `|` between them are tried in turn, until one finds images.
    """
    found: dict[str, pathlib.Path] = {}
    for choice in pattern.split("|"):
        parts = pathlib.PurePath(choice).parts
        files = parts[-1] if parts and "*" in parts[-1] and "." in parts[-1] else ""
        base_pattern = "/".join(parts[: len(parts) - bool(files)])
        for base in sorted(folder.glob(base_pattern)) if base_pattern else [folder]:
            if not base.is_dir():
                continue
            own = base.relative_to(folder).parts
            wanted = pathlib.PurePath(base_pattern).parts
            stars = [part for part, want in zip(own, wanted, strict=True) if "*" in want]
            if any(part.startswith(".") for part in stars):  # hidden: what macOS leaves behind
                continue
            for name in list_images(base).names:
                if not files or ("/" not in name and fnmatch.fnmatchcase(name, files)):
                    found["/".join([*stars, name])] = base / name
        if found:
            break
    return found


def is_below_itself(root: pathlib.Path, name: str) -> bool:
    """Tell whether a path goes through one folder twice, by way of a link back to it.

    Args:
      root: where the path starts.
      name: of a file, relative to the root.
    """
    folders = [root / parent for parent in pathlib.PurePath(name).parents]  # the root among them
    seen = {os.path.realpath(folder) for folder in folders}
    return len(seen) < len(folders)


def _left_out(entry: os.DirEntry) -> str:
    """Return why nothing of an entry of a folder is listed; "" where it may be."""
    if entry.name.startswith("."):
        if os.path.isdir(entry.path):
            return _HIDDEN_FOLDERS
        return _HIDDEN_FILES if is_picture_name(entry.name[1:]) else ""
    if entry.name.lower() in _OF_MACHINES and os.path.isdir(entry.path):
        return _HIDDEN_FOLDERS
    return _DANGLING if entry.is_symlink() and not os.path.exists(entry.path) else ""


def _may_be_pictures(name: str) -> bool:
    return is_picture_name(name) or not os.path.splitext(name)[1]


def _other_picture(entry: os.DirEntry) -> str:
    """Return why a file that is no image by its name, but a picture all the same, is left out."""
    suffix = os.path.splitext(entry.name)[1].lower()
    if suffix in UNREAD:
        return _OTHER_KINDS
    # Only where the name leaves it open is the content asked: `photo`, `a.jpg.1`, `a.JPG_large`.
    if entry.name.startswith(".") or (suffix and not _mentions_a_kind(entry.name)):
        return ""
    try:
        with open(entry.path, "rb") as file:
            kind_of(file.read(HEAD_BYTES), entry.name)
    except (UserError, OSError):
        return ""
    return _OTHER_NAMES


def _mentions_a_kind(name: str) -> bool:
    lower = name.lower()
    return any(kind in lower for kind in EXTENSIONS)
