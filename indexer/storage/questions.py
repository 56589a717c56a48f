"""`questions.zip`: judged queries about images of an index, with the photos needed to encode them again.

The photos are kept because those elsewhere may go. `questions.jsonl` holds one query per line with the digests of its
images, so that images that were renamed since are recognised; `photos/SHA256` holds one photo.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cir.data.judged_query import JudgedQuery
from cir.errors import DataError
from cir.files import parse_json, write_atomically
from cir.images.files import UNREADABLE
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.lock import writer_lock

_QUERIES = "questions.jsonl"


@dataclass(frozen=True)
class StoredQuestions:
    """What `questions.zip` holds.

    Attributes:
        queries: the judged queries, with the ids that images had when they were stored.
        digests: image id -> SHA-256 of its file (64 hex digits) at that time.
    """

    queries: tuple[JudgedQuery, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)


def write_questions(folder: IndexFolder, questions: StoredQuestions, photos: Mapping[str, Callable[[], bytes]]) -> None:
    """Replace the judged queries of an index, in one step.

    Args:
        folder: the index.
        questions: with the digest of every image that a query names.
        photos: SHA-256 (64 hex digits) -> reads the photo.

    Raises:
        IndexLockedError: another process is writing to the index.
        DataError: the disk refuses; the stored queries are unchanged. Errors of `photos` pass through.
    """
    lines = [json.dumps(_to_json(query, questions.digests)) for query in questions.queries]
    with (
        writer_lock(folder),
        write_atomically(folder.questions) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        archive.writestr(_QUERIES, "\n".join(lines))
        for digest, read in photos.items():
            archive.writestr(f"photos/{digest}", read())


def read_questions(folder: IndexFolder) -> StoredQuestions:
    """The judged queries of an index; none if it stores none. Raises DataError when the file cannot be read."""
    if not folder.questions.is_file():
        return StoredQuestions()
    try:
        with zipfile.ZipFile(folder.questions) as archive:
            lines = [parse_json(line) for line in archive.read(_QUERIES).decode().splitlines()]
        queries = tuple(
            JudgedQuery(line["id"], line["reference"], line["caption"], frozenset(line["targets"])) for line in lines
        )
        return StoredQuestions(queries, {name: digest for line in lines for name, digest in line["digests"].items()})
    except (*UNREADABLE, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{folder.questions}: cannot be read: {error}; store the questions again with `cir questions`"
        ) from None


def read_photo(folder: IndexFolder, digest: bytes) -> bytes | None:
    """A photo stored with the judged queries, by the SHA-256 of its file; None if it is not among them."""
    try:
        with zipfile.ZipFile(folder.questions) as archive:
            return archive.read(f"photos/{digest.hex()}")
    except (*UNREADABLE, KeyError):
        return None


def _to_json(query: JudgedQuery, digests: Mapping[str, str]) -> dict[str, object]:
    names: Sequence[str] = [*([query.reference] if query.reference else []), *sorted(query.targets)]
    return {
        "id": query.id,
        "reference": query.reference,
        "caption": query.caption,
        "targets": sorted(query.targets),
        "digests": {name: digests[name] for name in names},
    }
