"""Evidence survives its way through JSON, whole and equal."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from cir.evidence import Evidence, Fidelity, Gain, ReindexCost, RouteResult, SliceResult, Verdict

RESULT = RouteResult(
    route="ridge",
    values={"R@1": 0.25, "R@10": 0.75},
    gains={"R@1": Gain(0.05, 0.01), "R@10": Gain(0.1, -0.02)},
    negative_flips=0.04,
    slices={"colour=red": SliceResult(60, 0.5, 0.55)},
    losing_slices={"colour=blue": -0.08},
    half_reindexed={"R@1": 0.2, "R@10": 0.7},
    half_reindexed_loss=0.0,
    recovered={"R@1": 0.8, "R@10": None},
)
VERDICT = Verdict(
    route=None,
    objections=("199 judged queries, 200 are needed",),
    refused={"ridge": ("R@1 +1.0", "12.0 % negative flips")},
    warnings=("plan to re-index",),
    advice="keep the current model",
)
EVIDENCE = Evidence(
    space="abc-16",
    made_by="old-1",
    images=260,
    verdict=VERDICT,
    cost=ReindexCost(260, 0.5, 8_320),
    questions=220,
    measured=111,
    unusable=3,
    sample=250,
    baselines={"current": {"R@1": 0.2, "R@10": 0.65}},
    routes=(RESULT,),
    absent={"trained head": "the new model has no query head for this space"},
    fidelity={"current": {"text": Fidelity(9, 0.5, 0.4, 0.6)}, "ridge": {"text": Fidelity(9, 0.8, 0.7, 0.9, -0.1)}},
    without_judgements="37 plain words",
    questions_sha256="0123456789abcdef",
    fitted_on=("q1", "q2"),
    margin=0.01,
    created="2026-11-25T12:00:00+00:00",
    cir="0.1.0",
)


def through_json(values: dict[str, Any]) -> Any:
    """The values as a file would give them back."""
    return json.loads(json.dumps(values, allow_nan=False))


def test_evidence_round_trip() -> None:
    values = EVIDENCE.to_json()
    assert Evidence.from_json(through_json(values)) == EVIDENCE
    assert Evidence.from_json(through_json(values)).to_json() == values


def test_evidence_of_a_refusal_before_measuring_round_trip() -> None:
    refused = Evidence("abc-16", "old-1", 10, verdict=Verdict(None, ("too few",)), cost=ReindexCost(10, 0.0, 0))
    assert Evidence.from_json(through_json(refused.to_json())) == refused


def test_route_result_round_trip() -> None:
    values = RESULT.to_json()
    assert values["gains"]["R@10"] == {"difference": 0.1, "lower95": -0.02}
    assert values["slices"]["colour=red"] == {"questions": 60, "current": 0.5, "mapped": 0.55}
    assert RouteResult.from_json(through_json(values)) == RESULT


@pytest.mark.parametrize("verdict", [VERDICT, Verdict("trained head", advice="serve the new model by trained head")])
def test_verdict_round_trip(verdict: Verdict) -> None:
    assert Verdict.from_json(through_json(asdict(verdict))) == verdict


def test_values_of_another_version_are_refused() -> None:
    values = EVIDENCE.to_json()
    with pytest.raises(KeyError):
        Evidence.from_json({key: value for key, value in values.items() if key != "verdict"})
    with pytest.raises(TypeError):
        Evidence.from_json({**values, "anchors": 220})


def test_results_are_known_by_route() -> None:
    assert EVIDENCE.result("ridge") is RESULT
    with pytest.raises(KeyError):
        EVIDENCE.result("trained head")
