"""How the table is built: a key is a default, a check and a sentence; keys lie in groups."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from tpgdiff_jax.keys.checks import Awaiting, Check


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Attributes:
      default: its value where an experiment says nothing.
      check: what it may be.  A function (`one_of`, uncalled) awaits what only the room knows that
        acts on the key; `commands/config_checks.py` gives it the room's choices.
      words: what it means, and its unit.
      example: a value that says more than the default does, e.g. where that is empty.
      free: it may change between two starts of one run, since it alters neither what was learned
        so far nor the order of the data.
    """

    default: Any
    check: Check | Awaiting
    words: str
    example: Any = None
    free: bool = False


class Group:
    """Keys that belong together, in the order in which they are explained.

    Attributes:
      words: what they have in common.
      members: name -> `Key`, or `Group` within this one.
      free: all of them may change between two starts of one run.
    """

    def __init__(self, words: str, *, free: bool = False, **members: "Key | Group"):
        self.words = words
        self.free = free
        self.members = members

    def walk(self) -> Iterator[tuple[str, Key]]:
        """Yield (dotted name, key) of all keys, also of the groups inside."""
        for name, member in self.members.items():
            inside = [("", member)] if isinstance(member, Key) else member.walk()
            for rest, key in inside:
                dotted = f"{name}.{rest}" if rest else name
                yield dotted, dataclasses.replace(key, free=key.free or self.free)

    def defaults(self) -> dict[str, Any]:
        """Return the defaults, nested as the groups are."""
        return {
            name: member.defaults() if isinstance(member, Group) else member.default
            for name, member in self.members.items()
        }

    def at(self, **defaults: Any) -> "Group":
        """Return the same keys with some other defaults."""
        changed = {
            name: dataclasses.replace(self.members[name], default=default)
            for name, default in defaults.items()
        }
        return Group(self.words, free=self.free, **(self.members | changed))

    def only(self, *names: str) -> "Group":
        """Return a group of some of the keys."""
        return Group(self.words, free=self.free, **{name: self.members[name] for name in names})
