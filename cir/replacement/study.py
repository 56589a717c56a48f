"""The whole of a replacement: encode anchors and a sample with both models, measure, judge, publish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cir import __version__
from cir.errors import StaleEvidenceError, UsageError
from cir.indexer.storage.mappings import write_mapping
from cir.indexer.storage.lock import writer_lock
from cir.indexer.storage.manifest import Manifest, next_generation, publish, read_manifest
from cir.indexer.writing.preconditions import keeps_tokens
from cir.indexer.storage.segment import Layout
from cir.replacement import routes
from cir.replacement.questions import Anchor, digest
from cir.replacement.gate import ANCHORS, Cost, Verdict, judge
from cir.replacement.precheck import objections
from cir.replacement.measure import Measured, measure, overview
from cir.replacement.collect import Progress, observe
from cir.replacement.routes import Fitted
from cir.search.searcher import Searcher
from cir.types import SpaceMapping, ModelCard

if TYPE_CHECKING:
    from cir.types import Encoder

SAMPLE = 2000
FEWEST = 20  # anchors without which not even a refusal can be measured
FEW_IMAGES = 0.05  # share of an index that may go unsearched until it is encoded again, when few anchors ask about it


@dataclass(frozen=True)
class Replacement:
    """What was found for one older space.

    Attributes:
        space: its id.
        images: how many live images it has.
        made_by: the name of the model whose vectors they are.
        anchors, measured: how many there are, and how many of them the fits did not see.
        unusable: further anchors whose photos are gone.
        sample: images both models have seen.
        compared: "now", "encoded again" and "naive" -> measure -> share answered.
        routes: what was measured.
        absent: route -> why this pair of models does not have it.
        cost: of encoding these images again.
        verdict: of the gate.
        mappings: route -> the mapping it would be published as.
        left_out: nothing was measured, and these few images may wait, unsearched, for `cir backfill`.
    """

    space: str
    made_by: str
    images: int
    anchors: int
    verdict: Verdict
    cost: Cost
    measured: int = 0
    unusable: int = 0
    sample: int = 0
    compared: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    routes: Sequence[Measured] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    mappings: Mapping[str, SpaceMapping] = field(default_factory=dict)
    left_out: bool = False

    @property
    def passes(self) -> bool:
        """Whether this space is no reason to keep the old model."""
        return self.verdict.route is not None or self.left_out

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: the evidence."""
        plain = {key: value for key, value in vars(self).items() if key != "mappings"}
        return {
            **plain,
            "compared": {name: dict(values) for name, values in self.compared.items()},
            "routes": [one.to_json() for one in self.routes],
            "cost": asdict(self.cost),
            "verdict": self.verdict.to_json(),
        }


def passed(found: Sequence[Replacement]) -> bool:
    """Whether the new model may serve: no older space speaks against it, and at least one is reached."""
    return all(one.passes for one in found) and any(one.verdict.route for one in found)


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
    index: Searcher,
    encoder: Encoder,
    anchors: Sequence[Anchor],
    *,
    sample: int = SAMPLE,
    asked: str = "",
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
        asked: digest that names the anchors in the evidence; their own if empty.
        margin: by how much a route may fall behind and still pass.
        seed: of the sample and the halves.
        progress: called with (images encoded, images to encode).

    Raises:
        UsageError: the model serves already, or its name is taken.
        MissingImageError: hardly an anchor has its photos.
    """
    gallery, asked = index.gallery, asked or digest(anchors)
    check(gallery.manifest, encoder)
    spaces = sorted({entry.space for entry in gallery.manifest.segments} - {encoder.card.space.id})
    if not spaces:
        raise UsageError(f"{gallery.path}: all of it was made by {encoder.card.name}; `cir rollback` lets that serve")
    return [
        _study_space(
            index, encoder, space, anchors, asked, sample, margin, np.random.default_rng([seed, number]), progress
        )
        for number, space in enumerate(spaces)
    ]


def apply(path: Path, encoder: Encoder, found: Iterable[Replacement], generation: int) -> Manifest:
    """Let the new model serve, over the mappings that passed; no stored vector is touched.

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
    mappings = {one.space: one.mappings[one.verdict.route] for one in found if one.verdict.route}
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
            mappings={space: write_mapping(path, mapping) for space, mapping in mappings.items()},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            cir=__version__,
        )
        publish(path, manifest)
    return manifest


def _study_space(
    index: Searcher,
    encoder: Encoder,
    space: str,
    anchors: Sequence[Anchor],
    asked: str,
    sample: int,
    margin: float,
    rng: np.random.Generator,
    progress: Progress | None,
) -> Replacement:
    gallery = index.gallery
    members = gallery.ids_in(space)
    made_by = _maker(gallery.manifest, space)
    against = objections(made_by, encoder.card)
    if against:
        advice = f"keep the model there is; `cir train --replaces {gallery.path}` trains a successor"
        verdict = Verdict(None, {"": against}, advice=advice)
        return Replacement(space, made_by.name, len(members), 0, verdict, Cost(len(members), 0.0, 0))
    inside = set(members)
    about = [one for one in anchors if one.targets & inside]
    few = len(members) <= FEW_IMAGES * len(gallery)
    if len(about) < (ANCHORS if few else FEWEST):
        return _unmeasured(space, made_by.name, len(members), len(about), few)
    seen = observe(index, encoder, made_by, about, sample=sample, rng=rng, progress=progress)
    study = seen.study
    tried = {name: make(study) for name, make in routes.ROUTES.items()}
    fitted = {name: made for name, made in tried.items() if isinstance(made, Fitted)}
    measured = [measure(study, one) for one in fitted.values()]
    compared = overview(study, routes.naive(study))
    row_bytes = Layout.of(encoder.card, keeps_tokens(gallery.manifest, encoder.card), gallery.precision).row_bytes
    cost = Cost(len(members), len(members) / seen.images_per_second / 3600, row_bytes * len(members))
    found = Replacement(
        space=space,
        made_by=made_by.name,
        images=len(members),
        anchors=len(seen.anchors),
        verdict=judge(len(seen.anchors), compared, measured, cost, margin=margin),
        cost=cost,
        measured=int((~study.fit).sum()),
        unusable=len(about) - len(seen.anchors),
        sample=len(study.old_gallery),
        compared=compared,
        routes=measured,
        absent={name: made for name, made in tried.items() if isinstance(made, str)},
    )
    evidence = {
        **found.to_json(),
        "anchors sha256": asked,
        "fitted on": [one.id for one, fit in zip(seen.anchors, study.fit, strict=True) if fit],
        "made by": made_by.digest,
        "margin": margin,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "cir": __version__,
    }
    mappings = {name: _mapping(encoder.card.digest, space, one, evidence) for name, one in fitted.items()}
    return replace(found, mappings=mappings)


def _maker(manifest: Manifest, space: str) -> ModelCard:
    """The model whose own space it is."""
    made = next(entry.model for entry in manifest.segments if entry.space == space)
    return ModelCard.from_json(manifest.models[made])


def _unmeasured(space: str, made_by: str, images: int, anchors: int, few: bool) -> Replacement:
    """A space that too few anchors ask about."""
    reason = f"{anchors} anchors are about its {images:,} images, {ANCHORS} are needed"
    advice = (
        f"its {images:,} images go unsearched until `cir backfill` encodes them again"
        if few
        else "keep anchors about all of the gallery with `cir anchors`"
    )
    verdict = Verdict(None, {"": [reason]}, advice=advice)
    return Replacement(space, made_by, images, anchors, verdict, Cost(images, 0.0, 0), left_out=few)


def _mapping(model: str, space: str, fitted: Fitted, evidence: Mapping[str, Any]) -> SpaceMapping:
    return SpaceMapping(
        model, space, fitted.route, fitted.matrix, fitted.bias, fitted.slope, fitted.intercept, dict(evidence)
    )
