"""What a build has to do: the images of a scan compared with the rows of an index. Reads; never writes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from cir.errors import ImageDecodeError, MissingImageError
from cir.images import ImageFile, locate
from cir.images.files import is_there
from cir.images.names import shown
from cir.images.remote import exists
from cir.indexer.writing.stored_rows import StoredRow, StoredRows
from cir.places import is_url, url_of

Metadata = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row to be written; its vectors are looked up by its digest."""

    id: str
    digest: bytes
    root: str
    metadata: Mapping[str, str]

    @classmethod
    def copy(cls, row: StoredRow) -> NewRow:
        """A stored row that is written again."""
        return cls(row.id, row.digest, row.root, row.metadata)


@dataclass(frozen=True)
class Skipped:
    """An image that is not in the index, or not as it is now, and why."""

    id: str
    reason: str
    root: str


@dataclass
class Found:
    """The outcome of a scan: files with their digests; unreadable files and undecodable contents with reasons.

    `unusable` holds (name, reason) of what should be images but cannot become files to read (`cir.images.Scan`).
    """

    files: list[tuple[ImageFile, bytes]] = field(default_factory=list)
    unreadable: list[tuple[ImageFile, str]] = field(default_factory=list)
    undecodable: dict[bytes, str] = field(default_factory=dict)
    unusable: Sequence[tuple[str, str]] = ()


@dataclass
class Plan:
    """What becomes of every image.

    Attributes:
        added: ids that are new.
        unchanged: ids whose file is as it was.
        updated: ids whose file has another content now.
        renamed: (old, new) ids of contents that moved within the scanned folders.
        missing: ids whose photo is gone; they stay unless they are pruned.
        skipped: images that cannot be used.
        unmatched: ids of metadata that no scanned image has.
        rows: the rows to write, by ascending id.
        tombstones: the rows that no longer count.
    """

    added: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    rows: list[NewRow] = field(default_factory=list)
    tombstones: list[StoredRow] = field(default_factory=list)


def make_plan(found: Found, rows: StoredRows, metadata: Metadata, prune: bool) -> Plan:
    """Decide what becomes of every scanned image and every stored row.

    Args:
        found: outcome of the scan.
        rows: those of the index.
        metadata: columns to set, by id; they are merged into those of the index, "" removes a value.
        prune: delete rows whose photo is gone.
    """
    plan = Plan(skipped=[Skipped(image.id, reason, image.root) for image, reason in found.unreadable])
    plan.skipped += [Skipped(name, reason, "") for name, reason in found.unusable]
    stored = rows.find([image.id for image, _ in found.files])
    moved = _moved_roots(found, stored)
    gone = _gone(found, rows, moved)
    files = sorted(found.files, key=lambda file: file[0].id)
    renames = _renames([file for file in files if file[0].id not in stored], gone)

    for image, digest in files:
        old = stored.get(image.id)
        given = metadata.get(image.id, {})
        if old and old.digest == digest:
            plan.unchanged.append(image.id)
            root = image.root if old.root in moved else old.root
            if root != old.root or given:
                stored_values = old.metadata
                row = NewRow(image.id, digest, root, merged(stored_values, given))
                if root != old.root or row.metadata != stored_values:
                    plan.rows.append(row)
                    plan.tombstones.append(old)
            continue
        if digest in found.undecodable:
            reason = f"{shown(image.id)}: {found.undecodable[digest]}"
            plan.skipped.append(Skipped(image.id, reason, image.root))
            continue
        # A photo takes the place of a vector that was imported without one.
        if old and old.root and old.root != image.root and old.root not in moved:
            reason = f"{image.id}: this id belongs to an image of {old.root}; {_way_out(old.root, image.root)}"
            plan.skipped.append(Skipped(image.id, reason, image.root))
            continue
        if old:
            plan.updated.append(image.id)
        elif image.id in renames:
            old = gone.pop(renames[image.id])
            plan.renamed.append((old.id, image.id))
        else:
            plan.added.append(image.id)
        plan.rows.append(NewRow(image.id, digest, image.root, merged(old.metadata if old else {}, given)))
        if old:
            plan.tombstones.append(old)

    plan.missing = sorted(gone)
    if prune:
        plan.tombstones.extend(gone[image_id] for image_id in plan.missing)
    scanned = {image.id for image, _ in (*found.files, *found.unreadable)}
    plan.unmatched = sorted(metadata.keys() - scanned)
    plan.skipped.sort(key=lambda skipped: skipped.id)
    return plan


def _way_out(one: str, other: str) -> str:
    """What to do about two roots that have an id in common."""
    if is_url(one) != is_url(other):
        return "give one of the two another name, or make another index"
    parent = os.path.commonpath([one, other])
    return f"index {url_of(parent) if is_url(parent) else parent}, which holds both folders"


def _moved_roots(found: Found, stored: Mapping[str, StoredRow]) -> set[str]:
    """Roots that no longer exist while some of their images do, with the same id, under another root."""
    others = {
        old.root
        for image, digest in found.files
        if (old := stored.get(image.id)) and old.digest == digest and old.root != image.root
    }
    return {root for root in others if not exists(root)}


def _gone(found: Found, rows: StoredRows, moved: set[str]) -> dict[str, StoredRow]:
    """Rows of the scanned roots whose image the scan did not see, unless the scan left the photo out."""
    images = [image for image, _ in (*found.files, *found.unreadable)]
    ids = {image.id for image in images}
    places = {(image.path, image.member) for image in images}
    roots = {image.root for image in images} | moved
    # A photo may have another id now: with several folders, ids begin with a folder's name.
    renamed = {row.id: row for row in _stored_at(places, rows) if row.id not in ids}
    unseen = (row for row in rows.under(roots) if row.id not in ids)
    return renamed | {row.id: row for row in unseen if row.id in renamed or not _left_out(row, places)}


def _stored_at(places: Collection[tuple[str, str | None]], rows: StoredRows) -> list[StoredRow]:
    """The stored rows whose root and id together name one of some scanned files."""
    roots = rows.roots - {""}  # of vectors that were imported without a photo
    found: dict[str, set[str]] = defaultdict(set)  # id -> its roots
    for place in places:
        file = "/".join(filter(None, place))
        for slash in (number for number, letter in enumerate(file) if letter == "/"):
            if file[:slash] in roots:
                found[file[slash + 1 :]].add(file[:slash])
    return [row for row in rows.find(found).values() if row.root in found[row.id]]


def _left_out(row: StoredRow, places: set[tuple[str, str | None]]) -> bool:
    """Whether the photo exists but was not scanned: a single image was given instead of its folder."""
    try:
        file = locate(row.root, row.id)
        if not is_there(file):
            return False
    except MissingImageError:
        return False
    except ImageDecodeError:
        return True  # unknown now
    return (file.path, file.member) not in places  # else it was scanned under another id


def _renames(files: Sequence[tuple[ImageFile, bytes]], gone: Mapping[str, StoredRow]) -> dict[str, str]:
    """New id -> the missing id with the same content: first of the same file, then of the same root, then any."""
    by_digest: dict[bytes, list[StoredRow]] = defaultdict(list)
    for image_id in sorted(gone):
        by_digest[gone[image_id].digest].append(gone[image_id])
    renames: dict[str, str] = {}
    likeness: tuple[Callable[[StoredRow, ImageFile], bool], ...] = (
        lambda row, image: f"{row.root}/{row.id}" == "/".join(filter(None, (image.path, image.member))),
        lambda row, image: row.root == image.root,
        lambda row, image: True,
    )
    for alike in likeness:
        for image, digest in files:
            rows = by_digest.get(digest, [])
            old = next((row for row in rows if alike(row, image)), None)
            if old is not None and image.id not in renames:
                renames[image.id] = old.id
                rows.remove(old)
    return renames


def merged(old: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Metadata of a row with what is given for it; an empty value removes one."""
    return {column: value for column, value in {**old, **given}.items() if value}
