"""Files of vectors: what other programs write, what they break, and the way out and in again."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cir import ImportOptions, ModelCard, export_vectors, import_vectors
from cir.data.vector_files import read_ids, read_npy, read_table, vector_dims
from cir.errors import DataError, MissingDependencyError, UsageError
from cir.given import image_id
from cir.indexer.reading.gallery import Gallery
from cir.testing.fakes import FakeEncoder, build, folder_of, make_index, random_rows
from cir.testing.two_models import NEW, OLD, PROCRUSTES, serve_new

CARD = FakeEncoder(tokens=0).card

ids = st.text(
    st.characters(exclude_characters="\0\n\r/", exclude_categories=["Cs"]) | st.just("/"), min_size=1, max_size=12
).filter(lambda name: name.strip("/. \t") == name and "//" not in name and "/./" not in name and "/../" not in name)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
kinds = st.sampled_from(["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])


@settings(deadline=None, max_examples=25)
@given(st.data(), kinds, st.booleans(), st.integers(1, 5))
def test_whatever_goes_in_comes_out_and_in_again(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str, fortran: bool, dims: int
) -> None:
    folder = tmp_path_factory.mktemp("vectors")
    given_ids = data.draw(st.lists(ids, min_size=1, max_size=8, unique_by=lambda name: image_id(name, "id")))
    columns = st.dictionaries(st.sampled_from(["colour", "id", "vector", "a b", "Größe"]), texts, max_size=3)
    metadata = {name: row for name in given_ids if (row := data.draw(columns))}
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    vectors = np.asarray(rng.standard_normal((len(given_ids), dims)) * 10, kind, order="F" if fortran else "C")
    np.save(folder / "v.npy", vectors)
    (folder / "ids.txt").write_bytes(b"".join(name.encode() + b"\n" for name in given_ids))
    card = ModelCard.named("other", dims)
    first = import_vectors(folder / "v.npy", folder / "a", card, ids=folder / "ids.txt", metadata=metadata)
    assert (first.added, first.skipped, first.unmatched) == (len(given_ids), [], [])
    gallery = Gallery.open(folder / "a")
    expected = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    for name, vector in zip(given_ids, expected, strict=True):
        image = gallery.image(name)
        np.testing.assert_allclose(image.stored, vector, atol=2e-3)
        assert image.metadata == {column: text for column, text in metadata.get(name, {}).items() if text}

    out = export_vectors(folder / "a", folder / "a.parquet")
    report = import_vectors(folder / "a.parquet", folder / "b", card, options=options_of(folder / "a.parquet"))
    assert (report.added, report.normalised, report.skipped) == (out.vectors, 0, [])
    again = Gallery.open(folder / "b")
    export_vectors(folder / "a", folder / "out.npy", ids=folder / "out.txt")
    import_vectors(folder / "out.npy", folder / "c", card, ids=folder / "out.txt")
    third = Gallery.open(folder / "c")
    assert list(gallery.ids) == list(again.ids) == list(third.ids) == sorted(gallery.ids)
    for name in gallery.ids:
        assert gallery.image(name).stored.tobytes() == again.image(name).stored.tobytes()
        assert gallery.image(name).stored.tobytes() == third.image(name).stored.tobytes()
        assert gallery.image(name).metadata == again.image(name).metadata


def options_of(path: Path) -> ImportOptions:
    """The options that an export's column names need."""
    first, second = pq.read_schema(path).names[:2]
    return ImportOptions(id_column=first, vector_column=second)


# Hostile and broken files


def test_npy_files_are_mapped_and_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "v.npy"
    np.save(path, np.ones((3, 4), np.float32))
    assert isinstance(read_npy(path), np.memmap)
    assert vector_dims(path) == 4
    whole = path.read_bytes()
    np.save(tmp_path / "objects.npy", np.array([["a", {}]], object), allow_pickle=True)
    np.savez(tmp_path / "arrays.npz", np.ones(3))
    bad = {
        "objects": (tmp_path / "objects.npy").read_bytes(),
        "pickle": pickle.dumps(np.ones((2, 2))),
        "archive": (tmp_path / "arrays.npz").read_bytes(),
        "empty": b"",
        "short": whole[:-1],
        "header": whole[:60],
        "huge": whole.replace(b"(3, 4)", b"(3000000000000, 4)"),
        "negative": whole.replace(b"(3, 4)", b"(-3, 4)"),
        "code": whole.replace(b"(3, 4)", b"exit()"),
        "version": whole[:6] + b"\x09" + whole[7:],
        "text": b"1.0 2.0\n",
    }
    for name, data in bad.items():
        path.write_bytes(data)
        with pytest.raises(DataError) as caught:
            read_npy(path)
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value)
    for array in (np.ones(3), np.ones((2, 2, 2)), np.ones((2, 2), np.int8), np.ones((2, 2), np.complex64)):
        np.save(path, array)
        with pytest.raises(DataError, match=r"matrix|numbers of type"):
            read_npy(path)
    np.save(path, np.array([[object]], object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects in dtype; write a matrix"):
        read_npy(path)
    np.save(path, np.zeros(2, [("a", "f4"), ("b", "f4")]))
    with pytest.raises(DataError):
        read_npy(path)


def test_every_truncation_is_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((3, 4)))
    pq.write_table(pa.table({"id": ["a"], "vector": [[1.0, 2.0]]}), tmp_path / "v.parquet")
    for name in ("v.npy", "v.parquet"):
        whole = (tmp_path / name).read_bytes()
        for length in range(0, len(whole), 7):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(DataError):
                read_table(tmp_path / name, None if name == "v.parquet" else ["a", "b", "c"])


def test_ids_are_lines_in_any_form(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    for data, lines in (
        (b"a\nb", ["a", "b"]),
        (b"\xef\xbb\xbfa\r\nb\r\n", ["a", "b"]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"\xff\n", ["\udcff"]),
        (" x \u2028y\n".encode(), [" x \u2028y"]),
    ):
        path.write_bytes(data)
        assert read_ids(path) == lines
    path.write_bytes(b"a\0b\n")
    with pytest.raises(DataError, match="NUL"):
        read_ids(path)
    with pytest.raises(DataError, match="no such file"):
        read_ids(tmp_path / "none.txt")
    with pytest.raises(DataError, match="not a readable file of ids"):
        read_ids(tmp_path)


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_of_other_programs_is_read(tmp_path: Path) -> None:
    path = table(
        tmp_path / "v.parquet",
        sku=pa.array([3, 4, 5, 6], pa.int32()),
        emb=pa.array([[1, 2], None, [3, None], []], pa.list_(pa.float32())),
        price=pa.array([1.5, 19.99, None, 2], pa.float32()),
        colour=pa.array(["red", "red", "", None]).dictionary_encode(),
        on_sale=pa.array([True, False, None, True]),
        year=pa.array([2011, None, 3, 4]),
        tags=pa.array([["a"], [], None, ["b"]]),
        nothing=pa.nulls(4),
    )
    read = read_table(path, id_column="sku", vector_column="emb")
    assert (list(read.ids), read.dims) == (["3", "4", "5", "6"], 2)
    vectors = read.open(tmp_path / "scratch")
    np.testing.assert_array_equal(vectors, [[1, 2], [np.nan] * 2, [3, np.nan], [np.nan] * 2])
    assert read.metadata["3"] == {"price": "1.5", "colour": "red", "on_sale": "true", "year": "2011"}
    assert read.metadata["4"] == {"price": "19.99", "colour": "red", "on_sale": "false"}
    report = import_vectors(read_back(path), tmp_path / "v", ModelCard.named("m", 2))
    assert [name for name, _ in report.skipped] == ["4", "5", "6"]


def read_back(path: Path) -> Path:
    """The same table under the names of columns that are looked for."""
    renamed = path.with_name("renamed.parquet")
    found = pq.read_table(path)
    pq.write_table(found.rename_columns(["id", "vector", *found.column_names[2:]]), renamed)
    return renamed


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"id": ["a", "b"], "vector": [[1.0, 2.0], [1.0]]}, "row 2 has a vector of 1 values, others have 2"),
        ({"id": ["a", None], "vector": [[1.0], [1.0]]}, "row 2 has no 'id'"),
        ({"id": ["a", "a"], "vector": [[1.0], [1.0]]}, "1 id occurs again: 'a'"),
        ({"id": [1.5, 2.5], "vector": [[1.0], [1.0]]}, "column 'id' holds double; ids are texts"),
        ({"id": ["a"], "vector": [["x"]]}, "holds list<element: string>, not lists of floats"),
        ({"id": ["a"], "vector": [1.0]}, "holds double, not lists of floats"),
        ({"id": ["a"], "vector": [[1]]}, "not lists of floats"),
        ({"id": ["a"], "vector": pa.array([None], pa.list_(pa.float32()))}, "holds no vectors"),
        ({"id": pa.array([], pa.string()), "vector": pa.array([], pa.list_(pa.float32()))}, "holds no vectors"),
        ({"name": ["a"], "vector": [[1.0]]}, "no column 'id'; columns: name, vector; see --id-column"),
        ({"id": ["a"], "embedding": [[1.0]]}, "no column 'vector'; columns: id, embedding; see --vector-column"),
        ({"id": ["a"], "vector": [[1.0]], "x": ["\0"]}, "NUL"),
    ],
)
def test_parquet_that_cannot_be_meant_is_one_line(tmp_path: Path, columns: dict[str, Any], problem: str) -> None:
    path = table(tmp_path / "v.parquet", **columns)
    with pytest.raises(DataError, match=problem) as caught:
        read_table(path).open(tmp_path / "scratch")
    assert str(path) in str(caught.value)


def test_parquet_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "v.parquet", id=["a"], vector=[[1.0]])
    with pytest.raises(UsageError, match="has its own ids"):
        read_table(path, ["a"])
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "none.parquet")
    path.write_bytes(pq.ParquetFile(path).metadata.to_dict().__repr__().encode())
    with pytest.raises(DataError, match="not a readable parquet file"):
        read_table(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cir-engine\[parquet\]'"):
        read_table(path)


# Out


def test_an_export_is_by_id_over_all_segments_and_without_deleted_rows(tmp_path: Path) -> None:
    first, second = random_rows(["a", "d", "e"], 1), random_rows(["b", "c"], 2)
    first.deleted = (1,)
    make_index(tmp_path / "i", [first, second])
    report = export_vectors(tmp_path / "i", tmp_path / "out")
    assert [file.name for file in report.files] == ["vectors.npy", "metadata.csv", "ids.txt"]
    assert (report.vectors, report.dims, report.precision, report.left_out) == (4, 16, "float16", 0)
    assert read_ids(tmp_path / "out" / "ids.txt") == ["a", "b", "c", "e"]
    gallery, vectors = Gallery.open(tmp_path / "i"), np.load(tmp_path / "out" / "vectors.npy")
    assert all((gallery.image(name).stored == row).all() for name, row in zip("abce", vectors, strict=True))
    csv = (tmp_path / "out" / "metadata.csv").read_text().splitlines()
    assert csv[:3] == ["id,colour", "a,", "b,"]
    with pytest.raises(UsageError, match=r"vectors\.npy exists; --overwrite replaces it"):
        export_vectors(tmp_path / "i", tmp_path / "out")
    assert export_vectors(tmp_path / "i", tmp_path / "out", overwrite=True).vectors == 4


def test_an_export_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    make_index(tmp_path / "i", [random_rows(["a", "b"], 1)])
    export_vectors(tmp_path / "i", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    make_index(tmp_path / "j", [random_rows(["a\nb", "c"], 2)])
    with pytest.raises(UsageError, match=r"'a\\nb' has a line break"):
        export_vectors(tmp_path / "j", tmp_path / "out", overwrite=True)
    import_vectors(np.eye(16)[:2], tmp_path / "k", CARD, ids=["\udc80", "c"])
    with pytest.raises(UsageError, match="not valid Unicode, which a CSV"):
        export_vectors(tmp_path / "k", tmp_path / "out", overwrite=True)
    with pytest.raises(DataError, match="not valid Unicode, which parquet"):
        export_vectors(tmp_path / "k", tmp_path / "out.parquet")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"i", "j", "k", "out"}
    export_vectors(tmp_path / "k", tmp_path / "k.npy", ids=tmp_path / "k.txt")
    assert read_ids(tmp_path / "k.txt") == ["c", "\udc80"]


@pytest.mark.parametrize(
    ("out", "more", "problem"),
    [
        ("v.npy", {}, "name a file for the ids too"),
        ("v.npy", {"ids": "v.npy"}, "two outputs have one name"),
        ("v.parquet", {"ids": "ids.txt"}, "holds ids and metadata itself"),
        ("v.csv", {}, "a .npy file, a .parquet file or a folder"),
        ("out", {"space": "0" * 16}, "holds no vectors of a space '0000"),
    ],
)
def test_outputs_that_do_not_fit(tmp_path: Path, out: str, more: dict[str, Any], problem: str) -> None:
    make_index(tmp_path / "i", [random_rows(["a"], 1)])
    more = {name: tmp_path / value if name == "ids" else value for name, value in more.items()}
    with pytest.raises(UsageError, match=problem):
        export_vectors(tmp_path / "i", tmp_path / out, **more)


def test_tokens_are_not_exported(tmp_path: Path) -> None:
    make_index(tmp_path / "i", [random_rows(["a"], 1, vectors=False, tokens=4)], tokens=4, vectors=False)
    with pytest.raises(UsageError, match="holds tokens, and not one vector per image"):
        export_vectors(tmp_path / "i", tmp_path / "out")


def test_spaces_are_never_mixed(tmp_path: Path) -> None:
    build(folder_of(tmp_path / "old", 3), tmp_path / "i", FakeEncoder("old-1", tokens=0))
    serve_new(tmp_path / "i", PROCRUSTES)
    assert export_vectors(tmp_path / "i", tmp_path / "old-vectors").space == OLD.card.space.id
    build(folder_of(tmp_path / "new", 2, start=7), tmp_path / "i", NEW)
    with pytest.raises(UsageError, match=rf"choose one with --space: {OLD.card.space.id}: 3 of old-1; .*: 2 of new-1"):
        export_vectors(tmp_path / "i", tmp_path / "out")
    report = export_vectors(tmp_path / "i", tmp_path / "out", space=NEW.card.space.id)
    assert (report.vectors, report.dims, report.model, report.left_out) == (2, 8, "new-1", 3)
