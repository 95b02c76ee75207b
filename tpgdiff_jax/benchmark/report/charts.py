"""Small charts as SVG text, so that a report is one file that needs no library."""

import html
from collections.abc import Mapping, Sequence

import numpy as np

_WIDTH, _HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 12, 40
# Colours that differ for colour-blind readers, too (Okabe and Ito).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def _scale(low: float, high: float, start: float, end: float):
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _frame(title_x: str, title_y: str, body: Sequence[str]) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    axes = f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>'
    labels = (
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 6}" text-anchor="middle">'
        f"{html.escape(title_x)}</text>"
        f'<text x="12" y="{(_TOP + bottom) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {(_TOP + bottom) / 2})">{html.escape(title_y)}</text>'
    )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{axes}{labels}{"".join(body)}</svg>'


def _ticks(low: float, high: float, at, horizontal: bool) -> list[str]:
    marks = []
    for value in np.linspace(low, high, 4):
        text = f"{value:.3g}"
        if horizontal:
            place = f'x="{at(value):.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle"'
        else:
            place = f'x="{_LEFT - 5}" y="{at(value) + 4:.1f}" text-anchor="end"'
        marks.append(f"<text {place}>{text}</text>")
    return marks


def histogram(values: Sequence[float], title: str, bins: int = 16) -> str:
    """Draw how often values occur; infinite ones are left out.

    Args:
      values: at least one.
      title: of the horizontal axis.
      bins: number of bars.
    """
    finite = np.array([value for value in values if np.isfinite(value)])
    if not len(finite):
        return ""
    counts, edges = np.histogram(finite, min(bins, max(4, len(finite))))
    at_x = _scale(edges[0], edges[-1], _LEFT, _WIDTH - _RIGHT)
    at_y = _scale(0, max(counts), _HEIGHT - _BOTTOM, _TOP)
    bars = [
        f'<rect class="bar" x="{at_x(a) + 1:.1f}" y="{at_y(count):.1f}" '
        f'width="{max(at_x(b) - at_x(a) - 2, 1):.1f}" '
        f'height="{_HEIGHT - _BOTTOM - at_y(count):.1f}">'
        f"<title>{a:.2f} to {b:.2f}: {count}</title></rect>"
        for a, b, count in zip(edges, edges[1:], counts, strict=False)
    ]
    ticks = _ticks(edges[0], edges[-1], at_x, True)
    ticks.append(f'<text x="{_LEFT - 5}" y="{_TOP + 8}" text-anchor="end">{max(counts)}</text>')
    return _frame(title, "images", bars + ticks)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], title_x: str, title_y: str) -> str:
    """Draw points joined by lines, a colour and a legend entry per series.

    Args:
      series: name -> (x, y) pairs.
      title_x, title_y: of the axes.
    """
    points = [point for many in series.values() for point in many]
    if not points:
        return ""
    xs, ys = (np.array(axis, float) for axis in zip(*points, strict=True))
    low_x, high_x = (min(xs) * 0.9, max(xs) * 1.1)
    margin = 0.1 * (max(ys) - min(ys)) or 1.0
    # Room above the highest point for the legend.
    low_y, high_y = min(ys) - margin, max(ys) + margin * (1 + 1.2 * len(series))
    at_x = _scale(low_x, high_x, _LEFT, _WIDTH - _RIGHT)
    at_y = _scale(low_y, high_y, _HEIGHT - _BOTTOM, _TOP)
    body = _ticks(low_x, high_x, at_x, True) + _ticks(low_y, high_y, at_y, False)
    for index, (name, many) in enumerate(series.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        places = [(at_x(x), at_y(y)) for x, y in sorted(many)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        body.append(f'<path d="{path}" fill="none" stroke="{colour}"/>')
        for (x, y), (value_x, value_y) in zip(places, sorted(many), strict=True):
            body.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">'
                f"<title>{html.escape(name)}: {value_x:.3g}, {value_y:.2f}</title></circle>"
            )
        body.append(
            f'<text x="{_WIDTH - _RIGHT - 4}" y="{_TOP + 12 + 14 * index}" text-anchor="end" '
            f'fill="{colour}">{html.escape(name)}</text>'
        )
    return _frame(title_x, title_y, body)
