"""The pictures of a report: the worst and the best, small, and what they should show."""

import base64
import dataclasses
import io
import types

import numpy as np
from PIL import Image

from tpgdiff_jax.benchmark.report.pictures import chosen_pictures
from tpgdiff_jax.data.pictures.errors import UnreadableImageError


@dataclasses.dataclass
class Item:
    """As much of a test set's image as pictures ask for."""

    name: str
    size: tuple[int, int] = (20, 40)

    spec = types.SimpleNamespace(name="wild")

    def load(self, seed):
        dark = np.full((*self.size, 3), 10 + seed, np.uint8)
        return dark, None if self.name == "no truth.png" else np.full_like(dark, 200)


def choose(rows, items, restored=None, seed=1):
    opened = types.SimpleNamespace(items=items)
    grey = restored or (lambda variant, item: np.full((*item.size, 3), 100, np.uint8))
    return chosen_pictures(rows, [opened], "ode-2", grey, seed)


def row(name, psnr=None, **more):
    scores = {} if psnr is None else {"psnr": psnr}
    return {"variant": "ode-2", "set": "wild", "image": name, **scores, **more}


def value(uri):
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_the_two_worst_and_the_two_best_are_shown():
    scores = {"a": 25.0, "b": 20.0, "c": "inf", "d": 22.0, "e": 30.0}
    found = choose([row(*pair) for pair in scores.items()], [Item(name) for name in scores])
    assert [(p.rank, p.row["image"]) for p in found] == [
        *(("worst", "b"), ("worst", "d")),
        *(("best", "c"), ("best", "e")),
    ]


def test_no_image_is_both_worst_and_best():
    found = choose([row("a", 20.0), row("b", 30.0), row("c", 25.0)], [*map(Item, "abc")])
    assert [(p.rank, p.row["image"]) for p in found] == [
        *(("worst", "a"), ("worst", "c")),
        ("best", "b"),
    ]


def test_a_picture_that_was_damaged_since_costs_no_report(caplog):
    def restored(variant, item):
        if item.name == "a":
            raise UnreadableImageError("job/a.png", "truncated")
        return np.zeros((*item.size, 3), np.uint8)

    found = choose([row("a", 20.0), row("b", 30.0)], [Item("a"), Item("b")], restored)
    assert [p.row["image"] for p in found] == ["b"]
    assert "a is not shown: job/a.png: truncated" in caplog.text


def test_images_without_a_score_are_neither_worst_nor_best():
    found = choose([row(name) for name in "fedcba"], [*map(Item, "abcdef")])
    assert [(p.rank, p.row["image"]) for p in found] == [("one", name) for name in "abcd"]


def test_failed_images_other_variants_and_lost_results_are_left_out():
    rows = [row("a", 20.0), row("b", error="damaged"), row("a", 99.0) | {"variant": "sde-2"}]
    items = [Item("a"), Item("b")]
    assert [p.row["psnr"] for p in choose(rows, items)] == [20.0]
    assert choose(rows, items, restored=lambda variant, item: None) == []


def test_each_picture_shows_what_it_says():
    (found,) = choose([row("a", 20.0)], [Item("a")], seed=5)
    assert (found.width, found.height) == (40, 20)
    for uri, level in ((found.lq, 15), (found.restored, 100), (found.gt, 200)):
        pixels = value(uri)
        assert pixels.shape == (20, 40, 3)
        assert abs(pixels.astype(int) - level).max() <= 2


def test_large_ones_are_made_small_and_a_lacking_truth_is_empty():
    item = Item("no truth.png", size=(300, 1200))
    (found,) = choose([row("no truth.png")], [item])
    assert (found.width, found.height) == (360, 90)
    assert value(found.restored).shape == (90, 360, 3)
    assert found.gt == ""
