"""`GalleryTests`: what every gallery must do, held against a reference that scores everything and sorts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cir.arrays import Floats
from cir.conditions import Condition
from cir.errors import SpaceMismatchError, UsageError
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.query_vectors import QueryVectors
from cir.testing.fakes import unit_rows

Hits = list[tuple[str, float]]  # (id, score), best first


@dataclass(frozen=True)
class ExpectedImage:
    """A live image of the gallery under test.

    Attributes:
        id: its id.
        values: what decides its rank: its (D,) vector, or its (T, D) tokens, unit-norm.
        metadata: column -> value.
    """

    id: str
    values: Floats
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """A gallery and the images that it must hold."""

    gallery: Gallery
    images: Sequence[ExpectedImage]

    def queries(self, count: int, seed: int = 1) -> QueryVectors:
        """Random unit-norm queries in the gallery's space."""
        rng = np.random.default_rng(seed)
        return QueryVectors({self.gallery.space.id: unit_rows(rng.standard_normal((count, self.gallery.space.dims)))})

    def expected(self, query: Floats, k: int, excluded: Collection[str] = ()) -> Hits:
        """The best k images for a (D,) query: score everything in float64, sort by score and id, cut."""
        return rank_naively({image.id: image.values for image in self.images if image.id not in excluded}, query, k)


def rank_naively(values: Mapping[str, Floats], query: Floats, k: int) -> Hits:
    """The best k of some images, id -> (D,) vector or (T, D) tokens, as stored in float16."""
    hits = []
    for image_id, stored in values.items():
        products = np.atleast_2d(stored.astype(np.float16).astype(np.float64)) @ query.astype(np.float64)
        hits.append((image_id, float(np.float32(products.max()))))
    return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]


def assert_same_hits(found: Hits, expected: Hits) -> None:
    """The same ids in the same order, and the same scores within 1e-6."""
    assert [image_id for image_id, _ in found] == [image_id for image_id, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-6)


class GalleryTests:
    """Subclass it, and make a gallery of at least 30 images that is searched in one space.

    The images need a metadata column `colour` in which some, not all, have the value "Red" and others "blue", and no
    other column.

    Attributes:
        tokens: T of the tokens that decide ranks; 0 where vectors do.
    """

    tokens = 0

    @classmethod
    def make_gallery(cls, folder: Path) -> Made:
        """The gallery under test, in a folder of its own. Every subclass must override it."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def made(cls, tmp_path_factory: pytest.TempPathFactory) -> Made:
        """The gallery, made once per class."""
        return cls.make_gallery(tmp_path_factory.mktemp("gallery"))

    @pytest.mark.parametrize("exact", [False, True])
    @pytest.mark.parametrize("k", [1, 10, 29, 1000])
    def test_the_ranking_is_that_of_the_reference(self, made: Made, k: int, exact: bool) -> None:
        queries = made.queries(5)
        found = made.gallery.search(queries, RankingOptions(k, exact=exact))
        for query, hits in zip(queries.by_space[made.gallery.space.id], found, strict=True):
            assert_same_hits(hits, made.expected(query, k))

    # Each subclass runs the inherited test.
    @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data())
    def test_filters_come_before_the_cut(self, made: Made, data: st.DataObject) -> None:
        ids = sorted(image.id for image in made.images)
        k = data.draw(st.integers(1, len(ids) + 10))
        exclude = [data.draw(st.sets(st.sampled_from([*ids, "nowhere.jpg"]))) for _ in range(2)]
        allowed = data.draw(st.none() | st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
        mask = None
        if allowed is not None:
            mask = made.gallery.rows.mask_of(
                made.gallery.row(name) for name, usable in zip(ids, allowed, strict=True) if usable
            )
        queries = made.queries(2, data.draw(st.integers(0, 1000)))
        found = made.gallery.search(queries, RankingOptions(k, allowed=mask), exclude=exclude)
        filtered = set() if allowed is None else {name for name, usable in zip(ids, allowed, strict=True) if not usable}
        for query, hits, excluded in zip(queries.by_space[made.gallery.space.id], found, exclude, strict=True):
            assert_same_hits(hits, made.expected(query, k, excluded | filtered))

    def test_a_query_is_answered_as_in_a_batch(self, made: Made) -> None:
        queries, options = made.queries(300), RankingOptions(5)
        together = made.gallery.search(queries, options)
        for number in (0, 255, 256, 299):
            assert made.gallery.search(queries[number : number + 1], options) == [together[number]]
        few = RankingOptions(5, candidates=6)
        exclude: list[set[str]] = [set(made.gallery.ids[:20]), *[set()] * 299]
        assert made.gallery.search(queries, few, exclude=exclude)[1:] == made.gallery.search(queries[1:], few)

    def test_no_queries_have_no_hits(self, made: Made) -> None:
        assert made.gallery.search(made.queries(0), RankingOptions(5)) == []

    def test_scores_are_those_of_a_search(self, made: Made) -> None:
        queries, ids = made.queries(3), [image.id for image in made.images[:7]]
        scores = made.gallery.scores(queries, ids)
        assert (scores.shape, scores.dtype.name) == ((3, len(ids)), "float32")
        found = made.gallery.search(queries, RankingOptions(len(made.images), exact=True))
        for row, hits in zip(scores, found, strict=True):
            assert row.tolist() == pytest.approx([dict(hits)[image_id] for image_id in ids], abs=1e-6)

    def test_ids_rows_and_images(self, made: Made) -> None:
        gallery = made.gallery
        assert list(gallery.ids) == sorted(image.id for image in made.images)
        assert len(gallery) == len(made.images)
        assert gallery.searched() == (len(made.images), 0)
        for image in made.images:
            assert image.id in gallery
            assert gallery.rows.id_of(gallery.row(image.id)) == image.id
            stored = gallery.image(image.id)
            assert (stored.id, stored.metadata) == (image.id, image.metadata)
            assert stored.space == stored.query_space == gallery.space.id
            assert stored.vector.shape == (gallery.space.dims,)
            assert stored.vector.dtype == np.float32
            assert np.linalg.norm(stored.vector) == pytest.approx(1, abs=2e-3)
            if not self.tokens:
                np.testing.assert_allclose(stored.vector, image.values, atol=1e-3)
        assert "nowhere.jpg" not in gallery
        assert 3 not in gallery
        for method in (gallery.row, gallery.image):
            with pytest.raises(UsageError, match=r"no image 'nowhere\.jpg'"):
                method("nowhere.jpg")

    def test_select_by_metadata(self, made: Made) -> None:
        gallery = made.gallery
        assert gallery.columns == ["colour"]
        wanted = sorted(image.id for image in made.images if image.metadata.get("colour") == "Red")
        mask = gallery.select([("colour", "RED")])
        assert gallery.rows.ids_where(mask) == wanted
        assert 0 < len(wanted) < len(made.images)
        assert not gallery.select([("colour", "red"), ("colour", "blue")]).any()
        everything = gallery.select([])
        assert gallery.rows.ids_where(everything) == gallery.ids
        assert (gallery.select([Condition("colour", "RED", "!=")]) == everything & ~mask).all()
        assert (gallery.select({"colour": ["red", "none"]}) == mask).all()
        assert (gallery.select("colour~ED and colour in red, blue") == mask).all()
        with pytest.raises(UsageError, match=r"'colour' holds texts such as '.*, not numbers"):
            gallery.select("colour<5")
        with pytest.raises(UsageError, match=r"no metadata column 'size' .*; there are: colour"):
            gallery.select([("size", "M")])

    def test_queries_of_another_space_are_refused(self, made: Made) -> None:
        for space in ("0123456789abcdef", None):
            vectors = made.queries(1).by_space[made.gallery.space.id]
            with pytest.raises(SpaceMismatchError, match=r"is served by model .*cir build-index .* --model"):
                made.gallery.search(QueryVectors({space: vectors} if space else {}), RankingOptions(3))

    @pytest.mark.parametrize(
        ("shape", "fill", "message"),
        [((1, 0), np.nan, "not finite"), ((1, 1), 0.0, r"needs \(B, "), ((0,), 0.0, r"needs \(B, ")],
        ids=["nan", "too many dims", "not a batch"],
    )
    def test_queries_of_another_shape_are_refused(
        self, made: Made, shape: tuple[int, ...], fill: float, message: str
    ) -> None:
        *batch, surplus = shape
        vectors = np.full((*batch, made.gallery.space.dims + surplus), fill, np.float32)
        with pytest.raises(UsageError, match=message):
            made.gallery.search(QueryVectors({made.gallery.space.id: vectors}), RankingOptions(3))

    def test_senseless_options_are_refused(self, made: Made) -> None:
        queries = made.queries(1)
        for options, message in (
            (RankingOptions(3, allowed=np.ones(3, np.bool_)), "the mask has shape"),
            (RankingOptions(3, allowed=np.ones(len(made.gallery.rows), np.int64)), "the mask has shape"),
        ):
            with pytest.raises(UsageError, match=message):
                made.gallery.search(queries, options)
        with pytest.raises(UsageError, match="2 sets of excluded ids for 1 queries"):
            made.gallery.search(queries, RankingOptions(3), exclude=[set(), set()])
