"""Tables of a benchmark's results, ours and those that papers print."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tabulate

from tpgdiff_jax.benchmark.presets import GROUPS, PRESETS
from tpgdiff_jax.benchmark.report.published_scores import TABLES, published_rows
from tpgdiff_jax.evaluation import optional, perceptual
from tpgdiff_jax.evaluation.protocols import SCORES
from tpgdiff_jax.reporting.files import printable

# Score -> (title, digits, whether higher is better).
COLUMNS = {
    "psnr": ("PSNR", 2, True),
    "ssim": ("SSIM", 4, True),
    "psnr_y": ("PSNR Y", 2, True),
    "ssim_y": ("SSIM Y", 4, True),
    "psnr_gt_mean": ("PSNR, mean of truth", 2, True),
    "lpips_alex": ("LPIPS (Alex)", 4, False),
    "lpips_vgg": ("LPIPS (VGG)", 4, False),
    "lpips": ("LPIPS", 3, False),
    "fid": ("FID", 2, False),
    "niqe": ("NIQE", 3, False),
    "musiq": ("MUSIQ", 2, True),
}
NONE = "-"
_SHOWN = 5  # so many remarks of a kind on a terminal


def show(name: str, value: float | str | None) -> str:
    """Return a score as it is printed everywhere."""
    if value is None:
        return NONE
    base = name.removeprefix("input_")
    return f"{float(value):.{COLUMNS[base][1]}f}"


@dataclasses.dataclass(frozen=True)
class ResultRow:
    """What one variant reached on one set.

    Attributes:
      variant, set_name: which.
      about: the row's first texts: title of the set, protocol, number of images.
      scores: score -> text; `input_psnr` and `input_ssim` are the degraded images'.
    """

    variant: str
    set_name: str
    about: tuple[str, str, str]
    scores: dict[str, str]


def result_table(summary: Mapping[str, Any]) -> tuple[list[str], list[ResultRow]]:
    """Return (titles of the scores, rows)."""
    results = summary["results"]
    keys = []
    for name in (*SCORES, *perceptual.NAMES, *optional.NAMES):
        if any(name in scores for result in results.values() for scores in result.values()):
            keys += [f"input_{name}", name] if name in ("psnr", "ssim") else [name]
    rows = []
    for variant, result in results.items():
        for set_name, scores in result.items():
            about = summary["sets"][set_name]
            count = f"{scores['images']} of {about['expected'] or about['found']}"
            texts = {key: _show_of(scores, key) for key in keys}
            described = (about["title"], about["protocol"], count)
            rows.append(ResultRow(variant, set_name, described, texts))
    return [_title(key) for key in keys], rows


def _show_of(scores: Mapping[str, Any], key: str) -> str:
    """Return a set's score as text, with the number of images it is the mean of if not of all."""
    text = show(key, scores.get(key))
    count = scores.get("counts", {}).get(key)
    equal = scores.get("identical", {}).get(key, 0)
    if key not in scores or (count is None and not equal):
        return text
    count = (scores["images"] if count is None else count) - equal
    if not count:  # all are equal to their truth: infinite
        return text
    return f"{text} ({count} image{'s' if count > 1 else ''})"


def short_table(summary: Mapping[str, Any]) -> str:
    """Return the scores and what is missing, for a terminal."""
    titles, rows = result_table(summary)
    table = [(row.variant, *row.about, *row.scores.values()) for row in rows]
    headers = ["variant", "set", "protocol", "images", *titles]
    lines = [
        f"{title}: {line}" for title, many in remarks(summary).items() for line in many[:_SHOWN]
    ]
    text = tabulate.tabulate(table, headers, disable_numparse=True)
    text = "\n".join([text, *([""] if lines else []), *lines])
    return printable(text)


def _title(key: str) -> str:
    base = key.removeprefix("input_")
    return COLUMNS[base][0] + (" of the input" if base != key else "")


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of a comparison.

    Attributes:
      method: name, and for ours the variant.
      protocol, source, remark: how the numbers came about.
      cells: one text per column.
      ours, comparable: whether it is ours; whether ours may be compared with it.
    """

    method: str
    protocol: str
    source: str
    remark: str
    cells: tuple[str, ...]
    ours: bool
    comparable: bool


def comparison(summary: Mapping[str, Any], group: str) -> tuple[list[str], list[Line]] | None:
    """Put our rows among those published for a group of sets, sorted by average PSNR.

    Returns:
      (column titles, lines), or None where we have no set of the group.
    """
    sets = GROUPS[group]
    ours = {
        name: {key: result[key] for key in sets if key in result}
        for name, result in summary["results"].items()
    }
    ours = {name: found for name, found in ours.items() if found}
    if not ours:
        return None
    protocols = {summary["sets"][key]["protocol"] for found in ours.values() for key in found}
    columns = [*sets, "average"] if group == "five" else list(sets)
    lines = [
        (_average(row["scores"]), _published(row, columns, protocols))
        for row in published_rows()
        if row["group"] == group
    ]
    for name, found in ours.items():
        average = summary["averages"][name].get(group)
        found = found | ({"average": average} if average else {})
        # Without the whole group there is no place among the others: ours come first then.
        place = _average(found) if average else float("inf")
        lines.append((place, _ours(summary, name, found, columns, protocols)))
    lines.sort(key=lambda pair: -pair[0])
    return [PRESETS[key].title if key in PRESETS else key for key in columns], [
        line for _, line in lines
    ]


def _average(scores: Mapping[str, Mapping[str, Any]]) -> float:
    known = scores.get("average") or {}
    values = [float(value["psnr"]) for value in scores.values() if "psnr" in value]
    return float(known.get("psnr", sum(values) / len(values) if values else 0.0))


def _cell(scores: Mapping[str, Any] | None) -> str:
    if not scores or "psnr" not in scores:
        return NONE
    similarity = scores.get("ssim")
    shown = NONE if similarity is None else f"{float(similarity):.3f}"
    return f"{show('psnr', scores['psnr'])} / {shown}"


def _published(row: Mapping[str, Any], columns: Sequence[str], protocols: set[str]) -> Line:
    cells = tuple(_cell(row["scores"].get(column)) for column in columns)
    comparable = protocols == {row["protocol"]}
    return Line(
        row["method"], row["protocol"], row["source"], row["remark"], cells, False, comparable
    )


def _ours(summary, name: str, found: Mapping[str, Any], columns, protocols: set[str]) -> Line:
    cells, partial = [], []
    for column in columns:
        text = _cell(found.get(column))
        about = summary["sets"].get(column)
        if text != NONE and about and _is_partial(column, about, found[column]):
            text, partial = f"{text} *", [*partial, column]
        cells.append(text)
    remark = f"* not the whole benchmark: {', '.join(partial)}" if partial else ""
    title = summary["job"]["title"] or "ours"
    return Line(
        f"{title} ({name})",
        " and ".join(sorted(protocols)),
        "this job",
        remark,
        tuple(cells),
        True,
        True,
    )


def _is_partial(preset: str, about: Mapping[str, Any], scores: Mapping[str, Any]) -> bool:
    # A count that a job gave instead makes no part of a set the whole of it.
    whole = PRESETS[preset].count or about["expected"] or about["found"]
    return bool(about["remarks"]) or scores["images"] != whole


def markdown(summary: Mapping[str, Any]) -> str:
    """Return the whole result as Markdown."""
    titles, found_rows = result_table(summary)
    headers = ["variant", "set", "protocol", "images", *titles]
    rows = [(row.variant, *row.about, *row.scores.values()) for row in found_rows]
    align = ["left"] * 4 + ["right"] * len(titles)
    parts = [
        "# Benchmark",
        tabulate.tabulate(rows, headers, "github", colalign=align, disable_numparse=True),
    ]
    lines = dict.fromkeys(about["protocol_text"] for about in summary["sets"].values())
    parts.append("Protocols:\n\n" + "\n".join(f"* {line}" for line in lines))
    rules = [f"{about['title']}: {about['seed_rule']}" for about in summary["sets"].values()]
    parts.append("Noise:\n\n" + "\n".join(f"* {rule}" for rule in rules))
    for group, title in TABLES.items():
        if (found := comparison(summary, group)) is not None:
            parts += [f"## {title}: PSNR (dB) / SSIM", _comparison_text(*found)]
    for title, lines in remarks(summary).items():
        parts += [f"## {title}", "\n".join(f"* {line}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _comparison_text(columns: list[str], lines: Sequence[Line]) -> str:
    table = [
        [
            f"**{line.method}**" if line.ours else line.method,
            line.protocol,
            *line.cells,
            "; ".join(filter(None, (line.source, line.remark))),
        ]
        for line in lines
    ]
    headers = ["method", "protocol", *columns, "source"]
    note = (
        "Compare with rows of the same protocol only: another protocol moves PSNR by up to 5 dB, "
        "SSIM by up to 0.05."
    )
    return tabulate.tabulate(table, headers, "github", disable_numparse=True) + f"\n\n{note}"


def remarks(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return what a reader must know: heading -> lines; headings without lines are left out."""
    sets = summary["sets"].values()
    found = {
        "Absent": [f"{name}: {why}" for name, why in summary["absent"].items()],
        "About the test sets": [f"{s['title']}: {r}" for s in sets for r in s["remarks"]],
        "Files that could not be used": [
            f"{file}: {why}" for s in sets for file, why in s["skipped"].items()
        ],
        "Images without a score": [
            f"{s['title']}, {image}: {why}" for s in sets for image, why in s["failed"].items()
        ],
        "Identical to the truth": _identical(summary),
        "Not computed": [f"{COLUMNS[n][0]}: {why}" for n, why in summary["not_computed"].items()],
    }
    return {title: lines for title, lines in found.items() if lines}


def _identical(summary: Mapping[str, Any]) -> list[str]:
    """Say which images are left out of a mean since their score is infinite."""
    lines = []
    for variant, result in summary["results"].items():
        for set_name, scores in result.items():
            for key, count in scores.get("identical", {}).items():
                whose = "degraded images equal" if key.startswith("input_") else "outputs equal"
                where = f"{variant}, {summary['sets'][set_name]['title']}"
                of = f"{count} of {scores['images']} {whose} their truth"
                is_all = count == scores.get("counts", {}).get(key, scores["images"])
                how = "is infinite" if is_all else "is the mean of the others"
                lines.append(f"{where}: {of}; {_title(key)} {how}.")
    return lines
