"""Removing images from an index: by id, by metadata, or because their photo is gone. A new generation is published."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cir.conditions import Conditions, as_conditions
from cir.errors import ImageDecodeError, MissingImageError, UsageError
from cir.given import Names, names, path_of, shown
from cir.images import locate
from cir.images.files import is_there
from cir.images.remote import exists
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.fetching import index_folder
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.mirror import place_of
from cir.indexer.storage.writer import writing
from cir.indexer.writing.assemble import Added, next_manifest
from cir.indexer.writing.stored_rows import StoredRow, StoredRows

_SHOWN = 5  # unknown ids that an error names


@dataclass(frozen=True)
class RemoveReport:
    """What was removed.

    Attributes:
        path: the index.
        generation: the live generation afterwards; where nothing was removed it is the one before.
        removed: ids, ascending.
        images: live images afterwards.
        left: folder, zip or photo that is not there -> images that were indexed in it, which `missing` left alone.
        dry_run: whether nothing was written.
    """

    path: Path
    generation: int
    removed: list[str]
    images: int
    left: dict[str, int]
    dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "path": str(self.path)}


def remove(
    index: str | Path,
    *,
    ids: Names = None,
    where: Conditions = None,
    missing: bool = False,
    gone_folders: bool = False,
    dry_run: bool = False,
) -> RemoveReport:
    """Remove images from an index; with several of `ids`, `where` and `missing` those that all of them name.

    Files of photos are not touched. `cir.indexer.writing.history.rollback` brings the images back.

    Args:
        index: the index folder.
        ids: of images; all of them must be there.
        where: conditions on metadata, in any form of `as_conditions`.
        missing: images whose photo is gone. A whole folder that is gone may be a disk that is not mounted, so its
            images are left alone and counted.
        gone_folders: also those.
        dry_run: find out what would be removed, and write nothing.

    Raises:
        UsageError: none of the three is given, an id that the index does not hold, an unknown column or operator.
        IndexFormatError: no index, or a damaged one.
        IndexLockedError: another process is writing to it.
        DataError: the disk refuses; the live generation stays.
    """
    folder = index_folder(path_of(index, "the path of an index"))
    wanted, conditions = None if ids is None else names(ids, "ids"), as_conditions(where)
    missing = missing or gone_folders
    if wanted is None and not conditions and not missing:
        raise UsageError("nothing says which images to remove; give ids, a condition on metadata, or missing photos")
    read_manifest(folder)  # before the lock creates a file in a folder that is no index
    if dry_run:
        rows, left = _chosen(folder, wanted, conditions, missing, gone_folders)
        manifest = read_manifest(folder)
        return _report(folder, manifest.generation, rows, manifest.rows - len(rows), left, dry_run)
    with writing(folder) as writer:
        rows, left = _chosen(folder, wanted, conditions, missing, gone_folders)
        manifest = read_manifest(folder)
        if rows:
            manifest = writer.publish(next_manifest(manifest, manifest.card, Added(), rows))
    return _report(folder, manifest.generation, rows, manifest.rows, left, dry_run)


def _report(
    folder: IndexFolder, generation: int, rows: list[StoredRow], images: int, left: dict[str, int], dry_run: bool
) -> RemoveReport:
    return RemoveReport(place_of(folder), generation, sorted(row.id for row in rows), images, left, dry_run)


def _chosen(
    folder: IndexFolder, ids: tuple[str, ...] | None, conditions: Conditions, missing: bool, gone_folders: bool
) -> tuple[list[StoredRow], dict[str, int]]:
    """The rows to remove, and the roots that are not there with the number of images left alone."""
    stored = StoredRows(folder, read_manifest(folder))
    rows = list(stored.find(ids).values()) if ids is not None else None
    if ids is not None and rows is not None:
        unknown = sorted(set(ids) - {row.id for row in rows})
        if unknown:
            more = f" and {len(unknown) - _SHOWN:,} more" if len(unknown) > _SHOWN else ""
            raise UsageError(
                f"{folder} does not hold {', '.join(map(shown, unknown[:_SHOWN]))}{more}; nothing was removed; "
                "ids are paths relative to the folder that was indexed"
            )
    if conditions:
        gallery = Gallery.open(folder.root, strict=True)
        meeting = set(gallery.rows.ids_where(gallery.select(conditions)))
        rows = list(stored.find(meeting).values()) if rows is None else [row for row in rows if row.id in meeting]
    if not missing:
        return rows or [], {}
    absent = {root: not exists(root) for root in stored.roots}
    with_photo = (row for row in (stored if rows is None else rows) if row.root)  # imported vectors never had one
    gone = [row for row in with_photo if absent[row.root] or _is_gone(row)]
    if gone_folders:
        return gone, {}
    left = Counter(row.root for row in gone if absent[row.root])
    return [row for row in gone if not absent[row.root]], dict(sorted(left.items()))


def _is_gone(row: StoredRow) -> bool:
    """Whether a photo is no longer there; not so where that cannot be told."""
    try:
        return not is_there(locate(row.root, row.id))
    except MissingImageError:
        return True
    except ImageDecodeError:
        return False
