"""The check of a whole index."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from cir.errors import CorruptIndexError, IndexFormatError
from cir.files import sha256_file, write_json
from cir.indexer.reading import ann, token_codes
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import unnamed, verify
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest, read_pointer
from cir.indexer.storage.segment import Segment
from cir.indexer.storage.writer import writing
from cir.indexer.writing.history import rollback
from cir.testing.fakes import Rows, make_index, random_rows


@pytest.fixture
def index(tmp_path: Path) -> Path:
    rows = random_rows(["a", "b", "c"], 1, tokens=4)
    return make_index(tmp_path / "x.index", [rows, random_rows(["d"], 2, tokens=4)], 4)


def sign(index: Path) -> None:
    """Give the manifest the digest that the first segment has now."""
    folder, path = IndexFolder(index), gallery_file(index)
    manifest = folder.manifest(read_pointer(folder)[0])
    values = json.loads(manifest.read_bytes())
    values["segments"][0]["files"] = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)}}
    write_json(manifest, values)
    folder.current.write_text(f"{manifest.name} {sha256_file(manifest)}\n")


def gallery_file(index: Path) -> Path:
    return IndexFolder(index).gallery("000001")


def test_a_sound_index(index: Path) -> None:
    assert verify(index) == []


def test_verify_of_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexFormatError):
        verify(tmp_path)


def test_verify_reports_a_damaged_pointer(index: Path) -> None:
    IndexFolder(index).current.write_text("garbage")
    assert len(verify(index)) == 1


def test_every_flipped_byte_is_found(index: Path) -> None:
    path = gallery_file(index)
    data = path.read_bytes()
    for place in range(0, len(data), 997):
        path.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        assert verify(index), place


def test_verify_reports_a_lost_segment(index: Path) -> None:
    gallery_file(index).unlink()
    assert [problem for problem in verify(index) if "is missing" in problem]


def test_verify_reports_norms_and_ids(tmp_path: Path) -> None:
    good, bad = random_rows(["a", "b"], 1), random_rows(["b", "c", "d"], 2)
    assert bad.vectors is not None
    bad.vectors[1] = np.nan
    bad.vectors[2] *= 2
    problems = verify(make_index(tmp_path / "x.index", [good, bad]))
    assert len(problems) == 2
    assert any('vectors of 2 images are not of unit length, first "c"' in problem for problem in problems)
    assert "generation 1: 2 live rows have the id 'b'" in problems


def test_verify_reports_ids_that_do_not_ascend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows, "sorted", lambda rows: rows)
    problems = verify(make_index(tmp_path / "x.index", [random_rows(["a", "c", "b"], 1), random_rows(["d", "d"], 2)]))
    assert len([problem for problem in problems if "ids do not ascend" in problem]) == 2
    assert any('ids do not ascend, "b" in row 2 follows "c"; restore the file' in problem for problem in problems)


def test_verify_looks_into_every_column(tmp_path: Path) -> None:
    """Even where the digest is right: somebody else may have made the index."""
    rows = random_rows(["a", "b", "c"], 1)
    rows.metadata = [{"price": "1.50", "x": "y"}, {"price": "", "x": "y"}, {"price": "2.50", "x": "z"}]
    index = make_index(tmp_path / "x.index", [rows])
    assert verify(index) == []
    for name, place, value, reason in (
        ("ids/offsets", 1, 3, "column 'ids' is damaged: its offsets do not ascend"),
        ("metadata/0/numbers", 1, np.inf, "column 'price' is damaged: a number is infinite"),
        ("metadata/1/codes", 2, 9, "column 'x' is damaged: it has codes that its dictionary does not explain"),
    ):
        kept = gallery_file(index).read_bytes()
        with h5py.File(gallery_file(index), "r+") as file:
            file[name][place] = value
        sign(index)
        problems = verify(index)
        gallery_file(index).write_bytes(kept)
        assert len([problem for problem in problems if reason in problem]) == 1, problems


def test_verify_walks_the_generations(index: Path) -> None:
    folder = IndexFolder(index)
    with writing(folder) as writer:
        writer.publish(read_manifest(folder).succeed(segments=read_manifest(folder).segments[:1]))
    assert verify(index) == []
    other = folder.gallery("000002")  # only the older generation names it
    data = other.read_bytes()
    other.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert [problem for problem in verify(index) if "000002" in problem and "contradicts its digest" in problem]
    other.write_bytes(data)
    manifest = folder.manifest(1)
    text = manifest.read_text()
    manifest.write_text(text.replace('"rows":3', '"rows":2'))
    (problem,) = verify(index)
    assert "000001.json contradicts its digest" in problem
    assert len(Gallery.open(index)) == 3  # the live generation is sound
    with pytest.raises(CorruptIndexError, match="contradicts its digest"):
        rollback(index)


def test_verify_never_dies(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(segment: object) -> list[str]:
        raise IndexError("list index out of range")

    monkeypatch.setattr(Segment, "metadata", property(fail))
    problems = verify(index)
    assert len(problems) == 2
    assert all("cannot be checked: IndexError: list index out of range" in problem for problem in problems)


@pytest.mark.parametrize("name", ["ann.faiss", "ann.json", "tokens.codes", "tokens.json"])
def test_verify_reports_damaged_derived_files(index: Path, name: str) -> None:
    pytest.importorskip("faiss")
    segment = gallery_file(index)
    vectors = Segment(segment).vectors
    assert vectors is not None
    ann.load_or_build(segment.parent, sha256_file(segment), vectors)
    token_codes.load_or_build(segment.parent, sha256_file(segment), vectors[:, None])
    assert verify(index) == []
    path = segment.parent / name
    data = path.read_bytes()
    for place in range(0, len(data), max(1, len(data) // 50)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        (problem,) = verify(index)
        assert f"/{Path(name).stem}." in problem
        assert "it is made again" in problem


def test_what_verify_does_not_know(index: Path) -> None:
    (index / "thesis.tex").touch()
    (IndexFolder(index).segments / "000009").mkdir()
    assert unnamed(index) == ["segments/000009", "thesis.tex"]
