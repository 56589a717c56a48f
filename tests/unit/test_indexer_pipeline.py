"""From photos to vectors: several workers, one encoding per content, and what an interrupt leaves for the next run."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cir.arrays import Floats, Stored
from cir.errors import MissingImageError, WeightsError
from cir.images import ImageFile, scan
from cir.indexer.reading.verify import verify
from cir.indexer.storage.segment import Layout
from cir.indexer.writing import parts
from cir.indexer.writing.pipeline import Batch, DigestRegistry, encode_photos
from cir.testing.fakes import DIMS, TOKENS, FakeEncoder, answer, build
from cir.types import Encoded

LAYOUT = Layout.of(FakeEncoder().card)


def test_an_interrupt_keeps_what_is_encoded(photos: Path, out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(photos, out, FakeEncoder(after=12), workers=1, part_rows=5)
    assert (out / "work").is_dir()
    encoder = FakeEncoder()
    report = build(photos, out, encoder)
    assert report.resumed >= 12
    assert encoder.encoded == 20 - report.resumed
    assert not (out / "work").exists()
    assert verify(out) == []
    fresh = out.with_name("fresh.index")
    build(photos, fresh)
    assert answer(out) == answer(fresh)


def test_parts_of_another_model_or_layout_or_damaged_are_dropped(photos: Path, out: Path) -> None:
    def interrupt() -> None:
        with pytest.raises(KeyboardInterrupt):
            build(photos, out, FakeEncoder(after=12), workers=1)

    interrupt()
    encoder = FakeEncoder("fake-2")
    assert build(photos, out, encoder).resumed == 0
    assert encoder.encoded == 20
    shutil.rmtree(out)
    interrupt()
    assert build(photos, out, FakeEncoder(), tokens=False).resumed == 0
    shutil.rmtree(out)
    interrupt()
    files = sorted((out / "work").iterdir())
    data = bytearray(files[0].read_bytes())
    data[-1] ^= 1
    files[0].write_bytes(data)
    (out / "work" / "part").write_bytes(b"half")
    nonsense = b"no segment"
    (out / "work" / f"{hashlib.sha256(nonsense).hexdigest()}.h5").write_bytes(nonsense)
    encoder = FakeEncoder()
    report = build(photos, out, encoder)
    assert 0 < report.resumed < 12
    assert encoder.encoded == 20 - report.resumed


def test_many_parts_are_not_all_open_at_once(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_OPEN_PARTS", 2)
    assert build(photos, out, part_rows=1).total == 20
    assert verify(out) == []


def test_parts_are_found_by_content(tmp_path: Path, photos: Path) -> None:
    folder, encoder = tmp_path / "work", FakeEncoder()
    written = parts.Parts(folder, LAYOUT, 8)
    assert written.resumed == frozenset()
    expected: dict[bytes, Stored] = {}
    for batch in encode_photos(scan([photos]), encoder, LAYOUT, workers=1, batch_size=3):
        written.add(batch)
        assert batch.vectors is not None
        expected |= dict(zip(batch.digests, batch.vectors, strict=True))
    assert len(list(folder.glob("*.h5"))) == 2
    with pytest.raises(KeyError):
        written.find(batch.digests[-1])
    written.flush()
    for again in (written, parts.Parts(folder, LAYOUT, 8)):
        for digest, vector in expected.items():
            segment, row = again.find(digest)
            assert segment.vectors is not None
            np.testing.assert_array_equal(segment.vectors[row], vector)
    assert again.resumed == frozenset(expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Encoded(np.ones((4, DIMS), np.float32), np.ones((4, TOKENS, DIMS), np.float32)), "not of unit length"),
        (Encoded(np.full((4, DIMS), np.nan, np.float32), None), "not of unit length"),
        (Encoded(None, None), r"gave vectors none, not \(4, 16\)"),
        (Encoded(np.ones((4, 3), np.float32), None), r"gave vectors \(4, 3\), not \(4, 16\)"),
    ],
)
def test_an_encoder_that_contradicts_its_card(
    photos: Path, out: Path, wrong: Encoded, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEncoder, "encode_images", lambda self, pixels: wrong)
    with pytest.raises(WeightsError, match=message):
        build(photos, out)


def test_a_bug_in_the_encoder_keeps_its_traceback(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeEncoder, "encode_images", lambda self, pixels: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(photos, out)


def test_workers_encode_at_the_same_time(photos: Path, out: Path) -> None:
    barrier = threading.Barrier(2, timeout=10)
    meetings = []

    class Meeting(FakeEncoder):
        def encode_images(self, pixels: Floats) -> Encoded:
            meetings.append(barrier.wait())  # passes only when two threads encode at once
            return super().encode_images(pixels)

    build(photos, out, Meeting(), batch_size=1, part_rows=100)
    assert len(meetings) == 20


@dataclass(frozen=True)
class Counted:
    """A photo that counts how often it is read."""

    id: str
    data: bytes
    reads: list[str]

    def read(self) -> bytes:
        self.reads.append(self.id)
        if not self.data:
            raise MissingImageError(f"{self.id}: gone")
        return self.data


def test_the_look_ahead_is_bounded(photos: Path) -> None:
    """However long the consumer takes, at most two batches per worker are read ahead of it."""
    reads: list[str] = []
    data = [image.read() for image in scan([photos])]
    pictures = [Counted(str(number), data[number], reads) for number in range(20)]
    batches = encode_photos(pictures, FakeEncoder(), LAYOUT, workers=2, batch_size=1)
    for done, _ in enumerate(batches, start=1):
        assert len(reads) <= done + 3  # four batches are started before the first is handed out
    assert (done, len(reads)) == (20, 20)
    reads.clear()
    batches = encode_photos(pictures, FakeEncoder(), LAYOUT, workers=2, batch_size=1)
    next(batches)
    batches.close()
    assert len(reads) <= 4  # closing stops the rest


def test_batches_come_in_order_and_each_content_is_encoded_once(photos: Path) -> None:
    reads: list[str] = []
    data = [image.read() for image in scan([photos])]
    contents = [data[0], data[1], data[0], b"", b"no picture", data[2], b"no picture"]
    pictures = [Counted(str(number), content, reads) for number, content in enumerate(contents)]
    known = hashlib.sha256(data[1]).digest()
    encoder, registry = FakeEncoder(), DigestRegistry([known])
    batches = list(encode_photos(pictures, encoder, LAYOUT, registry, workers=3, batch_size=2))
    assert [photo.id for batch in batches for photo, _ in batch.files] == ["0", "1", "2", "4", "5", "6"]
    assert [(photo.id, reason) for batch in batches for photo, reason in batch.unreadable] == [("3", "3: gone")]
    assert sorted(digest for batch in batches for digest in batch.digests) == sorted(
        hashlib.sha256(data[number]).digest() for number in (0, 2)
    )
    (reason,) = (reason for batch in batches for reason in batch.undecodable.values())
    assert "not an image" in reason
    assert encoder.encoded == 2
    for digest in (known, hashlib.sha256(data[0]).digest()):
        assert not registry.take(digest)
    assert registry.take(bytes(32))


def test_without_an_encoder_photos_are_read_and_hashed(photos: Path) -> None:
    batches = list(encode_photos(scan([photos]), None, LAYOUT, workers=2, batch_size=6))
    assert [len(batch.files) for batch in batches] == [6, 6, 6, 2]
    assert all(batch.vectors is None and not batch.digests for batch in batches)


def test_a_batch_holds_what_the_layout_keeps(photos: Path) -> None:
    def only(layout: Layout) -> Batch[ImageFile]:
        (batch,) = encode_photos(scan([photos]), FakeEncoder(), layout, batch_size=20)
        return batch

    whole = only(LAYOUT)
    assert whole.vectors is not None
    assert whole.tokens is not None
    assert (whole.vectors.shape, whole.vectors.dtype.name) == ((20, DIMS), "float16")
    assert (whole.tokens.shape, whole.tokens.dtype.name) == ((20, TOKENS, DIMS), "float16")
    assert only(Layout.of(FakeEncoder().card, tokens=False)).tokens is None
    exact = only(Layout.of(FakeEncoder().card, precision="float32"))
    assert exact.vectors is not None
    assert exact.vectors.dtype == np.float32


def test_the_cores_are_divided_among_the_workers(photos: Path) -> None:
    shared: list[str | int] = []

    class Sharing(FakeEncoder):
        @contextmanager
        def shared_by(self, workers: int) -> Iterator[None]:
            shared.append(workers)
            yield
            shared.append("done")

    assert len(list(encode_photos(scan([photos]), Sharing(), LAYOUT, workers=3))) == 1
    assert shared == [3, "done"]
