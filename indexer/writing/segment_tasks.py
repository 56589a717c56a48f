"""One segment of a build that is cut by position: what it is made from, and how it is made, on whatever machine.

The photos of a build, by ascending id, are cut into runs of equal length; each becomes a segment of its own, written
where it stays. A record under `work/segments/` says what became of every photo of the run, so that a build which was
stopped finds its finished segments again. Neither depends on who made the others: the same photos, cut alike, give the
same bytes in one process and on many machines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cir.errors import WeightsError
from cir.files import parse_json, read_regular
from cir.indexer.storage.folder import GALLERY, LARGEST_JSON, IndexFolder, record, records
from cir.indexer.storage.manifest import FileEntry, SegmentEntry
from cir.indexer.storage.segment import EncodedBlock, Layout, RowTable, by_column, write_segment
from cir.indexer.writing.pipeline import DigestRegistry, encode_photos
from cir.indexer.writing.segment_places import SegmentPlace, place_at
from cir.indexer.writing.stored_rows import StoredRows
from cir.places import is_url
from cir.types import GalleryEncoder


class RootedPhoto(Protocol):
    """A photo with its place: an `ImageFile`, or a `KeptPhoto` of an index. It can be pickled."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def root(self) -> str:
        """Where it is, as the index keeps it."""

    def read(self) -> bytes:
        """The bytes of its file. Raises MissingImageError or ImageDecodeError."""


@dataclass(frozen=True)
class KnownDigests:
    """Contents that an index holds, which need no encoding: `digest in known`.

    Attributes:
        keys: (n,) the first 64 bits of each digest, ascending.
        digests: (n, 32) in the same order.
    """

    keys: NDArray[np.uint64]
    digests: NDArray[np.uint8]

    @classmethod
    def of(cls, rows: StoredRows | None = None) -> KnownDigests:
        """Those of the live rows of an index; none without rows."""
        held = [each.segment.digests[each.live] for each in rows.segments] if rows else []
        digests = np.concatenate([np.zeros((0, 32), np.uint8), *held])
        keys = np.ascontiguousarray(digests[:, :8]).view(np.uint64).reshape(-1)
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], digests[order])

    def __contains__(self, digest: object) -> bool:
        if not isinstance(digest, bytes):
            return False
        key = np.frombuffer(digest, np.uint64, 1)[0]
        first, last = np.searchsorted(self.keys, key, "left"), np.searchsorted(self.keys, key, "right")
        return bool((self.digests[first:last] == np.frombuffer(digest, np.uint8)).all(axis=1).any())


@dataclass(frozen=True)
class Recipe:
    """What all segments of a build share.

    Attributes:
        index: the index folder, absolute, or the URL of an index in an object store.
        layout: of the segments.
        batch_size: photos per call of the encoder; batches begin anew in each segment.
        known: contents that the index holds; a photo of one is read, and not encoded.
        build: noted in the index folder, by which who has mounted it knows that it is the same one.
    """

    index: str
    layout: Layout
    batch_size: int
    known: KnownDigests
    build: str


@dataclass(frozen=True)
class SegmentTask:
    """A segment that is to be made.

    Attributes:
        name: of the segment.
        key: tells whether a record is that of this task: the same photos, to be encoded in the same way.
        photos: n photos, by ascending id.
        metadata: n times column -> value.
    """

    name: str
    key: str
    photos: Sequence[RootedPhoto]
    metadata: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class SegmentResult:
    """What became of the photos of a task, which are named by their place in it.

    Attributes:
        key: of the task.
        entry: the segment that was written; None if no photo of it had to be encoded, or could be.
        encoded: the photos that are its rows.
        digests: photo -> SHA-256 of its file, for all that could be read.
        unreadable: photo -> why it cannot be read.
        undecodable: digest -> why a content is no usable image.
        decode_seconds, encode_seconds: CPU time.
        resumed: whether a record of an earlier build says so.
    """

    key: str
    entry: SegmentEntry | None
    encoded: tuple[int, ...]
    digests: Mapping[int, bytes]
    unreadable: Mapping[int, str]
    undecodable: Mapping[bytes, str]
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    resumed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as a record holds them."""
        entry = self.entry
        file = entry and [entry.files[GALLERY].bytes, entry.files[GALLERY].sha256]
        return {
            "key": self.key,
            "file": file,
            "encoded": list(self.encoded),
            "digests": [[photo, digest.hex()] for photo, digest in self.digests.items()],
            "unreadable": [[photo, reason] for photo, reason in self.unreadable.items()],
            "undecodable": [[digest.hex(), reason] for digest, reason in self.undecodable.items()],
        }


class _Numbered(NamedTuple):
    """A photo and its place in a task."""

    number: int
    photo: RootedPhoto

    @property
    def id(self) -> str:
        """Its id."""
        return self.photo.id

    def read(self) -> bytes:
        """The bytes of its file."""
        return self.photo.read()


def make_segment(
    task: SegmentTask, recipe: Recipe, encoder: GalleryEncoder, workers: int | None = None
) -> SegmentResult:
    """Encode the photos of a task, write their segment and its record; or find both finished.

    Args:
        task: what to make.
        recipe: how.
        encoder: the model of the recipe's layout.
        workers: threads that decode and encode; default one per core.

    Raises:
        WeightsError: another model, or its output contradicts its card.
        DataError: the disk is full or refuses.
    """
    if encoder.card.digest != recipe.layout.model:
        raise WeightsError(
            f"this machine's {encoder.card.name} is not the model of the index, {recipe.layout.model_name} "
            f"({recipe.layout.model}); install the same version of cir and of the model everywhere"
        )
    place = place_at(recipe.index)
    done = _finished(task, recipe, place)
    if done is not None:
        return done
    photos = [_Numbered(number, photo) for number, photo in enumerate(task.photos)]
    registry = DigestRegistry(recipe.known, once=False)
    encoded: list[int] = []
    digests: dict[int, bytes] = {}
    unreadable: dict[int, str] = {}
    undecodable: dict[bytes, str] = {}
    blocks: list[EncodedBlock] = []
    decoding = encoding = 0.0
    batches = encode_photos(photos, encoder, recipe.layout, registry, workers=workers, batch_size=recipe.batch_size)
    with closing(batches):
        for batch in batches:
            digests |= {photo.number: digest for photo, digest in batch.files}
            unreadable |= {photo.number: reason for photo, reason in batch.unreadable}
            undecodable |= batch.undecodable
            encoded += [photo.number for photo in batch.encoded]
            if batch.encoded:
                blocks.append(EncodedBlock(batch.vectors, batch.tokens))
            decoding, encoding = decoding + batch.decode_seconds, encoding + batch.encode_seconds
    result = SegmentResult(task.key, None, tuple(encoded), digests, unreadable, undecodable, decoding, encoding)
    if encoded:
        table = RowTable(
            ids=[task.photos[number].id for number in encoded],
            digests=np.frombuffer(b"".join(digests[number] for number in encoded), np.uint8).reshape(-1, 32),
            roots=[task.photos[number].root for number in encoded],
            metadata=by_column([task.metadata[number] for number in encoded]),
        )
        file = place.add(task.name, lambda path: write_segment(path, recipe.layout, table, blocks))
        result = replace(result, entry=_entry(task.name, len(encoded), recipe.layout, file))
    place.add_record(task.name, task.key, json.dumps(result.to_json(), separators=(",", ":")).encode())
    return result


def _finished(task: SegmentTask, recipe: Recipe, place: SegmentPlace) -> SegmentResult | None:
    """What an earlier build has made of a task, if its record is there and its segment is as it was."""
    try:
        data = place.record(task.name, task.key)
        values: Any = parse_json(data) if data else {"key": None}
        if values["key"] != task.key:
            return None
        encoded = tuple(values["encoded"])
        entry = None
        if values["file"]:
            file = FileEntry(*values["file"])
            if not place.holds(task.name, file):
                return None
            entry = _entry(task.name, len(encoded), recipe.layout, file)
        return SegmentResult(
            task.key,
            entry,
            encoded,
            {photo: bytes.fromhex(digest) for photo, digest in values["digests"]},
            dict(values["unreadable"]),
            {bytes.fromhex(digest): reason for digest, reason in values["undecodable"]},
            resumed=True,
        )
    except (OSError, ValueError, KeyError, TypeError):  # none, or not one that this version has written
        return None


def read_plan(folder: IndexFolder) -> Mapping[str, Any]:
    """What an unfinished build has noted about itself; empty where there is none."""
    try:
        plan = parse_json(read_regular(record(folder, "plan"), LARGEST_JSON))
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) else {}


def sees_index(recipe: Recipe) -> bool:
    """Whether this machine has, at the place of the index, the one that the build writes; of a store that is so."""
    return is_url(recipe.index) or read_plan(IndexFolder(Path(recipe.index))).get("build") == recipe.build


def record_keys(folder: IndexFolder) -> Iterator[tuple[str, str]]:
    """Key and name of every segment that a stopped build has finished."""
    for path in sorted(records(folder).glob("[0-9]*.json")):
        try:
            yield str(parse_json(read_regular(path, LARGEST_JSON))["key"]), path.stem
        except (OSError, ValueError, KeyError, TypeError):
            continue


def _entry(name: str, rows: int, layout: Layout, file: FileEntry) -> SegmentEntry:
    return SegmentEntry(
        name=name,
        rows=rows,
        model=layout.model,
        space=layout.space,
        dims=layout.dims,
        tokens=layout.tokens,
        vectors=layout.vectors,
        files={GALLERY: file},
    )
