"""One image of an index: what is stored of it, and its photo."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from cir.errors import MissingImageError, UsageError
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.questions import StoredQuestions, write_questions
from cir.testing.fakes import DIMS, TOKENS, FakeEncoder, build, paint


def test_what_is_stored_of_an_image(photos: Path, out: Path) -> None:
    build(photos, out, metadata={"0003.png": {"colour": "red", "size": ""}})
    gallery = Gallery.open(out)
    image, data = gallery.image("0003.png"), (photos / "0003.png").read_bytes()
    assert image.digest == hashlib.sha256(data).digest()
    assert image.root == str(photos.resolve())
    assert image.metadata == {"colour": "red"}
    assert image.space == image.query_space == FakeEncoder().card.space.id
    assert (image.vector.shape, image.vector.dtype.name) == ((DIMS,), "float32")
    assert (image.stored.shape, image.stored.dtype.name) == ((DIMS,), "float16")
    assert image.read() == image.read_current() == image.file.read() == data
    with pytest.raises(UsageError, match="no image '0099"):
        gallery.image("0099.png")


def test_tokens_are_what_is_stored_without_vectors(photos: Path, out: Path) -> None:
    build(photos, out, FakeEncoder(vector=False))
    image = Gallery.open(out).image("0003.png")
    assert image.stored.shape == (TOKENS, DIMS)
    assert np.linalg.norm(image.vector) == pytest.approx(1, abs=1e-6)


def test_a_photo_that_has_changed(photos: Path, out: Path) -> None:
    build(photos, out)
    image, before = Gallery.open(out).image("0003.png"), (photos / "0003.png").read_bytes()
    paint(photos / "0003.png", 900)
    with pytest.raises(
        MissingImageError, match=r"0003\.png: the photo has changed since it was indexed; run build-index"
    ):
        image.read()
    assert image.read_current() == (photos / "0003.png").read_bytes()
    write_questions(IndexFolder(out), StoredQuestions(), {image.digest.hex(): lambda: before})
    assert image.read() == before
    (photos / "0003.png").unlink()
    assert image.read() == image.read_current() == before
    with pytest.raises(MissingImageError, match="no longer under"):
        _ = image.file


def test_a_photo_that_is_gone(photos: Path, out: Path) -> None:
    build(photos, out)
    image = Gallery.open(out).image("0003.png")
    (photos / "0003.png").unlink()
    for read in (image.read, image.read_current):
        with pytest.raises(MissingImageError, match=r"the photo of 0003\.png is no longer under"):
            read()
