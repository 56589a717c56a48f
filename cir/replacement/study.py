"""A replacement study: collect both models' vectors, fit the routes, measure them, and judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from cir import __version__
from cir.data.judged_query import JudgedQuery
from cir.errors import MissingImageError, UsageError
from cir.evidence import Evidence, ReindexCost, Verdict
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.segment import Layout
from cir.indexer.writing.preconditions import keeps_tokens
from cir.indexer.writing.serve import check_successor
from cir.mappings import SpaceMapping
from cir.replacement.collect import Collected, SampleCollector
from cir.replacement.fidelity import fidelity, judge_fidelity, kinds_of
from cir.replacement.gate import MIN_QUERIES, judge
from cir.replacement.measure import baselines, measure
from cir.replacement.photos import GivenPhotos
from cir.replacement.pool import JUDGE_THEM, dropped, fully_judged
from cir.replacement.precheck import incompatibilities
from cir.replacement.questions import digest
from cir.replacement.routes import fit_routes
from cir.replacement.unlabelled import collect_without_judgements
from cir.search.searcher import Searcher
from cir.types import Encoder, ModelCard, Progress

FEWEST = 20  # judged queries below which not even a refusal can be measured
FEW_IMAGES = 0.05  # share of an index that may go unsearched until a backfill, if few queries are about it


@dataclass(frozen=True)
class StudyOptions:
    """How to study a replacement.

    Attributes:
        sample: images that both models encode, drawn at random, besides those that the queries name.
        margin: by how much a route may fall behind the current index and still pass.
        seed: of the sample and the halves.
        questions_sha256: digest that names the queries in the evidence; that of the queries given if empty.
        photos: photos to read in place of those that were indexed; only without judged queries.
    """

    sample: int = 2000
    margin: float = 0.0
    seed: int = 0
    questions_sha256: str = ""
    photos: GivenPhotos | None = None


@dataclass(frozen=True)
class SpaceStudy:
    """The outcome for one older space.

    Attributes:
        evidence: what was measured, and the verdict.
        mappings: route -> the mapping that would be published.
        left_out: nothing was measured, and its few images may go unsearched until `cir backfill`.
    """

    evidence: Evidence
    mappings: Mapping[str, SpaceMapping] = field(default_factory=dict)
    left_out: bool = False

    @property
    def mapping(self) -> SpaceMapping | None:
        """The mapping that may be published."""
        route = self.evidence.verdict.route
        return self.mappings[route] if route else None

    @property
    def passes(self) -> bool:
        """Whether this space is no reason to keep the current model."""
        return self.mapping is not None or self.left_out


def may_serve(studies: Sequence[SpaceStudy]) -> bool:
    """Whether the new model may serve: every older space passes, and at least one has a mapping."""
    return all(study.passes for study in studies) and any(study.mapping for study in studies)


def study_replacement(
    searcher: Searcher,
    encoder: Encoder,
    queries: Sequence[JudgedQuery],
    *,
    options: StudyOptions | None = None,
    progress: Progress | None = None,
) -> list[SpaceStudy]:
    """Measure every route from a new model to every space of an index.

    Args:
        searcher: the index, with the models that made it.
        encoder: the new model.
        queries: judged queries about images of the index; half of those about a space are for fitting. Without any,
            what is measured is how far each route answers as a re-index would (`fidelity`).
        options: sample, margin, seed.
        progress: called with (images encoded, images to encode).

    Raises:
        UsageError: the model serves already, its name is taken, or it made all vectors.
        MissingImageError: hardly any query has its photos.
    """
    options = options or StudyOptions()
    gallery, card = searcher.gallery, encoder.card
    check_successor(gallery.manifest, card)
    spaces = older_spaces(gallery, card)
    collector = SampleCollector(searcher, encoder, options.sample, progress)
    layout = Layout.of(card, keeps_tokens(gallery.manifest, card), gallery.layout.precision)
    studies = []
    for number, space in enumerate(spaces):
        made_by, members = gallery.manifest.maker(space), set(gallery.ids_in(space))
        about = [query for query in queries if query.targets & members]
        few_images = len(members) <= FEW_IMAGES * len(gallery)
        refusal = _refuse(made_by, card, len(members), len(about) if queries else None, few_images)
        if refusal:
            studies.append(refusal)
            continue
        source = ""
        rng = np.random.default_rng([options.seed, number])
        if queries:
            collected = collector.collect(made_by, about, rng)
        else:
            try:
                collected, source = collect_without_judgements(
                    collector, made_by, options.photos, options.seed + number
                )
            except MissingImageError as error:
                studies.append(_unmeasured(made_by, len(members), str(error), 0, few_images))
                continue
        hours = len(members) / collected.images_per_second / 3600
        evidence = Evidence(
            space=space,
            made_by=made_by.name,
            images=len(members),
            cost=ReindexCost(len(members), hours, layout.row_bytes * len(members)),
            unusable=len(about) - len(collected.queries) if queries else 0,
            questions_sha256=(options.questions_sha256 or digest(queries)) if queries else "",
            without_judgements=source,
            margin=options.margin,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            cir=__version__,
        )
        with encoder.shared_by(1):  # fits with torch
            judged = _judge_marked(collected, evidence, card, rng) if queries else _judge(collected, evidence, card)
        studies.append(judged)
    return studies


def older_spaces(gallery: Gallery, successor: ModelCard) -> list[str]:
    """Ids of the spaces of an index that are not the new model's own. Raises UsageError if there are none."""
    spaces = sorted({entry.space for entry in gallery.manifest.segments} - {successor.space.id})
    if not spaces:
        raise UsageError(f"{gallery.folder}: all of it was made by {successor.name}; use `cir rollback`")
    return spaces


def _refuse(
    made_by: ModelCard, successor: ModelCard, images: int, queries: int | None, few_images: bool
) -> SpaceStudy | None:
    """What rules out a measurement of a space: an incompatible model, or too few judged queries (None: none at all)."""
    problems = incompatibilities(made_by, successor)
    if problems:
        advice = "keep the current model; `cir train --replaces INDEX` trains a successor"
        verdict = Verdict(None, tuple(problems), advice=advice)
        return SpaceStudy(Evidence(made_by.space.id, made_by.name, images, ReindexCost(images, 0.0, 0), verdict))
    if queries is not None and queries < (MIN_QUERIES if few_images else FEWEST):
        problem = f"{queries} judged queries are about its {images:,} images, {MIN_QUERIES} are needed"
        return _unmeasured(made_by, images, problem, queries, few_images)
    return None


def _unmeasured(made_by: ModelCard, images: int, problem: str, queries: int, few_images: bool) -> SpaceStudy:
    """A space about which too little is known; a small part of an index may go unsearched for it."""
    if few_images:
        advice = f"its {images:,} images go unsearched until `cir backfill` encodes them again"
    elif queries:
        advice = "store judged queries about all of the gallery with `cir questions`"
    else:
        advice = "bring the photos back, or give some of them: --photos DIR"
    verdict = Verdict(None, (problem,), advice=advice)
    cost = ReindexCost(images, 0.0, 0)
    evidence = Evidence(made_by.space.id, made_by.name, images, cost, verdict, questions=queries)
    return SpaceStudy(evidence, left_out=few_images)


def _judge_marked(collected: Collected, about: Evidence, successor: ModelCard, rng: np.random.Generator) -> SpaceStudy:
    """`_judge` on the queries whose pools are fully judged; marks on one model's hits alone decide nothing."""
    counted, gaps = fully_judged(collected, rng)
    about = replace(about, unjudged_queries=gaps.open, unjudged_images=gaps.images)
    if counted is None:
        verdict = Verdict(None, (gaps.problem,), advice=JUDGE_THEM)
        return SpaceStudy(replace(about, verdict=verdict, questions=len(collected.queries) - gaps.open))
    return _judge(counted, replace(about, questions=len(counted.queries)), successor)


def _judge(collected: Collected, about: Evidence, successor: ModelCard) -> SpaceStudy:
    """Fit and measure the routes of a paired sample, and judge; `about` is the evidence before any measurement."""
    sample = collected.sample
    fitted, absent = fit_routes(sample)
    agreement = fidelity(sample, kinds_of(collected.queries), fitted)
    if sample.labelled:
        results = tuple(measure(sample, route) for route in fitted)
        compared = baselines(sample)
        same = sample.same_vectors
        verdict = judge(about.questions, compared, results, about.cost, margin=about.margin, same_vectors=same)
    else:
        results, compared = (), {}
        verdict = judge_fidelity(agreement, about.cost, same_vectors=sample.same_vectors)
    evidence = replace(
        about,
        verdict=verdict,
        fidelity=agreement,
        measured=int((~sample.fit_mask).sum()),
        sample=len(sample.old_gallery),
        baselines=compared,
        routes=results,
        absent=absent,
        dropped={route.mapping.route.value: dropped(sample, route.scores) for route in fitted},
        fitted_on=tuple(query.id for query, fit in zip(collected.queries, sample.fit_mask, strict=True) if fit)
        if sample.labelled
        else (),
    )
    mappings = [
        replace(route.mapping, model=successor.digest, space=about.space, evidence=evidence) for route in fitted
    ]
    return SpaceStudy(evidence, {mapping.route.value: mapping for mapping in mappings})
