"""Metadata of images from a CSV file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cir.data.metadata import read_metadata
from cir.errors import DataError
from cir.images import ImageFile

FILES = [ImageFile(name, "/root", f"/root/{name}") for name in ("a/1.jpg", "a/2.jpg", "b/2.jpg", "3.png")]


def write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_names_an_image_by_id_file_name_or_stem(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffid, colour ,size\na/2.jpg,red,\n1.jpg, blue , L\n3,green,M\nother,pink,S\n")
    metadata = read_metadata(path, "id", FILES)
    assert metadata.by_image == {
        "a/2.jpg": {"colour": "red", "size": ""},
        "a/1.jpg": {"colour": "blue", "size": "L"},
        "3.png": {"colour": "green", "size": "M"},
    }
    assert metadata.unmatched == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,colour\n1,red\n", "no column 'id'; columns: key, colour; name one with --id-column"),
        ("", "no column 'id'; columns: none"),
        ("id,colour\n1,red,L\n", "line 2: more cells than columns"),
        ("id,colour\n2,red\n", "line 2: 2 fits 2 images; use full ids"),
        ("id,colour\n1,red\na/1.jpg,blue\n", "line 3: a second row for a/1.jpg; keep one"),
        ("id,colour\nx,red\n", "no row fits an image; is 'id' the right --id-column"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_metadata(write(tmp_path, text), "id", FILES)


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_metadata(tmp_path / "gone.csv", "id", FILES)
    (tmp_path / "latin.csv").write_bytes(b"id,colour\n1,gr\xfcn\n")
    with pytest.raises(DataError, match="not a readable CSV file"):
        read_metadata(tmp_path / "latin.csv", "id", FILES)
