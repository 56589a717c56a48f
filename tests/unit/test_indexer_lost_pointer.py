"""An index without `CURRENT`: what was published is never taken for the rest of a first build, nor the reverse."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cir import ModelCard, import_vectors
from cir.errors import DataError, IndexFormatError
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import IndexFolder, has_lost_pointer
from cir.indexer.storage.writer import Writer, remove_unreachable
from cir.indexer.writing.repair import repair
from cir.testing.fakes import build, contents, folder_of, make_index, random_rows


@pytest.fixture
def folder(tmp_path: Path) -> IndexFolder:
    return IndexFolder(make_index(tmp_path / "x.index", [random_rows(list("abc"), 1), random_rows(list("de"), 2)]))


def lose(folder: IndexFolder) -> None:
    folder.current.unlink()
    shutil.rmtree(folder.manifests)


def fill(index: Path) -> None:
    import_vectors(np.eye(4, dtype="float32"), index, ModelCard.named("other", 4), ids=list("wxyz"))


@pytest.mark.parametrize("segments", [1, 2])
@pytest.mark.parametrize("step", [fill, lambda index: build(folder_of(index.parent / "photos", 2), index)])
def test_segments_without_any_manifest_stay(folder: IndexFolder, step: Callable[[Path], object], segments: int) -> None:
    lose(folder)
    if segments == 1:
        shutil.rmtree(folder.segments / "000002")
    else:
        folder.work.mkdir(exist_ok=True)
        (folder.work / "part.h5").touch()  # of an interrupted append
    before = contents(folder.root)
    with pytest.raises(IndexFormatError, match=r"has lost its CURRENT and manifests, .* restore them from a copy"):
        step(folder.root)
    remove_unreachable(folder)
    assert contents(folder.root) == before


@pytest.mark.parametrize("name", ["quarantine", "mappings", "questions.zip", "backfill.json", "retrieved.log"])
def test_what_only_a_published_index_has(folder: IndexFolder, name: str) -> None:
    folder.current.unlink()
    (folder.root / name).mkdir(exist_ok=True)
    folder.work.mkdir(exist_ok=True)
    (folder.work / "part.h5").touch()
    assert has_lost_pointer(folder)
    with pytest.raises(IndexFormatError, match=r"has lost its CURRENT, which says what is live; .*`cir repair"):
        fill(folder.root)


def test_a_repair_does_not_take_itself_for_a_first_build(folder: IndexFolder) -> None:
    folder.current.unlink()
    report = repair(folder.root)
    assert report.images == 5
    assert report.problems[0].endswith("has lost its CURRENT, which says what is live")


def test_nothing_is_repaired_without_a_manifest(folder: IndexFolder) -> None:
    lose(folder)
    before = contents(folder.root)
    with pytest.raises(IndexFormatError, match="which say what its segments hold"):
        repair(folder.root)
    assert contents(folder.root) == before


@pytest.mark.parametrize("step", [fill, lambda index: build(folder_of(index.parent / "photos", 2), index)])
@pytest.mark.parametrize("killed", [False, True])
def test_a_first_generation_that_was_not_published_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: Callable[[Path], object], killed: bool
) -> None:
    index = tmp_path / "x.index"
    work = tmp_path / "work"

    def refuse(self: Writer, *_: object, **__: object) -> None:
        shutil.copytree(self.folder.root, work)
        raise DataError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "publish", refuse)
        with pytest.raises(DataError, match="disk full"):
            step(index)
    if killed:
        shutil.rmtree(index, ignore_errors=True)
        work.rename(index)
        assert IndexFolder(index).gallery("000001").exists()
    step(index)
    assert verify(index) == []
    assert len(Gallery.open(index).ids) in (2, 4)
