"""Tables as spreadsheets and programs write them: CSV with any usual delimiter, in UTF-8 or a marked UTF-16."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from cir.errors import DataError
from cir.files import read_bounded

LARGEST = 1_000_000_000  # bytes of a table
DELIMITERS = ",;\t|"
# Byte-order marks: what starts with one is certainly in that encoding. Without one it is UTF-8, or refused.
_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be", b"": "utf-8"}


class CsvTable:
    """A table with a header. Its delimiter is the one that makes the id column a column.

    Columns without a name, and rows without any value, are left out.

    Attributes:
        columns: names of the other columns.
    """

    def __init__(self, path: Path, id_column: str, advice: str) -> None:
        """Read a table.

        Args:
            path: the file.
            id_column: the column that names what a row is about; another letter case will do.
            advice: what to do when the file is another than was thought, for messages.

        Raises:
            DataError: no such file, another encoding, no such column, or two of the same name.
        """
        self._path = path
        self._text = text = _text(path, advice)
        self._skipped = 0
        delimiters = DELIMITERS
        if told := re.match(r'"?sep=(.)"?\r?\n', text):  # how Excel is told the delimiter
            delimiters, self._skipped = told[1], 1
            self._text = text[told.end() :]
        headers = {delimiter: self._header(delimiter) for delimiter in delimiters}
        fitting = [
            (delimiter, column)
            for delimiter, columns in headers.items()
            if (column := _named(columns, id_column)) is not None
        ]
        if not text.strip():
            raise DataError(f"{path}: an empty file; a table begins with the names of its columns")
        if not fitting:
            columns = ", ".join(name for name in max(headers.values(), key=len) if name) or "none"
            raise DataError(f"{path}: no column {id_column!r}; columns: {columns}; {advice}")
        self._delimiter, self._id = max(fitting, key=lambda found: len(headers[found[0]]))
        self._columns = headers[self._delimiter]
        named = [column for column in self._columns if column]
        if len(set(named)) < len(named):
            twice = next(column for column in named if named.count(column) > 1)
            raise DataError(f"{path} line {1 + self._skipped}: two columns are called {twice!r}; rename or remove one")
        self.columns = [column for column in named if column != self._id]

    def rows(self, *, longer: bool = False) -> Iterator[tuple[str, str, dict[str, str]]]:
        """File and line of each row, the name in its id column, and the other values.

        Args:
            longer: rows may have more cells than there are columns; those are left out.

        Raises:
            DataError: a broken row, with file and line.
        """
        for number, (where, cells) in enumerate(self._read(self._delimiter)):
            if not number or not any(cells):
                continue
            if any(cells[len(self._columns) :]) and not longer:
                quoted = "another character" if self._delimiter == "\t" else repr(self._delimiter)
                raise DataError(f"{where}: more cells than columns; quote cells that hold {quoted}")
            padded = [*cells, *[""] * (len(self._columns) - len(cells))]
            values = dict(zip(self._columns, padded, strict=False))
            values.pop("", None)
            yield where, values.pop(self._id), values

    def _header(self, delimiter: str) -> list[str]:
        try:
            return [" ".join(cell.split()) for cell in next((cells for _, cells in self._read(delimiter)), [])]
        except DataError:
            return []  # a quote that is none with this delimiter

    def _read(self, delimiter: str) -> Iterator[tuple[str, list[str]]]:
        """File and first line of each row, and its cells."""
        lines = csv.reader(io.StringIO(self._text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        line = 1
        try:
            for cells in lines:
                where = f"{self._path} line {line + self._skipped}"
                if any("\0" in cell for cell in cells):
                    raise DataError(f"{where}: a NUL character; is this a table, saved as CSV UTF-8?")
                yield where, [cell.strip() for cell in cells]
                line = lines.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{self._path} line {line + self._skipped}: not a row of a table: {error}; correct its quotes"
            ) from None


def _named(columns: Sequence[str], wanted: str) -> str | None:
    """The column of that name, else the only one that differs from it in letter case alone."""
    if wanted in columns:
        return wanted
    alike = [column for column in columns if column.casefold() == wanted.casefold()]
    return alike[0] if len(alike) == 1 else None


def _text(path: Path, advice: str) -> str:
    """The text of a table, without a byte-order mark. Raises DataError, which says how to save it as UTF-8."""
    try:
        data = read_bounded(path, LARGEST)
    except FileNotFoundError:
        raise DataError(f"no such file: {path}; check the path") from None
    except OSError as error:
        raise DataError(f"{path}: not a readable CSV file: {error.strerror}; check it") from None
    mark, encoding = next(found for found in _MARKS.items() if data.startswith(found[0]))
    try:
        return data[len(mark) :].decode(encoding).removeprefix("\ufeff")  # some programs write two
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} line {line}: not a readable CSV file: not {encoding.upper()}; save it as 'CSV UTF-8', "
            f"or convert it: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8.csv"
        ) from None
