"""The only calls of cir's search and writers in these measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from cir.arrays import Floats, Mask, Rows, Stored
from cir.errors import CirError as CirError
from cir.files import make_folder, sha256_bytes
from cir.indexer.reading import ann
from cir.indexer.reading.ann_curve import measure
from cir.indexer.reading.exact import rescore
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.lists import list_count as list_count
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.storage.folder import GALLERY, IndexFolder, is_index
from cir.indexer.storage.generations import adopt_segment, open_segment, read_manifest
from cir.indexer.storage.manifest import FileEntry, Manifest, SegmentEntry
from cir.indexer.storage.segment import EncodedBlock, Layout, RowTable, Segment, write_segment
from cir.indexer.storage.writer import writing
from cir.indexer.writing.compact import compact as compact_index
from cir.indexer.writing.import_vectors import import_vectors
from cir.indexer.writing.remove import remove as remove
from cir.query_vectors import QueryVectors
from cir.typed_json import to_json
from cir.types import DEFAULT_RECALL, ModelCard

K = 10
ANN_ROWS = 1_600  # below the default, so that short runs of these measurements take the same way


def write_index(
    path: Path, card: ModelCard, ids: Sequence[str], metadata: Mapping[str, Sequence[str]], blocks: Iterable[Stored]
) -> None:
    """Publish rows as a segment of an index, which is made if there is none, without its approximate index.

    Args:
        path: the index folder.
        card: the model that serves it.
        ids: N, ascending.
        metadata: column -> N texts.
        blocks: what its encoder gives: vectors, (n, D) each, or tokens, (n, T, D).
    """
    folder, layout = IndexFolder(path), Layout.of(card)
    make_folder(path)
    with writing(folder) as writer:
        work = folder.work / "segment"
        make_folder(work)
        digests = np.random.default_rng(len(ids)).integers(0, 256, (len(ids), 32), np.uint8)
        table = RowTable(ids=ids, digests=digests, roots=["/photos"] * len(ids), metadata=metadata)
        given = (EncodedBlock(None, block) if layout.tokens else EncodedBlock(block, None) for block in blocks)
        write_segment(work / GALLERY, layout, table, given)
        files = {GALLERY: FileEntry.of(work / GALLERY)}
        name = adopt_segment(folder, work)
        entry = SegmentEntry(
            name, len(ids), layout.model, layout.space, layout.dims, layout.tokens, layout.vectors, files
        )
        old = read_manifest(folder) if is_index(path) else Manifest.empty(card)
        writer.publish(old.succeed(segments=[*old.segments, entry]))


def only_segment(path: Path) -> Segment:
    """The one segment of an index."""
    folder = IndexFolder(path)
    (entry,) = read_manifest(folder).segments
    return open_segment(folder, entry)


def segments(path: Path) -> int:
    """How many segments an index has."""
    return len(read_manifest(IndexFolder(path)).segments)


def opened(path: Path) -> Gallery:
    """An index, opened for search."""
    return Gallery.open(path, ann_min_rows=ANN_ROWS)


def vectors_of(gallery: Gallery, queries: Floats) -> QueryVectors:
    """(B, D) vectors as queries of a gallery."""
    return QueryVectors(dict.fromkeys(gallery.query_spaces, np.ascontiguousarray(queries, np.float32)))


def search(
    gallery: Gallery,
    queries: QueryVectors,
    *,
    exact: bool = False,
    allowed: Mask | None = None,
    recall: float | None = None,
) -> list[list[tuple[str, float]]]:
    """The ten best of each query."""
    wanted = DEFAULT_RECALL if recall is None else recall
    return gallery.search(queries, RankingOptions(K, allowed=allowed, exact=exact, recall=wanted))


def rows_of(hits: list[tuple[str, float]]) -> Rows:
    """Rows of the hits in a world of one segment: its ids are its rows' numbers."""
    return np.array([int(image_id[-12:-4]) for image_id, _ in hits], np.int64)


# The approximate index.

RECALLS: tuple[float | None, ...] = (None, 0.8, 0.9, 0.95, 0.98, 0.995, 0.999)
FETCHED = 64 * K  # candidates of FAISS that are scored again


def build_ann(path: Path) -> None:
    """Make what a search derives from large segments, unless it is there: the first search does."""
    gallery = opened(path)
    search(gallery, vectors_of(gallery, np.eye(1, gallery.space.dims, dtype=np.float32)))


def raw_faiss(path: Path) -> Any:
    """The approximate index of an index of one segment, as FAISS reads it."""
    import faiss

    return faiss.read_index(str(only_segment(path).path.parent / "ann.faiss"), faiss.IO_FLAG_MMAP_IFC)


def faiss_rows(index: Any, query: Floats, nprobe: int, count: int) -> Rows:
    """Rows near a (D,) query, by raw FAISS."""
    import faiss

    _, rows = index.search(query[None], count, params=faiss.SearchParametersIVF(nprobe=min(nprobe, index.nlist)))
    return rows[0]


def refined_faiss(path: Path) -> Any:
    """The approximate index of an index of one segment, whose candidates FAISS scores again by float16 in memory."""
    import faiss

    vectors = only_segment(path).vectors
    assert vectors is not None
    kept = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for start in range(0, len(vectors), 1 << 16):
        kept.add(vectors[start : start + (1 << 16)].astype(np.float32))
    return faiss.IndexRefine(raw_faiss(path), kept)


def refined_rows(index: Any, query: Floats, nprobe: int, fetched: int) -> Rows:
    """The ten best of the candidates near a (D,) query."""
    import faiss

    inner = faiss.SearchParametersIVF(nprobe=nprobe)
    parameters = faiss.IndexRefineSearchParameters(k_factor=fetched / K, base_index_params=inner)
    _, rows = index.search(query[None], K, params=parameters)
    return rows[0]


def effort(gallery: Gallery) -> tuple[int, int]:
    """Lists and candidates that the engine takes for ten hits at its default recall; 0 lists if it scans."""
    point = _ann(gallery).effort(K, len(gallery), DEFAULT_RECALL)
    return (point.nprobe, point.overfetch * K) if point else (0, 0)


def described(gallery: Gallery) -> Any:
    """What the engine itself has measured about its approximate index."""
    return to_json(_ann(gallery).curve)


def _ann(gallery: Gallery) -> Any:
    (segment,) = gallery._segments
    return segment._load_ann()


@dataclass(frozen=True)
class Listed:
    """An approximate index with a chosen number of lists, and the effort that its own curve gives it."""

    index: Any
    vectors: Stored
    nprobe: int
    fetched: int

    @classmethod
    def build(cls, vectors: Stored, lists: int) -> Listed:
        """Build it over (N, D) unit vectors, and measure its curve."""
        with patch.object(ann, "list_count", lambda rows: lists):
            index = ann._build(vectors)
        curve = measure(vectors, lists, lambda queries, nprobe, count: ann._probe(index, queries, nprobe, count))
        point = curve.effort(K, 1, DEFAULT_RECALL)
        assert point is not None
        return cls(index, vectors, point.nprobe, point.overfetch * K)

    def search(self, query: Floats) -> Rows:
        """The ten best of a (D,) query."""
        rows = faiss_rows(self.index, query, self.nprobe, self.fetched)
        rows = rows[rows >= 0]
        return rows[np.argsort(-rescore(self.vectors, rows, query), kind="stable")[:K]]


# Life.


def card_of(path: Path) -> ModelCard:
    """The card of the model that serves an index."""
    return read_manifest(IndexFolder(path)).card


def plain_card(name: str, dims: int, tokens: int = 0) -> ModelCard:
    """The card of a model that nobody has: T tokens an image, or one vector if there are none."""
    none = "0" * 64
    return ModelCard(name, sha256_bytes(name.encode()), none, none, none, dims, tokens, tokens == 0)


def append(path: Path, card: ModelCard, ids: Sequence[str], vectors: Stored) -> None:
    """Add vectors without photos to an index."""
    import_vectors(vectors, path, card, ids=ids)


def compact(path: Path) -> None:
    """Write all live rows into one segment, and build its approximate index."""
    compact_index(path, ann_min_rows=ANN_ROWS)
