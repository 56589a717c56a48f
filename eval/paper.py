"""Tables for papers, in Markdown and LaTeX: a row for each system, a group of columns for each benchmark.

Published figures of named methods stand above ours where the protocol is the same and no picture is missing. Figures
are percentages; ours have half the width of their 95 % interval.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cir.errors import UsageError
from cir.eval.published import PUBLISHED
from cir.eval.render import size_of
from cir.eval.report import Figure, Report
from cir.files import write_text

NONE = "–"  # where a system has no such figure


@dataclass(frozen=True)
class PaperTable:
    """What a table for a paper says, before it is set.

    Attributes:
        groups: each benchmark and its columns.
        rows: label of a system, and its cells.
        notes: what a reader needs beside the figures.
    """

    groups: Sequence[tuple[str, Sequence[str]]]
    rows: Sequence[tuple[str, Sequence[str]]]
    notes: Sequence[str]


def check_format(path: Path) -> None:
    """Refuse a file that is neither Markdown nor LaTeX by its suffix. Raises UsageError."""
    if path.suffix.lower() not in _SET:
        raise UsageError(f"{path}: a table is written as Markdown or LaTeX; end its name in {' or '.join(_SET)}")


def write_table(path: Path, reports: Sequence[Report]) -> None:
    """Write reports as one table, atomically.

    Args:
        path: ends in .md or .tex.
        reports: at least one, all of one model; those without public targets are left out.

    Raises:
        UsageError: another suffix; DataError: the file cannot be written.
    """
    check_format(path)
    write_text(path, _SET[path.suffix.lower()](paper_table(reports)))


def paper_table(reports: Sequence[Report]) -> PaperTable:
    """The content of a table: published methods first, then the baselines, then the model."""
    reports = [report for report in reports if report.metrics]
    groups, names = [], []
    for report in reports:
        columns = [*report.metrics, *([report.headline.name] if report.headline else [])]
        groups.append((report.benchmark, columns))
        names += [(report, column) for column in columns]
    rows: dict[str, list[str]] = {}
    comparable = {report.protocol for report in reports if not report.missing}
    published = [entry for entry in PUBLISHED if entry.protocol in comparable]
    for method in dict.fromkeys(entry.method for entry in published):
        of_method = {entry.protocol: entry.figures for entry in published if entry.method == method}
        values = [of_method.get(report.protocol, {}).get(column) for report, column in names]
        rows[method] = [NONE if value is None else f"{100 * value:.2f}" for value in values]
    for system in dict.fromkeys(system for report in reports for system in report.baselines):
        rows[system] = [_cell(_figure(report, column, system)) for report, column in names]
    model = str(reports[0].model.get("name", "unknown")) if reports else "unknown"
    rows[model if model not in rows else f"{model} (ours)"] = [
        _cell(_figure(report, column)) for report, column in names
    ]
    notes = [f"{report.benchmark}: protocol {report.protocol}, {', '.join(size_of(report))}" for report in reports]
    notes += [f"{entry.method}: {entry.source}" for entry in published]
    notes += [f"{model}: measured by cir {reports[0].version}, ± 95 % by bootstrap over queries"] if reports else []
    return PaperTable(groups, list(rows.items()), notes)


def markdown(table: PaperTable) -> str:
    """The table as GitHub's Markdown, the notes as a list below it."""
    header = ["%", *(f"{name} {column}" for name, columns in table.groups for column in columns)]
    lines = [header, ["---", *("---:" for _ in header[1:])], *([label, *cells] for label, cells in table.rows)]
    text = [f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines]
    return "\n".join([*text, "", *(f"- {note}" for note in table.notes)]) + "\n"


def latex(table: PaperTable) -> str:
    """The table as a LaTeX environment that needs no package, the notes as its caption."""
    groups = [(_escaped(name), [_escaped(column) for column in columns]) for name, columns in table.groups]
    spans = [f"\\multicolumn{{{len(columns)}}}{{c}}{{{name}}}" for name, columns in groups]
    columns = [column for _, columns in groups for column in columns]
    rows = [[_escaped(label), *map(_escaped, cells)] for label, cells in table.rows]
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering",
            f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
            "\\hline",
            f"{' & '.join(['', *spans])} \\\\",
            f"{' & '.join(['', *columns])} \\\\",
            "\\hline",
            *(f"{' & '.join(row)} \\\\" for row in rows),
            "\\hline",
            "\\end{tabular}",
            f"\\caption{{Percentages. {' '.join(f'{_escaped(note)}.' for note in table.notes)}}}",
            "\\end{table}",
            "",
        ]
    )


_SET = {".md": markdown, ".tex": latex}
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--"}
_SPECIAL = re.compile(r"[\\~^±–&%$#_{}]")


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda match: _LATEX.get(match[0], f"\\{match[0]}"), text)


def _figure(report: Report, column: str, baseline: str = "") -> Figure | None:
    """A figure of the model, or of a baseline; None if the report has none."""
    headline = report.headline
    if headline and column == headline.name:
        return headline.baselines.get(baseline) if baseline else headline.figure
    return (report.baselines.get(baseline, {}) if baseline else report.metrics).get(column)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return NONE
    low, high = figure.ci95
    return f"{100 * figure.value:.2f} ± {100 * (high - low) / 2:.2f}"
