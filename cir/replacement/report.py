"""A replacement study as a table and a verdict for people."""

from __future__ import annotations

from collections.abc import Mapping

from cir.evidence import Evidence, Fidelity, RouteResult
from cir.replacement.fidelity import ALL
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
    if evidence.without_judgements:
        return _without_judgements(evidence, title)
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
    lines += [_fidelity_line(name, kinds) for name, kinds in evidence.fidelity.items()]
    lines += _absent(evidence.absent)
    lines += [f"refused: {reason}" for reason in verdict.objections]
    lines += [f"{route}: {reason}" for route, reasons in verdict.refused.items() for reason in reasons]
    lines += [f"note: {warning}" for warning in verdict.warnings]
    lines.append(f"verdict: {f'passes, by {verdict.route}' if verdict.route else 'refused'}")
    lines.append(f"advice: {verdict.advice}")
    return "\n".join(lines)


def _absent(absent: Mapping[str, str]) -> list[str]:
    """Why some routes were not measured, one line for each reason."""
    routes: dict[str, list[str]] = {}
    for route, reason in absent.items():
        routes.setdefault(reason, []).append(route)
    return [f"no {', '.join(names)}: {reason}" for reason, names in routes.items()]


def _fidelity_line(name: str, kinds: Mapping[str, Fidelity]) -> str:
    """How far the current index, or a route, answers judged queries as a re-index would, right or wrong."""
    if len(kinds) == 2:  # one kind, and all of it
        kinds = {name: figures for name, figures in kinds.items() if name != ALL}
    shares = ", ".join(
        f"{kind} {_percent(figures.overlap)} % (its first hit {_percent(figures.first)} %)"
        for kind, figures in kinds.items()
    )
    return f"first ten shared with a re-index, {BASELINES.get(name) or f'by {name}'}: {shares}"


def _without_judgements(evidence: Evidence, title: str) -> str:
    """The study of a space for which there are no judged queries."""
    verdict = evidence.verdict
    lines = [
        f"{title}, no judged queries; {evidence.sample:,} images encoded by both models",
        f"texts from {evidence.without_judgements}",
        "",
        *_fidelity_table(evidence),
        "",
        *_absent(evidence.absent),
        *(f"refused: {reason}" for reason in verdict.objections),
        *(f"{route}: {reason}" for route, reasons in verdict.refused.items() for reason in reasons),
        *(f"note: {warning}" for warning in verdict.warnings),
        f"verdict: {f'the mapping is faithful, by {verdict.route}' if verdict.route else 'refused'}",
        f"advice: {verdict.advice}",
    ]
    return "\n".join(lines)


def _fidelity_table(evidence: Evidence) -> list[str]:
    """How far the current index and every route answer as a re-index would, by kind of query."""
    found = list(dict.fromkeys(kind for kinds in evidence.fidelity.values() for kind in kinds))
    rows = [["", *(f"{kind} {part}" for kind in found for part in ("overlap@10", "first@10")), ""]]
    for name, kinds in evidence.fidelity.items():
        cells = [
            cell
            for kind in found
            for cell in (
                (
                    f"{_percent(kinds[kind].overlap)} ({_percent(kinds[kind].overlap_lower95)})",
                    _percent(kinds[kind].first),
                )
                if kind in kinds
                else ("-", "-")
            )
        ]
        mark = "" if name in BASELINES else "refused" if name in evidence.verdict.refused else "faithful"
        rows.append([BASELINES.get(name) or f"by {name}", *cells, mark])
    counts = ", ".join(
        f"{max(kinds[kind].queries for kinds in evidence.fidelity.values() if kind in kinds):,} {kind}"
        for kind in found
    )
    note = (
        f"percent of {counts} queries about images that no fit has seen; overlap@10: how many of the first ten hits of "
        "a re-index are among the first ten, with its 95 % lower bound; first@10: whether its first hit is; -: the "
        "model of the current index cannot encode such queries"
    )
    return [*align(rows), note]


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
