"""The regression guard of a backfill: compares with the beginning, stops, and stays stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from cir.data.judged_query import JudgedQuery
from cir.files import write_text
from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.backfill import backfill
from cir.indexer.writing.history import rollback
from cir.mappings import SpaceMapping
from cir.replacement import questions
from cir.replacement.guard import RegressionGuard
from cir.search import Searcher
from cir.testing.fakes import FakeEncoder, build, folder_of
from cir.testing.two_models import NEW, OLD, PROCRUSTES, serve_new
from cir.types import Encoder, ModelCard, Query

IMAGES, QUERIES, PART = 40, 60, 4
CAPTIONS = [f"caption {number}" for number in range(QUERIES)]


def load(card: ModelCard) -> Encoder:
    encoders: dict[str, FakeEncoder] = {encoder.card.digest: encoder for encoder in (OLD, NEW)}
    return encoders[card.digest]


def watch(index: Path, *, margin: float = 0.0) -> RegressionGuard:
    return RegressionGuard(Searcher(Gallery.open(index), load), margin=margin)


def replaced(folder: Path, mapping: SpaceMapping | None = PROCRUSTES) -> Path:
    """An index of the old model that the new one serves by a mapping; judged queries answered perfectly as it is.

    The mapping is random, so that encoding images again changes the ranking of every query.
    """
    index = folder / "x.index"
    build(folder_of(folder / "photos", IMAGES), index, OLD)
    searcher = Searcher(Gallery.open(index), load)
    if mapping is not None:
        serve_new(index, mapping)
        searcher = Searcher(Gallery.open(index), load)
    results = searcher.search_many([Query((), caption, k=1) for caption in CAPTIONS])
    queries = [
        JudgedQuery(f"q{number}", "", result.query.text, frozenset([result.hits[0].id]))
        for number, result in enumerate(results)
    ]
    questions.store(searcher.gallery, queries)
    if mapping is None:
        serve_new(index, None)
    return index


def backfill_until_stopped(index: Path, guard: RegressionGuard) -> str:
    """Why the guard stopped a backfill of the index; empty if it did not."""
    for _ in backfill(index, NEW, part=PART):
        reason = guard.regression()
        if reason:
            return reason
    return ""


def test_a_backfill_that_lowers_recall_is_stopped_and_stays_stopped(tmp_path: Path) -> None:
    index = replaced(tmp_path)
    guard = watch(index)
    assert (guard.regression(), guard.seen) == ("", {"before": {"R@1": 1.0, "R@10": 1.0}})
    reason = backfill_until_stopped(index, guard)
    assert reason.startswith(f"R@1 of {QUERIES} judged queries has dropped by at least ")
    gallery = Gallery.open(index)
    assert len(gallery.ids_in(NEW.card.space.id)) == IMAGES // 4 + 2  # the first part that passes a quarter
    assert list(guard.seen) == ["before", "30 %"]
    assert guard.seen["30 %"]["R@1"] < 1
    assert guard.regression() == reason
    later = watch(index)  # another process, another day
    assert later.regression() == reason
    assert list(later.seen) == ["30 %"]  # it compares with the beginning that is stored


def test_a_rollback_starts_over(tmp_path: Path) -> None:
    index = replaced(tmp_path)
    before = Gallery.open(index).manifest.generation
    reason = backfill_until_stopped(index, watch(index))
    rollback(index, before)
    again = watch(index)
    assert again.regression() == ""  # nothing is re-indexed
    assert backfill_until_stopped(index, again) == reason


def test_a_margin_accepts_a_loss_but_not_many_flips(tmp_path: Path) -> None:
    reason = backfill_until_stopped(index := replaced(tmp_path), watch(index, margin=1.0))
    assert "% negative flips: answered within 10 before the backfill, and no longer" in reason


def test_each_quarter_is_evaluated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cir.replacement.guard.MAX_NEGATIVE_FLIP_RATE", 1.0)
    index = replaced(tmp_path)
    guard = watch(index, margin=1.0)
    assert backfill_until_stopped(index, guard) == ""
    assert list(guard.seen) == ["before", "30 %", "50 %", "80 %"]
    assert watch(index, margin=1.0).regression() == ""


def test_a_stored_state_that_cannot_be_read_is_measured_again(tmp_path: Path) -> None:
    index = replaced(tmp_path)
    watch(index)
    state = Gallery.open(index).folder.guard
    for text in ("not json", "{}", '{"about": 5, "first": [], "passed": 0}'):
        write_text(state, text)
        assert watch(index).seen == {"before": {"R@1": 1.0, "R@10": 1.0}}
    assert watch(index).seen == {}


def test_nothing_is_watched_without_queries_or_a_mapping(tmp_path: Path) -> None:
    """Images that no mapping reaches are not searched yet: encoding them can only help."""
    unsearched = replaced(tmp_path / "unsearched", None)
    assert backfill_until_stopped(unsearched, watch(unsearched)) == ""
    assert watch(unsearched).seen == {}
    unasked = tmp_path / "unasked.index"
    build(folder_of(tmp_path / "photos", 12), unasked, OLD)
    serve_new(unasked, PROCRUSTES)
    guard = watch(unasked)
    assert (backfill_until_stopped(unasked, guard), guard.seen) == ("", {})
