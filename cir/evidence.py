"""What a replacement study measured, as values: stored in an index beside the mapping that it led to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

Measures = Mapping[str, float]  # "R@1", "R@10" -> share of questions answered, in [0, 1]


class Gain(NamedTuple):
    """A paired difference from the current index, and its one-sided 95 % lower bound; fractions."""

    difference: float
    lower95: float


@dataclass(frozen=True)
class ReindexCost:
    """What re-indexing the images of one older space would take.

    Attributes:
        images: number of images.
        hours: at the speed measured on the sample, on this machine.
        bytes: size of the new vectors and tokens.
    """

    images: int
    hours: float
    bytes: int


@dataclass(frozen=True)
class SliceResult:
    """R@10 on the questions whose reference has one metadata value: with the current index, and by a route."""

    questions: int
    current: float
    mapped: float


@dataclass(frozen=True)
class Fidelity:
    """How far one kind of query is answered as a full re-index would answer it, whatever is relevant. Fractions.

    Attributes:
        queries: number of queries, which no fit has seen.
        overlap: share of the re-index's first ten hits that are among the first ten.
        overlap_lower95: its one-sided 95 % lower bound.
        first: share of queries whose first hit of the re-index is among the first ten.
        closer_lower95: one-sided 95 % lower bound of the difference in overlap from the current index, on the queries
            that its model can encode; None for that itself, and without such queries.
    """

    queries: int
    overlap: float
    overlap_lower95: float
    first: float
    closer_lower95: float | None = None


@dataclass(frozen=True)
class RouteResult:
    """One route, measured on the questions that its fit has not seen. Shares of questions, as fractions.

    Attributes:
        route: its name.
        values: measure -> share answered on the stored vectors.
        gains: measure -> paired difference from the current index.
        negative_flips: share of questions answered within 10 by the current index and no longer by this route.
        slices: "column=value" -> R@10 there; only slices with enough questions.
        losing_slices: "column=value" -> difference in R@10, for slices that lose much and significantly (95 %).
        half_reindexed: measure -> share answered when a random half of the sample is re-indexed.
        half_reindexed_loss: by how much (95 % lower bound) its R@10 falls below the better of current and mapped.
        recovered: measure -> share of a full re-index's gain; None if a re-index gains nothing.
    """

    route: str
    values: Measures
    gains: Mapping[str, Gain]
    negative_flips: float
    slices: Mapping[str, SliceResult]
    losing_slices: Mapping[str, float]
    half_reindexed: Measures
    half_reindexed_loss: float
    recovered: Mapping[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "gains": {name: gain._asdict() for name, gain in self.gains.items()}}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RouteResult:
        """A result from `to_json` values. Raises KeyError or TypeError for anything else."""
        gains = {name: Gain(**gain) for name, gain in values["gains"].items()}
        slices = {name: SliceResult(**result) for name, result in values["slices"].items()}
        return cls(**{**values, "gains": gains, "slices": slices})


@dataclass(frozen=True)
class Verdict:
    """Whether the new model may serve one older space.

    Attributes:
        route: the route that may be published, or None.
        objections: reasons that rule out every route.
        refused: route -> reasons against it.
        warnings: what to know even if it passes.
        advice: what to do, one line.
    """

    route: str | None = None
    objections: tuple[str, ...] = ()
    refused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    advice: str = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Verdict:
        """A verdict from the values of `dataclasses.asdict`, where tuples may have become lists."""
        refused = {route: tuple(reasons) for route, reasons in values["refused"].items()}
        return cls(values["route"], tuple(values["objections"]), refused, tuple(values["warnings"]), values["advice"])


@dataclass(frozen=True)
class Evidence:
    """What was measured for one older space, and the verdict.

    Attributes:
        space: id of the older space.
        made_by: name of the model that made its vectors.
        images: live images in it.
        cost, verdict: of a re-index, and of the gate.
        questions, measured: judged questions used, and those among them that fits did not see.
        unusable: further questions whose photos are gone or have changed.
        unjudged_queries, unjudged_images: marked questions left out because some of the first ten of both models are
            not judged, and how many images those are.
        dropped: route -> share of its first ten that nobody has judged, and that were left out of its ranking.
        sample: images encoded by both models.
        baselines: "current", "reindexed" and "unmapped" -> measures.
        routes: every route that was measured.
        absent: route -> why this pair of models does not have it.
        fidelity: "current" or route -> kind of query ("image", "text", "composed", "all") -> how far it agrees with a
            re-index.
        without_judgements: how the queries were made where there were no judged ones; "" where there were.
        questions_sha256: digest of the judged questions.
        fitted_on: ids of the questions that routes were fitted on.
        margin: by how much a route was allowed to fall behind; an operator's choice.
        created: UTC, ISO 8601.
        cir: version of the package that measured.
    """

    space: str
    made_by: str
    images: int
    cost: ReindexCost
    verdict: Verdict = field(default_factory=Verdict)
    questions: int = 0
    measured: int = 0
    unusable: int = 0
    unjudged_queries: int = 0
    unjudged_images: int = 0
    dropped: Mapping[str, float] = field(default_factory=dict)
    sample: int = 0
    baselines: Mapping[str, Measures] = field(default_factory=dict)
    routes: tuple[RouteResult, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    fidelity: Mapping[str, Mapping[str, Fidelity]] = field(default_factory=dict)
    without_judgements: str = ""
    questions_sha256: str = ""
    fitted_on: tuple[str, ...] = ()
    margin: float = 0.0
    created: str = ""
    cir: str = ""

    def result(self, route: str) -> RouteResult:
        """What was measured of a route. Raises KeyError if it was not."""
        results = {result.route: result for result in self.routes}
        return results[route]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "routes": [result.to_json() for result in self.routes]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Evidence:
        """Evidence from `to_json` values. Raises KeyError or TypeError for anything else."""
        parsed = {
            "verdict": Verdict.from_json(values["verdict"]),
            "cost": ReindexCost(**values["cost"]),
            "routes": tuple(map(RouteResult.from_json, values["routes"])),
            "fidelity": {
                name: {kind: Fidelity(**figures) for kind, figures in kinds.items()}
                for name, kinds in values["fidelity"].items()
            },
            "fitted_on": tuple(values["fitted_on"]),
        }
        return cls(**{**values, **parsed})
