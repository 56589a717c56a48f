"""Pools: what counts of marked queries, and that judging a pool does not change the sample it is of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cir.arrays import Floats, Mask
from cir.data.judged_query import JudgedQuery
from cir.replacement.collect import Collected, _draw
from cir.replacement.paired_sample import PairedSample, ranked
from cir.replacement.pool import dropped, fully_judged

QUERIES, IMAGES = 210, 40
IDS = [f"{n:02d}" for n in range(IMAGES)]


def vectors(rng: np.random.Generator, rows: int) -> Floats:
    values = rng.standard_normal((rows, 8)).astype(np.float32)
    unit: Floats = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit


def collected(judged: Mask | None, wrong: frozenset[str] | None = frozenset()) -> Collected:
    """Each query's target is its 12th image by the current index; `judged` beside it."""
    rng = np.random.default_rng(4)
    queries, gallery = vectors(rng, QUERIES), vectors(rng, IMAGES)
    current = queries @ gallery.T
    references = np.arange(QUERIES) % IMAGES
    relevant = np.zeros((QUERIES, IMAGES), np.bool_)
    order = ranked(current, references, IMAGES)
    np.put_along_axis(relevant, order[:, 11:12], True, axis=1)
    sample = PairedSample(
        old_gallery=gallery,
        new_gallery=gallery,
        old_queries=queries,
        new_queries=queries,
        head_queries=None,
        current=current,
        references=references,
        relevant=relevant,
        fit_mask=np.arange(QUERIES) % 2 == 0,
        slices={"a=b": np.arange(QUERIES) < 100},
        judged=None if judged is None else judged | relevant,
    )
    asked = [
        JudgedQuery(str(n), IDS[references[n]], "red", IDS[int(relevant[n].argmax())], wrong=wrong)
        for n in range(QUERIES)
    ]
    return Collected(sample, asked, IDS, 1.0)


def first_ten(given: Collected) -> Mask:
    mask = np.zeros((QUERIES, IMAGES), np.bool_)
    np.put_along_axis(mask, ranked(given.sample.current, given.sample.references, 10), True, axis=1)
    return mask


def test_queries_of_which_all_is_judged_count_as_they_are() -> None:
    given = collected(None, wrong=None)
    counted, gaps = fully_judged(given, np.random.default_rng(0))
    assert counted is given
    assert (gaps.marked, gaps.open, gaps.images) == (0, 0, 0)
    assert not given.sample.hits(given.sample.current, 10).any()
    assert dropped(given.sample, given.sample.current) == 0


def test_unjudged_images_are_neither_right_nor_wrong() -> None:
    """Of the eleven images before the target two are not judged: it moves up to the tenth place."""
    given = collected(np.ones((QUERIES, IMAGES), np.bool_))
    sample = given.sample
    assert not sample.hits(sample.current, 10).any()
    assert sample.judged is not None
    judged = sample.judged.copy()
    np.put_along_axis(judged, ranked(sample.current, sample.references, IMAGES)[:, 3:5], False, axis=1)
    sample = replace(sample, judged=judged)
    assert sample.hits(sample.current, 10).all()
    assert not sample.hits(sample.current, 9).any()
    assert dropped(sample, sample.current) == pytest.approx(0.2)


def test_pools_that_are_not_fully_judged_are_left_out() -> None:
    given = collected(np.zeros((QUERIES, IMAGES), np.bool_))
    judged = first_ten(given) | given.sample.relevant
    whole, gaps = fully_judged(replace(given, sample=replace(given.sample, judged=judged)), np.random.default_rng(0))
    assert whole is not None
    assert (len(whole.queries), gaps.open) == (QUERIES, 0)
    for row in range(7):
        judged[row, np.flatnonzero(first_ten(given)[row])[: 1 + row]] = False
    part, gaps = fully_judged(replace(given, sample=replace(given.sample, judged=judged)), np.random.default_rng(0))
    assert (gaps.marked, gaps.open, gaps.images) == (QUERIES, 7, 28)
    assert part is not None
    assert [query.id for query in part.queries] == [str(n) for n in range(7, QUERIES)]
    sample = part.sample
    assert {len(sample.current), len(sample.relevant), len(sample.references), len(sample.fit_mask)} == {203}
    assert sample.slices["a=b"].sum() == 93
    assert 0 < sample.fit_mask.sum() <= 101
    same = [{query.reference for query in np.array(part.queries)[half]} for half in (sample.fit_mask, ~sample.fit_mask)]
    assert not same[0] & same[1]
    assert "7 of 210 marked queries have hits that nobody has judged (28 images" in gaps.problem


def test_too_few_judged_pools_decide_nothing() -> None:
    given = collected(np.zeros((QUERIES, IMAGES), np.bool_))
    judged = first_ten(given) | given.sample.relevant
    judged[:11] = given.sample.relevant[:11]
    counted, gaps = fully_judged(replace(given, sample=replace(given.sample, judged=judged)), np.random.default_rng(0))
    assert counted is None
    assert (gaps.open, gaps.images) == (11, 110)


def test_judging_a_pool_does_not_change_the_sample() -> None:
    members = [f"{n:03d}" for n in range(300)]
    before = [JudgedQuery("1", "001", "red", "002", wrong=["003"]), JudgedQuery("2", "004", "blue", (), wrong=["005"])]

    def drawn(queries: list[JudgedQuery]) -> list[str]:
        return _draw(members, queries, 50, np.random.default_rng(3))

    sample = drawn(before)
    assert {"002"} <= set(sample)
    assert 50 <= len(sample) <= 51
    after = [
        replace(before[0], targets=frozenset(["002", *sample[:8]]), wrong=frozenset(["003", *sample[8:20]])),
        replace(before[1], targets=frozenset(sample[5:9]), wrong=frozenset(["005", *sample[9:20]])),
    ]
    assert drawn(after) == sample
