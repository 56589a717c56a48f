"""A report as a table for a person, and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cir.eval.files import write_text


def render(report: Mapping[str, Any]) -> str:
    """A report as an aligned table without a newline at its end.

    Figures are percentages with half the width of their 95 % interval. Missing images stand in the heading,
    so that no figure is read without them.

    Args:
        report: what `cir.eval.scoring.make_report` gave, or the same read back from JSON.
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
    rows = [["% ± 95 %", *measures], _row("composed", report["metrics"], measures)]
    rows += [_row(name, figures, measures) for name, figures in report["baselines"].items()]
    if "comparison" in report:
        rows.append([])
        rows += _comparison(report["comparison"], measures)
    if report["groups"]:
        rows += [[], ["composed, by group"]]
        rows += [_row(name, figures, measures) for name, figures in report["groups"].items()]
    return "\n".join([", ".join(heading), "", *_align(rows)])


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report as JSON, atomically; keys keep their order.

    Raises:
        DataError: the file cannot be written.
    """
    write_text(path, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _row(label: str, figures: Mapping[str, Any], measures: Sequence[str]) -> list[str]:
    return [label, *(_cell(100 * figures[name]["value"], figures[name]["ci95"]) for name in measures)]


def _comparison(comparison: Mapping[str, Any], measures: Sequence[str]) -> list[list[str]]:
    """Three rows: the gain over the best baseline, which one that is, and p."""
    each = [comparison[name] for name in measures]
    return [
        ["gain over best", *(_cell(100 * one["difference"], one["ci95"], sign="+") for one in each)],
        ["  which is", *(one["baseline"] for one in each)],
        ["  paired p", *(f"{one['p']:.3f}" for one in each)],
    ]


def _cell(percent: float, ci95: Sequence[float], sign: str = "-") -> str:
    half = 100 * (ci95[1] - ci95[0]) / 2
    return f"{percent:{sign}.1f} ±{half:4.1f}"


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """First column to the left, the others to the right; a row of one cell is a title and sets no width."""
    full = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    lines = []
    for row in rows:
        first, others = row[:1], zip(row[1:], widths[1:], strict=False)
        cells = [*(cell.ljust(widths[0]) for cell in first), *(cell.rjust(width) for cell, width in others)]
        lines.append("  ".join(cells).rstrip())
    return lines
