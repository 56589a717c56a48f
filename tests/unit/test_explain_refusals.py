"""Explanations that cannot be made, or only in part: one clear line, and whatever else there is."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cir import ModelCard, Query
from cir.arrays import Floats
from cir.errors import CirError, MissingImageError, SpaceMismatchError, UsageError, WeightsError
from cir.explain import Explanation, explain, explain_many
from cir.indexer.reading.gallery import Gallery
from cir.search import Searcher
from cir.testing.fakes import FakeEncoder, build, folder_of, make_index, paint, random_rows
from cir.types import Encoded


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    folder = tmp_path_factory.mktemp("explained")
    build(folder_of(folder / "photos", 12), folder / "x.index", FakeEncoder(tokens=0))
    return Searcher(Gallery.open(folder / "x.index"), lambda card: FakeEncoder(tokens=0))


REFUSED: list[tuple[dict[str, Any], type[CirError], str]] = [
    ({"hit_id": "nothing.png"}, UsageError, r"no image 'nothing.png' in .*x\.index; ids are paths relative"),
    ({"hit_id": "../../etc/passwd"}, UsageError, "no image"),
    ({"hit_id": "a\nb\x07"}, UsageError, r"no image 'a\\nb\\x07'"),
    ({"hit_id": 7}, UsageError, "the name of an image is a string"),
    ({"hit_id": None}, UsageError, "None"),
    ({"query": Query()}, UsageError, "an empty query; give a reference"),
    ({"query": Query("nothing.png", "red")}, MissingImageError, "neither an image file nor an id"),
    ({"query": Query("0001.png", negatives=" ")}, UsageError, "an empty negative"),
    ({"query": "red"}, UsageError, "write cir.Query"),
    ({"method": "magic"}, UsageError, "choose one of auto, gradients, occlusion"),
    ({"method": "gradients"}, UsageError, "fake-1 gives no gradients; explain it by occlusion"),
    ({"grid": 0}, UsageError, "grid is 0; give at least 1"),
    ({"grid": 33}, UsageError, "grid is 33; give at most 32"),
    ({"grid": "7"}, UsageError, "whole number"),
    ({"searcher": "my.index"}, UsageError, "open an index with cir.open_index"),
]


@pytest.mark.parametrize(("change", "error", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_explained_is_one_line(
    searcher: Searcher, change: dict[str, Any], error: type[CirError], words: str
) -> None:
    given = {"searcher": searcher, "query": Query("0001.png", "red"), "hit_id": "0003.png", **change}
    options = {name: given.pop(name) for name in ("method", "grid") if name in given}
    with pytest.raises(error, match=words) as caught:
        explain(given["searcher"], given["query"], given["hit_id"], **options)
    assert len(str(caught.value).splitlines()) == 1


def test_no_hits(searcher: Searcher) -> None:
    with pytest.raises(UsageError, match="no hit; name an image"):
        explain_many(searcher, Query(text="red"), [])


@pytest.fixture
def own(tmp_path: Path) -> Searcher:
    """An index whose photos a test may remove."""
    build(folder_of(tmp_path / "photos", 6), tmp_path / "x.index", FakeEncoder(tokens=0))
    return Searcher(Gallery.open(tmp_path / "x.index"), lambda card: FakeEncoder(tokens=0))


def notes_of(explained: Explanation) -> list[str]:
    assert all(len(note.splitlines()) == 1 for note in explained.notes)
    return list(explained.notes)


def test_a_photo_that_is_gone_or_has_changed(own: Searcher, tmp_path: Path) -> None:
    (tmp_path / "photos/0003.png").unlink()
    paint(tmp_path / "photos/0004.png", 99)
    (tmp_path / "photos/0005.png").write_bytes(b"broken")
    gone, changed, broken = explain_many(own, Query("0001.png", "red"), ["0003.png", "0004.png", "0005.png"])
    assert (gone.hit, changed.hit, broken.hit) == (None, None, None)
    assert all(each.references[0] is not None and len(each.parts) == 2 for each in (gone, changed, broken))
    (note,) = notes_of(gone)
    assert note.startswith("no map over 0003.png: ")
    (note,) = notes_of(changed)
    assert "the photo has changed since it was indexed" in note
    with pytest.raises(MissingImageError, match=r"0003\.png"):  # a query of one part: there is nothing else to show
        explain(own, Query(text="red"), "0003.png")
    with pytest.raises(MissingImageError, match=r"0003\.png"):  # as in a search
        explain(own, Query("0003.png", "red"), "0001.png")
    more = explain(own, Query("0003.png"), "0001.png")  # for which its stored vector is enough
    assert more.references == (None,)
    assert more.hit is not None
    assert notes_of(more)[0].startswith("no map over 0003.png: ")


def test_a_reference_whose_photo_has_changed(own: Searcher, tmp_path: Path) -> None:
    paint(tmp_path / "photos/0004.png", 99)
    explained = explain(own, Query("0004.png"), "0001.png")
    (note,) = notes_of(explained)
    assert note.startswith("the map over 0004.png is of its photo as it is encoded now, which scores ")


def test_folders_that_this_user_has_not_indexed_are_not_read(
    own: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nobody"))
    strange = Searcher(Gallery.open(tmp_path / "x.index"), lambda card: FakeEncoder(tokens=0))
    explained = explain(strange, Query(Image.new("RGB", (9, 9)), "red"), "0003.png")
    assert explained.hit is None
    assert "--trust-roots" in notes_of(explained)[0]
    trusted = Gallery.open(tmp_path / "x.index", trust_roots=True)
    assert explain(Searcher(trusted, lambda card: FakeEncoder(tokens=0)), Query(text="red"), "0003.png").hit is not None


def test_vectors_without_photos(tmp_path: Path) -> None:
    gallery = Gallery.open(make_index(tmp_path / "x.index", [random_rows([f"{n}" for n in range(9)], 1)]))
    searcher = Searcher(gallery, lambda card: FakeEncoder(tokens=0))
    with pytest.raises(MissingImageError):
        explain(searcher, Query("1"), "2")
    assert explain(searcher, Query(text="red", negatives="blue"), "2").parts


def test_a_model_that_is_missing(own: Searcher) -> None:
    def missing(card: ModelCard) -> FakeEncoder:
        raise WeightsError(f"{card.name} is not here")

    without = Searcher(own.gallery, missing)
    with pytest.raises(WeightsError, match="is not here"):
        explain(without, Query("0001.png"), "0002.png")  # which a search answers by stored vectors


def test_another_generation_meanwhile(own: Searcher, tmp_path: Path) -> None:
    """One generation is used from start to end."""

    first = threading.Lock()  # several threads encode

    class Appending(FakeEncoder):
        def encode_images(self, pixels: Floats) -> Encoded:
            if first.acquire(blocking=False):
                paint(tmp_path / "photos/9999.png", 9999)
                (tmp_path / "photos/0002.png").unlink()
                build(tmp_path / "photos", tmp_path / "x.index", FakeEncoder(tokens=0), prune=True)
                searcher.refresh()
            return super().encode_images(pixels)

    encoder = Appending(tokens=0)
    searcher = Searcher(own.gallery, lambda card: encoder)
    assert explain(searcher, Query("0001.png", "red"), "0002.png").measured.score
    assert "9999.png" in searcher.gallery


def test_a_model_of_another_space(own: Searcher) -> None:
    other = Searcher(own.gallery, lambda card: FakeEncoder("other-1", tokens=0))
    with pytest.raises(SpaceMismatchError):
        explain(other, Query("0001.png", "red"), "0002.png")
