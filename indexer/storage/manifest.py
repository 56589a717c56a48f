"""One generation of an index in one immutable JSON file, and the pointer to the live one.

`CURRENT` holds the name and the SHA-256 of the live manifest. A manifest names every file of its generation with size
and digest, so replacing `CURRENT` is the single moment at which a generation is published.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from cir import __version__
from cir.errors import CorruptIndexError, IndexFormatError, IndexVersionError
from cir.files import (
    disk_errors,
    make_folder,
    move,
    parse_json,
    remove_tree,
    sha256_bytes,
    sha256_file,
    sync,
    write_bytes,
)
from cir.indexer.storage.folder import IndexFolder, numbered
from cir.indexer.storage.segment import Segment
from cir.types import GalleryEncoder, ModelCard, Space

FORMAT = 1


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
    """A segment as the manifest describes it.

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
class MappingEntry:
    """A mapping as the manifest describes it: its name, and its files under `mappings/` by name."""

    name: str
    files: Mapping[str, FileEntry]


_KINDS = {"generation": int, "previous": int, "serving": str, "model_paths": dict, "created": str, "cir": str}


@dataclass(frozen=True)
class Manifest:
    """One generation of an index.

    Attributes:
        generation: its number, which names its file.
        previous: the generation that was live before; 0 for none.
        serving: digest of the model that encodes queries.
        models: cards of the models whose vectors it holds or held, by digest.
        spaces: by id.
        segments: in the order in which they were published.
        mappings: by the id of the space that they reach.
        deleted: rows that no longer count, by segment name; ascending.
        roots: where the images were, oldest first.
        model_paths: folders of the models when they were used, by digest; hints.
        created: UTC, ISO 8601.
        cir: version of the package that wrote it.
    """

    generation: int
    previous: int
    serving: str
    models: Mapping[str, ModelCard]
    spaces: Mapping[str, Space]
    segments: tuple[SegmentEntry, ...] = ()
    mappings: Mapping[str, MappingEntry] = field(default_factory=dict)
    deleted: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    model_paths: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    cir: str = __version__

    @classmethod
    def empty(cls, card: ModelCard) -> Manifest:
        """Generation 0, which is never published: an index without images, served by a model."""
        return cls(0, 0, card.digest, {card.digest: card}, {card.space.id: card.space})

    @cached_property
    def card(self) -> ModelCard:
        """The serving model."""
        return self.models[self.serving]

    @property
    def space(self) -> Space:
        """The serving model's own space."""
        return self.card.space

    @property
    def rows(self) -> int:
        """Number of live images."""
        return sum(entry.rows for entry in self.segments) - sum(map(len, self.deleted.values()))

    def maker(self, space: str) -> ModelCard:
        """The model that made the vectors of a space. Raises KeyError for an unknown space."""
        return self.models[self.spaces[space].model_digest]

    def succeed(
        self,
        folder: IndexFolder,
        *,
        encoder: GalleryEncoder | None = None,
        segments: Sequence[SegmentEntry] | None = None,
        mappings: Mapping[str, MappingEntry] | None = None,
        deleted: Mapping[str, tuple[int, ...]] | None = None,
        roots: Iterable[str] = (),
        previous: int | None = None,
    ) -> Manifest:
        """The next generation: this one with changes, numbered, dated and signed. The only way to make one.

        Args:
            folder: the index.
            encoder: the model that serves from now on; the same if None.
            segments, mappings, deleted: in place of the present ones; the same if None.
            roots: further roots.
            previous: the generation that was live before, where it is not this one (a rollback).
        """
        card = encoder.card if encoder else self.card
        hint = {card.digest: str(encoder.directory.resolve())} if encoder and encoder.directory else {}
        return replace(
            self,
            generation=next_generation(folder),
            previous=self.generation if previous is None else previous,
            serving=card.digest,
            models={**self.models, card.digest: card},
            spaces={**self.spaces, card.space.id: card.space},
            segments=self.segments if segments is None else tuple(segments),
            mappings=self.mappings if mappings is None else mappings,
            deleted=self.deleted if deleted is None else deleted,
            roots=tuple(dict.fromkeys([*self.roots, *roots])),
            model_paths={**self.model_paths, **hint},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            cir=__version__,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, format version included; deleted rows as runs [first, last]."""
        models = {digest: card.to_json() for digest, card in self.models.items()}
        deleted = {name: _runs(rows) for name, rows in self.deleted.items()}
        return {"format": FORMAT, **asdict(self), "models": models, "deleted": deleted}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Manifest:
        """A manifest from `to_json` values. Raises KeyError, TypeError or ValueError for anything else."""
        fields = {key: value for key, value in values.items() if key != "format"}
        parsed: dict[str, Any] = {
            "models": {digest: ModelCard.from_json(card) for digest, card in values["models"].items()},
            "spaces": {space: Space.from_json(content) for space, content in values["spaces"].items()},
            "segments": tuple(_segment(entry) for entry in values["segments"]),
            "mappings": {
                space: MappingEntry(entry["name"], _files(entry)) for space, entry in values["mappings"].items()
            },
            "deleted": {name: _rows(runs) for name, runs in values["deleted"].items()},
            "roots": tuple(values["roots"]),
        }
        manifest = cls(**{**fields, **parsed})
        for name, kind in _KINDS.items():
            if not isinstance(getattr(manifest, name), kind):
                raise TypeError(f"{name} is not {kind.__name__}")
        _ = manifest.card  # a serving model without a card is not a manifest
        return manifest


def _segment(values: Mapping[str, Any]) -> SegmentEntry:
    entry = SegmentEntry(**{**values, "files": _files(values)})
    if not all(isinstance(text, str) for text in (entry.name, entry.model, entry.space)):
        raise TypeError("name, model and space of a segment are strings")
    if not all(isinstance(number, int) for number in (entry.rows, entry.dims, entry.tokens, entry.vectors)):
        raise TypeError("rows, dims, tokens and vectors of a segment are numbers")
    return entry


def _runs(rows: Sequence[int]) -> list[list[int]]:
    """Ascending numbers as runs [first, last]: a backfill of a million images deletes a thousand runs."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    return runs


def _rows(runs: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(row for first, last in runs for row in range(first, last + 1))


def _files(entry: Mapping[str, Any]) -> dict[str, FileEntry]:
    return {name: FileEntry(**file) for name, file in entry["files"].items()}


def read_manifest(folder: IndexFolder) -> Manifest:
    """The live generation of an index.

    Raises:
        IndexFormatError: there is no index at this path.
        IndexVersionError: another version of this package wrote it.
        CorruptIndexError: the manifest is missing or contradicts its digest.
    """
    try:
        name, digest = folder.current.read_text("ascii").split()
    except (FileNotFoundError, NotADirectoryError):
        raise IndexFormatError(_no_index(folder)) from None
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or "it does not name a manifest and its digest"
        raise CorruptIndexError(f"{folder.current} cannot be read: {reason}; restore it from a copy") from None
    path = folder.manifests / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptIndexError(f"{path} cannot be read: {error.strerror}; restore the index from a copy") from None
    if sha256_bytes(data) != digest:
        raise CorruptIndexError(f"{path} contradicts its digest in {folder.current.name}; restore it from a copy")
    return parse_manifest(data, path)


def parse_manifest(data: bytes, path: Path) -> Manifest:
    """The manifest in the bytes of `path`. Raises IndexVersionError or CorruptIndexError."""
    try:
        values = parse_json(data)
        version = int(values["format"])
        if version != FORMAT:
            raise IndexVersionError(f"{path} has format {version}, not {FORMAT}; upgrade cir-engine, or build it again")
        return Manifest.from_json(values)
    except IndexVersionError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptIndexError(f"{path} is not a manifest: {error!r}; restore the index from a copy") from None


def publish(folder: IndexFolder, manifest: Manifest) -> None:
    """Make a generation live: its manifest first, then the pointer. Raises DataError."""
    data = json.dumps(manifest.to_json(), indent=1, sort_keys=True).encode()
    path = folder.manifest(manifest.generation)
    write_bytes(path, data)
    write_bytes(folder.current, f"{path.name} {sha256_bytes(data)}\n".encode("ascii"))


def next_generation(folder: IndexFolder) -> int:
    """A number that no manifest has had, published or not."""
    return 1 + max((int(path.stem) for path in numbered(folder.manifests, ".json")), default=0)


def adopt_segment(folder: IndexFolder, finished: Path) -> str:
    """Move a finished segment folder to its final place, synced; returns its name. Raises DataError."""
    make_folder(folder.segments)
    taken = (int(path.name) for path in numbered(folder.segments))
    name = f"{1 + max(taken, default=0):06d}"
    with disk_errors(folder.segments / name):
        sync(finished)
        move(finished, folder.segments / name)
    return name


def open_segment(folder: IndexFolder, entry: SegmentEntry) -> Segment:
    """A published segment, after a check of its size. Raises CorruptIndexError."""
    path = folder.gallery(entry.name)
    expected = entry.files[path.name].bytes
    size = path.stat().st_size if path.is_file() else None
    if size != expected:
        problem = "is missing" if size is None else f"has {size} bytes instead of {expected}"
        raise CorruptIndexError(f"{path} {problem}; restore it from a copy, or build the index again")
    return Segment(path)


def remove_unpublished(folder: IndexFolder) -> None:
    """Remove segments that no manifest names: their writer died. Only the holder of the lock may."""
    named: set[str] = set()
    for path in numbered(folder.manifests, ".json"):
        try:
            named.update(entry.name for entry in parse_manifest(path.read_bytes(), path).segments)
        except IndexFormatError:
            return  # an unreadable manifest may name any of them, and vectors are worth more than disk space
    for segment in numbered(folder.segments):
        if segment.name not in named:
            remove_tree(segment)


def _no_index(folder: IndexFolder) -> str:
    if not folder.root.exists():
        return f"no such index: {folder}; make one with `cir build-index IMAGES -o {folder}`"
    if folder.work.is_dir():
        return f"an unfinished index: {folder}; run the same `cir build-index` again to finish it"
    return f"not an index: no {folder.current.name} in {folder}; make one with `cir build-index IMAGES -o {folder}`"
