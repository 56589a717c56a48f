"""One generation of an index in one immutable JSON file, and the pointer to the one that is live.

`CURRENT` holds the name and the SHA-256 of the live manifest. Everything a generation is made of is named in
that, with size and digest, so replacing `CURRENT` is the single moment at which a new generation exists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cir import __version__
from cir.errors import CorruptIndexError, IndexFormatError, IndexVersionError
from cir.indexer.durable import (
    make_folder,
    move,
    remove_tree,
    sha256_bytes,
    sha256_file,
    sync,
    write_bytes,
    writes_to,
)
from cir.indexer.store import Segment
from cir.types import ModelCard, Space

FORMAT = 2  # 1 knew no edges
CURRENT = "CURRENT"
MANIFESTS = "manifests"
SEGMENTS = "segments"
EDGES = "edges"
ANCHORS = "anchors.zip"
GALLERY = "gallery.h5"


@dataclass(frozen=True)
class FileEntry:
    """A published file: its size in bytes and its SHA-256."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Measure a file."""
        return cls(path.stat().st_size, sha256_file(path))


@dataclass(frozen=True)
class SegmentEntry:
    """A segment as the manifest knows it.

    Attributes:
        name: its folder under `segments/`.
        rows: images in it, deleted ones included.
        model: digest of the model that made it.
        space: id of the space of its vectors.
        dims: D.
        tokens: T stored per image; 0 = none.
        vectors: whether one vector per image is stored.
        files: its files, by name.
    """

    name: str
    rows: int
    model: str
    space: str
    dims: int
    tokens: int
    vectors: bool
    files: Mapping[str, FileEntry]


@dataclass(frozen=True)
class EdgeEntry:
    """An edge as the manifest knows it: its name, and its files under `edges/` by name."""

    name: str
    files: Mapping[str, FileEntry]


@dataclass(frozen=True)
class Manifest:
    """One generation of an index.

    Attributes:
        generation: its number; manifests are named by it.
        previous: the generation that was live before; 0 for none, or where it was not noted.
        serving: digest of the model that queries are made with.
        models: model cards as JSON, by digest.
        model_paths: where models lay when they were used, by digest; hints.
        spaces: spaces as JSON, by id.
        segments: in the order they were published.
        edges: how the serving model asks segments of other spaces, by space id.
        deleted: rows that no longer count, by segment name; ascending.
        roots: where the images were found, oldest first.
        created: UTC, ISO 8601.
        cir: version of the package that wrote it.
    """

    generation: int
    serving: str
    models: Mapping[str, Mapping[str, Any]]
    spaces: Mapping[str, Mapping[str, Any]]
    segments: tuple[SegmentEntry, ...] = ()
    edges: Mapping[str, EdgeEntry] = field(default_factory=dict)
    deleted: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    model_paths: Mapping[str, str] = field(default_factory=dict)
    previous: int = 0
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    cir: str = __version__

    @property
    def card(self) -> ModelCard:
        """The serving model."""
        return ModelCard.from_json(self.models[self.serving])

    @property
    def space(self) -> Space:
        """The space that queries are made in: the serving model's own."""
        return self.card.space

    @property
    def rows(self) -> int:
        """Live images."""
        return sum(entry.rows for entry in self.segments) - sum(map(len, self.deleted.values()))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, format version included; deleted rows as runs [first, last]."""
        return {"format": FORMAT, **asdict(self), "deleted": {name: _runs(rows) for name, rows in self.deleted.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Manifest:
        """A manifest from `to_json` values. Raises KeyError, TypeError or ValueError when they are not."""
        plain = {key: value for key, value in values.items() if key != "format"}
        segments = tuple(SegmentEntry(**{**entry, "files": _files(entry["files"])}) for entry in values["segments"])
        edges = {
            space: EdgeEntry(entry["name"], _files(entry["files"])) for space, entry in values.get("edges", {}).items()
        }
        deleted = {name: _rows(runs) for name, runs in values["deleted"].items()}
        roots = tuple(values["roots"])
        manifest = cls(**{**plain, "segments": segments, "edges": edges, "deleted": deleted, "roots": roots})
        manifest.card.digest  # noqa: B018  a serving model without a card is no manifest
        return manifest


def _runs(rows: Sequence[int]) -> list[list[int]]:
    """Ascending numbers as runs [first, last]: a backfill of a million images would list them a thousand times else."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    return runs


def _rows(runs: Sequence[Any]) -> tuple[int, ...]:
    """What `_runs` wrote; format 1 had the numbers themselves."""
    return tuple(row for run in runs for row in (range(run[0], run[1] + 1) if isinstance(run, list) else (int(run),)))


def _files(values: Mapping[str, Any]) -> dict[str, FileEntry]:
    return {name: FileEntry(**file) for name, file in values.items()}


def read_manifest(index: Path) -> Manifest:
    """The live generation of an index.

    Raises:
        IndexFormatError: there is no index at this path.
        IndexVersionError: a newer version of this package wrote it.
        CorruptIndexError: the manifest is gone or contradicts its digest.
    """
    try:
        name, digest = (index / CURRENT).read_text("ascii").split()
    except (FileNotFoundError, NotADirectoryError):
        raise IndexFormatError(_no_index(index)) from None
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or "it does not name a manifest and its digest"
        raise CorruptIndexError(f"{index / CURRENT} cannot be read: {reason}; restore it from a copy") from None
    path = index / MANIFESTS / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptIndexError(f"{path} cannot be read: {error.strerror}; restore the index from a copy") from None
    if sha256_bytes(data) != digest:
        raise CorruptIndexError(f"{path} contradicts its digest in {CURRENT}; restore the index from a copy")
    return parse_manifest(data, path)


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """The manifest in the bytes of `path`. Raises IndexVersionError or CorruptIndexError."""
    try:
        values = json.loads(data)
        version = int(values["format"])
        if version > FORMAT:
            raise IndexVersionError(f"{path} was written by a newer cir (format {version}); upgrade cir-engine")
        return Manifest.from_json(values)
    except IndexVersionError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptIndexError(f"{path} is no manifest: {error!r}; restore the index from a copy") from None


def publish(index: Path, manifest: Manifest) -> None:
    """Make a generation live: its manifest first, then the pointer. Raises DataError."""
    make_folder(index / MANIFESTS)
    data = json.dumps(manifest.to_json(), indent=1, sort_keys=True).encode()
    name = f"{manifest.generation:06d}.json"
    write_bytes(index / MANIFESTS / name, data)
    write_bytes(index / CURRENT, f"{name} {sha256_bytes(data)}\n".encode("ascii"))


def next_generation(index: Path) -> int:
    """A number no manifest has had, also not one that never became live."""
    return 1 + max((int(path.stem) for path in _numbered(index / MANIFESTS, ".json")), default=0)


def adopt_segment(index: Path, folder: Path) -> str:
    """Move a finished, synced segment folder to its final place; returns its name. Raises DataError."""
    make_folder(index / SEGMENTS)
    taken = (int(path.name) for path in _numbered(index / SEGMENTS))
    name = f"{1 + max(taken, default=0):06d}"
    with writes_to(index / SEGMENTS / name):
        sync(folder)
        move(folder, index / SEGMENTS / name)
    return name


def open_segment(index: Path, entry: SegmentEntry) -> Segment:
    """A published segment, after a look at its size. Raises CorruptIndexError."""
    path = index / SEGMENTS / entry.name / GALLERY
    expected = entry.files[GALLERY].bytes
    size = path.stat().st_size if path.is_file() else None
    if size != expected:
        found = "is missing" if size is None else f"has {size} bytes instead of {expected}"
        raise CorruptIndexError(f"{path} {found}; restore it from a copy, or build the index again")
    return Segment(path)


def remove_unpublished(index: Path) -> None:
    """Remove segments that no manifest names: their writer died. Only the holder of the lock may."""
    named: set[str] = set()
    for path in _numbered(index / MANIFESTS, ".json"):
        try:
            named.update(entry.name for entry in parse_manifest(path.read_bytes(), path).segments)
        except IndexFormatError:
            return  # what an unreadable manifest names is unknown, and vectors are worth more than room
    for folder in _numbered(index / SEGMENTS):
        if folder.name not in named:
            remove_tree(folder)


def _numbered(folder: Path, suffix: str = "") -> list[Path]:
    """What we have named in a folder; copies that people make there, such as `000001 (1).json`, are not ours."""
    return [path for path in folder.glob("*") if path.stem.isdecimal() and path.suffix == suffix]


def _no_index(index: Path) -> str:
    if not index.exists():
        return f"no such index: {index}; make one with `cir build-index IMAGES -o {index}`"
    if (index / "work").is_dir():
        return f"an unfinished index: {index}; run the same `cir build-index` again to finish it"
    return f"not an index: no {CURRENT} in {index}; make one with `cir build-index IMAGES -o {index}`"
