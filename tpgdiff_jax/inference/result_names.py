"""What the results of a job are called: each has a name of its own."""

import itertools
import pathlib
from collections.abc import Callable, Iterable, Mapping

from absl import logging

from tpgdiff_jax.data.matching import comparable
from tpgdiff_jax.reporting.files import ignores_case, printable
from tpgdiff_jax.stores.urls import is_url


def targets(
    found: Mapping[pathlib.Path, tuple[pathlib.Path, str]], suffix: str, output: pathlib.Path
) -> dict[pathlib.Path, pathlib.Path]:
    """Give every file a result of its own: source -> its result, relative to the output.

    `photo.jpg` becomes `photo.png`, unless another file would, too: then `photo.jpg.png` (and the
    other, if it is `photo.png`, keeps its name); where that does not tell them apart either, the
    name of the folder comes before, and then a number behind.

    Args:
      found: source -> the folder it was looked for in, and its name within that.
      suffix: of the results.
      output: where they will lie.
    """
    usual = {source: pathlib.Path(name).with_suffix(suffix) for source, (_, name) in found.items()}
    key = telling_apart([output / target for target in usual.values()])
    wanted: dict[str, list[pathlib.Path]] = {}
    for source, target in usual.items():
        wanted.setdefault(key(target), []).append(source)
    chosen = {source: usual[source] for source, *others in wanted.values() if not others}
    taken = set(map(key, chosen.values()))
    for sources in wanted.values():
        if len(sources) == 1:
            continue
        for source in sorted(sources, key=lambda source: (source.suffix != suffix, source)):
            root, name = found[source]
            whole = pathlib.Path(name if source.suffix == suffix else name + suffix)
            choices = [whole, pathlib.Path(root.resolve().name) / whole]
            numbered = (whole.with_suffix(f".{number}{suffix}") for number in itertools.count(2))
            every = itertools.chain(choices, numbered)
            chosen[source] = next(choice for choice in every if key(choice) not in taken)
            taken.add(key(chosen[source]))
            if chosen[source] != usual[source]:
                logging.info("%s becomes %s.", printable(source), printable(chosen[source]))
    return chosen


def telling_apart(paths: Iterable[pathlib.Path]) -> Callable[[pathlib.Path], str]:
    """Return what paths of one disk must differ in: on disks that ignore case, in more than that.

    Elsewhere `A.png` and `a.png` both keep their names, as those who named them so expect.
    """
    named = {str(path): path for path in paths}  # on Windows the paths themselves ignore case
    if len(set(map(_caseless, named.values()))) == len(named):
        return str
    folder = named[min(named)].parent
    return _caseless if not is_url(folder) and ignores_case(folder) else str


def _caseless(path: pathlib.Path) -> str:
    """Return a path as disks compare it that ignore case; macOS's know one form of accents, too."""
    return comparable(str(path)).casefold()
