"""The curve of an approximate index: measured recall, and the effort that follows from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cir.arrays import Floats, Rows, Stored
from cir.errors import UsageError
from cir.indexer.reading import ann
from cir.indexer.reading.ann_curve import Curve, Point, Recall, measure
from cir.indexer.reading.exact import rescore, scan
from cir.indexer.reading.lists import centres_of, list_count, nearest_of
from cir.indexer.reading.ranking import RankingOptions
from cir.testing.fakes import DIMS, unit_rows
from cir.typed_json import from_json, to_json

DEPTHS = (10, 100)


def recall(*lower: float) -> dict[str, Recall]:
    return {"stored": Recall(lower, lower)}


CURVE = Curve(
    rows=10_000,
    lists=100,
    queries={"stored": 50},
    depths=DEPTHS,
    points=(
        Point(1, 1, 0.1, recall(0.9, 0.7)),
        Point(1, 4, 0.1, recall(0.95, 0.7)),
        Point(2, 1, 0.2, recall(0.96, 0.9)),
        Point(2, 4, 0.2, recall(0.99, 0.9)),
        Point(4, 1, 0.4, recall(0.99, 0.99)),
    ),
)


def clusters(rows: int, seed: int = 0) -> Stored:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((40, DIMS))
    return unit_rows(centres[rng.integers(0, 40, rows)] + 0.6 * rng.standard_normal((rows, DIMS))).astype(np.float16)


@pytest.mark.parametrize(
    ("count", "share", "wanted", "effort"),
    [
        (10, 1, 0.9, (1, 1)),
        (5, 1, 0.9, (1, 1)),  # fewer rows are not harder
        (10, 1, 0.95, (2, 1)),  # 260 codes; 4 candidates for each of 10 rows cost more than another list
        (1, 1, 0.95, (1, 4)),
        (10, 1, 0.99, (4, 1)),
        (10, 1, 0.999, None),
        (100, 1, 0.9, (2, 1)),
        (10, 0.1, 0.9, (2, 1)),  # a filter that leaves a tenth: ten times as deep
        (32, 1, 0.8, (2, 1)),  # between two depths
        (31, 1, 0.8, (1, 1)),
        (101, 1, 0.1, None),  # deeper than was measured
        (10, 0.09, 0.1, None),
    ],
)
def test_the_cheapest_effort_that_reaches_the_recall(
    count: int, share: float, wanted: float, effort: tuple[int, int] | None
) -> None:
    point = CURVE.effort(count, share, wanted)
    assert (point and (point.nprobe, point.overfetch)) == effort


def test_the_lowest_of_all_kinds_is_promised() -> None:
    point = Point(1, 1, 0.0, {"stored": Recall((0.9, 0.8), (0.8, 0.7)), "given": Recall((0.95, 0.5), (0.9, 0.4))})
    assert point.lower == (0.8, 0.4)


def test_a_curve_survives_its_record() -> None:
    assert from_json(Curve, json.loads(json.dumps(to_json(CURVE)))) == CURVE


@pytest.mark.parametrize(
    "change",
    [
        {"depths": [100, 10]},
        {"depths": [10]},
        {"points": []},
        {"queries": {"given": 50}},
        {"rows": 0},
        {"points": [{"nprobe": 1, "overfetch": 1, "ms": 1.0, "recall": {"stored": {"mean": [2, 1], "lower": [0, 0]}}}]},
    ],
)
def test_an_absurd_curve_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"depths|points|rows|queries"):
        from_json(Curve, to_json(CURVE) | change)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ann.Ann:
    pytest.importorskip("faiss")
    queries = clusters(40, 3).astype(np.float32)
    return ann.load_or_build(tmp_path_factory.mktemp("ann"), "d", clusters(8000), lambda: queries)


def found(index: ann.Ann, queries: Floats, usable: np.ndarray[tuple[int], np.dtype[np.bool_]], wanted: float) -> float:
    """Recall at 10 of new queries among some rows, after rescoring."""
    vectors = clusters(8000)
    effort = index.effort(10, int(usable.sum()), wanted)
    assert effort is not None
    hits = 0
    for number, rows in enumerate(scan(vectors, queries, 10, usable)):
        best = rows[np.argsort(-rescore(vectors, rows, queries[number]), kind="stable")[:10]]
        hits += len(set(best) & set(index.search(queries[number : number + 1], 10, effort, usable)[0]))
    return hits / 10 / len(queries)


@pytest.mark.parametrize(("every", "wanted"), [(1, 0.8), (1, 0.95), (1, 0.99), (4, 0.8), (4, 0.95)])
def test_the_promise_is_kept_on_new_queries(index: ann.Ann, every: int, wanted: float) -> None:
    usable = np.arange(8000) % every == 0
    assert found(index, clusters(200, 5).astype(np.float32), usable, wanted) >= wanted


def test_less_recall_is_cheaper(index: ann.Ann) -> None:
    efforts = [index.effort(10, 8000, wanted) for wanted in (0.5, 0.9, 0.99)]
    costs = [index.curve.cost(effort, 10) for effort in efforts if effort is not None]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_few_rows_are_scanned_exactly(index: ann.Ann) -> None:
    assert index.effort(10, 8000, 0.9) is not None
    assert index.effort(10, 80, 0.9) is None
    assert index.effort(10, 0, 0.9) is None


def test_given_queries_are_measured_apart(index: ann.Ann) -> None:
    assert index.curve.queries == {"stored": 200, "between": 200, "given": 40}
    assert index.curve.points[0].recall.keys() == index.curve.queries.keys()


def test_an_unreachable_recall_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    scattered = unit_rows(rng.standard_normal((4000, 256))).astype(np.float16)  # nothing to put into lists
    index = ann.load_or_build(tmp_path, "d", scattered)
    assert [index.effort(10, 4000, 0.99), index.effort(10, 4000, 0.99)] == [None, None]
    assert caplog.text.count("is searched exactly") == 1


def test_twins_count_for_each_other() -> None:
    """A gallery full of the same picture: whichever of the twins is found, the answer is right."""
    vectors = np.repeat(clusters(50), 20, axis=0)

    def probe(queries: Floats, nprobe: int, count: int) -> Rows:
        """The last of equal rows first."""
        scores = queries @ vectors.astype(np.float32).T
        return np.argsort(scores[:, ::-1], axis=1, kind="stable")[:, ::-1][:, :count] * -1 + len(vectors) - 1

    curve = measure(vectors, 4, probe)
    assert min(curve.points[0].recall["stored"].mean) > 0.99


@pytest.mark.parametrize(("rows", "lists"), [(1, 1), (40, 1), (3000, 75), (100_000, 512), (1_000_000, 2048)])
def test_list_counts(rows: int, lists: int) -> None:
    assert list_count(rows) == lists


def test_centres_are_those_of_the_clusters() -> None:
    rng = np.random.default_rng(0)
    true = unit_rows(np.eye(DIMS)[:8])
    sample = unit_rows(np.repeat(true, 50, axis=0) + 0.01 * rng.standard_normal((400, DIMS)))
    centres = centres_of(sample, 8)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
    assert (centres[nearest_of(true, centres)] * true).sum(axis=1).min() > 0.7
    same = np.repeat(true[:1], 10, axis=0)
    assert np.isfinite(centres_of(same, 4)).all()  # most lists stay empty


@pytest.mark.parametrize("value", [0, 1.1, -0.5, float("nan"), "0.9", None, True])
def test_a_recall_out_of_range_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match=r"recall is .*; give a number above 0, at most 1"):
        RankingOptions(3, recall=value)  # type: ignore[arg-type]
