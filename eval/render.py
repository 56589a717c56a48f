"""A report as a table for a person, and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from cir.files import write_text


def render(report: Mapping[str, Any]) -> str:
    """A report as an aligned table without a newline at its end.

    Figures are percentages with half the width of their 95 % interval. Where images are missing their number stands in
    the heading and at the end of every row, so that no figure is read without it.

    Args:
        report: what `cir.eval.report.make_report` gave, or the same read back from JSON.
    """
    measures = list(report["metrics"])
    gallery, missing = report["gallery"]["images"], report["missing"]
    heading = [
        f"{report['benchmark']}  {report['protocol']}",
        f"gallery {gallery:,} images, {missing:,} MISSING" if missing else f"gallery {gallery:,} images",
        f"{report['queries']:,} queries",
        f"model {report['model'].get('name', 'unknown')}",
        f"{report['seconds']:.1f} s",
    ]
    if not measures:
        return f"{', '.join(heading)}\n\nThe targets are not public: there is nothing to score here."
    rows = [["% ± 95 %", *measures], _row("composed", report["metrics"], measures)]
    rows += [_row(name, figures, measures) for name, figures in report["baselines"].items()]
    if "headline" in report:
        headline = report["headline"]
        each = [headline, *headline.get("baselines", {}).values()]
        for row, cells in zip(rows, [headline["name"], *(_figure(one) for one in each)], strict=True):
            row.append(cells)
    if "comparison" in report:
        rows.append([])
        rows += _comparison(report["comparison"], measures)
    if report["groups"]:
        rows += [[], ["composed, by group"]]
        rows += [_row(name, figures, measures) for name, figures in report["groups"].items()]
    if missing:
        _note_missing(rows, missing)
    return "\n".join([", ".join(heading), "", *align(rows), *_nothing_fits(report)])


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report as JSON, atomically; keys keep their order.

    Raises:
        DataError: the file cannot be written.
    """
    write_text(path, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _nothing_fits(report: Mapping[str, Any]) -> list[str]:
    """How far "nothing fits" can be believed, where the model's card has a threshold."""
    said = report.get("nothing_fits")
    if said is None:
        return []
    return [
        "",
        f'"nothing fits" (best score below {said["threshold"]:.3f}): said wrongly of {said["false_alarms"]:.1%}'
        f" of these queries, and of {said['recognised']:.1%} once their targets are taken away",
    ]


def _row(label: str, figures: Mapping[str, Any], measures: Sequence[str]) -> list[str]:
    return [label, *(_figure(figures[name]) for name in measures)]


def _figure(figure: Mapping[str, Any]) -> str:
    return cell(100 * figure["value"], figure["ci95"])


def _note_missing(rows: Sequence[list[str]], missing: int) -> None:
    width = max(map(len, rows))
    for row in rows:
        if len(row) > 1:
            row += [""] * (width - len(row)) + [f"{missing:,}" if row is not rows[0] else "missing"]


def _comparison(comparison: Mapping[str, Any], measures: Sequence[str]) -> list[list[str]]:
    """Three rows: the gain over the best baseline, which one that is, and p."""
    each = [comparison[name] for name in measures]
    return [
        ["gain over best", *(cell(100 * one["difference"], one["ci95"], sign="+") for one in each)],
        ["  which is", *(one["baseline"] for one in each)],
        ["  paired p", *(f"{one['p']:.3f}" for one in each)],
    ]


def cell(percent: float, ci95: Sequence[float], sign: str = "-") -> str:
    """A percentage and half the width of its interval, which is given as fractions."""
    half = 100 * (ci95[1] - ci95[0]) / 2
    return f"{percent:{sign}.1f} ±{half:4.1f}"


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """First column to the left, the others to the right; a row of one cell is a title and sets no width."""
    full = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip_longest(*full, fillvalue="")]
    lines = []
    for row in rows:
        first, others = row[:1], zip(row[1:], widths[1:], strict=False)
        cells = [*(cell.ljust(widths[0]) for cell in first), *(cell.rjust(width) for cell, width in others)]
        lines.append("  ".join(cells).rstrip())
    return lines
