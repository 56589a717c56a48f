"""Checking an index from end to end: every digest, count, norm and number."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from cir.arrays import Stored, unit_norm_mask
from cir.errors import CorruptIndexError, DataError
from cir.files import sha256_file
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.manifest import Manifest, SegmentEntry, open_segment, read_manifest
from cir.indexer.storage.mappings import read_mapping
from cir.indexer.storage.questions import read_questions
from cir.indexer.storage.segment import Segment

_STEP_FLOATS = 4 * 1024 * 1024


def verify(path: str | Path) -> list[str]:
    """Check the live generation of an index; reads every byte of it.

    Returns:
        One line per problem; none for a sound index.

    Raises:
        IndexFormatError: there is no index at this path; IndexVersionError: another version wrote it.
    """
    folder = IndexFolder(Path(path))
    try:
        manifest = read_manifest(folder)
    except CorruptIndexError as error:
        return [str(error)]
    problems: list[str] = []
    ids: Counter[str] = Counter()
    for entry in manifest.segments:
        segment = _checked_segment(folder, manifest, entry, problems)
        if segment is not None:
            deleted = set(manifest.deleted.get(entry.name, ()))
            ids.update(image_id for row, image_id in enumerate(segment.ids) if row not in deleted)
    for mapping in manifest.mappings.values():
        try:
            read_mapping(folder, mapping)
        except CorruptIndexError as error:
            problems.append(str(error))
    try:
        read_questions(folder)
    except DataError as error:
        problems.append(str(error))
    problems += [f"{image_id}: {count} live rows have this id" for image_id, count in ids.items() if count > 1]
    for name in manifest.deleted.keys() - {entry.name for entry in manifest.segments}:
        problems.append(f"deletions are listed for segment {name}, which does not exist")
    return problems


def _checked_segment(
    folder: IndexFolder, manifest: Manifest, entry: SegmentEntry, problems: list[str]
) -> Segment | None:
    path = folder.gallery(entry.name)
    for name, file in entry.files.items():
        published = path.with_name(name)
        if published.is_file() and sha256_file(published) != file.sha256:
            problems.append(f"{published} contradicts its digest; restore it from a copy")
    try:
        segment = open_segment(folder, entry)
        lengths = {
            len(segment.ids),
            len(segment.digests),
            len(segment.roots),
            *map(len, segment.metadata.values()),
        }
    except CorruptIndexError as error:
        problems.append(str(error))
        return None
    layout = segment.layout
    if lengths != {entry.rows}:
        problems.append(f"{path} has {sorted(lengths)} rows instead of {entry.rows} as in the manifest")
    described = (entry.model, entry.space, entry.dims, entry.tokens, entry.vectors)
    if described != (layout.model, layout.space, layout.dims, layout.tokens, layout.vectors):
        problems.append(f"{path} holds other vectors than the manifest describes")
    if entry.space not in manifest.spaces or entry.model not in manifest.models:
        problems.append(f"{path} holds vectors of a space or model that the manifest does not describe")
    if any(not 0 <= row < entry.rows for row in manifest.deleted.get(entry.name, ())):
        problems.append(f"{path}: rows are listed as deleted that do not exist")
    for name, stored in (("vectors", segment.vectors), ("tokens", segment.tokens)):
        if stored is not None:
            problems += _checked_norms(f"{path}: {name}", stored, segment.ids)
    return segment


def _checked_norms(what: str, stored: Stored, ids: list[str]) -> list[str]:
    if len(stored) != len(ids):
        return [f"{what} have {len(stored)} rows for {len(ids)} ids"]
    bad: list[str] = []
    step = max(1, _STEP_FLOATS // max(1, int(np.prod(stored.shape[1:]))))
    for start in range(0, len(stored), step):
        block = stored[start : start + step]
        wrong = ~unit_norm_mask(block).reshape(len(block), -1).all(axis=1)
        bad += [ids[start + row] for row in np.flatnonzero(wrong)]
    return [f"{what} of {len(bad)} images are not of unit length, first {bad[0]}"] if bad else []
