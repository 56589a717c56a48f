"""A gallery of some segments of a generation, for a part of a spread one."""

from __future__ import annotations

from collections.abc import Collection

from cir.indexer.reading.device_scan import search_device
from cir.indexer.reading.gallery import Gallery, How
from cir.indexer.reading.opening import open_part
from cir.indexer.reading.ranking import Ranking
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.mirror import folder_at


def open_part_gallery(
    path: str,
    pointer: tuple[int, str],
    manifest: Manifest,
    names: Collection[str],
    before: Gallery | None,
    ann_min_rows: int,
    device: str,
) -> Gallery:
    """Open some segments of a generation, and what an approximate search of them needs.

    Args:
        path: the index folder, or its URL.
        pointer: number and SHA-256 of the manifest.
        manifest: of the generation.
        names: of the segments; those that are damaged are left out (`Gallery.damaged`).
        before: a gallery that is open; what both have is not opened again.
        ann_min_rows: as for `Gallery.open`.
        device: as for `Gallery.open`.

    Raises:
        CorruptIndexError: a mapping is damaged, or no longer kept.
        StoreError: the object store cannot be reached, or refuses.
    """
    opened = open_part(folder_at(path), pointer, manifest, names, before._opened if before else None)
    gallery = Gallery(opened, How(ann_min_rows, False, search_device(device), False), before)
    for segment in gallery._segments:
        segment.load()
    return gallery


def part_ranking(gallery: Gallery) -> Ranking:
    """The search over the segments of such a gallery."""
    return gallery._ranking
