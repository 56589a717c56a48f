"""An index that somebody else made: nothing outside its folder is read because a file inside says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cir.errors import CorruptIndexError
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.testing.fakes import make_index, random_rows


@pytest.fixture
def folder(tmp_path: Path) -> IndexFolder:
    return IndexFolder(make_index(tmp_path / "x.index", [random_rows(["a", "b", "c"], 1)]))


@pytest.mark.parametrize("text", ["000001.json\0 x", "../../../etc/passwd x", "", "000001.json", "x" * 10_000])
def test_a_pointer_to_elsewhere(folder: IndexFolder, text: str) -> None:
    folder.current.write_text(text)
    with pytest.raises(CorruptIndexError, match="CURRENT cannot be read"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "name", ["CURRENT", "manifests/000001.json", "manifests", "segments/000001/gallery.h5", "segments"]
)
def test_links_out_of_the_index_are_not_followed(folder: IndexFolder, tmp_path: Path, name: str) -> None:
    path = folder.root / name
    outside = tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(CorruptIndexError, match="is a link that leads out of the index"):
        Gallery.open(folder.root)


def test_pipes_are_not_waited_for(folder: IndexFolder) -> None:
    folder.manifest(1).unlink()
    os.mkfifo(folder.manifest(1))
    with pytest.raises(CorruptIndexError, match="a pipe, device or folder"):
        read_manifest(folder)
