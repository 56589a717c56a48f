"""What can be refused before anything is read: requests that make no sense, and folders that are not ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cir.errors import DataError, IndexFormatError, SpaceMismatchError, UsageError
from cir.images import ImageFile
from cir.indexer.durable import is_temporary
from cir.indexer.lock import LOCK
from cir.indexer.manifest import CURRENT, MANIFESTS, SEGMENTS, Manifest, open_segment
from cir.indexer.parts import WORK
from cir.indexer.plan import Metadata
from cir.indexer.store import Layout
from cir.types import ModelCard

SKIPPED = "skipped.jsonl"
_OURS = frozenset({CURRENT, LOCK, MANIFESTS, SEGMENTS, SKIPPED, WORK})  # of an index that is not finished


def check_request(
    images: Sequence[ImageFile], metadata: Metadata, workers: int, batch_size: int, part_rows: int
) -> None:
    """Raises UsageError for what cannot be meant, DataError where there is nothing to index."""
    if not images:
        raise DataError("no images found; name a folder or zip that holds some")
    for name, value in (("workers", workers), ("batch_size", batch_size), ("part_rows", part_rows)):
        if value < 1:
            raise UsageError(f"{name} is {value}; give at least 1")
    ids: set[str] = set()
    for image in images:
        if image.id in ids:
            raise UsageError(f"two images have the id {image.id}; rename one, or index their folders together")
        ids.add(image.id)
    for image_id, columns in metadata.items():
        for column, text in columns.items():
            if not column or "\0" in column or "\0" in text:
                raise UsageError(
                    f"metadata of {image_id}: column {column!r} cannot be stored; "
                    "columns need a name, and neither names nor values may hold NUL bytes"
                )


def refuse_foreign(out: Path) -> None:
    """Raises IndexFormatError for a place that holds something else than an index, finished or not."""
    if out.is_dir():
        names = sorted(path.name for path in out.iterdir())
        foreign = [name for name in names if name not in _OURS and not is_temporary(name)]
        if foreign and not (out / CURRENT).exists():
            raise IndexFormatError(f"{out} is not an index: it holds {foreign[0]}; choose another place for the index")
    elif out.exists():
        raise IndexFormatError(f"{out} is not an index but a file; choose another place for the index")


def keeps_tokens(manifest: Manifest, card: ModelCard) -> bool:
    """Whether images that a new model adds are stored with tokens: as the others are, if it can do without."""
    return any(entry.tokens for entry in manifest.segments) or not card.vector


def choose_layout(
    out: Path, manifest: Manifest | None, card: ModelCard, tokens: bool, precision: str = "float16"
) -> Layout:
    """What new rows look like: as the index has them, else as the model gives them and the user wants them.

    Raises:
        SpaceMismatchError: the index was made by another model.
        UsageError: `tokens` is off where the index holds some, or where the model gives nothing else.
    """
    if manifest is not None and manifest.serving != card.digest:
        raise SpaceMismatchError(
            f"{out} was made by model {manifest.card.name} ({manifest.serving}), not {card.name} "
            f"({card.digest}); use that model, or build another index: "
            f"cir build-index IMAGES -o NEW.index --model YOUR_MODEL"
        )
    native = [entry for entry in manifest.segments if entry.space == card.space.id] if manifest else []
    if native:
        has_tokens = native[0].tokens > 0
        if has_tokens and not tokens:
            raise UsageError(f"{out} holds tokens; keep them, or build another index without")
        return Layout.of(card, has_tokens, open_segment(out, native[0]).layout.precision)
    if manifest is not None and manifest.segments:  # all of them by earlier models: new rows are stored as those are
        kept = keeps_tokens(manifest, card)
        if kept and not tokens and card.vector:
            raise UsageError(f"{out} holds tokens; keep them, or build another index without")
        tokens = tokens and kept
        precision = open_segment(out, manifest.segments[0]).layout.precision
    layout = Layout.of(card, tokens, precision)
    if not layout.vectors and not layout.tokens:
        raise UsageError(f"model {card.name} gives nothing but tokens; build the index with them, without --no-tokens")
    return layout
