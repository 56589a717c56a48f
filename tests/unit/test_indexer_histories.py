"""Any sequence of appends, removals, compactions, merges and rollbacks equals a dictionary."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cir import compact, merge, remove
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.writing import merging
from cir.indexer.writing.history import rollback
from cir.testing.fakes import FakeEncoder, build, paint

Rows = dict[str, tuple[bytes, dict[str, str]]]  # id -> digest and metadata

NAMES = [f"{letter}.png" for letter in "abcdefg"]
COLOURS = ["red", "blue", ""]
STEP = st.one_of(
    st.tuples(
        st.just("append"),
        st.dictionaries(
            st.sampled_from(NAMES), st.tuples(st.integers(0, 9), st.sampled_from(COLOURS)), min_size=1, max_size=3
        ),
    ),
    st.tuples(st.just("remove"), st.sets(st.sampled_from(NAMES), min_size=1, max_size=3)),
    st.tuples(st.just("remove where"), st.sampled_from(COLOURS)),
    st.tuples(st.just("compact"), st.sampled_from([None, None, 0])),
    st.tuples(st.just("merge"), st.sets(st.integers(10, 13), min_size=1, max_size=3)),
    st.tuples(st.just("rollback"), st.none()),
)


@pytest.mark.parametrize("small", [1, merging.SMALL])
@settings(
    max_examples=10, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEP, min_size=3, max_size=8))
def test_an_index_is_a_dictionary(small: int, steps: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging.to_absorb, "__defaults__", (small,))  # 1: nothing is small, so segments remain
        _History(Path(folder)).run([("append", {"a.png": (0, "red"), "b.png": (1, "")}), *steps])


class _History:
    """An index, and what it must hold: now, and in the generation before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.photos = folder / "photos"
        self.index = folder / "x.index"
        self.rows: Rows = {}
        self.before: dict[int, Rows] = {}  # generation -> what it holds

    def run(self, steps: list[tuple[str, Any]]) -> None:
        for kind, what in steps:
            getattr(self, kind.replace(" ", "_"))(what)
            self.check()
            self.before[read_manifest(IndexFolder(self.index)).generation] = dict(self.rows)

    def append(self, photos: dict[str, tuple[int, str]]) -> None:
        metadata = {}
        shutil.rmtree(self.photos, ignore_errors=True)
        for name, (seed, colour) in photos.items():
            own = 100 * (1 + NAMES.index(name)) + seed  # a content under two names might be taken for a renamed photo
            digest = hashlib.sha256(paint(self.photos / name, own).read_bytes()).digest()
            old = self.rows.get(name, (b"", {}))[1]
            metadata[name] = {"colour": colour}
            kept = {column: value for column, value in {**old, "colour": colour}.items() if value}
            self.rows[name] = (digest, kept)
        build(self.photos, self.index, metadata=metadata)

    def remove(self, names: set[str]) -> None:
        held = sorted(names & self.rows.keys())
        assert remove(self.index, ids=held).removed == held
        for name in held:
            del self.rows[name]

    def remove_where(self, colour: str) -> None:
        if "colour" in Gallery.open(self.index).columns:
            wanted = sorted(name for name, (_, metadata) in self.rows.items() if metadata.get("colour", "") == colour)
            assert remove(self.index, where=f"colour={colour}").removed == wanted
            self.rows = {name: row for name, row in self.rows.items() if name not in wanted}

    def compact(self, keep: int | None) -> None:
        assert compact(self.index, keep=keep).segments == bool(self.rows)
        if keep == 0:
            self.before = {}

    def merge(self, seeds: set[int]) -> None:
        other, photos, out = self.folder / "other.index", self.folder / "others", self.folder / "out.index"
        for seed in seeds:
            paint(photos / f"other{seed}.png", seed)
        build(photos, other)
        report = merge([self.index, other], out)
        for photo in photos.iterdir():
            self.rows.setdefault(photo.name, (hashlib.sha256(photo.read_bytes()).digest(), {}))
        assert report.images == len(self.rows)
        shutil.rmtree(self.index)
        shutil.rmtree(other)
        out.rename(self.index)
        self.before = {}

    def rollback(self, _: None) -> None:
        previous = read_manifest(IndexFolder(self.index)).previous
        if previous:
            rollback(self.index)
            self.rows = dict(self.before[previous])

    def check(self) -> None:
        gallery = Gallery.open(self.index)
        stored = {name: (gallery.image(name).digest, dict(gallery.image(name).metadata)) for name in gallery.ids}
        assert stored == self.rows
        by_digest: dict[bytes, Any] = {}
        for name in gallery.ids:
            image = gallery.image(name)
            vector = by_digest.setdefault(image.digest, image.stored.tobytes())
            assert image.stored.tobytes() == vector
        assert len(set(by_digest.values())) == len(by_digest)
        assert verify(self.index) == []
        assert gallery.card == FakeEncoder().card
