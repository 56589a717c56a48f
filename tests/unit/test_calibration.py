"""The floors of "nothing fits" for what a gallery holds: `cir.search.calibration`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cir import ModelCard, import_vectors
from cir.arrays import Floats
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.folder import IndexFolder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.writer import writing
from cir.model_card import GalleryKind
from cir.search.calibration import calibrated
from cir.testing.fakes import unit_rows

DIMS = 16
CENTRES = np.eye(DIMS, dtype=np.float32)
KINDS = tuple(
    GalleryKind.of(name, CENTRES[row], 0.8, {"composed": floor, "text": floor + 0.1})
    for row, (name, floor) in enumerate([("shoes", 0.6), ("dogs", 0.4), ("maps", 0.2)])
)
CARD = replace(ModelCard.named("kinds", DIMS), min_scores={"composed": 0.2, "text": 0.3}, gallery_kinds=KINDS)


def pictures(kind: int, count: int) -> Floats:
    """Vectors near the centre of a kind, at a cosine of 0.9."""
    noise = np.random.default_rng(kind).standard_normal((count, DIMS)) * (np.arange(DIMS) > 2)
    return np.sqrt(0.81) * CENTRES[kind] + np.sqrt(0.19) * unit_rows(noise)


def store(vectors: Floats, path: Path, card: ModelCard = CARD) -> None:
    import_vectors(vectors, path, card, ids=[str(row) for row in range(len(vectors))])


@pytest.mark.parametrize(
    ("counts", "composed"),
    [
        ((40, 0, 0), 0.6),
        ((0, 40, 0), 0.4),
        ((40, 40, 0), 0.4),
        ((97, 0, 3), 0.6),  # too few maps to matter
        ((400, 600, 0), 0.4),
        ((3, 0, 0), 0.6),
    ],
)
def test_the_floor_is_the_lowest_of_the_kinds_that_are_present(
    tmp_path: Path, counts: tuple[int, int, int], composed: float
) -> None:
    vectors = np.concatenate([pictures(kind, count) for kind, count in enumerate(counts)])
    store(vectors, tmp_path / "v")
    card = calibrated(Gallery.open(tmp_path / "v"))
    assert card.min_scores == {"composed": composed, "text": pytest.approx(composed + 0.1)}
    assert replace(card, min_scores=CARD.min_scores) == CARD


def test_of_pictures_of_no_kind_nothing_is_known(tmp_path: Path) -> None:
    strange = unit_rows(np.random.default_rng(9).standard_normal((40, DIMS)))
    store(np.concatenate([pictures(0, 40), strange]), tmp_path / "v")
    gallery = Gallery.open(tmp_path / "v")
    assert calibrated(gallery) is gallery.card


def test_a_card_without_kinds_is_as_it_was(tmp_path: Path) -> None:
    store(pictures(0, 4), tmp_path / "v", replace(CARD, gallery_kinds=()))
    gallery = Gallery.open(tmp_path / "v")
    assert calibrated(gallery) is gallery.card


def test_vectors_of_an_older_model_tell_nothing(tmp_path: Path) -> None:
    store(pictures(0, 40), tmp_path / "v", ModelCard.named("older", DIMS))
    folder = IndexFolder(tmp_path / "v")
    with writing(folder) as writer:
        writer.publish(read_manifest(folder).succeed(card=CARD))
    gallery = Gallery.open(tmp_path / "v")
    assert calibrated(gallery) is gallery.card
    assert gallery.card.gallery_kinds == KINDS


@pytest.mark.parametrize("centre", [CENTRES[0, :9], np.zeros(DIMS), np.full(DIMS, np.nan)])
def test_a_centre_that_is_none_is_refused(centre: Floats) -> None:
    values = CARD.to_json()
    values["gallery_kinds"][1]["centre"] = GalleryKind.of("x", centre, 0.1, {}).centre
    with pytest.raises(ValueError, match="the centre of the gallery kind dogs"):
        ModelCard.from_json(values)


def test_a_card_survives_json() -> None:
    assert ModelCard.from_json(CARD.to_json()) == CARD
    assert ModelCard.from_json(CARD.to_json()).digest == replace(CARD, gallery_kinds=(), min_scores={}).digest
