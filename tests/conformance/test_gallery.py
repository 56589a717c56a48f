"""What every gallery must do, whatever it is made of, held against a reference that fits on a screen."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cir.errors import SpaceMismatchError, UsageError
from cir.indexer.reading.gallery import Gallery

sys.path.append(str(Path(__file__).parents[1] / "crash"))
from indexer_fakes import DIMS, TOKENS, Rows, make_index, random_rows, unit

IDS = [f"shop/{number * 7919 % 83:03d}.jpg" for number in range(80)]


def naive(
    rows: list[tuple[str, np.ndarray]], query: np.ndarray, k: int, barred: Collection[str] = ()
) -> list[tuple[str, float]]:
    """Score everything, sort by score and id, cut."""
    hits = []
    for image_id, values in rows:
        if image_id not in barred:
            products = np.atleast_2d(values.astype(np.float16).astype(np.float64)) @ query.astype(np.float64)
            hits.append((image_id, float(np.float32(products.max()))))
    return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]


def queries(count: int, seed: int = 1) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, DIMS)))


class GalleryTests:
    """Subclasses make a gallery; `rows` are its live rows and what decides their rank."""

    vectors = True
    tokens = 0
    ann_min_rows = 10**9

    @classmethod
    def segments(cls) -> list[Rows]:
        return [random_rows(IDS, 3, vectors=cls.vectors, tokens=cls.tokens)]

    @classmethod
    def make_gallery(cls, path: Path) -> tuple[Gallery, list[tuple[str, np.ndarray]]]:
        segments = cls.segments()
        make_index(path, segments, cls.tokens, cls.vectors)
        rows = []
        for segment in segments:
            values = segment.tokens if cls.tokens else segment.vectors
            assert values is not None
            live = (row for row in range(len(segment.ids)) if row not in segment.deleted)
            rows += [(segment.ids[row], values[row]) for row in live]
        return Gallery.open(path, ann_min_rows=cls.ann_min_rows), rows

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Gallery, list[tuple[str, np.ndarray]]]:
        return cls.make_gallery(tmp_path_factory.mktemp("gallery") / "x.index")

    def check(self, found: list[tuple[str, float]], wanted: list[tuple[str, float]]) -> None:
        assert [hit[0] for hit in found] == [hit[0] for hit in wanted]
        assert [hit[1] for hit in found] == pytest.approx([hit[1] for hit in wanted], abs=1e-6)

    @pytest.mark.parametrize("exact", [False, True])
    @pytest.mark.parametrize("k", [1, 10, 79, 1000])
    def test_ranking_is_the_reference(self, made, k, exact):
        gallery, rows = made
        asked = queries(5)
        for query, hits in zip(asked, gallery.search({gallery.space.id: asked}, k, exact=exact), strict=True):
            self.check(hits, naive(rows, query, k))

    # Each subclass runs the inherited test, on purpose.
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data())
    def test_filters_come_before_the_cut(self, made, data):
        gallery, rows = made
        k = data.draw(st.integers(1, 90))
        barred = [data.draw(st.sets(st.sampled_from([*IDS, "nowhere.jpg"]))) for _ in range(2)]
        allowed = data.draw(st.none() | st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
        mask = None if allowed is None else np.array(allowed, bool)
        asked = queries(2, data.draw(st.integers(0, 1000)))
        found = gallery.search({gallery.space.id: asked}, k, allowed=mask, exclude=barred)
        for query, hits, excluded in zip(asked, found, barred, strict=True):
            out = (
                excluded
                if mask is None
                else excluded | {i for i, yes in zip(gallery.ids, mask, strict=True) if not yes}
            )
            self.check(hits, naive(rows, query, k, out))

    def test_one_query_answers_as_in_a_batch(self, made):
        gallery, _ = made
        asked = queries(300)
        together = gallery.search({gallery.space.id: asked}, 5)
        for number in (0, 255, 256, 299):
            assert gallery.search({gallery.space.id: asked[number : number + 1]}, 5) == [together[number]]
        barred = [set(gallery.ids[:30]), *[set()] * 299]
        excluded = gallery.search({gallery.space.id: asked}, 5, exclude=barred, candidates=6)
        assert excluded[1:] == gallery.search({gallery.space.id: asked[1:]}, 5, candidates=6)

    def test_no_queries_no_answers(self, made):
        assert made[0].search({made[0].space.id: queries(0)}, 5) == []

    def test_rows_and_values(self, made):
        gallery, rows = made
        assert list(gallery.ids) == sorted(image_id for image_id, _ in rows)
        assert len(gallery) == len(rows)
        assert (gallery.has_vectors, gallery.has_tokens) == (self.vectors, self.tokens > 0)
        for image_id, values in rows[:10]:
            assert image_id in gallery
            assert gallery.ids[gallery.row(image_id)] == image_id
            vector = gallery.vector(image_id)
            assert vector.dtype == np.float32
            assert np.linalg.norm(vector) == pytest.approx(1, abs=2e-3)
            if self.tokens:
                np.testing.assert_allclose(gallery.tokens(image_id), values, atol=1e-3)
            else:
                np.testing.assert_allclose(vector, values, atol=1e-3)
                with pytest.raises(UsageError, match="no tokens"):
                    gallery.tokens(image_id)
        assert "nowhere.jpg" not in gallery
        assert 3 not in gallery
        with pytest.raises(UsageError, match=r"no image 'nowhere\.jpg'"):
            gallery.row("nowhere.jpg")

    def test_select_by_metadata(self, made):
        gallery, rows = made
        assert gallery.columns == ["colour"]
        mask = gallery.select([("colour", "RED")])
        wanted = [image_id for image_id in gallery.ids if gallery.metadata(image_id).get("colour") == "Red"]
        assert [image_id for image_id, yes in zip(gallery.ids, mask, strict=True) if yes] == wanted
        assert 0 < len(wanted) < len(rows)
        assert not gallery.select([("colour", "red"), ("colour", "blue")]).any()
        assert gallery.select([]).all()
        with pytest.raises(UsageError, match=r"no metadata column 'size' .*; there are: colour"):
            gallery.select([("size", "M")])

    def test_another_space_is_refused(self, made):
        with pytest.raises(SpaceMismatchError, match=r"served by model fake-1 .*cir build-index .* --model"):
            made[0].search({"0123456789abcdef": queries(1)}, 3)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"k": 0}, "k is 0"),
            ({"queries": np.full((1, DIMS), np.nan, np.float32)}, "not finite"),
            ({"queries": np.zeros((1, DIMS + 1), np.float32)}, "needs"),
            ({"queries": np.zeros(DIMS, np.float32)}, "needs"),
            ({"allowed": np.ones(3, bool)}, "mask"),
            ({"allowed": np.ones(80, int)}, "mask"),
            ({"exclude": [set(), set()]}, "2 sets of excluded ids for 1 queries"),
        ],
    )
    def test_senseless_requests(self, made, change, message):
        gallery, _ = made
        asked = {"queries": queries(1), "k": 3, **change}
        with pytest.raises(UsageError, match=message):
            gallery.search({gallery.space.id: asked.pop("queries")}, asked.pop("k"), **asked)


class TestVectors(GalleryTests):
    pass


class TestTokens(GalleryTests):
    vectors = False
    tokens = TOKENS

    def test_vector_is_the_mean_token(self, made):
        gallery, rows = made
        image_id, tokens = rows[0]
        np.testing.assert_allclose(gallery.vector(image_id), unit(tokens.mean(axis=0)), atol=1e-3)


class TestBoth(GalleryTests):
    tokens = TOKENS

    def test_tokens_rank_the_candidates_of_the_vectors(self, made):
        gallery, rows = made
        vectors = [(image_id, gallery.vector(image_id)) for image_id in gallery.ids]
        query = queries(1)
        # `vector` is exact for float16 values, so the reference sees what is stored.
        first = {image_id for image_id, _ in naive(vectors, query[0], 12)}
        wanted = naive([row for row in rows if row[0] in first], query[0], 5)
        found = gallery.search({gallery.space.id: query}, 5, candidates=12)[0]
        self.check(found, wanted)
        assert found != gallery.search({gallery.space.id: query}, 5, exact=True)[0]


class TestThreeSegmentsWithDeletions(GalleryTests):
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


class TestApproximate(GalleryTests):
    ann_min_rows = 10


class TestApproximateSegments(TestThreeSegmentsOfBoth):
    ann_min_rows = 10


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_order_and_number_of_segments_do_not_show(tmp_path_factory, data):
    rows = random_rows(IDS[:30], data.draw(st.integers(0, 99)), tokens=2)
    order = data.draw(st.permutations(range(30)))
    cuts = sorted(data.draw(st.sets(st.integers(1, 29), max_size=3)))
    pieces = np.split(np.array(order), cuts)
    assert rows.vectors is not None
    assert rows.tokens is not None
    segments = [Rows([rows.ids[i] for i in piece], rows.vectors[piece], rows.tokens[piece]) for piece in pieces]
    folder = tmp_path_factory.mktemp("permuted")
    one = Gallery.open(make_index(folder / "one.index", [rows], 2))
    many = Gallery.open(make_index(folder / "many.index", segments, 2))
    asked = queries(3, data.draw(st.integers(0, 99)))
    assert one.ids == many.ids
    for exact in (False, True):
        assert one.search({one.space.id: asked}, 30, exact=exact) == many.search(
            {many.space.id: asked}, 30, exact=exact
        )


def test_an_empty_gallery(tmp_path):
    for name, segments in (("none", []), ("rowless", [random_rows([], 0)])):
        gallery = Gallery.open(make_index(tmp_path / name, segments))
        assert len(gallery) == 0
        assert gallery.search({gallery.space.id: queries(2)}, 5) == [[], []]
        assert gallery.columns == []
        with pytest.raises(UsageError, match="it has none"):
            gallery.select([("colour", "red")])
