"""Calls as people write them: each gives what was meant, or is refused in one line by an error of the package's own."""

from __future__ import annotations

import enum
import io
import pathlib
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cir
from cir.cli.results import to_json
from cir.conditions import Condition
from cir.eval.runs import read_run, write_run
from cir.testing.fakes import FakeEncoder
from cir.types import SearchResult

CAFE = "caf\u00e9.png"  # composed, as people type it
DECOMPOSED = unicodedata.normalize("NFD", CAFE)


class Season(str, enum.Enum):  # noqa: UP042 -- whose `str` is its name, not its value
    SUMMER = "Summer"


def ids(result: SearchResult) -> list[str]:
    return [hit.id for hit in result.hits]


# ---- One value in many forms


REFERENCES: dict[str, Callable[[Any], Any]] = {
    "a string": lambda at: str(at.path),
    "a path": lambda at: at.path,
    "a pure path": lambda at: pathlib.PurePosixPath(at.path),
    "a numpy string": lambda at: np.str_(at.path),
    "a list": lambda at: [str(at.path)],
    "a generator": lambda at: (path for path in [at.path]),
    "a set": lambda at: {at.path},
    "the keys of a dict": lambda at: {str(at.path): 1}.keys(),
    "an array of strings": lambda at: np.array([str(at.path)]),
    "bytes": lambda at: at.path.read_bytes(),
    "a bytearray": lambda at: [bytearray(at.path.read_bytes())],
    "a memory view": lambda at: memoryview(at.path.read_bytes()),
    "an open file": lambda at: io.BytesIO(at.path.read_bytes()),
    "an image file of a scan": lambda at: cir.scan(at.path)[0],
    "an id": lambda at: "0003.png",
    "an id with dots": lambda at: "./0003.png",
    "the same twice": lambda at: ["0003.png", "0003.png"],
    "a member of a zip": lambda at: at.root / "more.zip" / "inner" / "a.png",
}
PICTURES: dict[str, Callable[[Any], Any]] = {
    "a picture": lambda at: at.picture,
    "a list of a picture": lambda at: [at.picture],
    "an array": lambda at: at.array,
    "an array in a list": lambda at: [at.array],
    "an array with opacity": lambda at: np.asarray(at.picture.convert("RGBA")),
    "floats": lambda at: at.array / 255,
    "float16": lambda at: (at.array / 255).astype(np.float16),
    "floats that overshoot": lambda at: at.array / 255 * 1.0005,
    "whole numbers": lambda at: at.array.astype(np.int64),
    "an array upside down twice": lambda at: at.array[::-1].copy()[::-1],
}


@pytest.mark.parametrize("form", REFERENCES)
def test_a_reference_in_any_form_is_that_image(at: SimpleNamespace, form: str) -> None:
    expected = at.s.search(cir.Query(("0003.png",), "in red"))
    result = at.s.search(cir.Query(REFERENCES[form](at), "in red"))
    assert ids(result) == ids(expected)
    assert "0003.png" not in ids(result)  # its content says which image of the gallery it is
    assert to_json(result)["references"]


@pytest.mark.parametrize("form", PICTURES)
def test_a_picture_in_any_form_is_that_picture(at: SimpleNamespace, form: str) -> None:
    expected = ids(at.s.search(cir.Query((at.picture,), "in red", k=50)))
    assert ids(at.s.search(cir.Query(PICTURES[form](at), "in red", k=50))) == expected


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "La", "CMYK", "I;16", "I", "F", "HSV", "LAB", "YCbCr"])
def test_pictures_of_every_mode_are_references(at: SimpleNamespace, mode: str) -> None:
    assert at.s.search(cir.Query(Image.new(mode, (5, 7)))).hits


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "bool", "float64", "int32"])
def test_arrays_of_every_kind_are_references(at: SimpleNamespace, shape: tuple[int, ...], dtype: str) -> None:
    assert at.s.search(cir.Query(np.ones(shape, dtype))).hits


def test_a_picture_is_kept_when_its_file_is_closed(at: SimpleNamespace) -> None:
    with Image.open(at.path) as picture:
        query = cir.Query(picture, "in red")
    assert at.s.search(query).hits
    array = at.array.copy()
    query = cir.Query(array, "in red")
    before = at.s.search(query).hits
    array[:] = 0
    assert at.s.search(query).hits == before


SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "negatives as a string": ({"negatives": "stripes"}, {"negatives": ("stripes",)}),
    "negatives as a generator": ({"negatives": (text for text in ("a", "b"))}, {"negatives": ("a", "b")}),
    "negatives as None": ({"negatives": None}, {}),
    "where as a dict": ({"where": {"season": "Summer"}}, {"where": (Condition("season", "Summer"),)}),
    "where with a number": ({"where": {"year": 2012}}, {"where": (("year", "2012"),)}),
    "where with a numpy number": ({"where": {"year": np.int64(2012)}}, {"where": (("year", "2012"),)}),
    "where with a member of an enumeration": ({"where": {"season": Season.SUMMER}}, {"where": "season=Summer"}),
    "where as a string": ({"where": "season=Summer"}, {"where": (("season", "Summer"),)}),
    "where as strings": ({"where": ["season!=Summer"]}, {"where": (Condition("season", "Summer", "!="),)}),
    "where as a condition": ({"where": Condition("season", "Summer")}, {"where": (("season", "Summer"),)}),
    "where as triples": ({"where": [["season", "Summer", "!="]]}, {"where": "season!=Summer"}),
    "where with a half": ({"where": {"year": {"<": 2012.5}}}, {"where": (("year", "2012.5", "<"),)}),
    "where with several values": ({"where": {"season": ["Summer", "Spring"]}}, {"where": "season in Summer, Spring"}),
    "where as one text": ({"where": "season=Summer and year>2011"}, {"where": ["season=Summer", "year > 2011"]}),
    "where as None": ({"where": None}, {"where": {}}),
    "exclude as a list": ({"exclude": ["0003.png"]}, {"exclude": frozenset(["0003.png"])}),
    "exclude as a string": ({"exclude": "0003.png"}, {"exclude": ["0003.png"]}),
    "exclude as a path": ({"exclude": Path("0003.png")}, {"exclude": ["0003.png"]}),
    "exclude as None": ({"exclude": None}, {}),
    "k as a float": ({"k": 3.0}, {"k": 3}),
    "k as a numpy number": ({"k": np.int16(3)}, {"k": 3}),
    "k as a numpy float": ({"k": np.float32(3)}, {"k": 3}),
    "a member of an enumeration": ({"text": Season.SUMMER}, {"text": "Summer"}),
    "references as None": ({"references": None}, {}),
}


@pytest.mark.parametrize("form", SAME)
def test_values_in_any_form_make_the_same_query(at: SimpleNamespace, form: str) -> None:
    given, meant = ({"text": "in red", **values} for values in SAME[form])
    query = cir.Query(**given)
    assert query == cir.Query(**meant)
    assert hash(query) == hash(cir.Query(**meant))
    assert type(query.text) is str
    assert ids(at.s.search(query)) == ids(at.s.search(cir.Query(**meant)))


def test_no_text_is_none(at: SimpleNamespace) -> None:
    assert ids(at.s.search(cir.Query("0003.png", None))) == ids(at.s.search(cir.Query(("0003.png",))))


def test_names_in_another_unicode_form_are_the_same_names(at: SimpleNamespace) -> None:
    gallery = at.s.gallery
    assert DECOMPOSED != CAFE
    assert DECOMPOSED in gallery
    assert gallery.image(DECOMPOSED).id == gallery.image("./" + CAFE).id == CAFE
    assert CAFE not in ids(at.s.search(cir.Query(DECOMPOSED, "in red", k=50)))
    assert CAFE not in ids(at.s.search(cir.Query(text="in red", k=50, exclude=DECOMPOSED)))
    vectors = at.s.encode(cir.Query(text="in red"))
    assert [image for image, _ in at.s.rank(vectors, 5, allowed=[DECOMPOSED])[0]] == [CAFE]
    judged = cir.JudgedQuery("q", DECOMPOSED, "in red", [DECOMPOSED], subset=[CAFE, DECOMPOSED])  # type: ignore[arg-type]
    assert (judged.reference, judged.targets, judged.subset) == (CAFE, {CAFE}, (CAFE,))


@pytest.mark.parametrize("k", [10**12, 10**30, 1e300])
@pytest.mark.parametrize("exact", [False, True])
def test_more_hits_than_images_are_all_images(at: SimpleNamespace, k: float, exact: bool) -> None:
    assert len(at.s.search(cir.Query(text="red", k=k), exact=exact).hits) == 12


def test_very_long_texts_are_searched(at: SimpleNamespace) -> None:
    assert at.s.search(cir.Query(text="red " * 100_000, negatives="x" * 10**6)).hits


# ---- What else people call


GOOD: dict[str, Callable[[Any], Any]] = {
    "one query for many": lambda at: at.s.search_many(cir.Query(text="red")),
    "a generator of queries": lambda at: at.s.search_many(cir.Query(text=text) for text in ("red", "blue")),
    "picture of a path": lambda at: [at.s.picture(at.path)],
    "picture of an array": lambda at: [at.s.picture(at.array)],
    "rank one of allowed": lambda at: at.s.rank(at.s.encode(cir.Query(text="red")), 2.0, allowed="0003.png")[0],
    "rank without some": lambda at: at.s.rank(at.s.encode(cir.Query(text="red")), 3, exclude=[["0003.png"]])[0],
    "rank without one": lambda at: at.s.rank(at.s.encode(cir.Query(text="red")), 3, exclude=["0003.png"])[0],
    "open_index of a string": lambda at: cir.open_index(str(at.root / "my.index")).ids,
    "open_index with one folder of models": lambda at: cir.open_index(at.root / "my.index", model_dirs="models").ids,
    "scores of one": lambda at: at.s.gallery.scores(at.s.encode(cir.Query(text="red")), "0003.png"),
    "select by a dict": lambda at: [at.s.gallery.select({"season": "summer"}).any()],
    "select by a string": lambda at: [at.s.gallery.select("season=summer").any()],
    "build of a path": lambda at: cir.build_index(str(at.photos), at.root / "a.index", FakeEncoder()).added,
    "build of paths": lambda at: cir.build_index([at.photos], str(at.root / "b.index"), FakeEncoder()).added,
    "build of a generator": lambda at: (
        cir.build_index(iter(cir.scan(at.photos)), at.root / "c.index", FakeEncoder()).added
    ),
    "scan of a generator": lambda at: cir.scan(path for path in [at.photos]),
    "a run by the names of its files": lambda at: (
        write_run(str(at.root / "a.run"), {"q": [("a", 1)]}),
        read_run(str(at.root / "a.run"))["q"],
    )[1],
    "one caption": lambda at: FakeEncoder().encode_texts("a navy dress")[0],
}


@pytest.mark.parametrize("call", GOOD)
def test_right_calls(at: SimpleNamespace, call: str) -> None:
    assert len(GOOD[call](at)) > 0


# ---- A real model


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Any:
    return cir.load_model(str(tiny_model))


def test_a_real_model_takes_the_same_forms(at: SimpleNamespace, encoder: Any) -> None:
    pixels = encoder.preprocess(at.array)
    np.testing.assert_array_equal(pixels, encoder.preprocess(at.picture))
    (one,) = encoder.encode_texts("red")
    np.testing.assert_array_equal(one, encoder.encode_texts(["red"])[0])
    batch = pixels[None].astype(np.float64)[:, :, ::-1][:, :, ::-1]
    composed = encoder.encode_queries(batch, "red")
    np.testing.assert_array_equal(composed, encoder.encode_queries(pixels[None], ("red",)))
    for values in (encoder.encode_texts([]), encoder.encode_queries(pixels[None][:0], []), encoder.encode_texts(None)):
        assert (values.shape, values.dtype) == ((0, 16), np.float32)
    assert encoder.encode_images(pixels[None][:0]).vectors.shape == (0, 16)


def test_a_real_search_in_many_forms(at: SimpleNamespace, encoder: Any) -> None:
    cir.build_index(at.photos, at.root / "tiny.index", encoder)
    searcher = cir.open_index(str(at.root / "tiny.index"))
    expected = ids(searcher.search(cir.Query(("0003.png",), "in red")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for form in ("a string", "a path", "bytes", "an open file", "a member of a zip"):
            assert ids(searcher.search(cir.Query(REFERENCES[form](at), "in red"))) == expected
        for form in PICTURES:
            assert searcher.search(cir.Query(PICTURES[form](at), "in red", negatives="blue")).hits
