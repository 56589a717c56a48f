"""Vectors without photos: `import_vectors`."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cir import ImportOptions, ImportReport, ModelCard, Query, compact, import_vectors, merge, open_index, remove
from cir.arrays import Floats
from cir.errors import DataError, MissingImageError, SpaceMismatchError, UsageError, WeightsError
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.writing.backfill import backfill
from cir.testing.fakes import FakeEncoder, build, contents, folder_of, make_index, random_rows, unit_rows
from cir.testing.two_models import NEW, OLD, PROCRUSTES, new_encoder, serve_new

CARD = FakeEncoder(tokens=0).card
NAMED = ModelCard.named("clip-vit-b-32", 16)


def random_vectors(count: int, seed: int = 0) -> Floats:
    return unit_rows(np.random.default_rng(seed).standard_normal((count, 16)))


def names(count: int) -> list[str]:
    return [f"{row:03}" for row in range(count)]


def run(index: Path, vectors: Any, ids: Any, card: ModelCard = CARD, **more: Any) -> ImportReport:
    return import_vectors(vectors, index, card, ids=ids, **more)


def test_vectors_become_an_index_in_the_order_of_ids(tmp_path: Path) -> None:
    vectors = random_vectors(20)
    ids = [f"{row * 7 % 20:03}" for row in range(20)]
    report = run(tmp_path / "v", vectors, ids, metadata={"003": {"colour": "red"}, "x": {"colour": "blue"}})
    assert (report.added, report.total, report.generation, report.unmatched) == (20, 20, 1, ["x"])
    assert (report.normalised, report.skipped) == (0, [])
    gallery = Gallery.open(tmp_path / "v")
    assert gallery.ids == sorted(ids)
    for image_id, vector in zip(ids, vectors, strict=True):
        image = gallery.image(image_id)
        assert (image.stored == vector.astype(np.float16)).all()
        assert image.digest == hashlib.sha256(vector.astype(np.float16).tobytes()).digest()
        assert (image.root, image.metadata) == ("", {"colour": "red"} if image_id == "003" else {})
    assert not gallery.untrusted_roots
    assert verify(tmp_path / "v") == []


def test_the_same_vectors_again_change_nothing(tmp_path: Path) -> None:
    run(tmp_path / "v", random_vectors(9), names(9), metadata={"001": {"a": "1"}})
    before = contents(tmp_path / "v")
    report = run(tmp_path / "v", random_vectors(9), names(9))
    assert (report.added, report.updated, report.unchanged, report.generation) == (0, 0, 9, 1)
    assert contents(tmp_path / "v") == before


def test_changed_vectors_and_metadata_are_rewritten_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cir.indexer.writing.assemble.to_absorb", lambda *_: [])  # which would rewrite all nine
    vectors = random_vectors(9)
    run(tmp_path / "v", vectors, names(9), metadata={name: {"a": "1", "b": "2"} for name in names(9)})
    vectors[4] = -vectors[4]
    report = run(tmp_path / "v", vectors, names(9), metadata={"005": {"a": "", "c": "3"}, "006": {"a": "1"}})
    assert (report.added, report.updated, report.unchanged, report.total) == (0, 1, 8, 9)
    manifest = read_manifest(IndexFolder(tmp_path / "v"))
    assert manifest.deleted_rows == 2
    gallery = Gallery.open(tmp_path / "v")
    assert (gallery.image("004").stored == vectors[4].astype(np.float16)).all()
    assert gallery.image("004").metadata == {"a": "1", "b": "2"}
    assert gallery.image("005").metadata == {"b": "2", "c": "3"}
    assert run(tmp_path / "v", random_vectors(3, 8), ["x", "y", "z"]).total == 12


def test_unusable_vectors_are_listed_and_what_they_would_replace_stays(tmp_path: Path) -> None:
    vectors = random_vectors(5) * 7
    run(tmp_path / "v", vectors, names(5))
    vectors[1], vectors[2, 3], vectors[3, 0] = 0, np.nan, np.inf
    report = run(tmp_path / "v", vectors, names(5))
    reasons = [
        ("001", "001: its vector is all zeros"),
        ("002", "002: its vector has values that are not finite"),
        ("003", "003: its vector has values that are not finite"),
    ]
    assert (report.skipped, report.unchanged, report.normalised, report.total) == (reasons, 2, 2, 5)
    listed = [json.loads(line) for line in (tmp_path / "v" / "skipped.jsonl").read_text().splitlines()]
    assert [(line["id"], line["reason"]) for line in listed] == reasons


def test_lengths_may_be_beyond_what_squares_of_float64_hold(tmp_path: Path) -> None:
    directions = random_vectors(4).astype(np.float64)
    vectors = directions * np.array([[1e-300], [1e300], [1], [1]])
    vectors[3] = 5e-324
    report = run(tmp_path / "v", vectors, names(4))
    assert report.skipped == [("003", "003: its vector is too short or too long to be normalised")]
    gallery = Gallery.open(tmp_path / "v")
    for row in range(3):
        assert np.allclose(gallery.image(f"00{row}").vector, directions[row], atol=1e-3)


def test_vectors_are_kept_as_they_are_only_where_rounding_explains_their_length(tmp_path: Path) -> None:
    rounded = random_vectors(4).astype(np.float16)
    off = np.linalg.norm(rounded.astype(np.float64), axis=1) - 1
    assert (np.abs(off) > 1e-6).any()
    for vectors in (rounded, rounded.astype(np.float32)):
        assert run(tmp_path / str(vectors.dtype), vectors, names(4)).normalised == 0
    options = ImportOptions(precision="float32")
    report = run(tmp_path / "long", random_vectors(4) * np.float32(1.0005), names(4), options=options)
    assert report.normalised == 4
    lengths = [np.linalg.norm(Gallery.open(tmp_path / "long").image(name).stored) for name in names(4)]
    assert np.allclose(lengths, 1, atol=1e-6)


def test_nothing_usable_makes_no_index(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of its 3 vectors can be used; the first: 000: its vector is all zeros"):
        run(tmp_path / "v", np.zeros((3, 16)), names(3))
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"ids": ["a", "b", "a", "a"]}, "2 ids occur again: 'a'"),
        ({"ids": ["a/b", "c", "d", "a//./b"]}, "1 id occurs again: 'a/b'"),
        ({"ids": ["a", "b"]}, "2 ids for the 4 vectors"),
        ({"ids": ["a", "b", "", "c"]}, "row 3 has the id ''"),
        ({"ids": ["a", "b", 3, "c"]}, "row 3 has the id 3"),
        ({"ids": None}, "vectors need ids"),
        ({"vectors": np.ones((4, 8))}, "vectors of 8 dims; those of fake-1 have 16"),
        ({"vectors": np.ones(16)}, r"shape \(16,\)"),
        ({"vectors": np.ones((4, 16), np.int64)}, "numbers of type int64;"),
        ({"vectors": np.ones((0, 16))}, "no vectors"),
        ({"vectors": [[1.0] * 16] * 4}, "vectors is a list"),
        ({"card": "small"}, "model is a str, 'small'; give a model of"),
        ({"metadata": {"x": {"b": "3"}, "y": {"b": "4"}}}, "none of its rows fits a vector: the first is for 'x'"),
        ({"metadata": {"a": {"b": 3}}}, "column 'b' with the value 3 cannot be stored"),
        ({"metadata": {"a": {"b": "\0"}}}, "cannot be stored"),
        ({"metadata": {"a": "red"}}, "id -> column -> value"),
        ({"options": ImportOptions}, "options is a type"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path, given: dict[str, Any], problem: str) -> None:
    values = {"vectors": random_vectors(4), "ids": ["a", "b", "c", "d"], **given}
    with pytest.raises((DataError, UsageError), match=problem) as caught:
        run(tmp_path / "v", **values)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "v").exists()
    run(tmp_path / "v", random_vectors(4), ["a", "b", "c", "d"])
    before = contents(tmp_path / "v")
    with pytest.raises((DataError, UsageError), match=problem):
        run(tmp_path / "v", **values)
    assert contents(tmp_path / "v") == before


@pytest.mark.parametrize("given", [{"precision": "int8"}, {"keep": 0}, {"ann_min_rows": -1}])
def test_options_are_checked(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ImportOptions(**given)


def test_vectors_join_no_index_of_another_model_or_of_tokens(tmp_path: Path) -> None:
    run(tmp_path / "v", random_vectors(3), names(3))
    with pytest.raises(SpaceMismatchError, match=r"is served by fake-1 .* not by clip-vit-b-32"):
        run(tmp_path / "v", random_vectors(3), names(3), NAMED)
    make_index(tmp_path / "tokens", [random_rows(["a", "b"], 0, tokens=4)], tokens=4)
    with pytest.raises(UsageError, match="holds 4 tokens for each image"):
        run(tmp_path / "tokens", random_vectors(3), names(3), FakeEncoder().card)
    with pytest.raises(UsageError, match="gives tokens, not one vector per image"):
        run(tmp_path / "new", random_vectors(3), names(3), FakeEncoder(vector=False).card)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("place", ["write_sources", "write_skipped", "next_manifest", "_ImportedRows.vectors"])
def test_an_import_that_is_stopped_leaves_the_index_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    run(tmp_path / "v", random_vectors(3), names(3))
    before = contents(tmp_path / "v")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"cir.indexer.writing.import_vectors.{place}", stop)
        for index in ("v", "new"):
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / index, random_vectors(9), names(9))
    assert read_manifest(IndexFolder(tmp_path / "v")).generation == 1
    assert before.items() <= {**contents(tmp_path / "v"), "skipped.jsonl": before["skipped.jsonl"]}.items()
    for index in ("v", "new"):
        assert run(tmp_path / index, random_vectors(9), names(9)).total == 9
        assert verify(tmp_path / index) == []


# Models


def test_an_index_of_a_named_model_answers_what_needs_no_model(tmp_path: Path) -> None:
    run(tmp_path / "v", random_vectors(6), names(6), NAMED)
    searcher = open_index(tmp_path / "v")
    assert (searcher.card.name, searcher.card.only_named, CARD.only_named) == ("clip-vit-b-32", True, False)
    assert searcher.gallery.space.id == ModelCard.named("clip-vit-b-32", 16).space.id
    hits = searcher.search(Query("003", k=9)).hits
    assert {hit.id for hit in hits} == set(names(6)) - {"003"}
    assert all(hit.path is None for hit in hits)
    for query in (Query(text="red"), Query("003", "in red", k=1)):
        with pytest.raises(
            (WeightsError, MissingImageError), match=r"which cir does not have|no photo is kept for 003"
        ):
            searcher.search(query)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, "\udc80"])
def test_a_name_is_printable(name: str) -> None:
    with pytest.raises(UsageError, match=r"no such model: name|name of the model is empty"):
        ModelCard.named(name, 16)


# Beside photos


def test_a_photo_takes_the_place_of_its_imported_vector_and_keeps_the_others(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", 3)
    encoder = FakeEncoder(tokens=0)
    run(tmp_path / "v", random_vectors(2), ["0001.png", "other"], metadata={"0001.png": {"a": "1"}})
    report = build(photos, tmp_path / "v", encoder, prune=True)
    assert (report.added, report.updated, report.missing, report.total) == (
        ["0000.png", "0002.png"],
        ["0001.png"],
        [],
        4,
    )
    gallery = Gallery.open(tmp_path / "v")
    assert gallery.image("0001.png").read()
    assert gallery.image("0001.png").metadata == {"a": "1"}
    with pytest.raises(MissingImageError, match="no photo is kept for other: its vector was imported without one"):
        gallery.image("other").read()


def test_an_imported_vector_has_no_photo_that_could_be_missing(tmp_path: Path) -> None:
    photos = folder_of(tmp_path / "photos", 3)
    run(tmp_path / "v", random_vectors(2), ["other", "photos/0000.png"])
    build(photos, tmp_path / "v", FakeEncoder(tokens=0))
    (photos / "0002.png").unlink()
    assert remove(tmp_path / "v", missing=True).removed == ["0002.png"]
    shutil.rmtree(photos)
    assert remove(tmp_path / "v", gone_folders=True).removed == ["0000.png", "0001.png"]
    assert Gallery.open(tmp_path / "v").ids == ["other", "photos/0000.png"]
    run(tmp_path / "w", random_vectors(2, 9), ["new", "third"])
    merge([tmp_path / "v", tmp_path / "w"], tmp_path / "all")
    compact(tmp_path / "all")
    assert Gallery.open(tmp_path / "all").ids == ["new", "other", "photos/0000.png", "third"]
    assert verify(tmp_path / "all") == []


def test_an_imported_vector_does_not_replace_that_of_a_photo(tmp_path: Path) -> None:
    build(folder_of(tmp_path / "photos", 3), tmp_path / "v", FakeEncoder(tokens=0))
    held = Gallery.open(tmp_path / "v").image("0001.png")
    report = run(
        tmp_path / "v",
        np.stack([held.stored, -held.stored]),
        ["0001.png", "0002.png"],
        metadata={"0001.png": {"a": "1"}},
    )
    assert (report.unchanged, report.added, report.updated, report.total) == (1, 0, 0, 3)
    assert [name for name, _ in report.skipped] == ["0002.png"]
    assert "belongs to a photo of" in report.skipped[0][1]
    image = Gallery.open(tmp_path / "v").image("0001.png")
    assert (image.metadata, image.digest, image.root) == ({"a": "1"}, held.digest, held.root)
    assert image.read()


def test_imported_vectors_of_an_older_model_are_mapped_and_skipped_by_a_backfill(tmp_path: Path) -> None:
    run(tmp_path / "v", random_vectors(4), names(4), OLD.card)
    serve_new(tmp_path / "v", PROCRUSTES)
    (state,) = backfill(tmp_path / "v", new_encoder())
    assert (state.done, state.left) == (0, 4)
    assert state.skipped[0] == ("000", "no photo is kept for 000: its vector was imported without one")
    vectors = unit_rows(np.random.default_rng(1).standard_normal((2, NEW.card.dims)))
    report = import_vectors(vectors, tmp_path / "v", NEW.card, ids=["001", "new"])  # a backfill by vectors
    assert (report.updated, report.added, report.total) == (1, 1, 5)
    gallery = Gallery.open(tmp_path / "v")
    assert gallery.ids_in(NEW.card.space.id) == ["001", "new"]
    assert verify(tmp_path / "v") == []
