"""Judged queries that an index keeps, as queries on which its approximate index is measured."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cir.data.judged_query import JudgedQuery
from cir.indexer.reading import ann
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.questions import StoredQuestions, write_questions
from cir.indexer.writing.judged_vectors import judged_vectors
from cir.testing.fakes import DIMS, FakeEncoder, build, folder_of, paint


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index that keeps four judged queries: one without a reference, one without a caption."""
    photos = folder_of(tmp_path / "photos", 60)
    build(photos, tmp_path / "x.index")
    data = {name: (photos / name).read_bytes() for name in ("0001.png", "0002.png")}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in data.items()}
    queries = (
        JudgedQuery("1", "0001.png", "in red", frozenset(["0002.png"])),
        JudgedQuery("2", "0002.png", "longer", frozenset(["0001.png"])),
        JudgedQuery("3", "", "a hat", frozenset(["0001.png"])),
        JudgedQuery("4", "0001.png", "", frozenset(["0002.png"])),
    )
    kept = {digests[name]: partial(bytes, content) for name, content in data.items()}
    write_questions(IndexFolder(tmp_path / "x.index"), StoredQuestions(queries, digests), kept)
    return tmp_path / "x.index"


def test_those_with_reference_and_caption_are_encoded(index: Path) -> None:
    vectors = judged_vectors(IndexFolder(index), FakeEncoder())
    assert vectors is not None
    assert (vectors.shape, vectors.dtype.name) == ((2, DIMS), "float32")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)


def test_there_may_be_none(index: Path, tmp_path: Path) -> None:
    assert judged_vectors(IndexFolder(index), None) is None
    assert judged_vectors(IndexFolder(tmp_path), FakeEncoder()) is None


@pytest.mark.parametrize("broken", [{"0001.png"}, {"0001.png", "0002.png"}])
def test_an_unreadable_photo_is_left_out(index: Path, broken: set[str], caplog: pytest.LogCaptureFixture) -> None:
    names = ("0001.png", "0002.png")
    data = {
        name: b"no photo" + name.encode() if name in broken else paint(index / name, 3).read_bytes() for name in names
    }
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in data.items()}
    queries = tuple(JudgedQuery(name, name, "in red", frozenset(names) - {name}) for name in names)
    kept = {digests[name]: partial(bytes, content) for name, content in data.items()}
    write_questions(IndexFolder(index), StoredQuestions(queries, digests), kept)
    vectors = judged_vectors(IndexFolder(index), FakeEncoder())
    assert (0 if vectors is None else len(vectors)) == 2 - len(broken)
    assert caplog.text.count("a judged query of") == len(broken)


def test_a_damaged_file_is_said_and_nothing_is_measured(index: Path, caplog: pytest.LogCaptureFixture) -> None:
    IndexFolder(index).questions.write_bytes(b"damaged")
    assert judged_vectors(IndexFolder(index), FakeEncoder()) is None
    assert "were not measured" in caplog.text


def test_a_build_measures_them(index: Path, tmp_path: Path) -> None:
    folder_of(tmp_path / "photos", 10, start=60)
    build(tmp_path / "photos", index, ann_min_rows=1)
    (curve,) = filter(None, (ann.stored_curve(path) for path in (index / "segments").iterdir()))
    assert curve.queries == {"stored": 70, "between": 70, "given": 2}
