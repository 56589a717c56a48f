"""One generation of an index, as a value: what its manifest says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cir import __version__
from cir.arrays import Mask, Rows
from cir.checked import remember_checked
from cir.files import sha256_file
from cir.indexer.storage.folder import GALLERY
from cir.typed_json import from_json, to_json
from cir.types import ModelCard, Space

FORMAT = 3
KEEP = 20  # earlier generations that are kept unless an index says otherwise
_SEGMENT_NAME = re.compile(r"\d{6,18}")
_MAPPING_NAME = re.compile(r"[0-9a-f]{16}--[0-9a-f]{16}-[0-9a-f]{8}")

Runs = tuple[tuple[int, int], ...]  # ascending rows as [first, last]: a backfill of a million images deletes few runs


@dataclass(frozen=True)
class FileEntry:
    """A published file: its size in bytes and its SHA-256."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Measure a file that has just been written; whoever opens it later need not read all of it (`cir.checked`)."""
        sha256 = sha256_file(path)
        remember_checked(path, sha256)
        return cls(path.stat().st_size, sha256)


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


@dataclass(frozen=True)
class EarlierGeneration:
    """An earlier generation: its number, the SHA-256 of its manifest, and the digest of the model that served it."""

    generation: int
    sha256: str
    serving: str


@dataclass(frozen=True)
class Manifest:
    """One generation of an index.

    Attributes:
        generation: its number, which names its file; 0 before it is published.
        serving: digest of the model that encodes queries.
        models: cards of the models whose vectors it holds or held, by digest.
        spaces: by id.
        segments: in the order in which they were published.
        mappings: by the id of the space that they reach.
        deleted: rows that no longer count, by segment name.
        roots: where the images were, oldest first.
        earlier: the generations before it that are kept, newest first.
        keep: how many of them are kept at least (`kept`).
        created: UTC, ISO 8601.
        cir: version of the package that wrote it.
    """

    generation: int
    serving: str
    models: Mapping[str, ModelCard]
    spaces: Mapping[str, Space]
    segments: tuple[SegmentEntry, ...] = ()
    mappings: Mapping[str, MappingEntry] = field(default_factory=dict)
    deleted: Mapping[str, Runs] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    earlier: tuple[EarlierGeneration, ...] = ()
    keep: int = KEEP
    created: str = ""
    cir: str = __version__

    @classmethod
    def empty(cls, card: ModelCard) -> Manifest:
        """An index without images, served by a model; never published."""
        return cls(0, card.digest, {card.digest: card}, {card.space.id: card.space})

    @cached_property
    def card(self) -> ModelCard:
        """The serving model."""
        return self.models[self.serving]

    @property
    def space(self) -> Space:
        """The serving model's own space."""
        return self.card.space

    @property
    def previous(self) -> int:
        """The generation that was live before; 0 for none."""
        return self.earlier[0].generation if self.earlier else 0

    @property
    def rows(self) -> int:
        """Number of live images."""
        return sum(entry.rows for entry in self.segments) - self.deleted_rows

    @property
    def deleted_rows(self) -> int:
        """Number of rows in segments that no longer count."""
        return sum(last - first + 1 for runs in self.deleted.values() for first, last in runs)

    def maker(self, space: str) -> ModelCard:
        """A model whose space this is, the serving one before others. Raises KeyError for an unknown space."""
        of_space = (card for card in (self.card, *self.models.values()) if card.space.id == space)
        found = next(of_space, None)
        if found is None:
            raise KeyError(space)
        return found

    def live_rows(self, entry: SegmentEntry) -> Mask:
        """(rows of the segment,) bool: which of its rows count."""
        live = np.ones(entry.rows, np.bool_)
        for first, last in self.deleted.get(entry.name, ()):
            live[first : last + 1] = False
        return live

    def without(self, rows: Mapping[str, Iterable[int]]) -> Mapping[str, Runs]:
        """`deleted` with further rows, by segment name; segments without a live row are left out of it."""
        deleted = dict(self.deleted)
        for entry in self.segments:
            if entry.name in rows:
                live = self.live_rows(entry)
                live[list(rows[entry.name])] = False
                deleted[entry.name] = runs_of(np.flatnonzero(~live))
        return deleted

    def succeed(
        self,
        *,
        card: ModelCard | None = None,
        segments: Sequence[SegmentEntry] | None = None,
        mappings: Mapping[str, MappingEntry] | None = None,
        deleted: Mapping[str, Runs] | None = None,
        roots: Iterable[str] = (),
        keep: int | None = None,
    ) -> Manifest:
        """The next generation: this one with changes. `Writer.publish` numbers it. What is None stays the same.

        Args:
            card: the model that serves from now on.
            segments, mappings, deleted: in place of the present ones.
            roots: further roots.
            keep: how many earlier generations are kept.
        """
        card = card or self.card
        return replace(
            self,
            generation=0,
            serving=card.digest,
            models={**self.models, card.digest: card},
            spaces={**self.spaces, card.space.id: card.space},
            segments=self.segments if segments is None else tuple(segments),
            mappings=self.mappings if mappings is None else mappings,
            deleted=self.deleted if deleted is None else deleted,
            roots=tuple(dict.fromkeys([*self.roots, *roots])),
            keep=self.keep if keep is None else keep,
            cir=__version__,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, format version included."""
        return {"format": FORMAT, **to_json(self)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Manifest:
        """A manifest from `to_json` values. Raises ValueError for anything else."""
        manifest = from_json(cls, {key: value for key, value in values.items() if key != "format"})
        for problem in _contradictions(manifest):
            raise ValueError(problem)
        return manifest


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """What cannot be true in a manifest, however it is signed."""
    if manifest.serving not in manifest.models:
        yield "serving: a model without a card"
    if any(digest != card.digest for digest, card in manifest.models.items()):
        yield "models: a card under another digest"
    if any(identity != space.id for identity, space in manifest.spaces.items()):
        yield "spaces: a space under another id"
    if not all(entry.space in manifest.spaces and entry.model in manifest.models for entry in manifest.segments):
        yield "segments: a space or model that is not described"
    rows = {entry.name: entry.rows for entry in manifest.segments}
    if len(rows) != len(manifest.segments) or not all(map(_SEGMENT_NAME.fullmatch, rows)):
        yield "segments: a name that is no number, or twice the same"
    if any(set(entry.files) != {GALLERY} or entry.rows < 0 for entry in manifest.segments):
        yield f"segments: another file than {GALLERY}, or a negative number of rows"
    for mapping in manifest.mappings.values():
        names = {mapping.name + suffix for suffix in (".json", ".safetensors")}
        if not _MAPPING_NAME.fullmatch(mapping.name) or not set(mapping.files) <= names:
            yield "mappings: a name that is none of a mapping"
    for name, runs in manifest.deleted.items():
        ends = [number for run in runs for number in run]
        within = not ends or (ends[0] >= 0 and ends[-1] < rows.get(name, 0))
        if not within or ends != sorted(ends) or any(later[0] <= run[1] for run, later in pairwise(runs)):
            yield f"deleted: rows that segment {name} does not have"
    numbers = [manifest.generation, *(entry.generation for entry in manifest.earlier)]
    if manifest.generation < 1 or any(later >= number for number, later in pairwise(numbers)):
        yield "earlier: generations out of order"


def runs_of(rows: Rows) -> Runs:
    """Ascending rows as runs."""
    if not len(rows):
        return ()
    breaks = np.flatnonzero(np.diff(rows) != 1)
    firsts, lasts = rows[[0, *(breaks + 1)]], rows[[*breaks, len(rows) - 1]]
    return tuple((int(first), int(last)) for first, last in zip(firsts, lasts, strict=True))


def kept(earlier: Sequence[EarlierGeneration], serving: str, keep: int) -> tuple[EarlierGeneration, ...]:
    """The earlier generations that stay: the newest `keep`, and on both sides of each change of model.

    So a replacement, and a backfill after it, can be undone however many parts it had.

    Args:
        earlier: newest first.
        serving: digest of the model that serves the generation after them.
        keep: at least 1.
    """
    after = [serving, *(entry.serving for entry in earlier)]
    before = [*(entry.serving for entry in earlier[1:]), *([earlier[-1].serving] if earlier else [])]
    return tuple(
        entry
        for place, entry in enumerate(earlier)
        if place < max(1, keep) or after[place] != entry.serving or before[place] != entry.serving
    )
