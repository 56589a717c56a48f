"""What a re-index would take is estimated from the pipeline, as a build would have it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.pipeline import encode_photos
from cir.replacement import collect
from cir.search import Searcher
from cir.testing.fakes import FakeEncoder, build, folder_of


def test_the_speed_is_that_of_the_pipeline_and_of_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(folder_of(tmp_path / "photos", 12), tmp_path / "x.index", FakeEncoder("fake-1"))
    searcher = Searcher(Gallery.open(tmp_path / "x.index"), lambda card: FakeEncoder("fake-1"))
    photos = [searcher.gallery.image(image_id) for image_id in searcher.gallery.ids]
    clock = [0.0]

    def pipeline(*args: Any, **options: Any) -> Iterator[Any]:
        for batch in encode_photos(*args, **options):
            clock[0] += 3.0
            yield batch

    def stack(rows: list[Any]) -> Any:
        clock[0] += 1000.0  # whatever is done with the vectors afterwards
        return real_stack(rows)

    real_stack = collect.np.stack
    monkeypatch.setattr(collect, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(collect, "encode_photos", pipeline)
    monkeypatch.setattr(collect, "np", SimpleNamespace(stack=stack, float32=collect.np.float32))
    collector = collect.SampleCollector(searcher, FakeEncoder("fake-2"), 0)  # type: ignore[arg-type]
    usable, vectors, speed = collector.encode(photos)
    assert (len(usable), len(vectors)) == (12, 12)
    assert speed == pytest.approx(12 / 3.0)
