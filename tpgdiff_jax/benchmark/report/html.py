"""The report as one HTML page that needs nothing else: no network, no other file."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from tpgdiff_jax.benchmark.report import charts
from tpgdiff_jax.benchmark.report.pictures import Picture
from tpgdiff_jax.benchmark.report.published_scores import TABLES
from tpgdiff_jax.benchmark.report.tables import NONE, Line, comparison, remarks, result_table, show
from tpgdiff_jax.benchmark.rows import Row


def page(summary: Mapping[str, Any], rows: Sequence[Row], pictures: Sequence[Picture]) -> str:
    """Write the page.

    Args:
      summary: of `summary.summarise`.
      rows: of the job.
      pictures: of `pictures.chosen_pictures`.

    Returns:
      HTML text.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tpgdiff_jax.benchmark.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["show"] = show
    titles, results = result_table(summary)
    comparisons = {
        title: (found[0], *_with_notes(found[1]))
        for group, title in TABLES.items()
        if (found := comparison(summary, group)) is not None
    }
    protocols: dict[str, list[str]] = {}
    for about in summary["sets"].values():
        text = f"{about['protocol_text']}. Noise: {about['seed_rule']}"
        protocols.setdefault(text, []).append(about["title"])
    return environment.get_template("report.html.j2").render(
        summary=summary,
        job=summary["job"],
        titles=titles,
        results=results,
        protocols=protocols,
        comparisons=comparisons,
        histograms=_histograms(summary, rows),
        sweeps=sweeps(summary),
        pictures=pictures,
        confusions=_confusions(summary),
        remarks=remarks(summary),
    )


def _with_notes(lines: Sequence[Line]) -> tuple[list[tuple[Line, int]], list[str]]:
    """Number what must be said of the lines' numbers: ((line, its note's number), notes)."""
    texts = ["; ".join(filter(None, (line.source, line.remark))) for line in lines]
    notes = list(dict.fromkeys(texts))
    numbered = [(line, notes.index(text) + 1) for line, text in zip(lines, texts, strict=True)]
    return numbered, notes


def _histograms(summary: Mapping[str, Any], rows: Sequence[Row]) -> list[tuple[str, str]]:
    found = []
    for variant, result in summary["results"].items():
        for name in result:
            values = [
                float(row["psnr"])
                for row in rows
                if (row["variant"], row["set"]) == (variant, name) and "psnr" in row
            ]
            if values and (svg := charts.histogram(values, "PSNR, dB")):
                found.append((f"{summary['sets'][name]['title']}, {variant}", svg))
    return found


def sweeps(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Draw quality against network calls and against time, of the average over all sets.

    Returns:
      (title, SVG) pairs; none where there is only one variant.
    """
    variants = [v for v in summary["variants"] if v["steps"] is not None]
    if len(variants) < 2:
        return []
    found = []
    for key, title_x in (("nfe", "network calls per image"), ("seconds", "seconds per image")):
        series: dict[str, list[tuple[float, float]]] = {}
        for variant in variants:
            average = summary["averages"][variant["name"]].get("all", {})
            x = average.get(key)
            if x is None or "psnr" not in average:
                continue
            missing = f" without {', '.join(variant['without'])}" if variant["without"] else ""
            views, passes = variant["ensemble"], variant["passes"]
            of_views = f", {views} views" if views > 1 else ""
            of_passes = f", up to {passes} passes" if passes > 1 else ""
            point = (float(x), float(average["psnr"]))
            series.setdefault(variant["sampler"] + of_views + of_passes + missing, []).append(point)
        if series:
            text = f"Quality against {title_x}"
            found.append((text, charts.lines(series, title_x, "PSNR, dB, mean of the sets")))
    return found


def _confusions(summary: Mapping[str, Any]) -> list[tuple[str, list[str], list]]:
    """Return (variant, predicted names, (truth, counts, share that is right as text) rows).

    The classifier sees the degraded image alone, so one variant shows it.
    """
    kind = summary["job"].get("classification", "single")
    found = []
    for variant, matrix in list(summary["confusion"].items())[:1]:
        predicted = sorted({name for counts in matrix.values() for name in counts})
        rows = []
        for truth, counts in matrix.items():
            total = sum(counts.values())
            cells = [(counts.get(name, 0), counts.get(name, 0) / total) for name in predicted]
            rows.append((truth.replace("|", " or "), cells, _right(truth, counts, kind)))
        if rows:
            found.append((variant, predicted, rows))
    return found


def _right(truth: str, counts: Mapping[str, int], kind: str) -> str:
    """Return the share of images whose degradations were all named, and no others.

    A classifier that names one degradation can be neither right nor wrong about a mixture.

    Args:
      truth: what degraded the images; `|` between several right answers.
      counts: answer -> images.
      kind: of the classifier, see `verdict`.
    """
    wanted = [_parts(answer) for answer in truth.split("|")]
    if kind != "multi" and all(len(answer) > 1 for answer in wanted):
        return NONE
    right = sum(count for name, count in counts.items() if _parts(name) in wanted)
    return f"{100 * right / sum(counts.values()):.0f} %"


def _parts(names: str) -> set[str]:
    return {name.strip() for name in names.split("+")}
