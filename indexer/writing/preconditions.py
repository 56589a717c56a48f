"""Refusals before anything is read: requests that make no sense, and folders that are not an index."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from cir.errors import DataError, IndexFormatError, SpaceMismatchError, UsageError
from cir.given import instance, items, kind, mapping, paths, shown
from cir.images import ImageFile, Scan, scan
from cir.indexer.storage.folder import IndexFolder, foreign_files, has_lost_pointer, is_index
from cir.indexer.storage.generations import open_segment, read_pointer
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.mirror import MirrorFolder, is_own
from cir.indexer.storage.segment import Layout
from cir.indexer.writing.plan import Metadata
from cir.types import GalleryEncoder, ModelCard

_TABLE = 'write {"a.jpg": {"colour": "red"}}, id -> column -> value'


def as_images(given: Any) -> Sequence[ImageFile]:
    """The images of a scan, or of paths to scan. Raises as `scan`, and UsageError for anything else."""
    if isinstance(given, Sequence) and all(isinstance(image, ImageFile) for image in given):
        return given
    found = items(given, "images", (str, os.PathLike, ImageFile))
    if any(isinstance(each, str | os.PathLike) for each in found):
        return scan(paths(found, "images"))
    return [instance(image, ImageFile, "an image", "list those of a folder with cir.scan(folder)") for image in found]


def check_request(images: Sequence[ImageFile], encoder: GalleryEncoder, metadata: Metadata) -> None:
    """Raises UsageError for ids or metadata that cannot be stored or what is no encoder, DataError without images."""
    if not isinstance(getattr(encoder, "card", None), ModelCard):
        raise UsageError(f"the encoder is {kind(encoder)}, {shown(encoder)}; load one with cir.load_model(name)")
    if isinstance(images, Scan) and images.unusable and not images:
        name, reason = images.unusable[0]
        raise DataError(f"none of the {len(images.unusable)} images can be used; the first: {name}: {reason}")
    if not images:
        raise DataError("no images found; name a folder or zip that holds some")
    ids: set[str] = set()
    for image in images:
        if image.id in ids:
            raise UsageError(f"two images have the id {image.id}; rename one, or index their folders together")
        ids.add(image.id)
    for image_id, columns in mapping(metadata, "metadata", _TABLE).items():
        instance(image_id, str, "an id of metadata", _TABLE)
        for column, text in mapping(columns, f"metadata of {image_id}", _TABLE).items():
            if not isinstance(column, str) or not isinstance(text, str):
                raise UsageError(
                    f"metadata of {image_id}: {shown(column)}: {shown(text)}; columns and values are strings"
                )
            if not column or "\0" in column or "\0" in text:
                raise UsageError(
                    f"metadata of {image_id}: column {column!r} cannot be stored; "
                    "columns need a name, and neither names nor values may hold NUL bytes"
                )


def refuse_foreign(folder: IndexFolder) -> None:
    """Raises IndexFormatError for a path that is neither an index, finished or not, nor free; and for a lost index."""
    if isinstance(folder, MirrorFolder) and not is_index(folder.root):
        other = next((info.key for info in folder.store.listed() if not is_own(info.key)), None)
        if other is not None:
            raise IndexFormatError(f"{folder} is not an index: it holds {other}; choose another place for the index")
    if folder.root.is_dir():
        if has_lost_pointer(folder):
            read_pointer(folder)  # says so
        foreign = foreign_files(folder)
        if foreign and not is_index(folder.root):
            raise IndexFormatError(
                f"{folder} is not an index: it holds {foreign[0]}; choose another place for the index"
            )
    elif folder.root.exists():
        raise IndexFormatError(f"{folder} is not an index but a file; choose another place for the index")


def keeps_tokens(manifest: Manifest, card: ModelCard) -> bool:
    """Whether images that a new model adds are stored with tokens: as the others are, unless it gives only tokens."""
    return any(entry.tokens for entry in manifest.segments) or not card.vector


def choose_layout(
    folder: IndexFolder, manifest: Manifest | None, card: ModelCard, tokens: bool, precision: str = "float16"
) -> Layout:
    """The layout of new rows: that of the index, else what the model gives and the user wants.

    Raises:
        SpaceMismatchError: the index was made by another model.
        UsageError: `tokens` is off although the index holds tokens, or the model gives nothing else.
    """
    if manifest is not None and manifest.serving != card.digest:
        raise SpaceMismatchError(
            f"{folder} was made by model {manifest.card.name} ({manifest.serving}), not {card.name} "
            f"({card.digest}); use that model, or build another index: "
            f"cir build-index IMAGES -o NEW.index --model YOUR_MODEL"
        )
    native = [entry for entry in manifest.segments if entry.space == card.space.id] if manifest else []
    if native:
        has_tokens = native[0].tokens > 0
        if has_tokens and not tokens:
            raise UsageError(f"{folder} holds tokens; keep them, or build another index without")
        return Layout.of(card, has_tokens, open_segment(folder, native[0]).layout.precision)
    if manifest is not None and manifest.segments:  # all by earlier models: new rows are stored in the same way
        kept = keeps_tokens(manifest, card)
        if kept and not tokens and card.vector:
            raise UsageError(f"{folder} holds tokens; keep them, or build another index without")
        tokens = tokens and kept
        precision = open_segment(folder, manifest.segments[0]).layout.precision
    layout = Layout.of(card, tokens, precision)
    if not layout.vectors and not layout.tokens:
        raise UsageError(f"model {card.name} gives nothing but tokens; build the index with them, without --no-tokens")
    return layout
