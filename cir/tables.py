"""Text tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """First column to the left, the others to the right; a row of a single cell is a title and sets no width."""
    full = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip_longest(*full, fillvalue="")]
    lines = []
    for row in rows:
        first, others = row[:1], zip(row[1:], widths[1:], strict=False)
        cells = [*(cell.ljust(widths[0]) for cell in first), *(cell.rjust(width) for cell, width in others)]
        lines.append("  ".join(cells).rstrip())
    return lines
