"""The gallery of an index folder, of every kind, is held to what every gallery must do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cir.arrays import unit
from cir.errors import UsageError
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.query_vectors import QueryVectors
from cir.testing.fakes import DIMS, TOKENS, Rows, make_index, random_rows, unit_rows
from cir.testing.gallery import ExpectedImage, GalleryTests, Made, assert_same_hits, rank_naively
from cir.testing.spread import PartsHere

IDS = [f"shop/{number * 7919 % 83:03d}.jpg" for number in range(80)]


def queries(gallery: Gallery, count: int, seed: int = 1) -> QueryVectors:
    return QueryVectors({gallery.space.id: unit_rows(np.random.default_rng(seed).standard_normal((count, DIMS)))})


class IndexGalleryTests(GalleryTests):
    """A gallery of hand-made segments."""

    vectors = True
    ann_min_rows = 10**9
    parts = 0  # over which it is spread

    @classmethod
    def segments(cls) -> list[Rows]:
        return [random_rows(IDS, 3, vectors=cls.vectors, tokens=cls.tokens)]

    @classmethod
    def make_gallery(cls, folder: Path) -> Made:
        segments = cls.segments()
        index = make_index(folder / "x.index", segments, cls.tokens, cls.vectors)
        images = []
        for segment in segments:
            values = segment.tokens if cls.tokens else segment.vectors
            assert values is not None
            assert segment.metadata is not None
            live = (row for row in range(len(segment.ids)) if row not in segment.deleted)
            images += [ExpectedImage(segment.ids[row], values[row], segment.metadata[row]) for row in live]
        spread = PartsHere(index, cls.parts, cls.ann_min_rows) if cls.parts else None
        return Made(Gallery.open(index, ann_min_rows=cls.ann_min_rows, spread=spread), images)

    def test_what_is_stored(self, made: Made) -> None:
        layout = made.gallery.layout
        assert (layout.vectors, layout.tokens) == (self.vectors, self.tokens)
        if self.tokens and not self.vectors:
            for image in made.images:
                np.testing.assert_allclose(made.gallery.image(image.id).stored, image.values, atol=1e-3)


class TestVectors(IndexGalleryTests):
    pass


class TestTokens(IndexGalleryTests):
    vectors = False
    tokens = TOKENS

    def test_the_vector_is_the_mean_token(self, made: Made) -> None:
        for image in made.images[:5]:
            vector = made.gallery.image(image.id).vector
            np.testing.assert_allclose(vector, unit(image.values.mean(axis=0)), atol=1e-3)


class TestBoth(IndexGalleryTests):
    tokens = TOKENS

    def test_tokens_rank_the_candidates_of_the_vectors(self, made: Made) -> None:
        gallery, asked = made.gallery, queries(made.gallery, 1)
        query = asked.by_space[gallery.space.id][0]
        # `vector` is exact for float16 values, so the reference sees what is stored.
        vectors = {image_id: gallery.image(image_id).vector for image_id in gallery.ids}
        candidates = {image_id for image_id, _ in rank_naively(vectors, query, 12)}
        tokens = {image.id: image.values for image in made.images if image.id in candidates}
        found = gallery.search(asked, RankingOptions(5, candidates=12))[0]
        assert_same_hits(found, rank_naively(tokens, query, 5))
        assert found != gallery.search(asked, RankingOptions(5, exact=True))[0]


class TestThreeSegmentsWithDeletions(IndexGalleryTests):
    @classmethod
    def segments(cls) -> list[Rows]:
        first = random_rows(IDS[:40], 3, vectors=cls.vectors, tokens=cls.tokens)
        first.deleted = tuple(range(0, 40, 3))
        # What was deleted from the first segment has come again with other vectors.
        again = [IDS[row] for row in first.deleted]
        second = random_rows(again, 4, vectors=cls.vectors, tokens=cls.tokens)
        third = random_rows(IDS[40:], 5, vectors=cls.vectors, tokens=cls.tokens)
        third.deleted = (39,)
        return [first, second, third]


class TestThreeSegmentsOfBoth(TestThreeSegmentsWithDeletions):
    tokens = TOKENS


class TestApproximate(IndexGalleryTests):
    ann_min_rows = 10


class TestApproximateSegments(TestThreeSegmentsOfBoth):
    ann_min_rows = 10


class TestApproximateTokens(TestThreeSegmentsWithDeletions):
    vectors = False
    tokens = TOKENS
    ann_min_rows = 10


class TestSpread(TestThreeSegmentsWithDeletions):
    parts = 2


class TestSpreadOfBoth(TestThreeSegmentsOfBoth):
    parts = 2


class TestSpreadApproximately(TestApproximateSegments):
    parts = 3


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_order_and_number_of_segments_do_not_show(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    rows = random_rows(IDS[:30], data.draw(st.integers(0, 99)), tokens=2)
    order = data.draw(st.permutations(range(30)))
    cuts = sorted(data.draw(st.sets(st.integers(1, 29), max_size=3)))
    pieces = np.split(np.array(order), cuts)
    assert rows.vectors is not None
    assert rows.tokens is not None
    segments = [Rows([rows.ids[i] for i in piece], rows.vectors[piece], rows.tokens[piece]) for piece in pieces]
    folder = tmp_path_factory.mktemp("permuted")
    whole = Gallery.open(make_index(folder / "whole.index", [rows], 2))
    many = Gallery.open(make_index(folder / "many.index", segments, 2))
    asked = queries(whole, 3, data.draw(st.integers(0, 99)))
    assert whole.ids == many.ids
    for exact in (False, True):
        options = RankingOptions(30, exact=exact)
        assert whole.search(asked, options) == many.search(asked, options)


def test_an_empty_gallery(tmp_path: Path) -> None:
    for name, segments in (("none", []), ("rowless", [random_rows([], 0)])):
        gallery = Gallery.open(make_index(tmp_path / name, segments))
        assert len(gallery) == 0
        assert gallery.search(queries(gallery, 2), RankingOptions(5)) == [[], []]
        assert gallery.columns == []
        with pytest.raises(UsageError, match="it has none"):
            gallery.select([("colour", "red")])
