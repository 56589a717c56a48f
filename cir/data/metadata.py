"""Metadata of images from a table: CSV as spreadsheets and programs write it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cir.data.image_names import ImageNames
from cir.errors import DataError
from cir.files import read_bounded
from cir.images import ImageFile

LARGEST = 1_000_000_000  # bytes of a table
DELIMITERS = ",;\t|"
# Byte-order marks: what starts with one is certainly in that encoding. Without one it is UTF-8, or refused.
_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be", b"": "utf-8"}


@dataclass(frozen=True)
class ImageMetadata:
    """The rows of a metadata file, by image.

    Attributes:
        by_image: image id -> column -> value, without the id column.
        unmatched: number of rows that name none of the images.
        example: the name in the first of them; empty if all fit.
    """

    by_image: Mapping[str, Mapping[str, str]]
    unmatched: int
    example: str = ""


def read_metadata(path: Path, id_column: str, files: Sequence[ImageFile]) -> ImageMetadata:
    """Read a table with a header and one row per image.

    Cells are separated by commas, semicolons, tabs or bars, whichever makes `id_column` a column. The text is UTF-8, or
    UTF-16 with a byte-order mark. How a row names its image: `cir.data.image_names`. Columns without a name and rows
    without any value are left out.

    Args:
        path: the table.
        id_column: the column that names the images; another letter case will do.
        files: the images.

    Raises:
        DataError: no such file, no such column, text in another encoding, a broken row, a name that fits several
            images, or no row that fits any.
    """
    table = _Table(path, _text(path), id_column)
    names = ImageNames(files)
    by_image: dict[str, dict[str, str]] = {}
    unmatched: list[tuple[str, str, dict[str, str]]] = []

    def note(where: str, image_id: str, values: dict[str, str]) -> None:
        if image_id in by_image:
            raise DataError(f"{where}: a second row for {image_id}; keep one")
        by_image[image_id] = values

    for where, name, values in table.rows():
        matches = names.find(name)
        if len(matches) > 1:
            raise DataError(f"{where}: {_short(name)} fits {len(matches)} images; use full ids")
        if matches:
            note(where, matches.pop(), values)
        else:
            unmatched.append((where, name, values))
    if not by_image:
        prefix = names.common_prefix(name for _, name, _ in unmatched)
        if prefix is None:
            raise _nothing_fits(path, id_column, unmatched, files)
        waiting, unmatched = unmatched, []
        for where, name, values in waiting:
            below = names.below(prefix, name)
            if below is None:
                unmatched.append((where, name, values))
            else:
                note(where, below, values)
    return ImageMetadata(by_image, len(unmatched), _short(unmatched[0][1]) if unmatched else "")


def _nothing_fits(
    path: Path, id_column: str, unmatched: Sequence[tuple[str, str, object]], files: Sequence[ImageFile]
) -> DataError:
    if not unmatched:
        return DataError(f"{path}: no rows below the header; write one per image")
    there = _short(next((name for _, name, _ in unmatched if name), ""))
    return DataError(
        f"{path}: no row fits an image: its first {id_column!r} is {there!r}, the first image is {files[0].id!r};"
        f" is {id_column!r} the right --id-column?"
    )


def _short(name: str) -> str:
    """A name for a message, on one line."""
    line = " ".join(name.split())
    return line if len(line) <= 80 else f"{line[:80]}..."


class _Table:
    """The rows of a table whose delimiter is known from its header."""

    def __init__(self, path: Path, text: str, id_column: str) -> None:
        """Find delimiter, columns and id column. Raises DataError."""
        self._path = path
        self._text = text
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
        if not fitting:
            columns = ", ".join(filter(None, max(headers.values(), key=len))) or "none"
            raise DataError(f"{path}: no column {id_column!r}; columns: {columns}; name one with --id-column")
        self._delimiter, self._id = max(fitting, key=lambda found: len(headers[found[0]]))
        self._columns = headers[self._delimiter]
        named = [column for column in self._columns if column]
        if len(set(named)) < len(named):
            twice = next(column for column in named if named.count(column) > 1)
            raise DataError(f"{path} line {1 + self._skipped}: two columns are called {twice!r}; rename or remove one")

    def rows(self) -> Iterator[tuple[str, str, dict[str, str]]]:
        """File and line of each row, the name in its id column, and the other values. Raises DataError."""
        for number, (where, cells) in enumerate(self._read(self._delimiter)):
            if not number or not any(cells):
                continue
            if any(cells[len(self._columns) :]):
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


def _text(path: Path) -> str:
    """The text of a table, without a byte-order mark. Raises DataError, which says how to save it as UTF-8."""
    try:
        data = read_bounded(path, LARGEST)
    except FileNotFoundError:
        raise DataError(f"no such file: {path}; --metadata is a CSV file") from None
    except OSError as error:
        raise DataError(f"{path}: not a readable CSV file: {error.strerror}; check it") from None
    mark, encoding = next(found for found in _MARKS.items() if data.startswith(found[0]))
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} line {line}: not {encoding.upper()}; save it as 'CSV UTF-8', or convert it: "
            f"iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8.csv"
        ) from None
