"""Letting another model serve an index: the step that publishes a replacement."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cir.errors import StaleEvidenceError, UsageError
from cir.indexer.storage.fetching import index_folder
from cir.indexer.storage.generations import check_segments, read_manifest
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.mappings import write_mapping
from cir.indexer.storage.writer import writing
from cir.known import remember_model
from cir.mappings import SpaceMapping
from cir.types import GalleryEncoder, ModelCard


def check_successor(manifest: Manifest, card: ModelCard) -> None:
    """Refuse a model that serves already, or has the name of another model. Raises UsageError."""
    if card.digest == manifest.serving:
        raise UsageError(f"{card.name} serves this index already; name another model")
    for other in manifest.models.values():
        if other.name == card.name and other.digest != card.digest:
            raise UsageError(
                f"{card.name} is already the name of another model in this index ({other.digest}); give the "
                'new one a name of its own: "name" in its card.json, or in its training configuration'
            )


def serve_model(
    index: Path,
    encoder: GalleryEncoder,
    mappings: Mapping[str, SpaceMapping],
    *,
    unsearched: frozenset[str] = frozenset(),
    generation: int,
) -> Manifest:
    """Let a new model serve, through validated mappings; no stored vector is changed.

    Args:
        index: the index folder.
        encoder: the new model.
        mappings: older space -> the mapping that reaches it.
        unsearched: older spaces that may go unsearched until they are encoded again.
        generation: the one that the mappings were measured on.

    Returns:
        The generation that is live now.

    Raises:
        StaleEvidenceError: the index has changed since it was measured.
        CorruptIndexError: a segment is damaged.
        UsageError: a space has no mapping and may not go unsearched, or the model may not succeed (`check_successor`).
        IndexLockedError: another process is writing to it.
        DataError: the disk refuses; the old generation stays.
    """
    folder = index_folder(index)
    read_manifest(folder)  # before the lock creates a file in a folder that is no index
    with writing(folder) as writer:
        manifest = read_manifest(folder)
        if manifest.generation != generation:
            raise StaleEvidenceError(
                f"{index}: generation {manifest.generation} is not the one measured, {generation}; measure again"
            )
        check_successor(manifest, encoder.card)
        check_segments(folder, manifest)
        reached = {*mappings, *unsearched, encoder.card.space.id}
        unknown = {entry.space for entry in manifest.segments} - reached
        if unknown:
            raise UsageError(f"{index}: no validated mapping to space {min(unknown)}; measure again, or keep the model")
        entries = {space: write_mapping(folder, mapping) for space, mapping in mappings.items()}
        if encoder.directory is not None:
            remember_model(encoder.card.digest, encoder.directory.resolve())
        return writer.publish(manifest.succeed(card=encoder.card, mappings=entries))
