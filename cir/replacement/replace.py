"""The whole of a replacement: encode anchors and a sample with both models, measure, judge, publish."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cir import __version__
from cir.errors import DataError, MissingImageError, StaleEvidenceError, UsageError, WeightsError
from cir.images import decode
from cir.indexer.edges import write_edge
from cir.indexer.lock import writer_lock
from cir.indexer.manifest import Manifest, next_generation, publish, read_manifest
from cir.indexer.request import keeps_tokens
from cir.indexer.store import Layout
from cir.replacement import routes
from cir.replacement.anchors import Anchor, digest, needed_photos
from cir.replacement.gate import ANCHORS, Cost, Verdict, judge
from cir.replacement.measure import Measured, measure, overview
from cir.replacement.routes import Fitted
from cir.replacement.study import Study
from cir.search import Index
from cir.types import Edge, Query

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cir.indexer.gallery import Gallery
    from cir.types import Encoded, Encoder

    Floats = NDArray[np.float32]

SAMPLE = 2000
FEWEST = 20  # anchors without which not even a refusal can be measured
FEW_IMAGES = 0.05  # share of an index that may go unsearched until it is encoded again, when nobody asks about it
BATCH = 32
SLICE_VALUES = 20  # a metadata column of more values than these is no set of slices

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Replacement:
    """What was found for one older space.

    Attributes:
        space: its id.
        images: how many live images it has.
        anchors, measured: how many there are, and how many of them the fits did not see.
        sample: images both models have seen.
        compared: "now", "encoded again" and "naive" -> measure -> share answered.
        routes: what was measured.
        cost: of encoding these images again.
        verdict: of the gate.
        edges: route -> the edge it would be published as.
        left_out: nothing was measured, and these few images may wait, unsearched, for `cir backfill`.
    """

    space: str
    images: int
    anchors: int
    measured: int
    sample: int
    compared: Mapping[str, Mapping[str, float]]
    routes: Sequence[Measured]
    cost: Cost
    verdict: Verdict
    edges: Mapping[str, Edge]
    left_out: bool = False

    @property
    def passes(self) -> bool:
        """Whether this space is no reason to keep the old model."""
        return self.verdict.route is not None or self.left_out

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: the evidence."""
        plain = {key: value for key, value in vars(self).items() if key != "edges"}
        return {
            **plain,
            "compared": {name: dict(values) for name, values in self.compared.items()},
            "routes": [one.to_json() for one in self.routes],
            "cost": asdict(self.cost),
            "verdict": self.verdict.to_json(),
        }


def check(manifest: Manifest, encoder: Encoder) -> None:
    """Refuse what needs no measurement. Raises UsageError."""
    if encoder.card.digest == manifest.serving:
        raise UsageError(f"{encoder.card.name} serves this index already; name another model")
    for card in manifest.models.values():
        if card["name"] == encoder.card.name and card["digest"] != encoder.card.digest:
            raise UsageError(
                f"{encoder.card.name} is already the name of another model in this index ({card['digest']}); give the "
                'new one a name of its own: "name" in its card.json, or in the configuration it is trained by'
            )


def study_replacement(
    index: Index,
    encoder: Encoder,
    anchors: Sequence[Anchor],
    *,
    sample: int = SAMPLE,
    margin: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Replacement]:
    """Measure every route from a new model to every space of an index.

    Args:
        index: with the models that made it at hand.
        encoder: the new model.
        anchors: questions about images of the index; half of those of a space are for fitting.
        sample: images of the gallery that both models look at, besides those the anchors name.
        margin: by how much a route may fall behind and still pass.
        seed: of the sample and the halves.
        progress: called with (images encoded, images to encode).

    Raises:
        UsageError: the model serves already, or its name is taken.
        MissingImageError: a photo that an anchor needs is gone or has changed.
    """
    gallery = index.gallery
    check(gallery.manifest, encoder)
    spaces = sorted({entry.space for entry in gallery.manifest.segments} - {encoder.card.space.id})
    if not spaces:
        raise UsageError(f"{gallery.path}: all of it was made by {encoder.card.name}; `cir rollback` lets that serve")
    return [
        _study_space(index, encoder, space, anchors, sample, margin, np.random.default_rng([seed, number]), progress)
        for number, space in enumerate(spaces)
    ]


def apply(path: Path, encoder: Encoder, found: Iterable[Replacement], generation: int) -> Manifest:
    """Let the new model serve, over the edges that passed; no stored vector is touched.

    Args:
        path: the index folder.
        encoder: the new model.
        found: what was measured.
        generation: of the index at that time.

    Raises:
        StaleEvidenceError: the index has changed since it was measured.
        UsageError: a space has no route that passes.
        IndexLockedError: another process is writing to it.
        DataError: the disk refuses; the old generation stays.
    """
    measured = {one.space for one in found if one.passes} | {encoder.card.space.id}
    edges = {one.space: one.edges[one.verdict.route] for one in found if one.verdict.route}
    with writer_lock(path):
        manifest = read_manifest(path)
        if manifest.generation != generation:
            raise StaleEvidenceError(
                f"{path}: generation {manifest.generation} is not what was measured, {generation}; measure again"
            )
        check(manifest, encoder)
        unknown = {entry.space for entry in manifest.segments} - measured
        if unknown:
            raise UsageError(f"{path}: no measured way to space {min(unknown)}; measure again, or keep the model")
        card = encoder.card
        directory = getattr(encoder, "directory", None)
        paths = {card.digest: str(Path(directory).resolve())} if directory else {}
        manifest = replace(
            manifest,
            generation=next_generation(path),
            previous=manifest.generation,
            serving=card.digest,
            models={**manifest.models, card.digest: card.to_json()},
            model_paths={**manifest.model_paths, **paths},
            spaces={**manifest.spaces, card.space.id: asdict(card.space)},
            edges={space: write_edge(path, edge) for space, edge in edges.items()},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            cir=__version__,
        )
        publish(path, manifest)
    return manifest


def _study_space(
    index: Index,
    encoder: Encoder,
    space: str,
    anchors: Sequence[Anchor],
    sample: int,
    margin: float,
    rng: np.random.Generator,
    progress: Progress | None,
) -> Replacement:
    gallery = index.gallery
    members = [image_id for image_id in gallery.ids if gallery.stored_space(image_id) == space]
    inside = set(members)
    about = [one for one in anchors if one.targets & inside]
    if len(about) < FEWEST:
        return _unmeasured(gallery, space, len(members), len(about))
    named = {name for one in about for name in needed_photos(one, inside)}
    others = [image_id for image_id in members if image_id not in named]
    drawn = rng.permutation(len(others))[:sample]
    ids = sorted([*named, *(others[place] for place in drawn)])
    started = time.perf_counter()
    tokens = keeps_tokens(gallery.manifest, encoder.card)
    encoded, ids = _encode(gallery, encoder, ids, named, tokens, progress)
    speed = len(ids) / max(time.perf_counter() - started, 1e-6)
    row = {image_id: number for number, image_id in enumerate(ids)}
    right = np.zeros((len(about), len(ids)), bool)
    for number, one in enumerate(about):
        right[number, [row[target] for target in one.targets if target in row]] = True
    fit = np.zeros(len(about), bool)
    fit[rng.permutation(len(about))[: len(about) // 2]] = True
    queries = [Query((one.reference,) if one.reference else (), one.caption) for one in about]
    asked = index.vectors(queries)
    study = Study(
        old_gallery=np.stack([gallery.stored_values(image_id) for image_id in ids]).astype(np.float32),
        new_gallery=encoded,
        old_queries=asked[space] if space == gallery.space.id else index.made(space, queries),
        new_queries=_queries(index, encoder, queries),
        head_queries=_queries(index, encoder, queries, space) if space in encoder.card.query_heads else None,
        current=gallery.scores(asked, ids),
        references=np.array([row.get(one.reference, -1) for one in about]),
        right=right,
        fit=fit,
        slices=_slices(gallery, about),
    )
    fitted = {name: made for name, make in routes.ROUTES.items() if (made := make(study))}
    measured = [measure(study, one) for one in fitted.values()]
    compared = overview(study, routes.naive(study))
    row_bytes = Layout.of(encoder.card, tokens, gallery.precision).row_bytes
    cost = Cost(len(members), len(members) / speed / 3600, row_bytes * len(members))
    verdict = judge(len(about), compared, measured, cost, margin=margin)
    found = Replacement(
        space, len(members), len(about), int((~fit).sum()), len(ids), compared, measured, cost, verdict, {}
    )
    evidence = {
        **found.to_json(),
        "anchors sha256": digest(anchors),
        "made by": next(entry.model for entry in gallery.manifest.segments if entry.space == space),
        "margin": margin,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "cir": __version__,
    }
    edges = {name: _edge(encoder.card.digest, space, one, evidence) for name, one in fitted.items()}
    return replace(found, edges=edges)


def _unmeasured(gallery: Gallery, space: str, images: int, anchors: int) -> Replacement:
    """A space that hardly an anchor asks about."""
    few = images <= FEW_IMAGES * len(gallery)
    reason = f"{anchors} anchors are about its {images:,} images, {ANCHORS} are needed"
    advice = (
        f"its {images:,} images go unsearched until `cir backfill` encodes them again"
        if few
        else "keep anchors about all of the gallery with `cir anchors`"
    )
    verdict = Verdict(None, {"": [reason]}, advice=advice)
    return Replacement(space, images, anchors, 0, 0, {}, [], Cost(images, 0.0, 0), verdict, {}, left_out=few)


def _edge(model: str, space: str, fitted: Fitted, evidence: Mapping[str, Any]) -> Edge:
    return Edge(model, space, fitted.route, fitted.matrix, fitted.bias, fitted.slope, fitted.intercept, dict(evidence))


def _encode(
    gallery: Gallery,
    encoder: Encoder,
    ids: Sequence[str],
    needed: set[str],
    tokens: bool,
    progress: Progress | None,
) -> tuple[Floats, list[str]]:
    """The new model's vectors (or tokens) of images; those whose photo is gone are left out, unless they are needed."""
    kept, parts = [], []
    for start in range(0, len(ids), BATCH):
        pixels = []
        for image_id in ids[start : start + BATCH]:
            try:
                pixels.append(encoder.preprocess(decode(gallery.photo(image_id, unchanged=True), image_id)))
            except (DataError, OSError) as error:
                if image_id in needed:
                    raise MissingImageError(
                        f"{image_id}: the photo of an anchor cannot be read: {error}; bring it back, or leave the "
                        "anchor out"
                    ) from None
                continue
            kept.append(image_id)
        if pixels:
            parts.append(_values(encoder.encode_images(np.stack(pixels)), tokens))
        if progress:
            progress(min(start + BATCH, len(ids)), len(ids))
    return np.concatenate(parts), kept


def _values(encoded: Encoded, tokens: bool) -> Floats:
    """What would decide the rank of these images."""
    values = encoded.tokens if encoded.vectors is None or (tokens and encoded.tokens is not None) else encoded.vectors
    assert values is not None  # an encoder gives at least one of the two
    if not (np.abs(np.linalg.norm(values, axis=-1) - 1) < 1e-2).all():  # also where one is NaN
        raise WeightsError("the new model gives vectors that are not of unit length; it cannot serve")
    return values


def _queries(index: Index, encoder: Encoder, queries: Sequence[Query], space: str | None = None) -> Floats:
    """(Q, E) the new model's vectors of queries about gallery images, in its own space or one of its heads'."""
    out = np.zeros((len(queries), encoder.card.query_heads[space] if space else encoder.card.dims), np.float32)
    composed = [row for row, query in enumerate(queries) if query.references]
    told = [row for row, query in enumerate(queries) if not query.references]
    for start in range(0, len(composed), BATCH):
        rows = composed[start : start + BATCH]
        pixels = np.stack([encoder.preprocess(index.picture(queries[row].references[0])) for row in rows])
        out[rows] = encoder.encode_queries(pixels, [queries[row].text for row in rows], space)
    for start in range(0, len(told), BATCH):
        rows = told[start : start + BATCH]
        out[rows] = encoder.encode_texts([queries[row].text for row in rows], space)
    return out


def _slices(gallery: Gallery, anchors: Sequence[Anchor]) -> dict[str, NDArray[np.bool_]]:
    """Anchors by the metadata of their reference, for columns of few values."""
    told = [gallery.metadata(one.reference) if one.reference else {} for one in anchors]
    slices = {}
    for column in gallery.columns:
        values = {each[column] for each in told if column in each}
        if len(values) <= SLICE_VALUES:
            for value in sorted(values):
                slices[f"{column}={value}"] = np.array([each.get(column) == value for each in told])
    return slices
