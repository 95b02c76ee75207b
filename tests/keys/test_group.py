"""Groups of keys: their order, their defaults, and what may change within a run."""

from tpgdiff_jax.keys.checks import text
from tpgdiff_jax.keys.group import Group, Key

INNER = Group("Inner.", b=Key("2", text(), "second"), c=Key("3", text(), "third", free=True))
OUTER = Group("Outer.", a=Key("1", text(), "first"), inner=INNER)


def test_keys_come_in_order_by_their_dotted_names():
    assert [name for name, _ in OUTER.walk()] == ["a", "inner.b", "inner.c"]
    assert OUTER.defaults() == {"a": "1", "inner": {"b": "2", "c": "3"}}


def test_a_key_is_free_by_itself_or_by_its_group():
    assert [name for name, key in OUTER.walk() if key.free] == ["inner.c"]
    free = Group("Free.", free=True, inner=INNER, a=OUTER.members["a"])
    assert [name for name, key in free.walk() if key.free] == ["inner.b", "inner.c", "a"]


def test_other_defaults_leave_the_group_as_it_was():
    assert INNER.at(b="9").defaults() == {"b": "9", "c": "3"}
    assert INNER.only("c").at(c="9").defaults() == {"c": "9"}
    assert INNER.defaults() == {"b": "2", "c": "3"}
