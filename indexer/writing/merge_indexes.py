"""One index out of several that the same model serves.

It is put together in a temporary folder beside its place, and appears there in one step when it is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from cir.data.judged_query import JudgedQuery
from cir.errors import IndexLockedError, MissingImageError, SpaceMismatchError, UsageError
from cir.files import disk_errors, is_temporary, make_folder, move, remove_tree, sync
from cir.given import path_of, paths, shown
from cir.indexer.reading.ann import ANN_MIN_ROWS
from cir.indexer.storage.fetching import index_folder
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.lock import writer_lock
from cir.indexer.storage.manifest import Manifest, SegmentEntry
from cir.indexer.storage.mappings import read_mapping, write_mapping
from cir.indexer.storage.marks import merge_marks
from cir.indexer.storage.mirror import on_disk, place_of
from cir.indexer.storage.questions import StoredQuestions, photos_of, put_questions, read_photo, read_questions
from cir.indexer.storage.segment import Layout, Segment
from cir.indexer.storage.writer import Writer
from cir.indexer.writing.assemble import build_derived, clean_work
from cir.indexer.writing.merging import NewRows, SegmentRows, Source, check_intact, write_merged
from cir.indexer.writing.plan import NewRow
from cir.indexer.writing.stored_rows import StoredRow, StoredRows, live_rows

_SHOWN = 5  # ids that an error names


@dataclass(frozen=True)
class MergeReport:
    """What a merge made.

    Attributes:
        path: the new index.
        images: in it.
        twice: images that several indexes held, with the same id and content; each is there once.
        differing: ids of those whose metadata differs; the value of the index that was named first counts.
        questions: judged queries in it.
        questions_left: ids of judged queries that could not be taken over.
        marks: hits that people have judged; all are taken over.
        bytes: of its segment files.
    """

    path: Path
    images: int
    twice: int
    differing: list[str]
    questions: int
    questions_left: list[str]
    marks: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class _Index:
    """One of the indexes that are merged."""

    folder: IndexFolder
    manifest: Manifest
    rows: StoredRows


def merge(indexes: Iterable[str | Path], out: str | Path, *, ann_min_rows: int = ANN_MIN_ROWS) -> MergeReport:
    """Make one index out of several; they stay as they are, and nothing is encoded.

    An id that several hold is one image if its content is the same: what the first says of it counts, and the others
    fill in metadata that it lacks. Roots, mappings, judged queries and marks are taken over; earlier generations are
    not.

    Args:
        indexes: at least two.
        out: the new index; there must be nothing yet, or an empty folder.
        ann_min_rows: segments of at least this many vectors get an approximate index.

    Raises:
        UsageError: fewer than two indexes, one twice, something at `out`, or `out` inside one, an id that stands for
            different contents, or vectors that are stored or mapped differently.
        SpaceMismatchError: different models serve them.
        IndexFormatError: one is no index, or damaged.
        IndexLockedError: another process is merging to the same place.
        DataError: the disk is full or refuses; then there is nothing at `out`.
    """
    given, target = paths(indexes, "indexes"), on_disk(path_of(out, "the path of an index"), "a merged index").root
    if len(given) < 2 or len({os.path.realpath(path) for path in given}) < len(given):
        raise UsageError("name at least two indexes to merge, and each once")
    _check_free(target)
    _check_outside(target, given)
    parts = [_opened(index_folder(path)) for path in given]
    _check_alike(parts)
    shared = _Shared.of(parts)
    folder = IndexFolder(target.absolute().parent / f".tmp-merge-{target.name}")
    with ExitStack() as stack:
        try:
            make_folder(folder.root)
            lock = stack.enter_context(writer_lock(folder))
            _remove_leftovers(folder)
            writer = Writer(folder, lock)
            entries = _write_segments(folder, parts, shared)
            manifest = writer.publish(_manifest(folder, parts, entries))
            build_derived(folder, manifest, ann_min_rows)
            clean_work(folder)
            questions, left = _write_questions(folder, parts)
            marks = merge_marks(folder, [part.folder for part in parts])
            _check_free(target)
            with disk_errors(target):
                sync(folder.root)
                move(folder.root, target)
        except IndexLockedError:
            raise
        except BaseException:
            remove_tree(folder.root)
            raise
    used = sum(file.bytes for entry in manifest.segments for file in entry.files.values())
    return MergeReport(target, manifest.rows, shared.count, shared.differing, questions, left, marks, used)


def _remove_leftovers(folder: IndexFolder) -> None:
    """What a merge that was killed has left."""
    for path in folder.root.iterdir():
        if path != folder.lock:
            remove_tree(path)


def _check_free(target: Path) -> None:
    if target.is_dir():
        taken = next((path.name for path in target.iterdir() if not is_temporary(path.name)), None)
        if taken is None:
            return
        raise UsageError(f"{target} exists and holds {shown(taken)}; name a new folder for the merged index")
    if os.path.lexists(target):
        raise UsageError(f"{target} exists; name a new folder for the merged index")


def _check_outside(target: Path, given: Sequence[Path]) -> None:
    place = Path(os.path.realpath(target))
    for path in given:
        if Path(os.path.realpath(path)) in place.parents:
            raise UsageError(f"{target} is inside {path}, which is merged; name a folder outside of it")


def _opened(folder: IndexFolder) -> _Index:
    manifest = read_manifest(folder)
    return _Index(folder, manifest, StoredRows(folder, manifest))


def _check_alike(parts: Sequence[_Index]) -> None:
    """Refuse indexes of several models, and those that store or map vectors of one space in different ways."""
    first = parts[0]
    for other in parts[1:]:
        if other.manifest.serving != first.manifest.serving:
            names = [f"{each.folder} is served by model {each.manifest.card.name}" for each in (first, other)]
            raise SpaceMismatchError(
                f"{names[0]} and {names[1]} ({first.manifest.serving} and {other.manifest.serving}), whose vectors "
                "cannot be compared; let one model serve both first: `cir replace-model`, or build one of them again"
            )
    layouts: dict[str, tuple[Layout, IndexFolder]] = {}
    for part in parts:
        for segment in part.rows.segments:
            layout, folder = layouts.setdefault(segment.layout.space, (segment.layout, part.folder))
            if not segment.layout.fits(layout):
                raise UsageError(
                    f"{folder} stores {_described(layout)} and {part.folder} {_described(segment.layout)}; "
                    "build one of them again as the other is"
                )
    for space in layouts:
        using = [part for part in parts if any(entry.space == space for entry in part.manifest.segments)]
        for part in using[1:]:
            if _mapping_of(part, space) != _mapping_of(using[0], space):
                raise UsageError(
                    f"{using[0].folder} and {part.folder} reach the vectors of model "
                    f"{part.manifest.maker(space).name} in different ways; run `cir backfill` on both first"
                )


def _described(layout: Layout) -> str:
    what = [*(["one vector"] if layout.vectors else []), *([f"{layout.tokens} tokens"] if layout.tokens else [])]
    return f"{' and '.join(what)} per image in {layout.precision}"


def _mapping_of(part: _Index, space: str) -> str | None:
    entry = part.manifest.mappings.get(space)
    return entry.name if entry else None


@dataclass
class _Shared:
    """Images that several indexes hold.

    Attributes:
        count: how many.
        dropped: rows that the new index does not take as they are: number of the index, name of the segment, row.
        rows: those of them that get metadata from several indexes, written anew.
        places: content -> open segment and row that hold the vectors of those.
        differing: ids whose metadata differs.
    """

    count: int = 0
    dropped: list[tuple[int, str, int]] = field(default_factory=list)
    rows: list[NewRow] = field(default_factory=list)
    places: dict[bytes, tuple[Segment, int]] = field(default_factory=dict)
    differing: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, parts: Sequence[_Index]) -> _Shared:
        """Raises UsageError where one id stands for different contents."""
        seen: set[str] = set()
        twice: set[str] = set()
        for part in parts:
            ids = {row.id for row in part.rows}
            twice |= seen & ids
            seen |= ids
        shared, native = cls(len(twice)), parts[0].manifest.space.id
        held = [part.rows.find(twice) for part in parts]
        different: dict[str, list[str]] = {}  # by message
        for image_id in sorted(twice):
            copies = [(number, rows[image_id]) for number, rows in enumerate(held) if image_id in rows]
            if len({row.digest for _, row in copies}) > 1:
                different.setdefault(_clash([row for _, row in copies]), []).append(image_id)
            else:
                shared._add(copies, native)
        for clash, listed in different.items():
            more = f" and {len(listed) - _SHOWN:,} more" if len(listed) > _SHOWN else ""
            raise UsageError(clash.format(ids=", ".join(map(shown, listed[:_SHOWN])) + more))
        return shared

    def _add(self, copies: Sequence[tuple[int, StoredRow]], native: str) -> None:
        """One image: its row in each index that holds it."""
        # The serving model's own vectors before those of an older one.
        kept = next((copy for copy in copies if copy[1].segment.layout.space == native), copies[0])
        metadata: dict[str, str] = {}
        for _, row in reversed(copies):
            metadata |= row.metadata
        row = copies[0][1]
        if any(metadata[column] != value for _, other in copies for column, value in other.metadata.items()):
            self.differing.append(row.id)
        anew = (metadata, row.root) != (kept[1].metadata, kept[1].root)
        if anew:
            self.rows.append(NewRow(row.id, row.digest, row.root, metadata))
            if row.digest not in self.places or kept[1].segment.layout.space == native:
                self.places[row.digest] = kept[1].segment.segment, kept[1].row
        self.dropped += [(number, row.segment.name, row.row) for number, row in copies if anew or row is not kept[1]]


def _clash(rows: Sequence[StoredRow]) -> str:
    """What to say where one id stands for the different contents of some rows; `{ids}` is filled in."""
    if all(row.root for row in rows):
        return (
            "different images have the same id: {ids}; index their folders together, then ids begin with the folder's "
            "name: cir build-index FOLDER OTHER -o NEW.index"
        )
    what = "a photo and another an imported vector" if any(row.root for row in rows) else "another vector than another"
    return f"one index holds {what} of the same id: {{ids}}; remove it from one of them first: cir remove INDEX ID"


def _write_segments(folder: IndexFolder, parts: Sequence[_Index], shared: _Shared) -> list[SegmentEntry]:
    """One segment for each space."""
    dropped: dict[tuple[int, str], list[int]] = {}
    for number, name, row in shared.dropped:
        dropped.setdefault((number, name), []).append(row)
    sources: dict[str, tuple[Layout, list[Source]]] = {}
    for number, part in enumerate(parts):
        for segment in part.rows.segments:
            check_intact(segment)
            rows = live_rows(segment, dropped.get((number, segment.name), ()))
            if len(rows):
                sources.setdefault(segment.layout.space, (segment.layout, []))[1].append(
                    SegmentRows(segment.segment, rows)
                )
    anew: dict[str, list[NewRow]] = {}
    for new in shared.rows:
        layout = shared.places[new.digest][0].layout
        sources.setdefault(layout.space, (layout, []))
        anew.setdefault(layout.space, []).append(new)
    for space, rewritten in anew.items():
        sources[space][1].append(NewRows(rewritten, shared.places.__getitem__))
    return [write_merged(folder, layout, list(rows)) for layout, rows in sources.values()]


def _manifest(folder: IndexFolder, parts: Sequence[_Index], entries: Sequence[SegmentEntry]) -> Manifest:
    """The first generation of the new index."""
    first = parts[0].manifest
    models = {digest: card for part in reversed(parts) for digest, card in part.manifest.models.items()}
    spaces = {name: space for part in reversed(parts) for name, space in part.manifest.spaces.items()}
    mappings = {}
    for space in {entry.space for entry in entries}:
        for part in parts:
            if space in part.manifest.mappings and any(entry.space == space for entry in part.manifest.segments):
                mapping = read_mapping(part.folder, part.manifest.mappings[space])
                mappings[space] = write_mapping(folder, mapping)
                break
    new = replace(Manifest.empty(first.card), models=models, spaces=spaces, keep=first.keep)
    roots = [root for part in parts for root in part.manifest.roots]
    return new.succeed(segments=entries, mappings=mappings, roots=roots)


def _write_questions(folder: IndexFolder, parts: Sequence[_Index]) -> tuple[int, list[str]]:
    """Take over judged queries and their photos; returns how many queries, and the ids of those that contradict."""
    queries: dict[str, JudgedQuery] = {}
    digests: dict[str, str] = {}
    owners: dict[str, IndexFolder] = {}
    left: list[str] = []
    for part in parts:
        stored, photos_here = read_questions(part.folder), photos_of(part.folder)
        for query in stored.queries:
            named = (query.reference, *query.targets, *(query.wrong or ()))
            own = {name: stored.digests[name] for name in named if name}
            if queries.get(query.id) == query and all(digests[name] == digest for name, digest in own.items()):
                continue  # the same question in both
            if query.id in queries:
                query = replace(query, id=f"{place_of(part.folder).stem}:{query.id}")
            if query.id in queries or any(digests.get(name, digest) != digest for name, digest in own.items()):
                left.append(f"{part.folder}: {query.id}")
                continue
            queries[query.id] = query
            digests |= own
            owners |= {digest: part.folder for digest in own.values() if digest in photos_here}
    if queries:
        photos = {digest: _Photo(owner, digest) for digest, owner in owners.items()}
        put_questions(folder, StoredQuestions(tuple(queries.values()), digests), photos)
    return len(queries), left


@dataclass(frozen=True)
class _Photo:
    """A photo that an index keeps with its judged queries."""

    folder: IndexFolder
    digest: str

    def __call__(self) -> bytes:
        data = read_photo(self.folder, bytes.fromhex(self.digest))
        if data is None:
            raise MissingImageError(
                f"{self.folder.questions} lacks the photo {self.digest}; store the questions again with `cir questions`"
            )
        return data
