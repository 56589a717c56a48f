"""Two fake models of different dims, and hand-made mappings that let the new one serve an index of the old one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.fetching import index_folder
from cir.indexer.storage.generations import read_manifest
from cir.indexer.storage.mappings import write_mapping
from cir.indexer.storage.writer import writing
from cir.mappings import Maps, Route, SpaceMapping
from cir.query_vectors import QueryVectors
from cir.testing.fakes import DIMS, FakeEncoder

NEW_DIMS = 8  # so that comparing a vector of one space with one of the other fails
_RNG = np.random.default_rng(3)
INTO_NEW = _RNG.standard_normal((NEW_DIMS, DIMS)).astype(np.float32)
BIAS = _RNG.standard_normal(NEW_DIMS).astype(np.float32)
INTO_OLD = _RNG.standard_normal((DIMS, NEW_DIMS)).astype(np.float32)


def old_encoder() -> FakeEncoder:
    """The model that made the stored vectors: 16 dims."""
    return FakeEncoder("old-1", tokens=0)


def new_encoder(after: int = 10**9) -> FakeEncoder:
    """The model that takes over: 8 dims. It raises KeyboardInterrupt after that many images."""
    return FakeEncoder("new-1", tokens=0, dims=NEW_DIMS, after=after)


OLD, NEW = old_encoder(), new_encoder()
RIDGE = SpaceMapping(NEW.card.digest, OLD.card.space.id, Route.RIDGE, INTO_NEW, BIAS)
PROCRUSTES = SpaceMapping(NEW.card.digest, OLD.card.space.id, Route.PROCRUSTES, INTO_OLD, None, 0.5, 0.2)
_INNER, _INNER_BIAS = _RNG.standard_normal((6, DIMS)).astype(np.float32), _RNG.standard_normal(6).astype(np.float32)
GALLERY_MLP = SpaceMapping(
    NEW.card.digest,
    OLD.card.space.id,
    Route.GALLERY_MLP,
    INTO_NEW,
    BIAS,
    inner=_INNER,
    inner_bias=_INNER_BIAS,
    outer=_RNG.standard_normal((NEW_DIMS, 6)).astype(np.float32),
)
QUERY_MLP = SpaceMapping(
    NEW.card.digest,
    OLD.card.space.id,
    Route.QUERY_MLP,
    INTO_OLD,
    None,
    0.5,
    0.2,
    inner=_INNER[:, :NEW_DIMS].copy(),
    inner_bias=_INNER_BIAS,
    outer=_RNG.standard_normal((DIMS, 6)).astype(np.float32),
)
HEAD = SpaceMapping(NEW.card.digest, OLD.card.space.id, Route.TRAINED_HEAD, slope=2.0, intercept=-0.5)
MAPPINGS = (RIDGE, GALLERY_MLP, PROCRUSTES, QUERY_MLP, HEAD)


def serve_new(index: Path, mapping: SpaceMapping | None) -> None:
    """Publish a generation that the new model serves, through a mapping or without one."""
    folder = index_folder(index)
    with writing(folder) as writer:
        mappings = {OLD.card.space.id: write_mapping(folder, mapping)} if mapping else {}
        writer.publish(read_manifest(folder).succeed(card=NEW.card, mappings=mappings))


def mapped_queries(gallery: Gallery, text: str = "one") -> QueryVectors:
    """A caption in every space in which the gallery is searched: by the new model, its mapping, or the old model."""
    native = NEW.encode_texts([text])
    by_space = {NEW.card.space.id: native, OLD.card.space.id: OLD.encode_texts([text])}
    for space, mapping in gallery.mappings.items():
        if mapping.maps is Maps.QUERIES:
            by_space[space] = mapping.map(native)
    return QueryVectors({space: by_space[space] for space in gallery.query_spaces})
