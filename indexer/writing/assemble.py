"""The pieces of a next generation: segments of new rows, rows that no longer count, approximate indexes."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from cir.errors import MissingDependencyError
from cir.files import remove_tree
from cir.indexer.reading import ann, token_codes
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.generations import open_segment
from cir.indexer.storage.manifest import Manifest, SegmentEntry
from cir.indexer.storage.mirror import fetch_segment
from cir.indexer.storage.segment import Layout
from cir.indexer.writing.judged_vectors import judged_vectors
from cir.indexer.writing.merging import (
    SEGMENT,
    FindVectors,
    NewRows,
    SegmentRows,
    Source,
    is_intact,
    to_absorb,
    write_merged,
)
from cir.indexer.writing.plan import NewRow
from cir.indexer.writing.stored_rows import StoredRow, StoredRows, live_rows
from cir.model_card import APART
from cir.types import GalleryEncoder, ModelCard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Added:
    """Segments that a next generation adds, and the names of those that they take the place of."""

    entries: tuple[SegmentEntry, ...] = ()
    absorbed: frozenset[str] = frozenset()


def write_rows(
    folder: IndexFolder,
    stored: StoredRows,
    rows: Sequence[NewRow],
    find: FindVectors,
    tombstones: Collection[StoredRow],
) -> Added:
    """Write rows into new segments, one for each layout, with the small segments that are there; none is published yet.

    Args:
        folder: the index.
        stored: the live rows before.
        rows: new rows.
        find: digest of a content -> the open segment and row that hold its vectors.
        tombstones: stored rows that no longer count.

    Raises:
        DataError: the disk is full or refuses.
    """
    # A renamed image keeps its vectors, even those of an older model.
    by_space: dict[str, tuple[Layout, list[NewRow]]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        layout = find(row.digest)[0].layout
        by_space.setdefault(layout.space, (layout, []))[1].append(row)
    return write_sources(
        folder, stored, [(layout, NewRows(new, find)) for layout, new in by_space.values()], tombstones
    )


def write_sources(
    folder: IndexFolder,
    stored: StoredRows,
    sources: Iterable[tuple[Layout, Source]],
    tombstones: Collection[StoredRow],
) -> Added:
    """Write new rows of any source, one segment for each, with the small segments of its layout; as `write_rows`."""
    dropped = _by_segment(tombstones)
    entries: list[SegmentEntry] = []
    absorbed: set[str] = set()
    for layout, new in sources:
        size = layout.row_bytes * len(new.ids)
        # A damaged segment stays as it is, for `cir verify` to find.
        taken = [each for each in to_absorb(stored.segments, layout, size) if is_intact(each)]
        old: list[Source] = [SegmentRows(each.segment, live_rows(each, dropped[each.name])) for each in taken]
        entries.append(write_merged(folder, layout, [new, *old]))
        absorbed.update(each.name for each in taken)
    return Added(tuple(entries), frozenset(absorbed))


def _by_segment(rows: Iterable[StoredRow]) -> defaultdict[str, list[int]]:
    """Rows by the name of their segment."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        found[row.segment.name].append(row.row)
    return found


def next_manifest(
    old: Manifest,
    card: ModelCard,
    added: Added,
    tombstones: Iterable[StoredRow] = (),
    *,
    roots: Iterable[str] = (),
    keep: int | None = None,
) -> Manifest:
    """The generation after `old`: with new segments in place of others, without some rows.

    Args:
        old: the live generation, or an empty one.
        card: the serving model.
        added: the new segments; `Added()` where rows are only deleted.
        tombstones: rows that no longer count.
        roots: where images were this time.
        keep: how many earlier generations to keep; as before if None.
    """
    deleted = old.without(_by_segment(tombstones))
    segments = [entry for entry in old.segments if entry.name not in added.absorbed]
    known = old.models.get(card.digest, card)
    if known.composition in APART:  # `cir compose` may have chosen it for this index
        card = replace(card, composition=known.composition, sum_weight=known.sum_weight)
    after = old.succeed(card=card, segments=[*segments, *added.entries], deleted=deleted, roots=roots, keep=keep)
    # A segment without a live row is no longer named; its file stays for older generations.
    live = [entry for entry in after.segments if after.live_rows(entry).any()]
    remaining = {entry.name: deleted[entry.name] for entry in live if entry.name in deleted}
    return after.succeed(segments=live, deleted=remaining)


def build_derived(
    folder: IndexFolder, manifest: Manifest, min_rows: int, encoder: GalleryEncoder | None = None
) -> None:
    """Build the approximate index of segments of `min_rows` vectors and more, so that no search has to.

    Segments without vectors get codes of their tokens, where those are as many.

    Args:
        folder: the index.
        manifest: the generation whose segments are looked at.
        min_rows: see above.
        encoder: the serving model, if it is loaded: it encodes the judged queries of the index, on which what is built
            for its own space is measured too.
    """
    for entry in manifest.segments:
        # Vectors that a mapping reaches are searched as mapped, which have an index of their own.
        wanted = ann.suits(entry.rows * (1 if entry.vectors else entry.tokens), min_rows)
        if not wanted or (entry.vectors and entry.space in manifest.mappings):
            continue
        fetch_segment(folder, entry)  # workers may have written it into a store
        segment, digest = open_segment(folder, entry), entry.files[GALLERY].sha256
        asked = encoder if entry.space == manifest.space.id else None
        queries = partial(judged_vectors, folder, asked)
        if segment.vectors is not None:
            try:
                ann.load_or_build(segment.path.parent, digest, segment.vectors, queries)
            except MissingDependencyError as error:
                log.warning("%s is searched exactly, which is slower: %s", folder, error)
        elif segment.tokens is not None:
            token_codes.load_or_build(segment.path.parent, digest, segment.tokens, queries)


def clean_work(folder: IndexFolder) -> None:
    """Remove the segment under `work/`; parts of an interrupted build stay."""
    remove_tree(folder.work / SEGMENT)
    with suppress(OSError):
        folder.work.rmdir()
