"""Results that are there already: whose they are, and how they were made."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tpgdiff_jax.data.pictures.door import content_mark
from tpgdiff_jax.inference.log import name_within, newest_lines
from tpgdiff_jax.inference.plan import Task
from tpgdiff_jax.inference.reading import in_threads
from tpgdiff_jax.reporting import json_text
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores.copies import Stamp
from tpgdiff_jax.stores.places import shown
from tpgdiff_jax.stores.urls import named

_OWN, _CHANGED, _OF_ANOTHER = "own", "changed", "of another"
# What versions restored with that did not know these settings, and so do not tell them.
_BEFORE = {"ensemble": 1, "passes": 1}


@dataclasses.dataclass(frozen=True)
class Present:
    """What the logs say of results that are there.

    Attributes:
      own: tasks whose result it is.
      changed: tasks whose file has changed since.
      others: file -> what its result is and was made from, where that is another file.
      other_settings: how many of the own were made with other settings or weights.
    """

    own: list[Task]
    changed: list[Task]
    others: dict[str, str]
    other_settings: int


class Made(NamedTuple):
    """What a line says of a result.

    Attributes:
      input: the file it was made from.
      content, stamp: of the file, see `content_mark` and `Task.stamp`; lines of older versions have
        no stamp, or neither.
      finished: when it was made.
      is_otherwise: whether with other settings than now.
    """

    input: Any
    content: Any
    stamp: Any
    finished: Any
    is_otherwise: bool


def look_at(tasks: Sequence[Task], output: pathlib.Path, settings: Mapping[str, Any]) -> Present:
    """Tell what the logs say of results that are there.

    Args:
      tasks: whose results they are.
      output: where the logs lie.
      settings: what they would be made with now.
    """
    wanted = json.loads(json_text.dumps(settings))

    def made(row: Mapping[str, Any]) -> Made:
        return made_of(row, wanted)

    by_name = {name_within(output, task.target): task for task in tasks}
    names = {named(task.target): name for name, task in by_name.items()}
    lines = newest_lines(output, names | {name: name for name in by_name}, made)
    pairs = [(by_name[name], line) for name, line in lines.items()]
    fates = dict(zip(lines, in_threads(lambda pair: _fate(*pair), pairs), strict=True))
    own = [name for name in by_name if fates.get(name, _OWN) == _OWN]
    return Present(
        own=[by_name[name] for name in own],
        changed=[by_name[name] for name, fate in fates.items() if fate == _CHANGED],
        others={
            named(by_name[name].source): f"{name} was made from {lines[name].input}"
            for name, fate in fates.items()
            if fate == _OF_ANOTHER
        },
        other_settings=sum(name in lines and lines[name].is_otherwise for name in own),
    )


def made_of(row: Mapping[str, Any], settings: Mapping[str, Any]) -> Made:
    """Read a line.

    Args:
      row: the line.
      settings: those of now; what the line does not tell counts as the same, but for what older
        versions did in one way only.
    """
    told = {**settings, **_BEFORE, **row}
    is_otherwise = any(told[key] != settings[key] for key in settings)
    return Made(*(row.get(key) for key in Made._fields[:-1]), is_otherwise)


def _fate(task: Task, made: Made) -> str:
    """Tell whether a result is the task's own, or was made from what its file was, or another's.

    Stamps tell quickly that nothing has changed.  Where they do not, the content decides: a file
    that was moved, copied or touched is the same.
    """
    if made.content is None:
        return _OWN
    is_in_place = made.input == shown(task.source)
    try:
        stamp = task.stamp()
        if stamp is None or (is_in_place and _is_untouched(made, stamp)):
            return _OWN
        if made.content == content_mark(task.source):
            return _OWN
    except (OSError, UserError):
        return _OWN  # that it cannot be read is no news while its result is there
    return _CHANGED if is_in_place else _OF_ANOTHER


def _is_untouched(made: Made, stamp: Stamp) -> bool:
    if made.stamp is not None:
        return made.stamp == list(stamp)
    try:
        finished = datetime.datetime.fromisoformat(made.finished).timestamp()
    except (TypeError, ValueError, OverflowError):
        return False
    return str(made.content).startswith(f"{stamp[0]}-") and stamp[1] <= finished * 10**9
