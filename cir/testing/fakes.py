"""A tiny deterministic encoder, folders of small pictures, and indexes made by hand.

`python -m cir.testing.fakes FOLDER OUT` builds an index with the fake encoder: a process for crash tests to kill.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cir.arrays import Floats
from cir.files import make_folder
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.manifest import FileEntry, Manifest, SegmentEntry, adopt_segment, publish
from cir.indexer.storage.segment import Layout, RowBlock, write_segment
from cir.indexer.writing.build import BuildOptions, build_index
from cir.indexer.writing.plan import Metadata
from cir.indexer.writing.report import BuildReport
from cir.query_vectors import QueryVectors
from cir.types import Encoded, ModelCard, Progress

DIMS, TOKENS, SIDE = 16, 4, 4


def unit_rows(values: np.ndarray) -> Floats:
    """(..., D) float64 -> float32, unit-norm, computed in double precision."""
    rows: Floats = (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)
    return rows


class FakeEncoder:
    """Fixed random projections of 4 x 4 pixels; what it says of a picture does not depend on the batch."""

    def __init__(self, name: str = "fake-1", *, vector: bool = True, tokens: int = TOKENS) -> None:
        weights = hashlib.sha256(f"{name} {vector} {tokens}".encode()).hexdigest()
        self.card = ModelCard(name, weights, "0" * 64, DIMS, tokens, vector)
        rng = np.random.default_rng(7)
        self._vector = rng.standard_normal((3 * SIDE * SIDE, DIMS))
        self._tokens = rng.standard_normal((tokens, 3 * SIDE * SIDE, DIMS))
        self._lock = threading.Lock()
        self.directory: Path | None = None
        self.encoded = 0
        self.batches: list[int] = []

    @contextlib.contextmanager
    def shared_by(self, workers: int) -> Iterator[None]:
        """Nothing to divide."""
        yield

    def preprocess(self, image: Image.Image) -> np.ndarray:
        """(3, 4, 4) float32."""
        pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST), np.float32)
        return pixels.transpose(2, 0, 1) / 255 - 0.5

    def encode_images(self, pixels: np.ndarray) -> Encoded:
        """Vectors and tokens, image by image."""
        with self._lock:
            self.encoded += len(pixels)
            self.batches.append(len(pixels))
        flat = [one.reshape(-1).astype(np.float64) for one in pixels]
        vectors = unit_rows(np.stack([one @ self._vector for one in flat])) if self.card.vector else None
        tokens = (
            unit_rows(np.stack([np.einsum("i,tid->td", one, self._tokens) for one in flat]))
            if self.card.tokens
            else None
        )
        return Encoded(vectors, tokens)

    def encode_texts(self, captions: Sequence[str], space: str | None = None) -> np.ndarray:
        """Unit vectors drawn from the captions."""
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) for text in captions]
        return unit_rows(np.stack([np.random.default_rng(seed).standard_normal(DIMS) for seed in seeds]))


def paint(path: Path, seed: int) -> Path:
    """A small PNG of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def answer(out: Path, k: int = 100) -> list[list[tuple[str, float]]]:
    """What the index answers to two questions."""
    gallery = Gallery.open(out)
    queries = QueryVectors({gallery.space.id: FakeEncoder().encode_texts(["one", "two"])})
    return gallery.search(queries, RankingOptions(k))


def folder_of(path: Path, count: int, start: int = 0) -> Path:
    """A folder of `count` different pictures."""
    for number in range(start, start + count):
        paint(path / f"{number:04d}.png", number)
    return path


def build(
    folders: Path | Sequence[Path],
    out: Path,
    encoder: FakeEncoder | None = None,
    *,
    metadata: Metadata | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> BuildReport:
    """Scan folders and build an index with small batches and parts; `options` are `BuildOptions`."""
    paths = [folders] if isinstance(folders, Path) else list(folders)
    small: dict[str, Any] = {"workers": 2, "batch_size": 4, "part_rows": 8}
    return build_index(
        scan(paths),
        out,
        encoder or FakeEncoder(),
        options=BuildOptions(**{**small, **options}),
        metadata=metadata,
        progress=progress,
    )


@dataclass
class Rows:
    """Rows for a hand-made segment: ids, (n, D) vectors or None, (n, T, D) tokens or None, metadata."""

    ids: list[str]
    vectors: np.ndarray | None = None
    tokens: np.ndarray | None = None
    metadata: list[dict[str, str]] | None = None
    deleted: tuple[int, ...] = ()


def random_rows(ids: list[str], seed: int, *, vectors: bool = True, tokens: int = 0) -> Rows:
    """Random unit vectors and tokens; the same picture twice now and then."""
    rng = np.random.default_rng(seed)
    values = unit_rows(rng.standard_normal((len(ids), 1 + tokens, DIMS)))
    for row in range(5, len(ids), 7):
        values[row] = values[row - 5]
    metadata = [{"colour": ["Red", "blue", "GREEN"][row % 3]} if row % 4 else {} for row in range(len(ids))]
    return Rows(ids, values[:, 0] if vectors else None, values[:, 1:] if tokens else None, metadata)


def make_index(path: Path, segments: Sequence[Rows], tokens: int = 0, vectors: bool = True) -> Path:
    """Publish a generation with these rows, as they are."""
    encoder = FakeEncoder(tokens=tokens, vector=vectors)
    folder, layout = IndexFolder(path), Layout.of(encoder.card)
    entries, deleted = [], {}
    for rows in segments:
        count = len(rows.ids)
        work = folder.work / "segment"
        make_folder(work)
        digests = b"".join(hashlib.sha256(image_id.encode()).digest() for image_id in rows.ids)
        block = RowBlock(
            ids=rows.ids,
            digests=np.frombuffer(digests, np.uint8).reshape(count, 32),
            roots=["/photos"] * count,
            metadata=rows.metadata or [{}] * count,
            vectors=None if rows.vectors is None else rows.vectors.astype(np.float16),
            tokens=None if rows.tokens is None else rows.tokens.astype(np.float16),
        )
        write_segment(work / GALLERY, layout, count, [block])
        files = {GALLERY: FileEntry.of(work / GALLERY)}
        name = adopt_segment(folder, work)
        entries.append(SegmentEntry(name, count, layout.model, layout.space, DIMS, tokens, vectors, files))
        if rows.deleted:
            deleted[name] = rows.deleted
    manifest = Manifest.empty(encoder.card)
    publish(folder, manifest.succeed(folder, encoder=encoder, segments=entries, deleted=deleted))
    return path


def main() -> None:
    """Build as told by the command line: FOLDER OUT; prints a line per batch and one at the end."""
    encoder = FakeEncoder()
    build(Path(sys.argv[1]), Path(sys.argv[2]), encoder, progress=lambda done, _: print(done, flush=True))
    print("built", encoder.encoded, flush=True)


if __name__ == "__main__":
    main()
