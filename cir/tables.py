"""Tables of text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest


def align(rows: Sequence[Sequence[str]], *, numbers: bool = True) -> list[str]:
    """Rows of cells as lines of aligned columns, two blanks apart.

    Args:
        rows: the cells. A row may be shorter than others; a row of one cell is a title and sets no width.
        numbers: align all columns but the first to the right; otherwise all to the left.
    """
    full = [row for row in rows if len(row) > 1]
    widths = [max(map(len, column)) for column in zip_longest(*full, fillvalue="")]
    lines = []
    for row in rows:
        cells = [*row[:1]] if len(row) < 2 else [row[0].ljust(widths[0])]
        cells += [
            cell.rjust(width) if numbers else cell.ljust(width)
            for cell, width in zip(row[1:], widths[1:], strict=False)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
