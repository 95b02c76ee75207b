"""Which packages a machine lacks for training, and their wheels."""

import email
import pathlib
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence

from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from tpgdiff_jax.reporting.errors import UserError

# Linux on x86-64; pip takes a wheel only if one of its tags is named exactly.
PLATFORMS = [f"manylinux_2_{n}_x86_64" for n in (39, 35, 34, 31, 28, 27, 24, 17)] + [
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
]
# Training imports these only for data sets of their own kind.
UNUSED = ["tensorflow-datasets", "importlib_resources"]


def read_present(path: pathlib.Path) -> dict[str, str]:
    """Read a list of packages: `name` or `name==version`, separated by lines, commas or spaces.

    Returns:
      canonical name -> version, "" where it is not told; `#` starts a comment.
    """
    if not path.is_file():
        raise UserError(f"--present={path} is no file; it lists the packages of the machine.")
    lines = [line.partition("#")[0] for line in path.read_text().splitlines()]
    words = " ".join(lines).replace(",", " ").split()
    pairs = [word.split("==") for word in words if not word.startswith("-")]
    return {canonicalize_name(name): "".join(version) for name, *version in pairs}


def needed(requirements: pathlib.Path, without: Iterable[str]) -> list[Requirement]:
    """Return the requirements of a file, less those named in `without`."""
    left_out = {canonicalize_name(name) for name in without}
    lines = (line.partition("#")[0].strip() for line in requirements.read_text().splitlines())
    found = [Requirement(line) for line in lines if line]
    return [each for each in found if canonicalize_name(each.name) not in left_out]


def needed_versions(requirements: pathlib.Path, without: Iterable[str]) -> list[str]:
    """Return the names of `needed` with their versions, such as `jax>=0.10`, for any machine."""
    return [f"{each.name}{each.specifier}" for each in needed(requirements, without)]


def collect(
    folder: pathlib.Path,
    *,
    requirements: pathlib.Path,
    present: dict[str, str],
    also: Iterable[str] = (),
    without: Iterable[str] = (),
    python_version: str = "3.12",
    platforms: Sequence[str] = PLATFORMS,
) -> list[str]:
    """Download the wheels that a machine lacks, and those that these need in turn.

    A package that is there in a version too old is carried; one whose version is not told counts
    as new enough.

    Args:
      folder: where to; made.
      requirements: file of what the project needs.
      present: what the machine has, see `read_present`.
      also: names to carry in any case.
      without: names to leave out.
      python_version, platforms: of the machine.

    Returns:
      the wheels' file names.

    Raises:
      UserError: a package has no wheel for that machine, or needs what it has in an older version.
    """
    folder.mkdir()
    environment = _environment(python_version)
    also = {canonicalize_name(name) for name in also}
    left_out = {canonicalize_name(name) for name in without}
    waiting = needed(requirements, without) + [Requirement(name) for name in sorted(also)]
    carried: dict[str, str] = {}
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in carried:
            _check_version(requirement, carried[name])
            continue
        if name in left_out or (name not in also and _is_there(requirement, present)):
            continue
        wheel = _download(folder, requirement, python_version, platforms)
        carried[name] = wheel.name.split("-")[1]
        waiting += _dependencies(wheel, requirement.extras, environment)
    return sorted(path.name for path in folder.iterdir())


def _is_there(requirement: Requirement, present: dict[str, str]) -> bool:
    version = present.get(canonicalize_name(requirement.name))
    if version is None:
        return False
    return not version or requirement.specifier.contains(version, prereleases=True)


def _check_version(requirement: Requirement, version: str) -> None:
    if not requirement.specifier.contains(version, prereleases=True):
        raise UserError(
            f"{requirement} is needed, but {requirement.name} {version} was chosen for another "
            "package; ask for both in requirements.txt."
        )


def _environment(python_version: str) -> dict[str, str]:
    return {
        "python_version": ".".join(python_version.split(".")[:2]),
        "python_full_version": python_version
        if python_version.count(".") > 1
        else python_version + ".0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "os_name": "posix",
    }


def _dependencies(
    wheel: pathlib.Path, extras: Iterable[str], environment: dict[str, str]
) -> list[Requirement]:
    """Return what a wheel needs on that machine, with these extras."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    found = []
    for line in metadata.get_all("Requires-Dist") or ():
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise UserError(f"{wheel.name}: {line!r} is no requirement ({error}).") from error
        if _applies(requirement.marker, extras, environment):
            found.append(requirement)
    return found


def _applies(marker: Marker | None, extras: Iterable[str], environment: dict[str, str]) -> bool:
    if marker is None:
        return True
    return any(marker.evaluate(environment | {"extra": extra}) for extra in ("", *extras))


def _download(
    folder: pathlib.Path, requirement: Requirement, python_version: str, platforms: Sequence[str]
) -> pathlib.Path:
    """Fetch one wheel; the requirement's own dependencies are not."""
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--implementation=cp"]
    command += [f"--python-version={python_version}", *(f"--platform={p}" for p in platforms)]
    command += ["--dest", str(folder), f"{requirement.name}{requirement.specifier}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    fresh = set(folder.iterdir()) - before
    if done.returncode or len(fresh) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise UserError(
            f"pip found no wheel of {requirement} for Python {python_version} on "
            f"{', '.join(platforms)}: {' '.join(lines) or done.stderr.strip()[-300:]} Name further "
            "--platform tags, or leave it out with --without if training does not need it."
        )
    return fresh.pop()
