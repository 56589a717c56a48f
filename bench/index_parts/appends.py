"""The part `appends`: 500 builds that add three photos each, and what they leave.

`cir build-index` is called in this process on folders of three tiny pictures, with a model that costs nothing, so that
what is timed is the index. The answer of the result is compared with that of an index built of all photos at once.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cir import build_index, scan
from cir.files import remove_tree
from cir.indexer.writing.build import BuildOptions
from cir.testing.fakes import FakeEncoder, folder_of
from index_parts import base, engine
from index_parts.base import Setting, ms

APPENDS, PHOTOS, DIMS = 500, 3, 384
ENDS = 20  # appends at each end whose median counts
QUERIES = 200


def measure(setting: Setting) -> dict[str, Any]:
    """Times of the appends, segments that are left, and queries beside one segment."""
    home = setting.work / "appends"
    remove_tree(home)
    encoder = FakeEncoder(tokens=0, dims=DIMS)
    many, one = home / "many.index", home / "one.index"
    times, segments = [], []
    for number in range(APPENDS):
        photos = folder_of(home / "photos" / f"{number:04d}", PHOTOS, number * PHOTOS)
        times.append(base.timed(lambda photos=photos: _build(photos, many, encoder)))
        segments.append(engine.segments(many))
    _build_all(home / "photos", one, encoder)
    queries = _queries()
    calls = {}
    for name, index in (("appended", many), ("one segment", one)):
        gallery = engine.opened(index)
        vectors = engine.vectors_of(gallery, queries)
        calls[name] = lambda gallery=gallery, vectors=vectors: [
            engine.search(gallery, vectors[place : place + 1]) for place in range(len(queries))
        ]
    timed = base.rounds(setting, calls)
    pairs = zip(timed["appended"]["ms_all"], timed["one segment"]["ms_all"], strict=False)
    ratio = median(a / b for a, b in pairs)
    return {
        "appends": APPENDS,
        "photos_each": PHOTOS,
        "append_ms": [ms(value) for value in times],
        "first_ms": ms(median(times[1 : 1 + ENDS])),
        "last_ms": ms(median(times[-ENDS:])),
        "worst_ms": ms(max(times[1:])),
        "last_over_first": round(median(times[-ENDS:]) / median(times[1 : 1 + ENDS]), 3),
        "segments": {"most": max(segments), "at_the_end": segments[-1]},
        "query_ms": {name: round(figures["ms"] / len(queries), 4) for name, figures in timed.items()},
        "query_over_one_segment": round(ratio, 3),
        "same_answers": _same(many, one, queries),
    }


def _build(photos: Path, index: Path, encoder: FakeEncoder) -> None:
    build_index(scan([photos]), index, encoder, options=BuildOptions(workers=1))


def _build_all(photos: Path, index: Path, encoder: FakeEncoder) -> None:
    images = [image for folder in sorted(photos.iterdir()) for image in scan([folder])]
    build_index(images, index, encoder)


def _queries() -> Any:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((QUERIES, DIMS))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def _same(many: Path, one: Path, queries: Any) -> bool:
    answers = []
    for index in (many, one):
        gallery = engine.opened(index)
        answers.append(engine.search(gallery, engine.vectors_of(gallery, queries)))
    return answers[0] == answers[1]
