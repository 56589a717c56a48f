"""A replacement study as a table and a verdict for people."""

from __future__ import annotations

from cir.evidence import Evidence, RouteResult
from cir.replacement.measure import MEASURES
from cir.replacement.study import SpaceStudy
from cir.tables import align

SHOWN_SLICES = 6
BASELINES = {"current": "current index", "reindexed": "full re-index", "unmapped": "without a mapping"}


def render(study: SpaceStudy, successor: str) -> str:
    """The study of one older space; `successor` is the name of the new model."""
    evidence = study.evidence
    verdict = evidence.verdict
    title = f"{evidence.made_by} -> {successor}: {evidence.images:,} images of space {evidence.space}"
    if not evidence.routes:
        return f"{title}: {'; '.join(verdict.objections)}\n{verdict.advice}"
    lines = [
        f"{title}, {evidence.questions:,} judged queries ({evidence.measured:,} measured), "
        f"{evidence.sample:,} images encoded by both models",
        "",
        *_table(evidence),
        "",
    ]
    if evidence.unusable:
        lines.append(f"{evidence.unusable:,} more queries are left out: their photos are gone or have changed")
    lines += _unjudged(evidence)
    lines += _slices(evidence)
    lines += [f"no {route}: {reason}" for route, reason in evidence.absent.items()]
    lines += [f"refused: {reason}" for reason in verdict.objections]
    lines += [f"{route}: {reason}" for route, reasons in verdict.refused.items() for reason in reasons]
    lines += [f"note: {warning}" for warning in verdict.warnings]
    lines.append(f"verdict: {f'passes, by {verdict.route}' if verdict.route else 'refused'}")
    lines.append(f"advice: {verdict.advice}")
    return "\n".join(lines)


def _table(evidence: Evidence) -> list[str]:
    """Both measures of the baselines and of every route."""
    rows = [["", *MEASURES, *(f"gain {name}" for name in MEASURES), "recovered", "flips", "half re-indexed", ""]]
    for name, values in evidence.baselines.items():
        rows.append([BASELINES[name], *(_percent(values[measure]) for measure in MEASURES), *[""] * 6])
    rows += [_row(evidence, result) for result in evidence.routes]
    notes = "percent, R@1 and R@10; gains with their 95 % lower bounds; recovered: share of a re-index's gain; flips: "
    return [*align(rows), notes + "answered within 10 before and no longer"]


def _row(evidence: Evidence, result: RouteResult) -> list[str]:
    verdict = evidence.verdict
    recovered = [f"{100 * share:.0f}" for share in result.recovered.values() if share is not None]
    passes = "would pass" if verdict.objections else "passes"
    return [
        f"by {result.route}",
        *(_percent(value) for value in result.values.values()),
        *(f"{100 * gain.difference:+.1f} ({100 * gain.lower95:+.1f})" for gain in result.gains.values()),
        f"{', '.join(recovered)} %" if recovered else "",
        _percent(result.negative_flips),
        ", ".join(_percent(value) for value in result.half_reindexed.values()),
        "refused" if result.route in verdict.refused else passes,
    ]


def _unjudged(evidence: Evidence) -> list[str]:
    """What people have not judged, and what was done about it."""
    lines = []
    if evidence.unjudged_queries:
        lines.append(
            f"{evidence.unjudged_queries:,} more marked queries are left out: {evidence.unjudged_images:,} of the "
            "first ten of both models are not judged"
        )
    shares = ", ".join(f"{route} {_percent(share)} %" for route, share in evidence.dropped.items() if share)
    if shares:
        lines.append(f"of the first ten by a route, left out of its ranking because nobody has judged them: {shares}")
    return lines


def _slices(evidence: Evidence) -> list[str]:
    """R@10 on parts of the gallery by the chosen route, or the first; the worst change first."""
    route = evidence.verdict.route or evidence.routes[0].route
    slices = evidence.result(route).slices
    if not slices:
        return []
    order = sorted(slices, key=lambda name: slices[name].mapped - slices[name].current)
    shown = ", ".join(
        f"{name} {_percent(slices[name].current)} -> {_percent(slices[name].mapped)} "
        f"({slices[name].questions:,} queries)"
        for name in order[:SHOWN_SLICES]
    )
    more = f"; {len(order) - SHOWN_SLICES} more" if len(order) > SHOWN_SLICES else ""
    return [f"R@10 by {route}, by slice: {shown}{more}"]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
