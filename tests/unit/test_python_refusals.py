"""Calls as people get them wrong: each is refused in one line by an error of the package's own, whatever is passed."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import cir
from cir.data.jsonl import load_jsonl
from cir.errors import CirError, DataError, ImageDecodeError, SpaceMismatchError, UsageError
from cir.eval.engine import evaluate
from cir.eval.runs import read_run, write_run
from cir.images import MAX_PIXELS
from cir.indexer.reading.ranking import RankingOptions
from cir.query_vectors import QueryVectors
from cir.search.prepare import prepare
from cir.testing.fakes import FakeEncoder

CAFE = "caf\u00e9.png"  # composed, as people type it
DECOMPOSED = unicodedata.normalize("NFD", CAFE)


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Any:
    return cir.load_model(str(tiny_model))


def closed(at: SimpleNamespace) -> Image.Image:
    picture = Image.open(at.path)
    picture.close()
    return picture


def closed_later(at: SimpleNamespace) -> cir.Query:
    picture = Image.new("RGB", (4, 4))
    query = cir.Query(picture, "in red")
    picture.close()
    return query


def search(*values: Any, **named: Any) -> Callable[[Any], Any]:
    """A search with a query of some values, which are functions of `at` where they depend on it."""

    def call(at: Any) -> Any:
        return at.s.search(cir.Query(*(value(at) if callable(value) else value for value in values), **named))

    return call


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    # queries
    "a reference that is a number": (search(3), "references is an int; give one value or a list"),
    "a list of numbers": (search([3]), "a reference is an int; give a path"),
    "a dict of references": (search({"a.jpg": 1}), "references is a dict"),
    "None among references": (search(["0003.png", None]), "a reference is a None|a reference is None"),
    "a list in a list": (search([["0003.png"]]), "a reference is a list"),
    "a hit": (lambda at: at.s.search(cir.Query(at.s.search(cir.Query(text="red")).hits[0])), "references is a Hit"),
    "text that is a list": (search((), ["in red"]), r"text is a list, \['in red'\]; write a string"),
    "text that is a number": (search((), 3), "text is an int, 3"),
    "text that is bytes": (search((), b"red"), "text is a bytes"),
    "half a character": (search((), "\ud83d"), r"text '\\ud83d': not readable as text; write it in UTF-8"),
    "half a character as a name": (search("\ud83d.jpg", "red"), r"\\ud83d.jpg: neither an image file"),
    "half a negative": (search((), "red", "\ud83d"), "not readable as text"),
    "a name of two lines": (search("a\nb.jpg", "red"), r"a\\nb.jpg: neither an image file"),
    "a name with a NUL": (search("a\0b.jpg", "red"), "neither an image file"),
    "an endless name": (search("x" * 10**6, "red"), "neither an image file"),
    "an empty name": (search("", "red"), "neither an image file"),
    "a folder": (lambda at: at.s.search(cir.Query(at.photos)), "neither an image file"),
    "a member that a zip lacks": (lambda at: at.s.search(cir.Query(at.root / "more.zip/x.png")), "neither an image"),
    "negatives that are numbers": (search((), "red", [1, 2]), "negatives: a value is an int, 1"),
    "negatives that are a dict": (search((), "red", {"a": 1}), "negatives is a dict"),
    "None among negatives": (search((), "red", [None]), "negatives holds None"),
    "NaN among negatives": (search((), "red", [float("nan")]), "negatives: a value is a float, nan"),
    "k that is half": (search((), "red", k=2.5), r"k is 2\.5; it is a whole number"),
    "k that is NaN": (search((), "red", k=float("nan")), "k is nan"),
    "k that is infinite": (search((), "red", k=float("inf")), "k is inf"),
    "k that is true": (search((), "red", k=True), "k is True"),
    "k that is a string": (search((), "red", k="3"), "k is '3'"),
    "k that is None": (search((), "red", k=None), "k is None"),
    "k that is nothing": (search((), "red", k=0), "k is 0; give at least 1"),
    "k that is a list": (search((), "red", k=[3]), r"k is \[3\]"),
    "a column that is not there": (search((), "red", where={"size": "M"}), "no metadata column 'size'"),
    "no value": (search((), "red", where={"season": None}), "'season': the value is None"),
    "no values": (search((), "red", where={"season": []}), "'season': no value after in"),
    "several values that are equal": (search((), "red", where={"season": {"=": ["x"]}}), "several values are for `in`"),
    "a value that is true": (search((), "red", where={"season": True}), "'season': the value is a bool"),
    "a value that is NaN": (search((), "red", where={"year": float("nan")}), "'year': the value is a float, nan"),
    "a column that is a number": (search((), "red", where={3: "x"}), "column and operator are strings"),
    "a condition without a value": (search((), "red", where=("season", "Summer")), "'season' is not a condition"),
    "a condition that is a set": (search((), "red", where=[{"season", "Summer"}]), "is not a condition"),
    "a condition of four": (search((), "red", where=[("a", "b", "c", "d")]), "is not a condition"),
    "an operator that is a list": (search((), "red", where=[("season", "Summer", [])]), "the operator is a list"),
    "an unknown operator": (search((), "red", where=[("season", "Summer", "like")]), "unknown operator 'like'"),
    "a comparison with a text": (search((), "red", where=[("season", "Summer", ">")]), "'Summer' is not a number"),
    "a comparison of texts": (search((), "red", where="season>5"), "'season' holds texts such as 'Summer'"),
    "where that is a number": (search((), "red", where=3), "where is an int"),
    "excluded numbers": (search((), "red", exclude=[3]), "exclude: 3 is an int; the name of an image is a string"),
    "an excluded number": (search((), "red", exclude=3), "exclude is an int"),
    # pictures
    "bytes of no picture": (search(b"a.jpg"), "a reference of 5 bytes: not an image"),
    "no bytes": (search(b""), "a reference of 0 bytes: "),
    "a closed picture": (search(closed), "a picture cannot be read: .*; open it again"),
    "a picture that is closed later": (lambda at: at.s.search(closed_later(at)), "a picture cannot be read"),
    "a picture without pixels": (search(lambda at: Image.new("RGB", (0, 3))), "a picture without pixels"),
    "an array without pixels": (search(lambda at: np.zeros((0, 4, 3), np.uint8)), "a picture without pixels"),
    "an array of NaN": (search(lambda at: np.full((4, 4), np.nan)), "a picture of floats from nan to nan"),
    "floats up to 255": (search(lambda at: at.array * 1.0), "a picture of floats from .*; give floats from 0 to 1"),
    "numbers beyond a byte": (search(lambda at: np.full((4, 4), 700)), "a picture of int64 from 700 to 700"),
    "channels first": (
        search(lambda at: np.zeros((3, 9, 9), np.uint8)),
        r"an array of shape \(3, 9, 9\); give \(H, W\)",
    ),
    "a batch of arrays": (search(lambda at: np.zeros((1, 9, 9, 3), np.uint8)), r"an array of shape \(1, 9, 9, 3\)"),
    "an array of complex numbers": (search(lambda at: np.zeros((4, 4), complex)), "an array of complex128"),
    "a number of numpy": (search(np.int64(3)), "references is an int64"),
    "too many pixels": (
        search(lambda at: np.broadcast_to(np.uint8(0), (MAX_PIXELS, 2))),
        "scale it below",
    ),
    # open files
    "a file that was read": (search(lambda at: io.BytesIO(b"")), "nothing left to read"),
    "a file of text": (search(lambda at: io.StringIO("a.jpg")), "open it in binary mode"),
    "a closed file": (search(lambda at: closed_file()), "an open file cannot be read: .*closed"),
    # searching
    "a text": (lambda at: at.s.search("red"), r"a query is a str, 'red'; write cir.Query\(references, text\)"),
    "nothing": (lambda at: at.s.search(None), "a query is None"),
    "a dict": (lambda at: at.s.search({"text": "red"}), "a query is a dict"),
    "a list of queries": (lambda at: at.s.search([cir.Query(text="red")]), "several go to `search_many`"),
    "many texts": (lambda at: at.s.search_many("red"), "a query is a str, 'red'"),
    "a list of texts": (lambda at: at.s.search_many(["red"]), "a query is a str, 'red'"),
    "many of a dict": (lambda at: at.s.search_many({"text": "red"}), "queries is a dict"),
    "encoding a text": (lambda at: at.s.encode("red"), "a query is a str"),
    "encoding a number": (lambda at: at.s.encode(3), "queries is an int"),
    "preparing nothing": (lambda at: prepare(at.s.gallery, [None]), "a query is None"),  # type: ignore[list-item]
    "two pictures": (lambda at: at.s.picture(["0003.png", "0004.png"]), "2 references; give one"),
    "no picture": (lambda at: at.s.picture(None), "0 references; give one"),
    "ranking an array": (lambda at: at.s.rank(np.zeros((1, 16)), 3), "vectors is a ndarray"),
    "ranking without a number": (lambda at: at.s.rank(at.s.encode(cir.Query(text="a")), None), "k is None"),
    "ranking what is not there": (
        lambda at: at.s.rank(at.s.encode(cir.Query(text="a")), 3, allowed=["x.png"]),
        "no image 'x.png'",
    ),
    "ranking rows": (lambda at: at.s.rank(at.s.encode(cir.Query(text="a")), 3, allowed=[3]), "allowed: 3 is an int"),
    "ranking without a string": (
        lambda at: at.s.rank(at.s.encode(cir.Query(text="a")), 3, exclude="0003.png"),
        "exclude is a str; give a list with one set of ids for each query",
    ),
    "a searcher of a path": (lambda at: cir.Searcher("my.index", None), "gallery is a str, 'my.index'; open an index"),
    "a searcher of an encoder": (lambda at: cir.Searcher(at.s.gallery, FakeEncoder()), "load is a FakeEncoder; give"),
    # the gallery
    "a row of a number": (lambda at: at.s.gallery.row(3), "id: 3 is an int"),
    "a row of nothing": (lambda at: at.s.gallery.row(None), "id: None is None"),
    "an image outside": (lambda at: at.s.gallery.image("../0003.png"), "no image '../0003.png'"),
    "a digest in hex": (lambda at: at.s.gallery.ids_of(["ab" * 32]), "is no SHA-256 digest; give 32 bytes"),
    "a search of k": (lambda at: at.s.gallery.search(at.s.encode([]), 3), "options is an int, 3; write RankingOptions"),
    "a search of an array": (
        lambda at: at.s.gallery.search(np.zeros((1, 16)), RankingOptions(3)),
        "queries is a ndarray",
    ),
    "vectors that are lists": (
        lambda at: at.s.gallery.search(QueryVectors({at.s.gallery.space.id: [[0.0]]}), RankingOptions(3)),  # type: ignore[dict-item]
        r"queries have shape \(1, 1\)",
    ),
    "options without k": (lambda at: RankingOptions(0), "k is 0; give at least 1"),
    "options with a list": (lambda at: RankingOptions(3, [True]), "allowed is a list"),  # type: ignore[arg-type]
    "options with half a candidate": (lambda at: RankingOptions(3, candidates=0), "candidates is 0"),
    "scores of nothing": (lambda at: at.s.gallery.scores(None, ["0003.png"]), "queries is None"),
    # opening, scanning, building
    "no index": (lambda at: cir.open_index(None), "the path of an index is None"),  # type: ignore[arg-type]
    "a number of an index": (lambda at: cir.open_index(3), "the path of an index is an int"),  # type: ignore[arg-type]
    "an empty path": (lambda at: cir.open_index(""), "the path of an index is ''"),
    "a list of indexes": (lambda at: cir.open_index(["my.index"]), "the path of an index is a list"),  # type: ignore[arg-type]
    "a device that is a number": (lambda at: cir.load_model(device=0), "the device is 0"),  # type: ignore[arg-type]
    "no model": (lambda at: cir.load_model(None), "the name of a model: None is None"),  # type: ignore[arg-type]
    "a model that is a number": (lambda at: cir.load_model(3), "the name of a model: 3 is an int"),  # type: ignore[arg-type]
    "folders of models that are numbers": (
        lambda at: cir.open_index(at.root / "my.index", model_dirs=[3]),  # type: ignore[list-item]
        "model_dirs is an int",
    ),
    "a scan of nothing": (lambda at: cir.scan(None), "no images given"),  # type: ignore[arg-type]
    "a scan of a number": (lambda at: cir.scan(3), "paths is an int"),  # type: ignore[arg-type]
    "a scan of bytes": (lambda at: cir.scan(b"photos"), "paths is a bytes"),  # type: ignore[arg-type]
    "a scan of a dict": (lambda at: cir.scan({"photos": 1}), "paths is a dict"),
    "a scan of None among paths": (lambda at: cir.scan([None]), "paths is None"),  # type: ignore[list-item]
    "a build of a number": (lambda at: cir.build_index(3, "x.index", FakeEncoder()), "images is an int"),  # type: ignore[arg-type]
    "a build of numbers": (lambda at: cir.build_index([3], "x.index", FakeEncoder()), "an image is an int"),  # type: ignore[list-item]
    "a build of a path that is not there": (
        lambda at: cir.build_index("no such photos", "x.index", FakeEncoder()),
        "no such file or folder: no such photos",
    ),
    "a build by the name of a model": (
        lambda at: cir.build_index(at.photos, "x.index", "small"),  # type: ignore[arg-type]
        r"the encoder is a str, 'small'; load one with cir.load_model\(name\)",
    ),
    "a build into nowhere": (
        lambda at: cir.build_index(at.photos, None, FakeEncoder()),
        "the path of an index is None",
    ),  # type: ignore[arg-type]
    "a build with a dict of options": (
        lambda at: cir.build_index(at.photos, "x.index", FakeEncoder(), options={"workers": 2}),  # type: ignore[arg-type]
        "options is a dict",
    ),
    "a build with a list of metadata": (
        lambda at: cir.build_index(at.photos, "x.index", FakeEncoder(), metadata=[{"id": "a"}]),  # type: ignore[arg-type]
        "metadata is a list",
    ),
    "a build with flat metadata": (
        lambda at: cir.build_index(at.photos, "x.index", FakeEncoder(), metadata={"a.png": "red"}),  # type: ignore[dict-item]
        "metadata of a.png is a str",
    ),
    "half a worker": (lambda at: cir.BuildOptions(workers=1.5), "workers is 1.5"),  # type: ignore[arg-type]
    "workers in words": (lambda at: cir.BuildOptions(workers="2"), "workers is '2'"),  # type: ignore[arg-type]
    # evaluation
    "an evaluation of a name": (lambda at: evaluate("fashioniq", at.s), "benchmark is a str"),  # type: ignore[arg-type]
    "a run of nowhere": (lambda at: read_run(None), "the path of a run is None"),  # type: ignore[arg-type]
    "a run without scores": (lambda at: write_run(at.root / "x.run", {"q": ["a.png"]}), "run of query 'q': "),  # type: ignore[list-item]
    "a judged query of numbers": (lambda at: cir.JudgedQuery("q", "a", "b", [1]), "targets of a judged query: 1 is"),  # type: ignore[arg-type]
    "vectors of two indexes": (
        lambda at: at.s.encode(cir.Query(text="a")) + QueryVectors({"x": np.zeros((1, 2), np.float32)}),
        "vectors of other spaces cannot be added",
    ),
    "captions that are numbers": (lambda at: FakeEncoder().encode_texts([3]), "captions: a value is an int"),  # type: ignore[list-item]
    "half a caption": (lambda at: FakeEncoder().encode_texts(["\ud83d"]), "captions: .*not readable as text"),
}


def closed_file() -> io.BytesIO:
    file = io.BytesIO(b"abc")
    file.close()
    return file


@pytest.mark.parametrize("call", REFUSED)
def test_wrong_calls_are_refused_in_one_line(at: SimpleNamespace, call: str) -> None:
    run, message = REFUSED[call]
    with pytest.raises(CirError, match=message) as caught:
        run(at)
    text = str(caught.value)
    assert text.isprintable(), text
    assert len(text) < 600


def test_a_string_of_an_evaluation_file_is_read(at: SimpleNamespace) -> None:
    (at.root / "q.jsonl").write_text(
        f'{{"id": "q", "reference": "0003.png", "caption": "in red", "targets": ["{DECOMPOSED}"]}}', encoding="utf-8"
    )
    benchmark = load_jsonl(at.root / "q.jsonl", at.photos)
    assert benchmark.queries[0].targets == {CAFE}
    assert evaluate(benchmark, at.s).report.metrics
    (at.root / "half.jsonl").write_text('{"id": "q", "reference": "", "caption": "\\ud83d", "targets": ["0003.png"]}')
    with pytest.raises(DataError, match=r"half\.jsonl:1: "):
        load_jsonl(at.root / "half.jsonl", at.photos)


# ---- Anything at all


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=20)
    | st.sampled_from(["0003.png", "season", "season=Summer", "Summer", "", "x" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.just("season"), inner, max_size=3)
    ),
    max_leaves=6,
)


def refusal(call: Callable[[], Any]) -> str | None:
    """The message of the package's own error that a call raises; None if it raises none."""
    try:
        call()
    except CirError as error:
        return str(error)
    return None


FIELDS = ("references", "text", "negatives", "k", "where", "exclude", "id")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
def test_any_json_gives_hits_or_one_line(at: SimpleNamespace, values: dict[str, Any]) -> None:
    refused = refusal(lambda: at.s.search(cir.Query(**{"text": "red", **values})).hits)
    assert refused is None or refused.isprintable()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON)
def test_any_json_for_other_arguments(at: SimpleNamespace, value: Any) -> None:
    vectors = at.s.encode(cir.Query(text="red"))
    for call in (
        lambda: at.s.search(value),
        lambda: at.s.search_many(value),
        lambda: at.s.picture(value),
        lambda: at.s.rank(vectors, value),
        lambda: at.s.rank(vectors, 3, allowed=value),
        lambda: at.s.rank(vectors, 3, exclude=value),
        lambda: at.s.gallery.select(value),
        lambda: at.s.gallery.row(value),
        lambda: at.s.gallery.scores(vectors, value),
        lambda: cir.JudgedQuery("q", value, "red", value, subset=value, captions=value),
        lambda: FakeEncoder().encode_texts(value),
    ):
        refused = refusal(call)
        assert refused is None or refused.isprintable()


def test_a_real_model_refuses_in_one_line(at: SimpleNamespace, encoder: Any) -> None:
    pixels = encoder.preprocess(at.picture)[None]
    for call, error, message in (
        (lambda: encoder.encode_texts(["\ud83d"]), UsageError, "not readable as text"),
        (lambda: encoder.encode_texts([None]), UsageError, "captions holds None"),
        (lambda: encoder.encode_texts("red", "x"), SpaceMismatchError, "no query head for the space 'x'"),
        (lambda: encoder.encode_queries(pixels, ["a", "b"]), UsageError, "2 captions for 1 pictures"),
        (lambda: encoder.encode_queries(pixels[0], "a"), UsageError, "pixels have shape"),
        (lambda: encoder.encode_images(at.picture), UsageError, "pixels is a"),
        (lambda: encoder.encode_images(pixels * np.nan), UsageError, "not finite"),
        (lambda: encoder.preprocess(str(at.path)), UsageError, "a picture is a str; give a PIL image"),
        (lambda: encoder.preprocess(closed(at)), ImageDecodeError, "cannot be read"),
    ):
        with pytest.raises(error, match=message):
            call()
