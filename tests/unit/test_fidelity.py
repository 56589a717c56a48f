"""Fidelity: how far a ranking agrees with a re-index, written out; its verdict; queries that are made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cir.arrays import Floats, Mask
from cir.data.judged_query import JudgedQuery
from cir.errors import DataError, MissingImageError
from cir.evidence import Fidelity, ReindexCost
from cir.indexer.reading.gallery import Gallery
from cir.mappings import Route, SpaceMapping
from cir.replacement.fidelity import FLOOR, UNKNOWN, ByKind, fidelity, judge_fidelity, kinds_of
from cir.replacement.made_queries import QUERIES, make_queries
from cir.replacement.paired_sample import PairedSample
from cir.replacement.photos import GivenPhotos, draw
from cir.replacement.routes import FittedRoute
from cir.testing.fakes import FakeEncoder, build, folder_of

DEAR, CHEAP = ReindexCost(1_000_000, 40.0, 10**9), ReindexCost(300, 0.01, 10**6)
IMAGES, COUNT = 40, 12
KINDS = {
    "image": np.arange(COUNT) % 3 == 0,
    "text": np.arange(COUNT) % 3 == 1,
    "composed": np.arange(COUNT) % 3 == 2,
}
MEASURED = np.arange(COUNT) >= 3
HELD_OUT = np.arange(IMAGES) >= 10


def ranking(*best: int) -> Floats:
    """(N,) scores by which those images come first, in this order."""
    scores = np.zeros(IMAGES, np.float32)
    scores[list(best)] = np.arange(len(best), 0, -1)
    return scores


def sample_with(reindexed: Floats, current: Floats) -> PairedSample:
    """A sample whose scores are given: the new model's vectors of images are the standard basis."""
    basis = np.eye(IMAGES, dtype=np.float32)
    return PairedSample(
        old_gallery=basis,
        new_gallery=basis,
        old_queries=None,
        new_queries=reindexed,
        head_queries=None,
        current=current,
        references=np.where(KINDS["text"], -1, np.arange(COUNT) + 20),
        relevant=np.zeros((COUNT, IMAGES), np.bool_),
        fit_mask=~MEASURED,
        slices={},
        held_out=HELD_OUT,
        labelled=False,
    )


def by_route(scores: Floats) -> FittedRoute:
    return FittedRoute(SpaceMapping("", "", Route.RIDGE), scores)


REINDEXED = np.stack([ranking(*range(10, 20))] * COUNT)


def test_a_route_that_ranks_as_the_re_index_has_full_fidelity() -> None:
    others = np.stack([ranking(*range(22, 40))] * COUNT)
    figures = fidelity(sample_with(REINDEXED, others), KINDS, [by_route(REINDEXED)])
    assert figures["ridge"]["all"] == Fidelity(9, 1.0, 1.0, 1.0, 1.0)
    assert {kind: found.queries for kind, found in figures["ridge"].items()} == {
        "image": 3,
        "text": 3,
        "composed": 3,
        "all": 9,
    }
    assert figures["current"]["all"].overlap == 0
    assert figures["current"]["all"].closer_lower95 is None


def test_overlap_and_first_hit_are_counted_by_hand() -> None:
    scores = REINDEXED.copy()
    scores[3:6] = ranking(*range(13, 23))  # seven of ten are left, the first is not
    figures = fidelity(sample_with(REINDEXED, REINDEXED), KINDS, [by_route(scores)])["ridge"]
    assert figures["text"].overlap == pytest.approx((0.7 + 1 + 1) / 3)
    assert figures["text"].first == pytest.approx(2 / 3)
    # The reference of an image query, 23 or 25, is no hit of its own and none of the ten here.
    assert figures["all"].overlap == pytest.approx((3 * 0.7 + 6) / 9)
    assert figures["all"].closer_lower95 is not None
    assert figures["all"].closer_lower95 < 0


def test_only_measured_queries_and_held_out_images_count() -> None:
    scores = REINDEXED.copy()
    scores[~MEASURED] = ranking(*range(30, 40))
    scores[:, :10] = 99  # images that fits have seen
    assert fidelity(sample_with(REINDEXED, REINDEXED), KINDS, [by_route(scores)])["ridge"]["all"].overlap == 1
    everything = replace(sample_with(REINDEXED, REINDEXED), held_out=None)
    assert fidelity(everything, KINDS, [by_route(scores)])["ridge"]["all"].overlap == 0


def test_what_the_old_model_cannot_be_asked_is_left_out() -> None:
    current = REINDEXED.copy()
    current[~KINDS["image"]] = np.nan
    figures = fidelity(sample_with(REINDEXED, current), KINDS, [by_route(REINDEXED)])
    assert set(figures["current"]) == {"image"}
    assert figures["ridge"]["text"].closer_lower95 is None
    assert figures["ridge"]["all"].closer_lower95 == 0  # images alone, which both answer alike


def figures_of(image: float, text: float, *, closer: float | None = 0.1) -> ByKind:
    kinds = {"image": image, "text": text, "all": (image + text) / 2}
    return {kind: Fidelity(100, share, share - 0.02, share, closer) for kind, share in kinds.items()}


def test_the_most_faithful_route_that_reaches_the_floor_is_chosen() -> None:
    figures = {"current": figures_of(0.5, 0.3), "ridge": figures_of(0.8, 0.7), "procrustes": figures_of(0.9, 0.7)}
    given = judge_fidelity(figures, DEAR)
    assert (given.route, given.refused, given.warnings) == ("procrustes", {}, (UNKNOWN,))
    assert "not whether the new model is better" in UNKNOWN
    assert given.advice.startswith("if you trust the new model, serve it by procrustes (--apply --trust-model)")
    assert judge_fidelity(figures, CHEAP).advice.startswith("if you trust the new model, re-index")
    same = judge_fidelity(figures, DEAR, same_vectors=True)
    assert (same.route, "there is nothing to re-index" in same.advice) == ("procrustes", True)


def test_the_floor_holds_for_each_kind_of_query() -> None:
    least = FLOOR + 0.02
    assert judge_fidelity({"ridge": figures_of(least, least)}, DEAR).route == "ridge"
    given = judge_fidelity({"ridge": figures_of(0.9, least - 0.01)}, DEAR)
    assert given.route is None
    (reason,) = given.refused["ridge"]
    assert reason.startswith("text queries share 51.0 % of their first 10 hits with a re-index")
    assert given.advice.startswith("keep the current model, or re-index if you trust the new one")


def test_a_route_that_is_further_from_a_re_index_than_the_old_index_is_refused() -> None:
    for closer in (0.0, -0.1):
        (reason,) = judge_fidelity({"ridge": figures_of(0.9, 0.9, closer=closer)}, DEAR).refused["ridge"]
        assert reason == "it does not answer more like a re-index than the current index does"
    assert judge_fidelity({"ridge": figures_of(0.9, 0.9, closer=None)}, DEAR).route == "ridge"


def test_kinds_of_queries() -> None:
    queries = [JudgedQuery("1", "a.jpg", "", frozenset()), JudgedQuery("2", "", "red", frozenset())]
    assert {kind: list(members) for kind, members in kinds_of(queries).items()} == {
        "image": [True, False],
        "text": [False, True],
    }


def gallery_of(photos: Path, tmp_path: Path, metadata: dict[str, dict[str, str]]) -> Gallery:
    build(photos, tmp_path / "x.index", FakeEncoder(tokens=0), metadata=metadata)
    return Gallery.open(tmp_path / "x.index", trust_roots=True)


@pytest.mark.parametrize(
    ("columns", "source"),
    [
        ({"baseColor": ["red", "blue", "green"], "price": ["3", "4"]}, "caption templates for colour (baseColor)"),
        ({"brand": ["Acme", "Bolt"]}, "values of brand"),
        ({}, "37 plain words"),
    ],
)
def test_texts_come_from_what_the_index_knows(
    photos: Path, tmp_path: Path, columns: dict[str, list[str]], source: str
) -> None:
    folder_of(photos, 20)
    names = [f"{n:04d}.png" for n in range(20)]
    metadata = {name: {c: values[n % len(values)] for c, values in columns.items()} for n, name in enumerate(names)}
    gallery = gallery_of(photos, tmp_path, metadata if columns else {})
    drawn = draw(gallery, list(gallery.ids), None, 100, np.random.default_rng(0))
    held_out: Mask = np.arange(20) % 3 == 0
    made = make_queries(drawn, held_out, 0)
    assert made.source == source
    references = {query.reference for query, fit in zip(made.queries, made.fit_mask, strict=True) if not fit}
    assert references - {""} == {name for name, apart in zip(names, held_out, strict=True) if apart}
    texts = [query.caption for query in made.queries if not query.reference]
    assert len(texts) == len(set(texts)) > 0
    assert all(query.caption or query.reference for query in made.queries)
    assert len({query.id for query in made.queries}) == len(made.queries)
    if columns:
        assert not any(character.isdigit() for text in texts for character in text)
    else:
        assert sum(kinds_of(made.queries)["text"] & ~made.fit_mask) == QUERIES
    assert make_queries(drawn, held_out, 0).queries == made.queries


def test_photos_that_are_given_are_matched_by_path_name_and_stem(photos: Path, tmp_path: Path) -> None:
    folder_of(photos, 6)
    gallery = gallery_of(photos, tmp_path, {})
    given = tmp_path / "given"
    (given / "deep").mkdir(parents=True)
    for number, name in enumerate(("0000.png", "deep/0001.png", "0002.png.jpg", "other.png")):
        (given / name).write_bytes((photos / f"{number:04d}.png").read_bytes())
    found = GivenPhotos.find(given, gallery)
    assert (sorted(found.by_id), found.others) == (["0000.png", "0001.png", "0002.png"], 1)
    drawn = draw(gallery, list(gallery.ids), found, 100, np.random.default_rng(0))
    assert [photo.id for photo in drawn] == ["0000.png", "0001.png", "0002.png"]
    assert drawn[0].read() == (photos / "0000.png").read_bytes()
    (given / "0000.png").write_bytes(b"another")
    with pytest.raises(MissingImageError, match="is not the photo that was indexed"):
        drawn[0].read()
    (given / "only").mkdir()
    (given / "only" / "x.png").write_bytes(b"1")
    with pytest.raises(DataError, match="none of its 1 photos is named as an image of"):
        GivenPhotos.find(given / "only", gallery)


def test_photos_that_are_gone_are_not_drawn(photos: Path, tmp_path: Path) -> None:
    folder_of(photos, 6)
    gallery = gallery_of(photos, tmp_path, {})
    (photos / "0003.png").unlink()
    members = list(gallery.ids)
    drawn = draw(gallery, members, None, 100, np.random.default_rng(0))
    assert [photo.id for photo in drawn] == [name for name in members if name != "0003.png"]
    assert len(draw(gallery, members, None, 2, np.random.default_rng(0))) == 2
