"""`questions.zip`: judged queries about images of an index, with the photos needed to encode them again.

The photos are kept because those elsewhere may go. `questions.jsonl` holds one query per line with the digests of its
images, so that images that were renamed since are recognised; `photos/SHA256` holds one photo. The comment of the zip
is the SHA-256 of all bytes before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cir.data.judged_query import JudgedQuery
from cir.errors import DataError
from cir.files import parse_json, write_atomically
from cir.images.files import UNREADABLE
from cir.indexer.storage.folder import IndexFolder, checked
from cir.indexer.storage.writer import writing
from cir.typed_json import from_json

_QUERIES = "questions.jsonl"
_LARGEST_LINES = 1 << 26  # bytes of questions that are read at most
_SEAL = 64  # bytes of a SHA-256 in hex
_LARGEST_PHOTO = 256 * 1024 * 1024


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
    with writing(folder):
        put_questions(folder, questions, photos)


def put_questions(folder: IndexFolder, questions: StoredQuestions, photos: Mapping[str, Callable[[], bytes]]) -> None:
    """`write_questions` for the writer, who has the lock. Raises DataError; errors of `photos` pass through."""
    lines = [json.dumps(_to_json(query, questions.digests)) for query in questions.queries]
    with write_atomically(folder.questions) as temporary:
        with zipfile.ZipFile(temporary, "w") as archive:
            archive.writestr(_QUERIES, "\n".join(lines))
            for digest, read in photos.items():
                archive.writestr(f"photos/{digest}", read())
            archive.comment = bytes(_SEAL)
        with temporary.open("r+b") as file:
            file.seek(-_SEAL, os.SEEK_END)
            file.write(_seal_of(temporary).encode())


def read_questions(folder: IndexFolder) -> StoredQuestions:
    """The judged queries of an index; none if it stores none. Raises DataError when the file cannot be read."""
    if not folder.questions.exists():
        return StoredQuestions()
    try:
        lines = _read(folder, _QUERIES, _LARGEST_LINES).decode().splitlines()
        stored = [from_json(_Line, parse_json(line)) for line in lines]
    except (*UNREADABLE, KeyError, ValueError) as error:
        raise DataError(
            f"{folder.questions}: cannot be read: {error}; store the questions again with `cir questions`"
        ) from None
    queries = tuple(map(_to_query, stored))
    return StoredQuestions(queries, {name: digest for line in stored for name, digest in line.digests.items()})


def read_photo(folder: IndexFolder, digest: bytes) -> bytes | None:
    """A photo stored with the judged queries, by the SHA-256 of its file; None if it is not among them, as it was."""
    try:
        data = _read(folder, f"photos/{digest.hex()}", _LARGEST_PHOTO)
    except (*UNREADABLE, KeyError, DataError):
        return None
    return data if hashlib.sha256(data).digest() == digest else None


def photos_of(folder: IndexFolder) -> frozenset[str]:
    """SHA-256 (64 hex digits) of the photos that an index keeps. Raises DataError when the file cannot be read."""
    if not folder.questions.exists():
        return frozenset()
    try:
        with zipfile.ZipFile(checked(folder, folder.questions)) as archive:
            names = archive.namelist()
    except UNREADABLE as error:
        raise DataError(f"{folder.questions}: cannot be read: {error}; store the questions again") from None
    return frozenset(name.removeprefix("photos/") for name in names if name.startswith("photos/"))


def check_questions(folder: IndexFolder) -> list[str]:
    """What is wrong with the stored judged queries; nothing if there are none. Raises DataError or OSError."""
    if not folder.questions.exists():
        return []
    read_questions(folder)
    with checked(folder, folder.questions).open("rb") as file:
        file.seek(-_SEAL, os.SEEK_END)
        sealed = file.read()
    sound = sealed == _seal_of(folder.questions).encode()
    return (
        [] if sound else [f"{folder.questions} contradicts its digest; store the questions again with `cir questions`"]
    )


def _read(folder: IndexFolder, name: str, limit: int) -> bytes:
    """A member of the zip. Raises what zipfile raises, CorruptIndexError, or OSError for more bytes than a limit."""
    path = checked(folder, folder.questions)
    if not path.is_file():
        raise OSError("not a regular file")
    with zipfile.ZipFile(path) as archive, archive.open(name) as member:
        data = member.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"{name} is larger than {limit / 1e6:,.0f} MB")
    return data


def _seal_of(path: Path) -> str:
    """SHA-256 of the file without its last 64 bytes, which are the zip's comment and hold this digest."""
    left, digest = path.stat().st_size - _SEAL, hashlib.sha256()
    with path.open("rb") as file:
        while left > 0:
            block = file.read(min(left, 1 << 20))
            if not block:
                break
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Line:
    """A line of `questions.jsonl`."""

    id: str
    reference: str
    caption: str
    targets: tuple[str, ...]
    digests: Mapping[str, str]
    wrong: tuple[str, ...] | None = None


def _to_json(query: JudgedQuery, digests: Mapping[str, str]) -> dict[str, object]:
    wrong = None if query.wrong is None else sorted(query.wrong)
    names: Sequence[str] = [*([query.reference] if query.reference else []), *sorted(query.targets), *(wrong or [])]
    return {
        "id": query.id,
        "reference": query.reference,
        "caption": query.caption,
        "targets": sorted(query.targets),
        "wrong": wrong,
        "digests": {name: digests[name] for name in names},
    }


def _to_query(line: _Line) -> JudgedQuery:
    wrong = None if line.wrong is None else frozenset(line.wrong)
    return JudgedQuery(line.id, line.reference, line.caption, frozenset(line.targets), wrong=wrong)
