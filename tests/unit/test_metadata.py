"""Metadata of images from tables as people have them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cir.data.image_names import ImageNames
from cir.data.metadata import read_metadata
from cir.errors import DataError
from cir.images import ImageFile

FILES = [ImageFile(name, "/data/images", f"/data/images/{name}") for name in ("a/1.jpg", "a/2.jpg", "b/2.jpg", "3.png")]


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_row_names_an_image_by_id_file_name_or_stem(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffid, colour ,size\na/2.jpg,red,\n1.jpg, blue , L\n3,green,M\nother,pink,S\n")
    metadata = read_metadata(path, "id", FILES)
    assert metadata.by_image == {
        "a/2.jpg": {"colour": "red", "size": ""},
        "a/1.jpg": {"colour": "blue", "size": "L"},
        "3.png": {"colour": "green", "size": "M"},
    }
    assert (metadata.unmatched, metadata.example) == (1, "other")


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("./a/1.jpg", "a/1.jpg"),
        ("images/a/1.jpg", "a/1.jpg"),
        ("data/images/a/1", "a/1.jpg"),
        ("/data/images/b/2.jpg", "b/2.jpg"),
        ("../images//b/./2.jpg", "b/2.jpg"),
        ("A\\1.JPG", "a/1.jpg"),
        (".\\images\\a\\1.jpg", "a/1.jpg"),
        ("3.PNG", "3.png"),
        ("C:\\data\\images\\3.png", None),
        ("elsewhere/3.png", None),
        ("/data/1.jpg", None),
        ("", None),
        (".", None),
        ("2.jpg", {"a/2.jpg", "b/2.jpg"}),
    ],
)
def test_names_as_people_write_them(name: str, image: str | set[str] | None) -> None:
    wanted = image if isinstance(image, set) else {image} if image else set()
    assert ImageNames(FILES).find(name) == wanted


def test_an_exact_name_wins_over_one_in_another_letter_case() -> None:
    names = ImageNames(
        [ImageFile(name, "/x", f"/x/{name}") for name in ("A.jpg", "a.jpg", "b.jpg", "b.png", "c\\d.jpg")]
    )
    assert names.find("A.jpg") == {"A.jpg"}
    assert names.find("a.JPG") == {"A.jpg", "a.jpg"}
    assert names.find("b.png") == {"b.png"}
    assert names.find("b") == {"b.jpg", "b.png"}
    assert names.find("c\\d.jpg") == {"c\\d.jpg"}  # a name may hold a back-slash


def test_an_absolute_name_through_a_link(tmp_path: Path) -> None:
    """Roots are real paths, names in a table what somebody has typed."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "1.jpg").touch()
    (tmp_path / "photos").symlink_to("disk")
    root = str((tmp_path / "disk").resolve())
    assert ImageNames([ImageFile("1.jpg", root, f"{root}/1.jpg")]).find(f"{tmp_path}/photos/1.jpg") == {"1.jpg"}


def test_decomposed_and_composed_letters_are_one_name(tmp_path: Path) -> None:
    """macOS writes e and an accent, people type one letter."""
    names = ImageNames([ImageFile("caf\u00e9/1.jpg", "/x", "/x/cafe\u0301/1.jpg")])
    assert names.find(unicodedata.normalize("NFD", "caf\u00e9/1.jpg")) == {"caf\u00e9/1.jpg"}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiters_and_encodings(tmp_path: Path, delimiter: str, encoding: str) -> None:
    text = f"id{delimiter}colour{delimiter}price\n1{delimiter}gr\u00fcn{delimiter}3.5\n"
    metadata = read_metadata(write(tmp_path, text.encode(encoding)), "id", FILES)
    assert metadata.by_image == {"a/1.jpg": {"colour": "gr\u00fcn", "price": "3.5"}}


def test_what_spreadsheets_add(tmp_path: Path) -> None:
    """A first line for Excel, CRLF, a decimal comma, a row number without a name, empty rows, another letter case."""
    text = 'sep=;\r\n;ID;price\r\n0;1;"3,5"\r\n;;\r\n1;3.png;"4,5\r\nor more"\r\n'
    metadata = read_metadata(write(tmp_path, text), "id", FILES)
    assert metadata.by_image == {"a/1.jpg": {"price": "3,5"}, "3.png": {"price": "4,5\r\nor more"}}


def test_a_folder_of_another_name_is_left_out_when_nothing_else_fits(tmp_path: Path) -> None:
    text = "id,colour\nphotos/a/1.jpg,red\nphotos/b/2.jpg,blue\nphotos/gone.jpg,green\n"
    metadata = read_metadata(write(tmp_path, text), "id", FILES)
    assert metadata.by_image == {"a/1.jpg": {"colour": "red"}, "b/2.jpg": {"colour": "blue"}}
    assert (metadata.unmatched, metadata.example) == (1, "photos/gone.jpg")
    with pytest.raises(DataError, match="no row fits an image"):  # the same names in two folders: which is meant?
        read_metadata(write(tmp_path, "id\ntrain/a/1.jpg\nval/a/1.jpg\n"), "id", FILES)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,colour\n1,red\n", "no column 'id'; columns: key, colour; name one with --id-column"),
        ("key;colour\n1;red\n", "no column 'id'; columns: key, colour;"),
        ("", "an empty file; a table begins with the names of its columns"),
        ("id,colour\n", "no rows below the header"),
        ("id,colour\n1,red,L\n", "line 2: more cells than columns; quote cells that hold ','"),
        ("id,colour\n2,red\n", "line 2: 2 fits 2 images; use full ids"),
        ("id,colour\n1,red\na/1.jpg,blue\n", "line 3: a second row for a/1.jpg; keep one"),
        ("id,colour\nx,red\n", "its first 'id' is 'x', the first image is 'a/1.jpg'; is 'id' the right --id-column"),
        ("id,colour,colour\n1,red,blue\n", "line 1: two columns are called 'colour'"),
        ("id,colour\n3,red\n1,r\0d\n", "line 3: a NUL character"),
        ("id,colour\n1," + "x" * 200_000 + "\n", "line 2: not a row of a table: field larger than field limit"),
        ('id,colour\n3,"a\nb"\n1,"red\n2,blue\n', "line 4: not a row of a table: unexpected end of data"),
        ('id,colour\n1,"red" or so\n', "line 2: not a row of a table"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as refused:
        read_metadata(write(tmp_path, text), "id", FILES)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "table.csv"))


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_metadata(tmp_path / "gone.csv", "id", FILES)
    with pytest.raises(DataError, match="not a readable CSV file: Is a directory"):
        read_metadata(tmp_path, "id", FILES)
    with pytest.raises(DataError, match=r"line 2: not a readable CSV file: not UTF-8; save .* iconv"):
        read_metadata(write(tmp_path, b"id,colour\n1,gr\xfcn\n"), "id", FILES)
    with pytest.raises(DataError, match="line 1: not a readable CSV file: not UTF-16-LE"):
        read_metadata(write(tmp_path, b"\xff\xfei"), "id", FILES)


PIECES = ["id", "1", "a/1.jpg", ",", ";", "\t", '"', "\n", "\r", "\0", "\xe9", "\\", "..", "sep="]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PIECES)))
def test_no_table_makes_another_error(tmp_path_factory: pytest.TempPathFactory, pieces: list[str]) -> None:
    path, text = tmp_path_factory.getbasetemp() / "any.csv", "".join(pieces)
    for data in (text.encode(), b"id,b\n" + text.encode("latin-1")):
        path.write_bytes(data)
        said = ""
        try:
            read_metadata(path, "id", FILES)
        except DataError as error:
            said = str(error)
        assert "\n" not in said
