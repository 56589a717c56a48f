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
from numpy.typing import NDArray
from PIL import Image

from cir.arrays import Floats
from cir.errors import CorruptIndexError, IndexFormatError
from cir.files import make_folder
from cir.given import strings
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.generations import adopt_segment
from cir.indexer.storage.manifest import FileEntry, Manifest, SegmentEntry, runs_of
from cir.indexer.storage.segment import EncodedBlock, Layout, RowTable, by_column, write_segment
from cir.indexer.storage.writer import writing
from cir.indexer.writing.build import BuildOptions, build_index
from cir.indexer.writing.plan import Metadata
from cir.indexer.writing.report import BuildReport
from cir.indexer.writing.spreading import Spread
from cir.query_vectors import QueryVectors
from cir.types import Encoded, ModelCard, Progress

DIMS, TOKENS, SIDE = 16, 4, 4


Answer = list[list[tuple[str, float]]]  # for each query (id, score), best first


def unit_rows(values: NDArray[np.floating[Any]]) -> Floats:
    """(..., D) float64 -> float32, unit-norm, computed in double precision."""
    rows: Floats = (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)
    return rows


class FakeEncoder:
    """Fixed random projections of 4 x 4 pixels; what it gives for a picture does not depend on the batch.

    Attributes:
        min_side: None, pictures are never reduced.
        card: its identity; another name, other dims or other outputs are another model.
        directory: where the model lies, as for a real one; None until a test sets it.
        encoded: number of images encoded so far.
        batches: size of each batch encoded so far.
    """

    min_side: int | None = None

    def __init__(
        self, name: str = "fake-1", *, vector: bool = True, tokens: int = TOKENS, dims: int = DIMS, after: int = 10**9
    ) -> None:
        """Make an encoder.

        Args:
            name: of the model.
            vector: whether it gives one vector per image.
            tokens: T, tokens per image; 0 for none.
            dims: D.
            after: number of images after which it raises KeyboardInterrupt instead of encoding.
        """
        weights = hashlib.sha256(f"{name} {vector} {tokens} {dims}".encode()).hexdigest()
        none = "0" * 64  # no configuration, no words, no preprocessing
        self.card = ModelCard(name, weights, none, none, none, dims, tokens, vector)
        self.directory: Path | None = None
        self.encoded = 0
        self.batches: list[int] = []
        rng = np.random.default_rng(7)
        self._vector = rng.standard_normal((3 * SIDE * SIDE, dims))
        self._tokens = rng.standard_normal((tokens, 3 * SIDE * SIDE, dims))
        self._after = after
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def shared_by(self, workers: int) -> Iterator[None]:
        """Nothing to divide."""
        yield

    def preprocess(self, image: Image.Image) -> Floats:
        """(3, 4, 4) float32."""
        pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST), np.float32)
        return pixels.transpose(2, 0, 1) / np.float32(255) - np.float32(0.5)

    def encode_images(self, pixels: Floats) -> Encoded:
        """(B, 3, 4, 4) -> vectors and tokens, image by image."""
        with self._lock:
            if self.encoded >= self._after:
                raise KeyboardInterrupt
            self.encoded += len(pixels)
            self.batches.append(len(pixels))
        flat = [picture.reshape(-1).astype(np.float64) for picture in pixels]
        vectors = unit_rows(np.stack([picture @ self._vector for picture in flat])) if self.card.vector else None
        tokens = (
            unit_rows(np.stack([np.einsum("i,tid->td", picture, self._tokens) for picture in flat]))
            if self.card.tokens
            else None
        )
        return Encoded(vectors, tokens)

    def encode_queries(self, pixels: Floats, captions: Sequence[str], space: str | None = None) -> Floats:
        """(B, D): half the reference's projection, half the caption's vector."""
        flat = [picture.reshape(-1).astype(np.float64) for picture in pixels]
        return unit_rows(
            unit_rows(np.stack([picture @ self._vector for picture in flat])) + self.encode_texts(captions)
        )

    def encode_texts(self, captions: Sequence[str], space: str | None = None) -> Floats:
        """(B, D): unit vectors drawn from the captions."""
        texts = strings(captions, "captions")
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) for text in texts]
        drawn = [np.random.default_rng(seed).standard_normal(self.card.dims) for seed in seeds]
        return unit_rows(np.reshape(drawn, (len(seeds), self.card.dims)))


def paint(path: Path, seed: int) -> Path:
    """A small PNG of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def queries_for(gallery: Gallery, *captions: str) -> QueryVectors:
    """Captions as queries in a fake gallery's own space."""
    return QueryVectors({gallery.space.id: FakeEncoder(dims=gallery.space.dims).encode_texts(captions)})


def answer(out: Path, k: int = 100) -> Answer:
    """What an index of fake vectors answers to two queries."""
    gallery = Gallery.open(out, strict=True)
    return gallery.search(queries_for(gallery, "first", "second"), RankingOptions(k))


def answer_or_none(out: Path) -> Answer | None:
    """The answer of an index; None where no index is published. A corrupt index raises CorruptIndexError."""
    try:
        return answer(out)
    except CorruptIndexError:
        raise
    except IndexFormatError:
        return None


def folder_of(path: Path, count: int, start: int = 0) -> Path:
    """A folder of `count` different pictures."""
    for number in range(start, start + count):
        paint(path / f"{number:04d}.png", number)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of an index but its lock, which every writer signs, by path."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "LOCK")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def build(
    folders: Path | Sequence[Path],
    out: Path,
    encoder: FakeEncoder | None = None,
    *,
    metadata: Metadata | None = None,
    progress: Progress | None = None,
    spread: Spread | None = None,
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
        spread=spread,
    )


@dataclass
class Rows:
    """Rows of a hand-made segment.

    Attributes:
        ids: n ids.
        vectors: (n, D), or None.
        tokens: (n, T, D), or None.
        metadata: n times column -> value; none if None.
        deleted: rows that no longer count.
    """

    ids: list[str]
    vectors: Floats | None = None
    tokens: Floats | None = None
    metadata: list[dict[str, str]] | None = None
    deleted: tuple[int, ...] = ()

    def sorted(self) -> Rows:
        """The same rows by ascending id, as segments hold them."""
        order = sorted(range(len(self.ids)), key=self.ids.__getitem__)
        return Rows(
            [self.ids[row] for row in order],
            None if self.vectors is None else self.vectors[order],
            None if self.tokens is None else self.tokens[order],
            None if self.metadata is None else [self.metadata[row] for row in order],
            tuple(place for place, row in enumerate(order) if row in self.deleted),
        )


def random_rows(ids: list[str], seed: int, *, vectors: bool = True, tokens: int = 0) -> Rows:
    """Random unit vectors and tokens, a few of them equal, and a metadata column `colour`.

    Args:
        ids: n ids.
        seed: of the random numbers.
        vectors: whether to make (n, 16) vectors.
        tokens: T of the (n, T, 16) tokens; 0 for none.
    """
    rng = np.random.default_rng(seed)
    values = unit_rows(rng.standard_normal((len(ids), 1 + tokens, DIMS)))
    for row in range(5, len(ids), 7):
        values[row] = values[row - 5]
    metadata = [{"colour": ["Red", "blue", "GREEN"][row % 3]} if row % 4 else {} for row in range(len(ids))]
    return Rows(ids, values[:, 0] if vectors else None, values[:, 1:] if tokens else None, metadata)


def make_index(path: Path, segments: Sequence[Rows], tokens: int = 0, vectors: bool = True) -> Path:
    """Publish a generation with these rows, one segment each, as if `FakeEncoder` had made them."""
    encoder = FakeEncoder(tokens=tokens, vector=vectors)
    folder, layout = IndexFolder(path), Layout.of(encoder.card)
    make_folder(path)
    with writing(folder) as writer:
        entries, deleted = [], {}
        for rows in map(Rows.sorted, segments):
            count = len(rows.ids)
            work = folder.work / "segment"
            make_folder(work)
            digests = b"".join(hashlib.sha256(image_id.encode()).digest() for image_id in rows.ids)
            table = RowTable(
                ids=rows.ids,
                digests=np.frombuffer(digests, np.uint8).reshape(count, 32),
                roots=["/photos"] * count,
                metadata=by_column(rows.metadata or []),
            )
            block = EncodedBlock(
                vectors=None if rows.vectors is None else rows.vectors.astype(np.float16),
                tokens=None if rows.tokens is None else rows.tokens.astype(np.float16),
            )
            write_segment(work / GALLERY, layout, table, [block])
            files = {GALLERY: FileEntry.of(work / GALLERY)}
            name = adopt_segment(folder, work)
            entries.append(SegmentEntry(name, count, layout.model, layout.space, DIMS, tokens, vectors, files))
            if rows.deleted:
                deleted[name] = runs_of(np.array(sorted(rows.deleted), np.int64))
        manifest = Manifest.empty(encoder.card)
        writer.publish(manifest.succeed(segments=entries, deleted=deleted))
    return path


def main() -> None:
    """Build an index from the arguments FOLDER OUT; prints a line per batch and one at the end."""
    encoder = FakeEncoder()
    build(Path(sys.argv[1]), Path(sys.argv[2]), encoder, progress=lambda done, _: print(done, flush=True))
    print("built", encoder.encoded, flush=True)


if __name__ == "__main__":
    main()
