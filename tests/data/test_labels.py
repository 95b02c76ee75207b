"""Labels of pairs: in the order of a run's classes, which every class must be among."""

import pytest

from tpgdiff_jax.data.labels import OTHER, relabelled
from tpgdiff_jax.reporting.errors import UserError


def test_labels_follow_the_order_a_run_wants():
    assert relabelled(["a", "b"], None, "set") == (("a", "b"), {0: 0, 1: 1})
    assert relabelled(["a", "b"], ["b", "c", "a"], "set") == (("b", "c", "a"), {0: 2, 1: 0})
    with pytest.raises(UserError, match=r"'set' holds pairs of class 'a'.*\['b'\]; write the data"):
        relabelled(["a", "b"], ["b"], "set")


def test_only_what_is_known_is_to_be_added_to_the_degradations():
    words = r"\['blur'\]; add it to config\.data\.degradations, or rename it\. The class 'other'"
    with pytest.raises(UserError, match=words):
        relabelled(["haze"], ["blur"], "set", remedy="rename it")
    with pytest.raises(UserError, match=r"\['blur'\]; rename it\. The class 'other'"):
        relabelled(["fog"], ["blur"], "set", remedy="rename it")


def test_pairs_that_no_class_describes_come_after_all_classes():
    wanted = ("blur", "rain")
    assert relabelled((), wanted, "set", OTHER) == (("blur", "rain", OTHER), {0: 2})
    assert relabelled(["rain", OTHER], wanted, "set") == (("blur", "rain", OTHER), {0: 1, 1: 2})
    assert relabelled(["rain"], wanted, "set") == (wanted, {0: 1})  # only where they are there
    assert relabelled((), None, "set", OTHER) == ((OTHER,), {0: 0})


def test_mixtures_of_the_classes_come_after_them():
    wanted = ("blur", "rain")
    found = relabelled([OTHER, "rain+blur", "rain"], wanted, "set")
    assert found == ((*wanted, OTHER, "rain+blur"), {0: 2, 1: 3, 2: 1})
    with pytest.raises(UserError, match=r"class 'rain\+haze', which is not among"):
        relabelled(["rain+haze"], wanted, "set")
