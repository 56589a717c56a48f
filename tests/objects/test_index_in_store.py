"""An index in a store: the same index as on disk, for several machines, of which each sees old or new."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cir.errors import CorruptIndexError, IndexFormatError, IndexLockedError, StoreConflictError, StoreError
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import verify
from cir.indexer.storage import publishing
from cir.indexer.storage.fetching import index_folder
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.manifest import Manifest
from cir.indexer.storage.marks import Mark, append_marks, read_marks
from cir.indexer.storage.mirror import folder_at, upload_segment
from cir.indexer.storage.questions import StoredQuestions, put_questions, read_questions
from cir.indexer.storage.writer import writing
from cir.indexer.writing.history import rollback
from cir.indexer.writing.remove import remove
from cir.objects import Store, open_store
from cir.testing.fakes import FakeEncoder, answer, build, paint

Machine = Callable[[str], None]


def digests(manifest: Manifest) -> list[str]:
    return [entry.files[GALLERY].sha256 for entry in manifest.segments]


def keys(index: str) -> set[str]:
    return {info.key for info in open_store(index).listed()}


def current(index: str) -> bytes:
    got = open_store(index).get("CURRENT", 1000)
    assert got is not None
    return got[0]


def test_it_is_the_index_of_a_folder(index: str, photos: Path, out: Path, machine: Machine) -> None:
    (photos / "broken.png").write_bytes(b"")
    report, local = build(photos, Path(index)), build(photos, out)
    assert str(report.path) == index
    assert (report.added, report.skipped) == (local.added, local.skipped)
    assert digests(read_manifest(folder_at(index))) == digests(read_manifest(IndexFolder(out)))
    machine("other")
    assert answer(Path(index)) == answer(out)
    assert verify(index) == []
    (name,) = digests(read_manifest(folder_at(index)))
    assert {key.split("-")[0] for key in keys(index)} == {
        *("CURRENT", "manifests/000001", "skipped.jsonl"),
        f"segments/{name}/{GALLERY}",
    }


def test_what_one_machine_adds_the_others_have(index: str, photos: Path, machine: Machine) -> None:
    build(photos, Path(index))
    gallery = Gallery.open(index)
    machine("other")
    paint(photos / "more.png", 500)
    encoder = FakeEncoder()
    report = build(photos, Path(index), encoder)
    assert (report.added, len(report.unchanged), encoder.encoded) == (["more.png"], 20, 1)
    remove(index, ids=["0003.png"])
    machine("third")
    assert len(Gallery.open(index)) == 20
    assert len(gallery) == 20
    assert "more.png" not in gallery
    rollback(Path(index), 1)
    assert sorted(Gallery.open(index).ids) == sorted(gallery.ids)
    assert verify(index) == []


def test_derived_files_are_shared(index: str, photos: Path, machine: Machine) -> None:
    build(photos, Path(index), ann_min_rows=1)
    derived = {key.split("/")[-1] for key in keys(index) if key.startswith("segments/")} - {GALLERY}
    assert derived == {"ann.faiss", "ann.json"}
    machine("other")
    folder = index_folder(index)
    (entry,) = read_manifest(folder).segments
    assert {path.name for path in folder.gallery(entry.name).parent.iterdir()} == {GALLERY, *derived}
    assert verify(index) == []


def test_a_writer_that_was_overtaken_publishes_nothing(index: str, photos: Path, machine: Machine) -> None:
    build(photos, Path(index))
    machine("slow")
    with pytest.raises(IndexLockedError) as error, writing(index_folder(index)) as writer:  # noqa: PT012
        machine("fast")
        remove(index, ids=["0001.png"])
        machine("slow")
        writer.publish(read_manifest(writer.folder).succeed(keep=3))
    assert str(error.value) == (
        f"{index}: another writer has published generation 2 meanwhile, so nothing of this was published; run the same "
        "command again"
    )
    remove(index, ids=["0002.png"])
    assert sorted(set(Gallery.open(index).ids) & {"0001.png", "0002.png"}) == []
    assert verify(index) == []


def test_a_writer_that_is_overtaken_at_the_last_moment(
    index: str, photos: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(photos, Path(index))
    plain = Store.put_if

    def overtaken(store: Store, key: str, data: bytes, version: str | None) -> str:
        if key == "CURRENT":
            monkeypatch.setattr(Store, "put_if", plain)
            machine("fast")
            remove(index, ids=["0001.png"])
        return plain(store, key, data, version)

    monkeypatch.setattr(Store, "put_if", overtaken)
    paint(photos / "more.png", 500)
    with pytest.raises(IndexLockedError, match="another writer has published generation 2"):
        build(photos, Path(index))
    machine("third")
    gallery = Gallery.open(index)
    assert (len(gallery), "more.png" in gallery) == (19, False)
    machine("slow")
    build(photos, Path(index))
    assert "more.png" in Gallery.open(index)
    assert verify(index) == []


def test_an_answer_lost_on_its_way_is_no_failure(index: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Store.put_if

    def deaf(store: Store, key: str, data: bytes, version: str | None) -> str:
        found = plain(store, key, data, version)
        if key == "CURRENT":
            raise StoreError("no answer in time")
        return found

    monkeypatch.setattr(Store, "put_if", deaf)
    build(photos, Path(index))
    remove(index, ids=["0001.png"])
    assert len(Gallery.open(index)) == 19


def test_a_server_that_ignores_conditions_is_refused(index: str, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "put_if", lambda store, key, data, version: store.put(key, data))
    with pytest.raises(StoreError, match="ignores the conditions of a write"):
        build(photos, Path(index))
    assert "CURRENT" not in keys(index)


def test_what_two_machines_mark_is_all_kept(index: str, photos: Path, machine: Machine) -> None:
    build(photos, Path(index))
    for name in ("a", "b"):
        machine(name)
        index_folder(index)
    for number, name in enumerate("aba"):
        machine(name)
        append_marks(folder_at(index), [Mark(f"query {number}", "0001.png", "0" * 64, True)])
    machine("c")
    assert [mark.caption for mark in read_marks(index_folder(index))] == ["query 0", "query 1", "query 2"]


def test_judged_queries_are_shared_and_never_overwritten_unseen(index: str, photos: Path, machine: Machine) -> None:
    build(photos, Path(index))
    machine("other")
    with pytest.raises(StoreConflictError, match=r"questions\.zip was written by somebody else"):  # noqa: PT012, SIM117
        with writing(index_folder(index)) as writer:
            put_questions(writer.folder, StoredQuestions(), {})
            open_store(index).put("questions.zip", b"of another machine")
    open_store(index).delete(["questions.zip"])
    with writing(index_folder(index)) as writer:
        put_questions(writer.folder, StoredQuestions(), {})
    machine("third")
    folder = index_folder(index)
    assert folder.questions.is_file()
    assert read_questions(folder) == StoredQuestions()


def test_damage_in_the_store(index: str, photos: Path, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    build(photos, Path(index))
    paint(photos / "more.png", 500)
    store = open_store(index)
    (old,) = (key for key in keys(index) if key.startswith("segments/"))
    remove(index, ids=["0001.png"])
    whole = store.get(old, 1 << 20)
    assert whole is not None
    store.put(old, whole[0][:-1] + b"\0")
    assert verify(index) == [f"{index}/{old} contradicts its digest; restore it from a copy"]
    assert len(Gallery.open(index)) == 19  # this machine's copy is sound
    machine("other")
    with pytest.raises(CorruptIndexError, match="contradicts its digest"):
        Gallery.open(index)
    store.delete([old])
    assert f"{index}/{old} is missing; restore it from a copy" in verify(index)
    machine("third")
    with pytest.raises(CorruptIndexError, match="is missing"):
        Gallery.open(index)
    store.put(old, whole[0])
    assert len(Gallery.open(index)) == 19
    line = current(index)
    store.put("CURRENT", b"garbage")
    with pytest.raises(CorruptIndexError, match=f"{index}/CURRENT cannot be read"):
        Gallery.open(index)
    store.put("CURRENT", line)
    (newest,) = (key for key in keys(index) if key.startswith("manifests/000002"))
    store.delete([newest])
    machine("fourth")
    with pytest.raises(CorruptIndexError, match=f"{index}/{newest} is missing"):
        Gallery.open(index)


def test_an_index_that_is_gone(index: str, photos: Path) -> None:
    with pytest.raises(IndexFormatError, match=f"no CURRENT in {index}"):
        Gallery.open(index)
    build(photos, Path(index))
    open_store(index).delete(sorted(keys(index)))
    with pytest.raises(IndexFormatError, match=f"no CURRENT in {index}"):
        Gallery.open(index)
    assert build(photos, Path(index)).generation == 1
    assert verify(index) == []


def test_only_what_nobody_needs_is_removed(
    index: str, photos: Path, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(photos, Path(index))
    folder = folder_at(index)
    (entry,) = read_manifest(folder).segments
    orphan = tmp_path / "gallery.h5"
    orphan.write_bytes(b"of a worker")
    upload_segment(folder, orphan)
    others = {"segments/video/part.ts", "manifests/stream.m3u8", "mappings/of/the/world.png"}
    for key in others:  # came there later, and are nobody's business here
        open_store(index).put(key, b"x")
    before = keys(index)
    remove(index, ids=["0001.png"])
    assert keys(index) > before  # within a day nothing is removed
    monkeypatch.setattr(publishing, "GRACE", -1)
    with writing(index_folder(index)) as writer:
        writer.publish(read_manifest(writer.folder).succeed(keep=1))
    assert keys(index) >= others
    open_store(index).delete(sorted(others))
    left = {key.split("-")[0] for key in keys(index) if not key.startswith("segments/")}
    assert left == {"CURRENT", "skipped.jsonl", "manifests/000002", "manifests/000003"}
    assert [key for key in keys(index) if key.startswith("segments/")] == [
        f"segments/{entry.files[GALLERY].sha256}/{GALLERY}"
    ]
    machine("other")
    assert verify(index) == []


def test_a_place_with_other_things_is_no_place_for_an_index(index: str, photos: Path) -> None:
    store = open_store(index)
    store.put("segments/video/part.ts", b"x")
    with pytest.raises(IndexFormatError, match=r"is not an index: it holds segments/video/part\.ts; choose another"):
        build(photos, Path(index))
    assert keys(index) == {"segments/video/part.ts"}
    store.delete(["segments/video/part.ts"])
    build(photos, Path(index))
    store.put("notes.txt", b"x")  # beside an index nobody minds
    build(photos, Path(index))
    assert "notes.txt" in keys(index)
