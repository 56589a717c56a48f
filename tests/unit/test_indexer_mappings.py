"""Indexes whose images were made by two models: asked over mappings, never compared across spaces."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from cir.errors import CorruptIndexError, SpaceMismatchError, UsageError
from cir.files import sha256_file
from cir.indexer.storage.mappings import read_mapping, write_mapping
from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.history import generations, rollback
from cir.indexer.storage.manifest import MAPPINGS, GALLERY, SEGMENTS, next_generation, publish, read_manifest
from cir.indexer.reading.verify import verify
from cir.types import SpaceMapping, Encoded, ModelCard

sys.path.append(str(Path(__file__).parents[1] / "crash"))
from indexer_fakes import DIMS, FakeEncoder, build, folder_of, unit

NEW_DIMS = 8  # so that a vector of one space cannot be compared with one of the other unnoticed
OLD = FakeEncoder("old-1", tokens=0)
RNG = np.random.default_rng(3)
INTO_NEW, BIAS = RNG.standard_normal((NEW_DIMS, DIMS)).astype(np.float32), RNG.standard_normal(NEW_DIMS)
INTO_OLD = RNG.standard_normal((DIMS, NEW_DIMS)).astype(np.float32)
BIAS = BIAS.astype(np.float32)


class NewEncoder(FakeEncoder):
    """Another model, of other dims."""

    def __init__(self) -> None:
        super().__init__("new-1", tokens=0)
        self.card = ModelCard("new-1", "1" * 64, "0" * 64, NEW_DIMS, 0, True)
        self._cut = np.random.default_rng(5).standard_normal((DIMS, NEW_DIMS))

    def encode_images(self, pixels: np.ndarray) -> Encoded:
        vectors = super().encode_images(pixels).vectors
        assert vectors is not None
        return Encoded(unit(vectors @ self._cut), None)

    def encode_texts(self, captions: Sequence[str], space: str | None = None) -> np.ndarray:
        return unit(super().encode_texts(captions)[:, :NEW_DIMS])


NEW = NewEncoder()
TRANSFORM = SpaceMapping(NEW.card.digest, OLD.card.space.id, "transform", INTO_NEW, BIAS)
PROCRUSTES = SpaceMapping(NEW.card.digest, OLD.card.space.id, "procrustes", INTO_OLD, None, 0.5, 0.2, {"why": "a test"})
ENCODER = SpaceMapping(NEW.card.digest, OLD.card.space.id, "encoder", slope=2.0, intercept=-0.5)


def serve(index: Path, mapping: SpaceMapping | None) -> None:
    """Let the new model serve, over an mapping or none."""
    manifest = read_manifest(index)
    publish(
        index,
        replace(
            manifest,
            generation=next_generation(index),
            previous=manifest.generation,
            serving=NEW.card.digest,
            models={**manifest.models, NEW.card.digest: NEW.card.to_json()},
            spaces={**manifest.spaces, NEW.card.space.id: asdict(NEW.card.space)},
            mappings={OLD.card.space.id: write_mapping(index, mapping)} if mapping else {},
        ),
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "photos", 30)


@pytest.fixture
def index(photos: Path, tmp_path: Path) -> Path:
    build(photos, tmp_path / "x.index", OLD)
    return tmp_path / "x.index"


def stored(index: Path) -> np.ndarray:
    gallery = Gallery.open(index)
    return np.stack([gallery.stored_values(image_id) for image_id in gallery.ids]).astype(np.float64)


def asked(gallery: Gallery, text: str = "one") -> dict[str, np.ndarray]:
    """What a search would ask, space by space."""
    native = NEW.encode_texts([text])
    made = {NEW.card.space.id: native, OLD.card.space.id: OLD.encode_texts([text])}
    for space, mapping in gallery.mappings.items():
        if mapping.route == "procrustes":
            made[space] = mapping.carry(native)
    return {space: made[space] for space in gallery.asked}


def expected(index: Path, mapping: SpaceMapping, text: str = "one") -> np.ndarray:
    """(N,) the scores of the old images, written out."""
    vectors, native = stored(index), NEW.encode_texts([text])[0].astype(np.float64)
    if mapping.route == "transform":
        carried = unit(vectors @ INTO_NEW.T + BIAS).astype(np.float16).astype(np.float64)
        return carried @ native
    query = unit(INTO_OLD @ native) if mapping.route == "procrustes" else OLD.encode_texts([text])[0]
    return mapping.slope * (vectors @ query) + mapping.intercept


@pytest.mark.parametrize("mapping", [TRANSFORM, PROCRUSTES, ENCODER], ids=lambda mapping: mapping.route)
@pytest.mark.parametrize("ann_min_rows", [10**9, 10], ids=["scan", "ann"])
def test_old_vectors_are_asked_over_their_edge(index: Path, mapping: SpaceMapping, ann_min_rows: int) -> None:
    before = {path: sha256_file(path) for path in (index / SEGMENTS).rglob(GALLERY)}
    serve(index, mapping)
    gallery = Gallery.open(index, ann_min_rows=ann_min_rows)
    assert gallery.asked == (NEW.card.space.id if mapping.route == "transform" else OLD.card.space.id,)
    scores = expected(index, mapping)
    hits = gallery.search(asked(gallery), 5, exact=True)[0]
    best = np.argsort(-scores, kind="stable")[:5]
    assert [image_id for image_id, _ in hits] == [gallery.ids[row] for row in best]
    assert [score for _, score in hits] == pytest.approx(scores[best], abs=2e-3)
    found = gallery.search(asked(gallery), 5)[0]
    assert len(set(found) & set(hits)) >= 4
    assert gallery.scores(asked(gallery), gallery.ids)[0] == pytest.approx(scores, abs=2e-3)
    assert {path: sha256_file(path) for path in before} == before  # not a byte of what was stored
    assert verify(index) == []


def test_without_an_edge_nothing_is_compared(index: Path) -> None:
    serve(index, None)
    gallery = Gallery.open(index)
    assert (len(gallery), gallery.searchable.any(), gallery.asked) == (30, False, (NEW.card.space.id,))
    assert gallery.search(asked(gallery), 5) == [[]]
    assert np.isinf(gallery.scores(asked(gallery), gallery.ids)).all()
    with pytest.raises(SpaceMismatchError, match="served by model new-1"):
        gallery.search({OLD.card.space.id: OLD.encode_texts(["one"])}, 5)


@pytest.mark.parametrize("mapping", [TRANSFORM, PROCRUSTES, ENCODER], ids=lambda mapping: mapping.route)
def test_new_images_join_the_old_ones(index: Path, photos: Path, mapping: SpaceMapping) -> None:
    serve(index, mapping)
    old_scores = expected(index, mapping)
    folder_of(photos, 12, start=30)
    (photos / "0003.png").rename(photos / "moved.png")
    report = build(photos, index, NEW)
    assert (len(report.added), report.renamed, len(report.unchanged)) == (12, [("0003.png", "moved.png")], 29)
    gallery = Gallery.open(index)
    spaces = [gallery.stored_space(image_id) for image_id in gallery.ids]
    assert spaces.count(OLD.card.space.id) == 30  # what moved kept its vector
    assert gallery.stored_space("moved.png") == OLD.card.space.id
    assert gallery.stored_space("0035.png") == NEW.card.space.id
    wanted = dict(zip([f"{n:04d}.png" for n in range(30)], old_scores, strict=True))
    wanted["moved.png"] = wanted.pop("0003.png")
    native = NEW.encode_texts(["one"])[0].astype(np.float64)
    for number in range(30, 42):
        name = f"{number:04d}.png"
        wanted[name] = float(gallery.stored_values(name).astype(np.float64) @ native)
    order = sorted(wanted, key=lambda name: (-wanted[name], name))
    hits = gallery.search(asked(gallery), 42)[0]
    assert [score for _, score in hits] == pytest.approx([wanted[name] for name in order], abs=2e-3)
    assert {image_id for image_id, _ in hits[:8]} == set(order[:8])
    barred = gallery.search(asked(gallery), 3, exclude=[[order[0]]])[0]
    assert order[0] not in {image_id for image_id, _ in barred}
    assert verify(index) == []


def test_carried_vectors_are_derived(index: Path) -> None:
    serve(index, TRANSFORM)
    gallery = Gallery.open(index)
    wanted = gallery.search(asked(gallery), 9)
    (kept,) = (index / SEGMENTS).rglob("carried.npy")
    for damage in (kept.unlink, lambda: kept.write_bytes(kept.read_bytes()[:-8] + bytes(8))):
        damage()
        gallery = Gallery.open(index)
        assert gallery.search(asked(gallery), 9) == wanted
    assert np.load(kept).shape == (30, NEW_DIMS)


def test_edges_come_back_as_they_were(index: Path) -> None:
    for mapping in (TRANSFORM, PROCRUSTES, ENCODER):
        entry = write_mapping(index, mapping)
        back = read_mapping(index, entry)
        assert (back.route, back.slope, back.intercept, back.evidence) == (
            mapping.route,
            mapping.slope,
            mapping.intercept,
            mapping.evidence,
        )
        for ours, theirs in ((back.matrix, mapping.matrix), (back.bias, mapping.bias)):
            assert (ours is None and theirs is None) or np.array_equal(ours, theirs)


def test_a_damaged_edge_is_named(index: Path) -> None:
    serve(index, PROCRUSTES)
    (path,) = (index / MAPPINGS).glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"slope": 9.0}))
    with pytest.raises(CorruptIndexError, match="contradicts its digest"):
        Gallery.open(index)
    assert any("contradicts its digest" in problem for problem in verify(index))
    path.unlink()
    with pytest.raises(CorruptIndexError, match="cannot be read"):
        Gallery.open(index)


def test_an_edge_to_the_models_own_space_is_no_way(index: Path) -> None:
    """As after m1 -> m2 -> m1: what a model made itself is asked as it is."""
    wanted = Gallery.open(index).search({OLD.card.space.id: OLD.encode_texts(["one"])}, 5)
    manifest = read_manifest(index)
    own = replace(PROCRUSTES, model=OLD.card.digest)
    mappings = {OLD.card.space.id: write_mapping(index, own)}
    publish(index, replace(manifest, generation=next_generation(index), mappings=mappings))
    gallery = Gallery.open(index)
    assert gallery.asked == (OLD.card.space.id,)
    assert gallery.search({OLD.card.space.id: OLD.encode_texts(["one"])}, 5) == wanted


def test_deleted_rows_are_written_as_runs(index: Path) -> None:
    manifest = replace(read_manifest(index), deleted={"000001": (0, 1, 2, 5, 9, 10)})
    told = json.loads(json.dumps(manifest.to_json()))
    assert told["deleted"] == {"000001": [[0, 2], [5, 5], [9, 10]]}
    assert type(manifest).from_json(told) == manifest
    told["deleted"] = {"000001": [0, 1, 2, 5, 9, 10]}  # format 1
    assert type(manifest).from_json(told) == manifest


def test_what_was_never_published_is_no_generation(index: Path) -> None:
    manifest = read_manifest(index)
    left = index / "manifests" / f"{manifest.generation + 1:06d}.json"
    left.write_bytes((index / "manifests" / f"{manifest.generation:06d}.json").read_bytes())
    assert [one.generation for one in generations(index)] == list(range(manifest.generation, 0, -1))


def test_going_back_and_forth(index: Path, photos: Path) -> None:
    with pytest.raises(UsageError, match="no earlier generation"):
        rollback(index)
    wanted = Gallery.open(index).search({OLD.card.space.id: OLD.encode_texts(["one"])}, 5)
    serve(index, PROCRUSTES)
    folder_of(photos, 3, start=30)
    build(photos, index, NEW)
    before, now = rollback(index)  # the images go again
    assert (before.rows, now.rows, now.generation, now.previous) == (33, 30, 4, 3)
    before, now = rollback(index, 1)
    assert now.serving == OLD.card.digest
    gallery = Gallery.open(index)
    assert gallery.search({OLD.card.space.id: OLD.encode_texts(["one"])}, 5) == wanted
    _, again = rollback(index)
    assert again.serving == NEW.card.digest
    segment = index / SEGMENTS / "000002" / GALLERY
    kept = segment.read_bytes()
    segment.unlink()
    with pytest.raises(CorruptIndexError, match="is missing"):
        rollback(index, 3)  # which names it
    segment.write_bytes(kept)
    with pytest.raises(UsageError, match=r"no earlier generation 77 .* there are: 1, 2, 3, 4, 5"):
        rollback(index, 77)
    assert verify(index) == []
