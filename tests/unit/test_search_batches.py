"""Many queries at once: encoded in batches on several threads, ranked in groups, answered in their order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cir import Query, build_index, load_model, open_index
from cir.arrays import Floats
from cir.errors import MissingImageError, UsageError
from cir.images import scan
from cir.indexer.reading.coverage import Covered, search_covered
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.models.encoder import SprcEncoder
from cir.query_vectors import QueryVectors
from cir.search import Searcher
from cir.search.encoding import BATCH
from cir.types import SearchResult

CAPTIONS = ("in red", "blue with long sleeves", "red", "with red sleeves", "long")


@pytest.fixture(scope="module")
def path(wardrobe_folder: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("batches") / "my.index"
    images = scan([wardrobe_folder])
    table = {image.id: {"shelf": "ABC"[row % 3]} for row, image in enumerate(images)}
    build_index(images, out, load_model(tiny_model), metadata=table)
    return out


@pytest.fixture
def searcher(path: Path) -> Searcher:
    return open_index(path)


@pytest.fixture
def rankings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(number of queries, k) of each search of the gallery."""
    calls: list[tuple[int, int]] = []

    def counted(gallery: Gallery, queries: QueryVectors, options: RankingOptions, exclude: Any = None) -> Covered:
        calls.append((len(queries), options.k))
        return search_covered(gallery, queries, options, exclude)

    monkeypatch.setattr("cir.search.searcher.search_covered", counted)
    return calls


def composed(searcher: Searcher, count: int) -> list[Query]:
    ids = searcher.ids
    return [Query((ids[n % len(ids)],), CAPTIONS[n % len(CAPTIONS)], id=str(n)) for n in range(count)]


def hits(result: SearchResult) -> list[str]:
    return [hit.id for hit in result.hits]


def test_a_batch_gives_the_hits_of_single_queries(searcher: Searcher) -> None:
    queries = [Query((searcher.ids[i],), text) for i, text in enumerate(["in red", "", "with long sleeves"])]
    queries += [Query((), "blue", negatives=("red",)), Query((), "blue", id="last")]
    results = searcher.search_many(queries)
    assert results[-1].query.id == "last"
    for query, result in zip(queries, results, strict=True):
        assert hits(searcher.search(query)) == hits(result)


def test_no_queries_no_results(searcher: Searcher) -> None:
    assert searcher.search_many([]) == []
    assert len(searcher.encode([])) == 0


def test_queries_of_the_same_k_and_conditions_are_ranked_in_one_call(
    searcher: Searcher, rankings: list[tuple[int, int]]
) -> None:
    searcher.search_many(composed(searcher, 20))
    assert rankings == [(20, 10)]


@pytest.mark.parametrize("exact", [False, True])
def test_mixed_queries_are_answered_in_their_order(
    searcher: Searcher, rankings: list[tuple[int, int]], exact: bool
) -> None:
    kinds: list[tuple[int, tuple[tuple[str, str], ...]]] = [
        (3, ()),
        (7, ()),
        (3, (("shelf", "A"),)),
        (3, (("shelf", "B"),)),
    ]
    queries = [
        Query(query.references, query.text, k=kinds[n % 4][0], where=kinds[n % 4][1], id=query.id)
        for n, query in enumerate(composed(searcher, 18))
    ]
    results = searcher.search_many(queries, exact=exact)
    assert rankings == [(5, 3), (5, 7), (4, 3), (4, 3)]  # one call for each pair of k and conditions
    assert [result.query for result in results] == queries
    for query, result in zip(queries, results, strict=True):
        alone = searcher.search(query, exact=exact)
        assert (hits(result), result.searched) == (hits(alone), alone.searched)
        assert [hit.score for hit in result.hits] == pytest.approx([hit.score for hit in alone.hits], abs=1e-5)
        assert len(result.hits) == query.k


def test_a_bad_query_refuses_the_whole_batch(searcher: Searcher) -> None:
    good = Query((), "in red")
    with pytest.raises(UsageError, match="an empty query"):
        searcher.search_many([good, Query()])
    with pytest.raises(MissingImageError, match=r"nowhere\.jpg"):
        searcher.search_many([good, Query(("nowhere.jpg",), "in red")])
    with pytest.raises(UsageError, match="no metadata column 'price'"):
        searcher.search_many([good, Query((), "in red", where=(("price", "5"),))])


def test_threads_encode_what_single_queries_encode(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir.threads.default_workers", lambda: 3)
    threads: set[str] = set()
    both = threading.Barrier(2, timeout=30)  # neither of two batches ends before the other has begun
    encode = SprcEncoder.encode_queries

    def noted(self: SprcEncoder, pixels: Floats, captions: Sequence[str], space: str | None = None) -> Floats:
        if len(captions) == BATCH:
            both.wait()
        threads.add(threading.current_thread().name)
        return encode(self, pixels, captions, space)

    monkeypatch.setattr(SprcEncoder, "encode_queries", noted)
    queries = composed(searcher, 2 * BATCH + 3)
    queries += [Query((), text, negatives=("blue",)) for text in CAPTIONS * 5]
    queries += [Query((searcher.ids[0], searcher.ids[1]), "in red"), Query((searcher.ids[4],))]
    together = searcher.encode(queries)
    assert len(threads) > 1
    assert threading.current_thread().name not in threads
    (space,) = together.by_space
    alone = np.concatenate([searcher.encode([query]).by_space[space] for query in queries])
    assert np.abs(together.by_space[space] - alone).max() < 1e-5


def test_ranking_sums_of_vectors(searcher: Searcher) -> None:
    """Evaluation ranks sums of encoded queries; `allowed` and `exclude` limit the hits."""
    image, text = searcher.encode([Query((searcher.ids[0],))]), searcher.encode([Query((), "blue")])
    total = 0.3 * image + 0.7 * text
    (ranked,) = searcher.rank(total, 40)
    (scaled,) = searcher.rank(5 * total, 40)
    assert [image_id for image_id, _ in scaled] == [image_id for image_id, _ in ranked]
    allowed, excluded = searcher.ids[10:20], frozenset(searcher.ids[12:14])
    (few,) = searcher.rank(total, 40, allowed=allowed, exclude=[excluded])
    assert few == [(name, score) for name, score in ranked if name in allowed and name not in excluded]
    with pytest.raises(UsageError, match="no such image"):
        searcher.rank(total, 5, allowed=["no such image"])
