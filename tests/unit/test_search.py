"""Search: what a query consists of decides how its vector is made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cir import Query, build_index, load_model, open_index
from cir.errors import ImageDecodeError, MissingImageError, SpaceMismatchError, UsageError, WeightsError
from cir.images import scan
from cir.search.searcher import NEGATIVE_WEIGHT, Index


@pytest.fixture(scope="module")
def folder(wardrobe_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of this module alone, because tests move them."""
    return Path(shutil.copytree(wardrobe_folder, tmp_path_factory.mktemp("search") / "photos"))


@pytest.fixture(scope="module")
def path(folder: Path, tiny_model: Path) -> Path:
    out = folder.parent / "my.index"
    table = {image.id: {"name": Path(image.id).stem, "shelf": "AB"[i % 2]} for i, image in enumerate(scan([folder]))}
    build_index(scan([folder]), out, load_model(tiny_model), metadata=table)
    return out


@pytest.fixture(scope="module")
def index(path: Path) -> Searcher:
    return open_index(path)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_the_index_finds_its_model_by_itself(index: Searcher, tiny_model: Path) -> None:
    assert index.encoder.card == load_model(tiny_model).card


def test_vectors_are_made_of_what_the_query_has(index: Searcher, folder: Path) -> None:
    first, second = index.ids[:2]
    encoder = index.encoder
    pixels = np.stack([encoder.preprocess(Image.open(folder / name)) for name in (first, second)])
    composed = encoder.encode_queries(pixels, ["in red", "in red"])
    said_nothing = encoder.encode_queries(pixels[:1], [""])
    texts = encoder.encode_texts(["in red", "blue"])
    made = index.query_vectors(
        [
            Query((first,), "in red"),
            Query((), "in red"),
            Query((first,)),
            Query((first, second), "in red"),
            Query((first,), "in red", negatives=("blue",)),
            Query((first,), " "),  # a caption nonetheless: CIRR has one
        ]
    )
    assert made.dtype == np.float32
    wanted = [
        composed[0],
        texts[0],
        index.gallery.vector(first),
        unit(composed[0] + composed[1]),
        unit(composed[0] - NEGATIVE_WEIGHT * texts[1]),
        said_nothing[0],
    ]
    assert np.abs(made - np.stack(wanted)).max() < 1e-5


def test_an_image_file_is_encoded_like_the_gallery(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    # Without tokens, because in a random model they know nothing of the vectors.
    build_index(scan([folder]), tmp_path / "an.index", load_model(tiny_model), tokens=False)
    index = open_index(tmp_path / "an.index")
    copy = tmp_path / "elsewhere.png"
    Image.open(folder / index.ids[3]).save(copy)  # same pixels, other bytes
    found = index.search(Query((str(copy),), k=3))
    assert found.hits[0].id == index.ids[3]
    assert found.hits[0].score > 0.999


def test_a_reference_is_not_its_own_answer(index: Searcher, folder: Path) -> None:
    name = index.ids[5]
    for reference in (name, folder / name, str(folder / name)):
        hits = index.search(Query((reference,), "in red", k=len(index.ids))).hits
        assert len(hits) == len(index.ids) - 1
        assert name not in {hit.id for hit in hits}


def test_hits_are_ranked_and_say_where_they_are(index: Searcher, folder: Path) -> None:
    result = index.search(Query((index.ids[0],), "in red", k=7))
    assert [hit.rank for hit in result.hits] == list(range(1, 8))
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores, reverse=True)
    assert result.searched == 40
    assert result.model == "tiny-1"
    for hit in result.hits:
        assert hit.path == str(folder / hit.id)
        assert hit.metadata["name"] == Path(hit.id).stem


def test_conditions_are_applied_before_the_cut(index: Index) -> None:
    result = index.search(Query((), "in red", k=20, where=(("shelf", "b"),)))
    assert len(result.hits) == 20
    assert result.searched == 20
    assert {hit.metadata["shelf"] for hit in result.hits} == {"B"}
    assert index.search(Query((), "in red", where=(("shelf", "C"),))).hits == ()
    with pytest.raises(UsageError, match="no metadata column 'colour'"):
        index.search(Query((), "in red", where=(("colour", "red"),)))


def test_batches_answer_like_single_queries(index: Index) -> None:
    queries = [Query((index.ids[i],), text) for i, text in enumerate(["in red", "", "with long sleeves"])]
    queries.append(Query((), "blue", id="last"))
    together = index.search_many(queries)
    assert together[-1].query.id == "last"
    for query, result in zip(queries, together, strict=True):
        alone = index.search(query)
        assert [hit.id for hit in alone.hits] == [hit.id for hit in result.hits]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(), "an empty query"),
        (Query((), "   "), "an empty query"),
        (Query((), "", ("red",)), "an empty query"),
        (Query((), "!!!"), "an empty query"),
        (Query((), "red", (" ",)), "an empty negative"),
        (Query((), "\ud800"), "not readable as text"),
        (Query((), "red", k=0), "k is 0"),
    ],
)
def test_empty_questions_are_refused(index: Searcher, query: Query, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        index.search(query)


def test_references_that_cannot_be_used_are_told(index: Searcher, tmp_path: Path) -> None:
    with pytest.raises(MissingImageError, match="neither an image file nor an id"):
        index.search(Query(("nowhere.jpg",), "in red"))
    with pytest.raises(MissingImageError, match="neither an image file nor an id"):
        index.search(Query(("x" * 300,), "in red"))
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(ImageDecodeError, match="not an image"):
        index.search(Query((tmp_path / "text.jpg",)))


def test_vectors_outlive_photos(path: Path, folder: Path) -> None:
    index = open_index(path)
    name = index.ids[7]
    (folder / name).rename(folder / "moved")
    try:
        assert index.search(Query((name,))).hits  # the stored vector is enough
        with pytest.raises(MissingImageError, match="is no longer under"):
            index.search(Query((name,), "in red"))
        everything = index.search(Query((), "in red", k=40)).hits
        assert [hit.path for hit in everything if hit.id == name] == [None]
    finally:
        (folder / "moved").rename(folder / name)


def test_another_model_is_refused_with_the_way_out(
    path: Path, tmp_path: Path, make_model: Callable[..., Path], tiny_model: Path
) -> None:
    other = make_model(tmp_path / "tiny-9", seed=9)
    with pytest.raises(
        SpaceMismatchError, match=r"holds vectors of tiny-1 .* tiny-9 .*build-index .* --model YOUR_MODEL"
    ):
        open_index(path, model=other)
    wrong = Searcher(open_index(path).gallery, lambda card: load_model(other))
    with pytest.raises(SpaceMismatchError, match="tiny-9"):
        wrong.search(Query((), "in red"))
    assert open_index(path, model=tiny_model).search(Query((), "in red")).hits


def test_a_lost_model_is_told_and_found_again(folder: Path, tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model = make_model(tmp_path / "here" / "tiny-4", seed=4)
    build_index(scan([folder])[:3], tmp_path / "an.index", load_model(model))
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(WeightsError, match=r"tiny-4 .* is not here"):
        open_index(tmp_path / "an.index").search(Query((), "red"))
    moved = open_index(tmp_path / "an.index", model_dirs=[tmp_path / "there"])
    assert moved.search(Query((), "red")).hits


def test_tokens_only_galleries_are_searched(folder: Path, tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model = load_model(make_model(tmp_path / "plain-3", seed=3, vector=False))
    build_index(scan([folder]), tmp_path / "an.index", model)
    index = open_index(tmp_path / "an.index")
    assert not index.gallery.has_vectors
    name = index.ids[2]
    copy = tmp_path / "copy.png"
    Image.open(folder / name).save(copy)
    assert index.search(Query((copy,))).hits[0].id == name
    assert len(index.search(Query((name,), "in red")).hits) == 10
