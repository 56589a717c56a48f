"""Indexes whose images were made by two models: searched through mappings, never compared across spaces."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cir.arrays import Floats, unit
from cir.errors import CorruptIndexError, SpaceMismatchError, StaleEvidenceError, UsageError
from cir.files import sha256_file
from cir.indexer.reading.gallery import Gallery
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.reading.verify import verify
from cir.indexer.storage.folder import GALLERY, IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.mappings import read_mapping, write_mapping
from cir.indexer.storage.writer import writing
from cir.indexer.writing.history import generations, rollback
from cir.indexer.writing.repair import repair
from cir.indexer.writing.serve import serve_model
from cir.mappings import ARRAYS, Maps, SpaceMapping
from cir.testing.fakes import Answer, FakeEncoder, build, folder_of
from cir.testing.two_models import (
    BIAS,
    HEAD,
    INTO_NEW,
    INTO_OLD,
    MAPPINGS,
    NEW,
    NEW_DIMS,
    OLD,
    PROCRUSTES,
    RIDGE,
    mapped_queries,
    serve_new,
)

SPACE = OLD.card.space.id
each_mapping = pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: str(mapping.route))


@pytest.fixture
def index(photos: Path, tmp_path: Path) -> Path:
    build(photos, tmp_path / "x.index", OLD)
    return tmp_path / "x.index"


@pytest.fixture
def folder(index: Path) -> IndexFolder:
    return IndexFolder(index)


def test_repair_takes_a_damaged_mapping_out(index: Path, folder: IndexFolder) -> None:
    serve_new(index, RIDGE)
    (path,) = folder.mappings.glob("*.json")
    path.write_bytes(b"{}")
    with pytest.raises(CorruptIndexError, match="cir repair"):
        Gallery.open(index)
    report = repair(index)
    assert (report.base, report.generation, report.lost) == (2, 3, 0)
    assert verify(index) == []
    gallery = Gallery.open(index)
    assert gallery.searched() == (0, len(gallery))
    assert rollback(index, 1)[1].card == OLD.card  # the generation before the damage


def search(index: Path, k: int = 5) -> Answer:
    gallery = Gallery.open(index)
    return gallery.search(mapped_queries(gallery), RankingOptions(k))


def _hidden(vectors: Floats, mapping: SpaceMapping) -> Floats:
    """What the hidden layer of a mapping adds: nothing without one."""
    if mapping.inner is None or mapping.inner_bias is None or mapping.outer is None:
        return np.zeros((1, 1), np.float32)
    return np.asarray(np.maximum(vectors @ mapping.inner.T + mapping.inner_bias, 0) @ mapping.outer.T)


def expected(index: Path, mapping: SpaceMapping) -> Floats:
    """(N,) the scores of the old images for the query "one", written out."""
    gallery = Gallery.open(index)
    vectors = np.stack([gallery.image(image_id).stored for image_id in gallery.ids]).astype(np.float32)
    native = NEW.encode_texts(["one"])[0]
    if mapping.maps is Maps.GALLERY:
        mapped = vectors @ INTO_NEW.T + BIAS + _hidden(vectors, mapping)
        return np.asarray(unit(mapped).astype(np.float16).astype(np.float32) @ native)
    query = OLD.encode_texts(["one"])[0]
    if mapping.maps is Maps.QUERIES:
        query = unit(INTO_OLD @ native + _hidden(native[None], mapping)[0])
    return np.asarray(mapping.slope * (vectors @ query) + mapping.intercept)


@each_mapping
@pytest.mark.parametrize("ann_min_rows", [10**9, 10], ids=["scan", "ann"])
def test_old_vectors_are_searched_through_their_mapping(index: Path, mapping: SpaceMapping, ann_min_rows: int) -> None:
    before = {path: sha256_file(path) for path in index.rglob(GALLERY)}
    serve_new(index, mapping)
    gallery = Gallery.open(index, ann_min_rows=ann_min_rows)
    assert gallery.query_spaces == (NEW.card.space.id if mapping.maps is Maps.GALLERY else SPACE,)
    assert {gallery.image(image_id).query_space for image_id in gallery.ids} == set(gallery.query_spaces)
    queries, scores = mapped_queries(gallery), expected(index, mapping)
    hits = gallery.search(queries, RankingOptions(5, exact=True))[0]
    best = np.argsort(-scores, kind="stable")[:5]
    assert [image_id for image_id, _ in hits] == [gallery.ids[row] for row in best]
    assert [score for _, score in hits] == pytest.approx(scores[best], abs=2e-3)
    found = gallery.search(queries, RankingOptions(5))[0]
    assert len(set(found) & set(hits)) >= 4
    assert gallery.scores(queries, gallery.ids)[0] == pytest.approx(scores, abs=2e-3)
    assert {path: sha256_file(path) for path in before} == before  # not a byte of what was stored
    assert verify(index) == []


def test_without_a_mapping_nothing_is_compared(index: Path) -> None:
    serve_new(index, None)
    gallery = Gallery.open(index)
    assert (len(gallery), gallery.query_spaces) == (20, (NEW.card.space.id,))
    assert gallery.searched() == (0, len(gallery))
    assert search(index) == [[]]
    assert np.isinf(gallery.scores(mapped_queries(gallery), gallery.ids)).all()
    with pytest.raises(SpaceMismatchError, match="served by model new-1"):
        gallery.search(replace(mapped_queries(gallery), by_space={SPACE: OLD.encode_texts(["one"])}), RankingOptions(5))


@each_mapping
def test_new_images_join_the_old_ones(index: Path, photos: Path, mapping: SpaceMapping) -> None:
    serve_new(index, mapping)
    old_scores = expected(index, mapping)
    folder_of(photos, 12, start=20)
    (photos / "0003.png").rename(photos / "moved.png")
    report = build(photos, index, NEW)
    assert (len(report.added), report.renamed, len(report.unchanged)) == (12, [("0003.png", "moved.png")], 19)
    gallery = Gallery.open(index)
    assert len(gallery.ids_in(SPACE)) == 20
    assert gallery.image("moved.png").space == SPACE  # what moved keeps its vector
    assert gallery.image("0025.png").space == NEW.card.space.id
    wanted = dict(zip([f"{n:04d}.png" for n in range(20)], map(float, old_scores), strict=True))
    wanted["moved.png"] = wanted.pop("0003.png")
    native = NEW.encode_texts(["one"])[0].astype(np.float64)
    for number in range(20, 32):
        name = f"{number:04d}.png"
        wanted[name] = float(gallery.image(name).stored.astype(np.float64) @ native)
    order = sorted(wanted, key=lambda name: (-wanted[name], name))
    hits = search(index, 32)[0]
    assert [score for _, score in hits] == pytest.approx([wanted[name] for name in order], abs=2e-3)
    assert {image_id for image_id, _ in hits[:8]} == set(order[:8])
    barred = gallery.search(mapped_queries(gallery), RankingOptions(3), exclude=[[order[0]]])[0]
    assert order[0] not in {image_id for image_id, _ in barred}
    assert verify(index) == []


def test_mapped_vectors_are_derived(index: Path) -> None:
    serve_new(index, RIDGE)
    wanted = search(index, 9)
    (cache,) = index.rglob("mapped.npy")
    for damage in (cache.unlink, lambda: cache.write_bytes(cache.read_bytes()[:-8] + bytes(8))):
        damage()
        assert search(index, 9) == wanted
    assert np.load(cache).shape == (20, NEW_DIMS)


@each_mapping
def test_a_mapping_comes_back_as_it_was(folder: IndexFolder, mapping: SpaceMapping) -> None:
    back = read_mapping(folder, write_mapping(folder, mapping))
    nothing: dict[str, None] = dict.fromkeys(ARRAYS)
    assert replace(back, **nothing) == replace(mapping, **nothing)
    assert back.arrays.keys() == mapping.arrays.keys()
    assert all(np.array_equal(back.arrays[name], array) for name, array in mapping.arrays.items())


def test_a_damaged_mapping_is_named(index: Path, folder: IndexFolder) -> None:
    serve_new(index, PROCRUSTES)
    (path,) = folder.mappings.glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"slope": 9.0}))
    with pytest.raises(CorruptIndexError, match="contradicts its digest"):
        Gallery.open(index)
    assert any("contradicts its digest" in problem for problem in verify(index))
    path.unlink()
    with pytest.raises(CorruptIndexError, match="cannot be read"):
        Gallery.open(index)


@pytest.mark.parametrize("changes", [{"route": "by car"}, {"speed": 3}, {"evidence": {"verdict": "fine"}}])
def test_a_mapping_of_another_version_is_refused(folder: IndexFolder, changes: dict[str, object]) -> None:
    entry = write_mapping(folder, HEAD)
    ((name, _),) = entry.files.items()
    path = folder.mappings / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    forged = replace(entry, files={name: replace(entry.files[name], sha256=sha256_file(path))})
    with pytest.raises(CorruptIndexError, match=r"not a mapping of this version: .*; update cir"):
        read_mapping(folder, forged)


def test_a_mapping_to_the_models_own_space_is_not_used(index: Path, folder: IndexFolder) -> None:
    """As after m1 -> m2 -> m1: what the serving model made is searched as it is."""
    wanted = search(index)
    own = replace(PROCRUSTES, model=OLD.card.digest)
    with writing(folder) as writer:
        writer.publish(read_manifest(folder).succeed(mappings={SPACE: write_mapping(folder, own)}))
    gallery = Gallery.open(index)
    assert gallery.query_spaces == (SPACE,)
    assert replace(mapped_queries(gallery), by_space={SPACE: OLD.encode_texts(["one"])}).by_space.keys() == {SPACE}
    queries = replace(mapped_queries(gallery), by_space={SPACE: OLD.encode_texts(["one"])})
    assert gallery.search(queries, RankingOptions(5)) == wanted


def test_a_model_serves_through_its_mapping(index: Path, folder: IndexFolder) -> None:
    before = read_manifest(folder)
    manifest = serve_model(index, NEW, {SPACE: RIDGE}, generation=before.generation)
    assert manifest == read_manifest(folder)
    assert (manifest.card, manifest.previous) == (NEW.card, before.generation)
    assert manifest.segments == before.segments
    assert Gallery.open(index).mappings.keys() == {SPACE}


def test_a_model_that_may_not_serve_is_refused(index: Path, folder: IndexFolder) -> None:
    before, mappings = read_manifest(folder), {SPACE: RIDGE}
    live = before.generation
    with pytest.raises(StaleEvidenceError, match=f"generation {live} is not the one measured, {live + 1}"):
        serve_model(index, NEW, mappings, generation=live + 1)
    with pytest.raises(UsageError, match=f"no validated mapping to space {SPACE}; measure again"):
        serve_model(index, NEW, {}, generation=live)
    with pytest.raises(UsageError, match="old-1 serves this index already"):
        serve_model(index, OLD, mappings, generation=live)
    namesake = FakeEncoder("old-1", tokens=0, dims=NEW_DIMS)
    with pytest.raises(UsageError, match="old-1 is already the name of another model in this index"):
        serve_model(index, namesake, mappings, generation=live)
    assert read_manifest(folder) == before
    assert not folder.mappings.exists()
    unsearched = serve_model(index, NEW, {}, unsearched=frozenset([SPACE]), generation=live)
    assert unsearched.mappings == {}
    assert Gallery.open(index).searched()[0] == 0


def test_what_was_never_published_is_no_generation(index: Path, folder: IndexFolder) -> None:
    manifest = read_manifest(folder)
    folder.manifest(manifest.generation + 1).write_bytes(folder.manifest(manifest.generation).read_bytes())
    assert [each.generation for each in generations(index)[0]] == list(range(manifest.generation, 0, -1))


def test_going_back_and_forth(index: Path, folder: IndexFolder, photos: Path) -> None:
    with pytest.raises(UsageError, match="no earlier generation"):
        rollback(index)
    wanted = search(index)
    serve_new(index, PROCRUSTES)
    folder_of(photos, 3, start=20)
    build(photos, index, NEW)
    before, now = rollback(index)  # the images go again
    assert (before.rows, now.rows, now.generation, now.previous) == (23, 20, 4, 3)
    before, now = rollback(index, 1)
    assert now.serving == OLD.card.digest
    assert search(index) == wanted
    _, again = rollback(index)
    assert again.serving == NEW.card.digest
    segment = folder.gallery("000002")
    data = segment.read_bytes()
    segment.unlink()
    with pytest.raises(CorruptIndexError, match="is missing"):
        rollback(index, 3)  # which names it
    segment.write_bytes(data)
    with pytest.raises(UsageError, match=r"no earlier generation 77 .* there are: 1, 2, 3, 4, 5"):
        rollback(index, 77)
    assert verify(index) == []
