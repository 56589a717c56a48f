"""`questions.zip`: judged queries and the photos they need."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from cir.data.judged_query import JudgedQuery
from cir.errors import DataError, IndexLockedError, MissingImageError
from cir.files import sha256_bytes
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.lock import writer_lock
from cir.indexer.storage.questions import StoredQuestions, check_questions, read_photo, read_questions, write_questions

CONTENTS = {letter: letter.encode() * 300 for letter in "abc"}
DIGESTS = {letter: sha256_bytes(data) for letter, data in CONTENTS.items()}
PHOTOS = {DIGESTS[letter]: data for letter, data in CONTENTS.items()}
QUESTIONS = StoredQuestions(
    (
        JudgedQuery("1", "shop/a.jpg", "in red", frozenset(["b.jpg", "c.jpg"])),
        JudgedQuery("2", "", "a hat, 日本", frozenset(["c.jpg"])),
    ),
    {"shop/a.jpg": DIGESTS["a"], "b.jpg": DIGESTS["b"], "c.jpg": DIGESTS["c"]},
)


@pytest.fixture
def folder(tmp_path: Path) -> IndexFolder:
    return IndexFolder(tmp_path)


def write(folder: IndexFolder) -> None:
    write_questions(folder, QUESTIONS, {digest: partial(bytes, data) for digest, data in PHOTOS.items()})


def test_questions_and_photos_come_back_as_they_were(folder: IndexFolder) -> None:
    assert read_questions(folder) == StoredQuestions()
    assert read_photo(folder, bytes.fromhex(DIGESTS["a"])) is None
    write(folder)
    assert read_questions(folder) == QUESTIONS
    for digest, photo in PHOTOS.items():
        assert read_photo(folder, bytes.fromhex(digest)) == photo
    assert read_photo(folder, bytes(32)) is None
    write_questions(folder, StoredQuestions(), {})
    assert read_questions(folder) == StoredQuestions()
    assert read_photo(folder, bytes.fromhex(DIGESTS["a"])) is None


def test_a_photo_that_is_gone_changes_nothing(folder: IndexFolder) -> None:
    def gone() -> bytes:
        raise MissingImageError("a.jpg: no longer there")

    write(folder)
    with pytest.raises(MissingImageError, match=r"^a\.jpg: no longer there$"):
        write_questions(folder, StoredQuestions(), {"a" * 64: gone})
    assert read_questions(folder) == QUESTIONS
    assert sorted(path.name for path in folder.root.iterdir()) == ["LOCK", "questions.zip"]


def test_another_writer_comes_first(folder: IndexFolder) -> None:
    with writer_lock(folder), pytest.raises(IndexLockedError):
        write(folder)


def test_an_image_without_a_digest_is_a_mistake_of_the_caller(folder: IndexFolder) -> None:
    with pytest.raises(KeyError):
        write_questions(folder, StoredQuestions(QUESTIONS.queries), {})
    assert not folder.questions.exists()


def test_any_damage_is_reported_or_harmless(folder: IndexFolder) -> None:
    write(folder)
    data = folder.questions.read_bytes()
    messages = []
    assert check_questions(folder) == []
    for place in range(0, len(data), 7):
        folder.questions.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        try:
            assert read_questions(folder) == QUESTIONS
        except DataError as error:
            messages.append(str(error))
        for digest, photo in PHOTOS.items():
            assert read_photo(folder, bytes.fromhex(digest)) in (photo, None)
        with suppress(DataError):
            assert len(check_questions(folder)) == 1
    assert len(messages) > 10
    assert all("store the questions again with `cir questions`" in message for message in messages)
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize("text", ["{", "[]", "1", "{}", '{"id": "1"}'])
def test_other_contents_are_refused(folder: IndexFolder, text: str) -> None:
    with zipfile.ZipFile(folder.questions, "w") as archive:
        archive.writestr("questions.jsonl", text)
    with pytest.raises(DataError, match=r"questions\.zip: cannot be read"):
        read_questions(folder)
