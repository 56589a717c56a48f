"""Reports and comparisons as tables for a person, and a report as a file. Figures in tables are percentages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cir.eval.comparison import PairedFigure, RunComparison
from cir.eval.report import BaselineGain, Confidence, Figure, Figures, Report
from cir.files import write_json
from cir.tables import align

NOT_PUBLIC = "The targets are not public: there is nothing to score here."


def render(report: Report) -> str:
    """A report as an aligned table, without a newline at its end.

    A figure stands with half the width of its 95 % interval. If images are missing, their number stands in the heading
    and at the end of every row, so that no figure is read without it.
    """
    measures, missing = list(report.metrics), report.missing
    heading = [
        f"{report.benchmark}  {report.protocol}",
        *size_of(report),
        f"model {report.model.get('name', 'unknown')}",
        f"{report.seconds:.1f} s",
    ]
    if not measures:
        return f"{', '.join(heading)}\n\n{NOT_PUBLIC}"
    rows = _systems(report)
    if report.comparison:
        rows += [[], *_gains(report.comparison, measures)]
    if report.groups:
        rows += [[], [f"{report.form}, by group"]]
        rows += [_row(name, figures, measures) for name, figures in report.groups.items()]
    if missing:
        _add_missing(rows, missing)
    confidence = ["", _confidence(report.confidence)] if report.confidence else []
    return "\n".join([", ".join(heading), "", *align(rows), *confidence])


def render_several(reports: Sequence[Report]) -> str:
    """Reports of one model as one aligned table, without a newline at its end; groups and gains are left out."""
    model, seconds = reports[0].model.get("name", "unknown"), sum(report.seconds for report in reports)
    rows: list[list[str]] = []
    for report in reports:
        rows += [[], [f"{report.protocol}: {', '.join(size_of(report))}"]]
        of_report = _systems(report) if report.metrics else [[NOT_PUBLIC]]
        if report.missing:
            _add_missing(of_report, report.missing)
        rows += of_report
    return "\n".join([f"{len(reports)} benchmarks, model {model}, {seconds:.1f} s", *align(rows)])


def size_of(report: Report) -> list[str]:
    """How large a benchmark is, and how much of it is missing, in words."""
    gallery = f"gallery {report.gallery.images:,} images"
    if report.gallery.per_query:
        gallery = f"{report.gallery.per_query:,} images for each query, of {report.gallery.images:,}"
    missing = [f"{report.missing:,} MISSING"] if report.missing else []
    return [gallery, *missing, f"{report.queries:,} queries"]


def _systems(report: Report) -> list[list[str]]:
    """A row of measures, and one for every system, with the headline in the last column."""
    measures = list(report.metrics)
    rows = [["% ± 95 %", *measures], _row(report.form, report.metrics, measures)]
    rows += [_row(name, figures, measures) for name, figures in report.baselines.items()]
    if report.headline:
        figures = [report.headline.figure, *report.headline.baselines.values()]
        for row, cell in zip(rows, [report.headline.name, *map(_figure, figures)], strict=True):
            row.append(cell)
    return rows


def render_comparison(comparison: RunComparison) -> str:
    """A comparison as an aligned table, without a newline at its end."""
    heading = f"{comparison.benchmark}  {comparison.protocol}, {comparison.queries:,} queries"
    rows = [["", "A", "B", "A - B ± 95 %", "p"]]
    if comparison.headline:
        rows.append(_paired_row(*comparison.headline))
    rows += [_paired_row(name, figure) for name, figure in comparison.metrics.items()]
    for group, figures in comparison.groups.items():
        rows += [[], [group], *(_paired_row(name, figure) for name, figure in figures.items())]
    return "\n".join([heading, f"A {comparison.a}", f"B {comparison.b}", "", *align(rows)])


def write_report(path: Path, report: Report) -> None:
    """Write a report as JSON, atomically. Raises DataError when the file cannot be written."""
    write_json(path, report.to_json())


def _confidence(confidence: Confidence) -> str:
    """How far "not confident" can be trusted."""
    return (
        f"not confident (best score below {confidence.threshold:.3f}): {confidence.false_alarms:.1%} of these queries,"
        f" {confidence.recognised:.1%} once their targets are removed"
    )


def _row(label: str, figures: Figures, measures: Sequence[str]) -> list[str]:
    return [label, *(_figure(figures[name]) for name in measures)]


def _paired_row(name: str, figure: PairedFigure) -> list[str]:
    gain = _cell(figure.gain.difference, figure.gain.ci95, sign="+")
    return [name, f"{100 * figure.a:.1f}", f"{100 * figure.b:.1f}", gain, f"{figure.gain.p:.3f}"]


def _gains(gains: Mapping[str, BaselineGain], measures: Sequence[str]) -> list[list[str]]:
    """Three rows: the gain over the best baseline, that baseline, and p."""
    columns = [gains[name] for name in measures]
    return [
        ["gain over best", *(_cell(column.gain.difference, column.gain.ci95, sign="+") for column in columns)],
        ["  which is", *(column.baseline for column in columns)],
        ["  paired p", *(f"{column.gain.p:.3f}" for column in columns)],
    ]


def _add_missing(rows: Sequence[list[str]], missing: int) -> None:
    """Add a last column with the number of missing images."""
    width = max(map(len, rows))
    for row in rows:
        if len(row) > 1:
            row += [""] * (width - len(row)) + [f"{missing:,}" if row is not rows[0] else "missing"]


def _figure(figure: Figure) -> str:
    return _cell(figure.value, figure.ci95)


def _cell(value: float, ci95: Sequence[float], sign: str = "-") -> str:
    """A percentage and half the width of its interval."""
    return f"{100 * value:{sign}.1f} ±{100 * (ci95[1] - ci95[0]) / 2:4.1f}"
