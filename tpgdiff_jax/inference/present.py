"""Results that are there already: whose they are, and how they were made."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tpgdiff_jax.data.pictures.door import content_mark
from tpgdiff_jax.inference.log import name_within, newest_lines
from tpgdiff_jax.inference.plan import Task
from tpgdiff_jax.reporting import json_text
from tpgdiff_jax.reporting.errors import UserError
from tpgdiff_jax.stores.places import shown
from tpgdiff_jax.stores.urls import named

_THREADS = 4  # on network drives each file waits


@dataclasses.dataclass(frozen=True)
class Present:
    """What the logs say of results that are there.

    Attributes:
      own: tasks whose result it is.
      others: file -> what its result is and was made from, where that is another file.
      other_settings: how many of the own were made with other settings or weights.
    """

    own: list[Task]
    others: dict[str, str]
    other_settings: int


def look_at(tasks: Sequence[Task], output: pathlib.Path, settings: Mapping[str, Any]) -> Present:
    """Tell what the logs say of results that are there.

    Args:
      tasks: whose results they are.
      output: where the logs lie.
      settings: what they would be made with now.
    """
    by_name = {name_within(output, task.target): task for task in tasks}
    names = {named(task.target): name for name, task in by_name.items()}
    lines = newest_lines(output, names | {name: name for name in by_name})
    with ThreadPoolExecutor(_THREADS) as pool:
        sources = [by_name[name].source for name in lines]
        answers = list(pool.map(is_of_another_file, lines.values(), sources))
    others = {name for name, is_other in zip(lines, answers, strict=True) if is_other}
    return Present(
        [task for name, task in by_name.items() if name not in others],
        {
            named(by_name[name].source): f"{name} was made from {lines[name].get('input')}"
            for name in lines
            if name in others
        },
        made_otherwise((line for name, line in lines.items() if name not in others), settings),
    )


def made_otherwise(rows: Iterable[Mapping[str, Any]], settings: Mapping[str, Any]) -> int:
    """Count results that were made with other settings.

    Args:
      rows: a line of each.
      settings: what they would be made with now; what a line does not tell counts as the same.
    """
    wanted = json.loads(json_text.dumps(settings))
    return sum(any(row.get(key, wanted[key]) != wanted[key] for key in wanted) for row in rows)


def is_of_another_file(row: Mapping[str, Any], source: pathlib.Path) -> bool:
    """Tell whether a result was made from another file than the one that would be restored.

    A file that was moved or copied is known by its content, which is looked at only where the path
    is another.

    Args:
      row: the result's line; one of an older version, which tells of no content, counts as the
        file's.
      source: the file.
    """
    content = row.get("content")
    if content is None or row.get("input") == shown(source):
        return False
    try:
        return content != content_mark(source)
    except (OSError, UserError):
        return False  # that it cannot be read is no news while its result is there
