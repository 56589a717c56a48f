"""The report of an evaluation: figures with their intervals, as values and as JSON. All figures are fractions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cir import __version__
from cir.data.benchmark import COMPOSED as COMPOSED
from cir.data.benchmark import Benchmark, ids_sha256
from cir.eval.runs import Run
from cir.eval.scoring import Values, chance_of, check_run, headline_name, measures_of, values_of, values_of_groups
from cir.stats import Comparison, Measure, compare, interval, mean

CHANCE = "chance"  # the baseline of queries that have no others


@dataclass(frozen=True)
class Figure:
    """A mean over queries.

    Attributes:
        value: the mean.
        ci95: its 95 % interval.
        missing: number of missing images that were allowed, which make the value a lower bound.
    """

    value: float
    ci95: tuple[float, float]
    missing: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; "missing" only if images are."""
        return {
            "value": self.value,
            "ci95": list(self.ci95),
            **({"missing": self.missing} if self.missing else {}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Figure:
        """A figure from `to_json` values."""
        low, high = values["ci95"]
        return cls(values["value"], (low, high), values.get("missing", 0))


Figures = Mapping[str, Figure]  # by measure


@dataclass(frozen=True)
class Headline:
    """The mean of the headline measures, such as "(R@5 + Rs@1) / 2".

    Attributes:
        name: states the mean.
        figure: of the composed query.
        baselines: system -> the same figure.
    """

    name: str
    figure: Figure
    baselines: Figures = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: the figure's, its name, and "baselines" if there are any."""
        baselines = {"baselines": _figures_to_json(self.baselines)} if self.baselines else {}
        return {"name": self.name, **self.figure.to_json(), **baselines}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Headline:
        """A headline from `to_json` values."""
        return cls(values["name"], Figure.from_json(values), _figures(values.get("baselines", {})))


@dataclass(frozen=True)
class BaselineGain:
    """The gain of the composed query over the best baseline by some measure.

    Attributes:
        baseline: the best baseline.
        gain: the paired difference from it.
    """

    baseline: str
    gain: Comparison

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"baseline": self.baseline, **comparison_to_json(self.gain)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BaselineGain:
        """A gain from `to_json` values."""
        low, high = values["ci95"]
        return cls(values["baseline"], Comparison(values["difference"], (low, high), values["p"]))


@dataclass(frozen=True)
class Confidence:
    """How well a model's threshold separates queries with targets from queries without.

    Attributes:
        threshold: a best score below it is reported as not confident.
        false_alarms: share of the headline queries that are below it, though they have targets.
        recognised: share that are below it once their targets are removed from the gallery.
    """

    threshold: float
    false_alarms: float
    recognised: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"threshold": self.threshold, "false_alarms": self.false_alarms, "recognised": self.recognised}


@dataclass(frozen=True)
class Precision:
    """In which precision an evaluation ran.

    Attributes:
        computed: what the model computed in, "float32" or "fast".
        stored: what the index stores, "float32" or "float16".
    """

    computed: str
    stored: str


@dataclass(frozen=True)
class GalleryFacts:
    """What was searched.

    Attributes:
        images: number of images.
        sha256: digest of their ids; None if these are unknown.
        parts: name -> facts of that gallery, if there are several.
        per_query: where each query brings a gallery of its own, the number of images in the largest; else 0.
    """

    images: int
    sha256: str | None
    parts: Mapping[str, GalleryFacts] = field(default_factory=dict)
    per_query: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; "parts" only if there are several galleries, "per_query" only if queries bring them."""
        parts = {"parts": {name: part.to_json() for name, part in self.parts.items()}} if self.parts else {}
        per_query = {"per_query": self.per_query} if self.per_query else {}
        return {"images": self.images, "sha256": self.sha256, **per_query, **parts}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GalleryFacts:
        """Facts from `to_json` values."""
        parts = {name: cls.from_json(part) for name, part in values.get("parts", {}).items()}
        return cls(values["images"], values["sha256"], parts, values.get("per_query", 0))

    @classmethod
    def of(cls, benchmark: Benchmark) -> GalleryFacts:
        """The facts of a benchmark's gallery or galleries."""
        parts = {name: cls(len(ids), ids_sha256(ids)) for name, ids in benchmark.galleries.items()}
        images = benchmark.unlisted or len(benchmark.gallery)
        own = max(len(query.subset) for query in benchmark.queries) if benchmark.own_galleries else 0
        return cls(images, benchmark.gallery_sha256, parts if len(parts) > 1 else {}, own)


@dataclass(frozen=True)
class Report:
    """The figures of a run and its baselines.

    Attributes:
        benchmark, protocol: names.
        version: of the package.
        seconds: how long the run took.
        queries: number of headline queries.
        missing: number of missing images that were allowed.
        model: the model card as JSON, or what is known of a foreign run's maker.
        gallery: what was searched.
        metrics: figures of the whole query; empty if the targets are not public.
        form: what the queries are, `Benchmark.form`.
        groups: group -> figures of the whole query.
        baselines: system -> figures; for queries by text or by image alone, what a random order gives.
        headline: the benchmark's headline figure, if it has one that could be computed.
        comparison: measure -> gain over the best baseline; empty without runs of baselines.
        confidence: only if the model has a threshold.
        precision: only for an evaluation of an index.
    """

    benchmark: str
    protocol: str
    version: str
    seconds: float
    queries: int
    missing: int
    model: Mapping[str, Any]
    gallery: GalleryFacts
    metrics: Figures = field(default_factory=dict)
    form: str = COMPOSED
    groups: Mapping[str, Figures] = field(default_factory=dict)
    baselines: Mapping[str, Figures] = field(default_factory=dict)
    headline: Headline | None = None
    comparison: Mapping[str, BaselineGain] = field(default_factory=dict)
    confidence: Confidence | None = None
    precision: Precision | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what does not apply is left out."""
        values: dict[str, Any] = {
            "benchmark": self.benchmark,
            "protocol": self.protocol,
            "version": self.version,
            "seconds": self.seconds,
            "queries": self.queries,
            "missing": self.missing,
            **({} if self.form == COMPOSED else {"form": self.form}),
            "model": dict(self.model),
            "gallery": self.gallery.to_json(),
            "metrics": _figures_to_json(self.metrics),
            "groups": {name: _figures_to_json(figures) for name, figures in self.groups.items()},
            "baselines": {name: _figures_to_json(figures) for name, figures in self.baselines.items()},
        }
        if self.headline:
            values["headline"] = self.headline.to_json()
        if self.comparison:
            values["comparison"] = {name: gain.to_json() for name, gain in self.comparison.items()}
        if self.confidence:
            values["confidence"] = self.confidence.to_json()
        if self.precision:
            values["precision"] = {"computed": self.precision.computed, "stored": self.precision.stored}
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Report:
        """A report from `to_json` values. Raises KeyError or TypeError for anything else."""
        confidence, precision = values.get("confidence"), values.get("precision")
        parsed = {
            "gallery": GalleryFacts.from_json(values["gallery"]),
            "metrics": _figures(values["metrics"]),
            "groups": {name: _figures(figures) for name, figures in values["groups"].items()},
            "baselines": {name: _figures(figures) for name, figures in values["baselines"].items()},
            "headline": Headline.from_json(values["headline"]) if "headline" in values else None,
            "comparison": {name: BaselineGain.from_json(gain) for name, gain in values.get("comparison", {}).items()},
            "confidence": Confidence(**confidence) if confidence else None,
            "precision": Precision(**precision) if precision else None,
        }
        return cls(**{**values, **parsed})


def make_report(
    benchmark: Benchmark,
    runs: Mapping[str, Run],
    *,
    model: Mapping[str, Any],
    seconds: float,
    subset_run: Run | None = None,
    seed: int = 0,
) -> Report:
    """The report of a run and its baselines. Without public targets it has no figures.

    Queries by text or by image alone have one way to search, so that they stand beside chance.

    Args:
        benchmark: what the runs answer.
        runs: system -> run; "composed" is the run that is reported, all others are its baselines.
        model: the model card as JSON, or what is known of a foreign run's maker.
        seconds: how long the run took.
        subset_run: a run for Rs@k, if "composed" does not rank the subsets to their end. Without it, and with hits that
            lack members of their subset, Rs@k and a headline that includes it are left out.
        seed: of the bootstrap.

    Raises:
        DataError: a run is of another benchmark.
    """
    for run in (*runs.values(), *([subset_run] if subset_run is not None else [])):
        check_run(benchmark, run)
    queries = [query for query in benchmark.queries if query.headline]
    facts: dict[str, Any] = {
        "benchmark": benchmark.name,
        "protocol": benchmark.protocol,
        "version": __version__,
        "seconds": round(seconds, 3),
        "queries": len(queries),
        "missing": len(benchmark.absent),
        "form": benchmark.form,
        "model": dict(model),
        "gallery": GalleryFacts.of(benchmark),
    }
    if not benchmark.judged:
        return Report(**facts)
    measures = measures_of(benchmark, runs[COMPOSED], subset_run)
    values = {
        system: values_of(benchmark, measures, run, queries, subset_run if system == COMPOSED else None)
        for system, run in runs.items()
    }
    gains = {str(measure): _gain(str(measure), values, seed) for measure in measures} if len(runs) > 1 else {}
    if benchmark.form != COMPOSED:
        values[CHANCE] = chance_of(benchmark, measures, queries)
    groups = values_of_groups(benchmark, measures, runs[COMPOSED], subset_run)
    missing, name = len(benchmark.absent), headline_name(benchmark)
    figures = {system: _measure(scores, missing, seed) for system, scores in values.items()}
    headlines = {system: by_measure[name] for system, by_measure in figures.items() if name in by_measure}
    composed = headlines.pop(COMPOSED, None)
    baselines = [system for system in figures if system != COMPOSED]
    return Report(
        **facts,
        metrics=_only(figures[COMPOSED], measures),
        groups={group: _only(_measure(scores, missing, seed), measures) for group, scores in groups.items()},
        baselines={system: _only(figures[system], measures) for system in baselines},
        headline=Headline(name, composed, headlines) if composed else None,
        comparison=gains,
    )


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Plain JSON values of a paired comparison."""
    return {"difference": comparison.difference, "ci95": list(comparison.ci95), "p": comparison.p}


def _figures(values: Mapping[str, Any]) -> Figures:
    return {name: Figure.from_json(figure) for name, figure in values.items()}


def _figures_to_json(figures: Figures) -> dict[str, Any]:
    return {name: figure.to_json() for name, figure in figures.items()}


def _measure(values: Values, missing: int, seed: int) -> Figures:
    return {
        name: Figure(mean(scores, values.strata), interval(scores, strata=values.strata, seed=seed), missing)
        for name, scores in values.by_measure.items()
    }


def _only(figures: Figures, measures: Sequence[Measure]) -> Figures:
    """The figures of the measures, without the headline's."""
    return {str(measure): figures[str(measure)] for measure in measures}


def _gain(measure: str, values: Mapping[str, Values], seed: int) -> BaselineGain:
    """The composed query against the baseline that does best by a measure."""
    ours = values[COMPOSED]
    others = {system: scores.by_measure[measure] for system, scores in values.items() if system != COMPOSED}
    best = max(others, key=lambda system: mean(others[system], ours.strata))
    gain = compare(ours.by_measure[measure], others[best], strata=ours.strata, seed=seed)
    return BaselineGain(best, gain)
