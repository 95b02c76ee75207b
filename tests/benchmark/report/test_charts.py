"""Charts show the numbers they are given."""

import itertools
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from tpgdiff_jax.benchmark.report import charts


def elements(svg, name):
    """Return the elements of a kind; raises if the SVG is no XML."""
    return [element for element in ElementTree.fromstring(svg).iter() if element.tag == name]


def numbers(element, *names):
    return [float(element.get(name)) for name in names]


def test_bars_are_as_high_as_their_counts():
    svg = charts.histogram([20.0] * 6 + [30.0] * 3 + [40.0], "PSNR, dB", bins=4)
    bars = elements(svg, "rect")
    said = [bar.find("title").text for bar in bars]
    assert said == [
        "20.00 to 25.00: 6",
        "25.00 to 30.00: 0",
        "30.00 to 35.00: 3",
        "35.00 to 40.00: 1",
    ]
    heights = np.array([float(bar.get("height")) for bar in bars])
    assert heights[0] > 100
    np.testing.assert_allclose(heights / heights[0], [1, 0, 1 / 2, 1 / 6], atol=2e-3)
    # All stand on the same line, side by side.
    feet = [sum(numbers(bar, "y", "height")) for bar in bars]
    assert feet == pytest.approx([feet[0]] * 4)
    places = [numbers(bar, "x", "width") for bar in bars]
    assert all(x + width <= after for (x, width), (after, _) in itertools.pairwise(places))
    texts = [element.text for element in elements(svg, "text")]
    assert texts == ["PSNR, dB", "images", "20", "26.7", "33.3", "40", "6"]


def test_infinite_values_have_no_bar():
    svg = charts.histogram([float("inf"), 20.0, 30.0], "PSNR")
    assert sum(int(bar.find("title").text.rsplit(": ")[1]) for bar in elements(svg, "rect")) == 2
    assert charts.histogram([float("inf")], "PSNR") == ""


def test_equal_values_are_one_bar():
    svg = charts.histogram([25.0, 25.0], "PSNR")
    counts = [bar.find("title").text.rsplit(": ")[1] for bar in elements(svg, "rect")]
    assert sorted(counts)[-1] == "2"
    assert counts.count("0") == len(counts) - 1


def test_points_lie_where_their_numbers_are():
    series = {"ode <2>": [(8, 30.0), (2, 20.0)], "sde": [(2, 25.0)]}
    svg = charts.lines(series, "network calls", "PSNR, dB")
    points = [
        (*numbers(dot, "cx", "cy"), dot.find("title").text) for dot in elements(svg, "circle")
    ]
    assert [text for *_, text in points] == [
        "ode <2>: 2, 20.00",
        "ode <2>: 8, 30.00",
        "sde: 2, 25.00",
    ]
    (x2, y20, _), (x8, y30, _), (x2_too, y25, _) = points
    assert x2 == x2_too < x8
    assert y30 < y25 < y20  # SVG counts downwards
    assert y25 == pytest.approx((y20 + y30) / 2, abs=0.2)
    # The line goes from point to point, whatever order they came in.
    path = elements(svg, "path")[1].get("d")
    assert path == f"M{x2:.1f} {y20:.1f}L{x8:.1f} {y30:.1f}"
    legend = {text.text: text.get("fill") for text in elements(svg, "text") if text.get("fill")}
    assert list(legend) == ["ode <2>", "sde"]
    assert len(set(legend.values())) == 2
    highest = min(y for _, y, _ in points)
    assert all(float(text.get("y")) < highest for text in elements(svg, "text") if text.get("fill"))


def test_nothing_to_draw_is_no_chart():
    assert charts.lines({"ode": []}, "x", "y") == ""


def test_numbers_stay_inside_the_picture():
    svg = charts.lines({"a": [(1, 10.0), (1000, 11.0)], "b": [(30, 40.0)]}, "x", "y")
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    for dot in elements(svg, "circle"):
        x, y = numbers(dot, "cx", "cy")
        assert 0 < x < width
        assert 0 < y < height
