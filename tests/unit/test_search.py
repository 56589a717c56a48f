"""Search: what a query consists of decides how its vector is computed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cir import Query, build_index, load_model, open_index
from cir.arrays import unit
from cir.conditions import Condition
from cir.errors import ImageDecodeError, MissingImageError, SpaceMismatchError, UsageError, WeightsError
from cir.images import scan
from cir.indexer.writing.build import BuildOptions
from cir.models import weights
from cir.models.kinds import read_card
from cir.models.sprc import Sprc
from cir.search import Searcher
from cir.search.encoding import NEGATIVE_WEIGHT
from cir.search.prepare import prepare


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
def searcher(path: Path) -> Searcher:
    return open_index(path)


def test_the_index_names_its_model(searcher: Searcher, tiny_model: Path) -> None:
    assert searcher.encoder.card == load_model(tiny_model).card == searcher.card


def test_the_parts_of_a_query_decide_its_vector(searcher: Searcher, folder: Path) -> None:
    first, second = searcher.ids[:2]
    encoder = searcher.encoder
    pixels = np.stack([encoder.preprocess(searcher.picture(name, encoder.min_side)) for name in (first, second)])
    composed = encoder.encode_queries(pixels, ["in red", "in red"])
    without_caption = encoder.encode_queries(pixels[:1], [""])
    texts = encoder.encode_texts(["in red", "blue"])
    encoded = searcher.encode(
        [
            Query((first,), "in red"),
            Query((), "in red"),
            Query((first,)),
            Query((first, second), "in red"),
            Query((first,), "in red", negatives=("blue",)),
            Query((first,), " "),  # a caption nonetheless: CIRR has such a query
        ]
    )
    assert list(encoded.by_space) == [searcher.gallery.space.id]
    vectors = encoded.by_space[searcher.gallery.space.id]
    assert vectors.dtype == np.float32
    expected = [
        composed[0],
        texts[0],
        searcher.gallery.image(first).vector,
        unit(composed[0] + composed[1]),
        unit(composed[0] - np.float32(NEGATIVE_WEIGHT) * texts[1]),
        without_caption[0],
    ]
    assert np.abs(vectors - np.stack(expected)).max() < 1e-5


def test_an_image_file_is_encoded_like_the_gallery(folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    # Without tokens, because in a random model they are unrelated to the vectors.
    build_index(scan([folder]), tmp_path / "an.index", load_model(tiny_model), options=BuildOptions(tokens=False))
    searcher = open_index(tmp_path / "an.index")
    copy = tmp_path / "elsewhere.png"
    Image.open(folder / searcher.ids[3]).save(copy)  # same pixels, other bytes
    result = searcher.search(Query((str(copy),), k=3))
    assert result.hits[0].id == searcher.ids[3]
    assert result.hits[0].score > 0.999


def test_a_decoded_picture_is_a_reference(searcher: Searcher, folder: Path) -> None:
    name = searcher.ids[6]
    from_picture = searcher.search(Query((Image.open(folder / name),), "in red", k=40)).hits
    from_id = searcher.search(Query((name,), "in red", k=40)).hits
    assert [hit.id for hit in from_picture if hit.id != name] == [hit.id for hit in from_id]
    assert len(from_picture) == 40  # nothing says which image of the gallery it is


def test_a_reference_is_not_its_own_hit(searcher: Searcher, folder: Path) -> None:
    name = searcher.ids[5]
    for reference in (name, folder / name, str(folder / name)):
        hits = searcher.search(Query((reference,), "in red", k=len(searcher.ids))).hits
        assert len(hits) == len(searcher.ids) - 1
        assert name not in {hit.id for hit in hits}


def test_excluded_ids_are_no_hits(searcher: Searcher) -> None:
    everything = [hit.id for hit in searcher.search(Query((), "in red", k=40)).hits]
    excluded = frozenset([everything[0], everything[2], "no such image"])
    hits = [hit.id for hit in searcher.search(Query((), "in red", k=40, exclude=excluded)).hits]
    assert hits == [name for name in everything if name not in excluded]


def test_hits_are_ranked_and_name_their_files(searcher: Searcher, folder: Path) -> None:
    result = searcher.search(Query((searcher.ids[0],), "in red", k=7))
    assert [hit.rank for hit in result.hits] == list(range(1, 8))
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores, reverse=True)
    assert result.searched == 40
    assert result.model == "tiny-1"
    assert result.confident is None  # a model that was not calibrated
    for hit in result.hits:
        assert hit.path == str(folder / hit.id)
        assert hit.metadata["name"] == Path(hit.id).stem


def test_conditions_are_applied_before_the_cut(searcher: Searcher) -> None:
    result = searcher.search(Query((), "in red", k=20, where=(("shelf", "b"),)))
    assert len(result.hits) == 20
    assert result.searched == 20
    assert {hit.metadata["shelf"] for hit in result.hits} == {"B"}
    from_lists = Query([], "in red", k=20, where=[["shelf", "b"]])  # as JSON gives
    assert searcher.search(from_lists).hits == result.hits
    assert searcher.search(Query((), "in red", where=(("shelf", "C"),))).hits == ()
    others = searcher.search(Query((), "in red", k=20, where=(Condition("shelf", "b", "!="), ("shelf", "A"))))
    assert (len(others.hits), {hit.metadata["shelf"] for hit in others.hits}) == (20, {"A"})
    with pytest.raises(UsageError, match="no metadata column 'colour'"):
        searcher.search(Query((), "in red", where=(("colour", "red"),)))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(), "an empty query"),
        (Query((), "   "), "an empty query"),
        (Query((), "", ("red",)), "an empty query"),
        (Query((), "!!!"), "an empty query"),
        (Query((), "red", (" ",)), "an empty negative"),
    ],
)
def test_empty_queries_are_refused(searcher: Searcher, query: Query, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        searcher.search(query)


def test_unusable_references_are_reported(searcher: Searcher, tmp_path: Path) -> None:
    with pytest.raises(MissingImageError, match="neither an image file nor an id"):
        searcher.search(Query(("nowhere.jpg",), "in red"))
    with pytest.raises(MissingImageError, match="neither an image file nor an id"):
        searcher.search(Query(("x" * 300,), "in red"))
    (tmp_path / "text.jpg").write_text("not a picture")
    for query in (Query((tmp_path / "text.jpg",)), Query((tmp_path / "text.jpg",), "in red")):
        with pytest.raises(ImageDecodeError, match="not an image"):
            searcher.search(query)


def test_preparing_decodes_no_picture(searcher: Searcher, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoded photos of a large batch would not fit in memory."""
    monkeypatch.setattr("cir.search.prepare.decode", lambda data, name: pytest.fail(f"{name} is decoded"))
    prepared = prepare(searcher.gallery, [Query((folder / name,), "in red") for name in searcher.ids])
    assert [query.references[0].id for query in prepared] == list(searcher.ids)


def test_vectors_outlive_photos(path: Path, folder: Path) -> None:
    searcher = open_index(path)
    name = searcher.ids[7]
    (folder / name).rename(folder / "moved")
    try:
        assert searcher.search(Query((name,))).hits  # the stored vector is enough
        with pytest.raises(MissingImageError, match="is no longer under"):
            searcher.search(Query((name,), "in red"))
        everything = searcher.search(Query((), "in red", k=40)).hits
        assert [hit.path for hit in everything if hit.id == name] == [None]
    finally:
        (folder / "moved").rename(folder / name)


def test_a_photo_that_may_not_be_read_has_no_path(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an index says about files elsewhere is read through its gallery alone, which may refuse."""

    def refuse(root: str, image_id: str) -> None:
        raise UsageError(f"{root} was not indexed here")

    monkeypatch.setattr("cir.indexer.reading.stored_image.locate", refuse)
    name = searcher.ids[3]
    hits = searcher.search(Query((name,))).hits
    assert {hit.path for hit in hits} == {None}
    for call in (lambda: searcher.picture(name), lambda: searcher.search(Query((name,), "in red"))):
        with pytest.raises(UsageError, match="was not indexed here"):
            call()


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


def test_a_light_model_asks_by_its_query_head(
    path: Path, tmp_path: Path, make_model: Callable[..., Path], tiny_model: Path
) -> None:
    """A model with a query head for the index's space asks it; its own photos' vectors never come into it."""
    strong = read_card(tiny_model)
    model, _, preprocess = weights.load(make_model(tmp_path / "light", seed=9))
    config = replace(model.config, query_heads={strong.space.id: strong.dims})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        light = Sprc(config, model.tokenizer)
    light.load_state_dict(model.state_dict(), strict=False)
    words = (tiny_model / weights.VOCABULARY).read_bytes()
    described = weights.ModelDescription("light-1", preprocess, words, min_scores={"text": -1.0, "composed": -1.0})
    weights.save(tmp_path / "light-1", light, described)
    encoder, asked = load_model(tmp_path / "light-1"), open_index(path, model=tmp_path / "light-1")
    reference = asked.ids[0]
    for query in (Query((), "in red"), Query((reference,), "in blue")):
        result = asked.search(query)
        if query.references:
            pixels = encoder.preprocess(asked.picture(reference))[None]
            vector = encoder.encode_queries(pixels, [query.text], strong.space.id)[0]
        else:
            vector = encoder.encode_texts([query.text], strong.space.id)[0]
        ranked = [pair for pair in asked.search_vectors(vector[None], 99)[0] if pair[0] not in query.references]
        assert {hit.id: hit.score for hit in result.hits} == pytest.approx(dict(ranked[:10]), abs=1e-4)
        assert (result.model, result.confident) == ("light-1", None)
    alike, same = (each.search(Query((reference,), "")) for each in (open_index(path), asked))
    assert [hit.id for hit in same.hits] == [hit.id for hit in alike.hits]


def test_a_model_of_the_same_gallery_asks_in_its_space(
    path: Path, tmp_path: Path, make_model: Callable[..., Path], tiny_model: Path
) -> None:
    card = read_card(tiny_model)
    model, _, preprocess = weights.load(tiny_model)
    with torch.no_grad():
        model.text_proj.bias += 0.5
    words = (tiny_model / weights.VOCABULARY).read_bytes()
    described = weights.ModelDescription("tiny-1b", preprocess, words, gallery_of=card.digest)
    further = weights.save(tmp_path / "tiny-1b", model, described)
    assert further.space == card.space
    assert further.digest != card.digest
    result = open_index(path, model=tmp_path / "tiny-1b").search(Query((), "in red"))
    assert result.model == "tiny-1b"
    assert [hit.score for hit in result.hits] != [
        hit.score for hit in open_index(path).search(Query((), "in red")).hits
    ]


def test_a_missing_model_is_reported_and_located_again(
    folder: Path, tmp_path: Path, make_model: Callable[..., Path]
) -> None:
    model = make_model(tmp_path / "here" / "tiny-4", seed=4)
    build_index(scan([folder])[:3], tmp_path / "an.index", load_model(model))
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(WeightsError, match=r"tiny-4 .* is not here"):
        open_index(tmp_path / "an.index").search(Query((), "red"))
    moved = open_index(tmp_path / "an.index", model_dirs=[tmp_path / "there"])
    assert moved.search(Query((), "red")).hits


def test_galleries_of_tokens_alone_are_searched(folder: Path, tmp_path: Path, make_model: Callable[..., Path]) -> None:
    model = load_model(make_model(tmp_path / "plain-3", seed=3, vector=False))
    build_index(scan([folder]), tmp_path / "an.index", model)
    searcher = open_index(tmp_path / "an.index")
    assert not searcher.gallery.layout.vectors
    name = searcher.ids[2]
    copy = tmp_path / "copy.png"
    Image.open(folder / name).save(copy)
    assert searcher.search(Query((copy,))).hits[0].id == name
    assert len(searcher.search(Query((name,), "in red")).hits) == 10
