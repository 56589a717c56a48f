"""Where another way is better than cir, read out of the results: nobody has to remember to say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from index_parts.goals import goals

NOISE = 1.05  # a difference below is none


def found(results: Mapping[str, Any]) -> list[str]:
    """Lines of a list."""
    ways = {"exact": _exact, "ann": _ann, "tokens": _tokens}
    lines = [f"- {line}" for part, way in ways.items() if part in results for line in way(results[part])]
    lines += [f"- Goal missed: {goal.name}: {goal.value:.4g}." for goal in goals(results) if not goal.met]
    return ["", *(lines or ["- Nowhere in these results."]), ""]


def _exact(result: Any) -> Iterator[str]:
    for size, batch in result["batches"].items():
        own = batch.get("cir")
        better = [
            f"{name} {figures['ms']:.3g} ms (recall@10 {result['recall'][name]:.3g})"
            for name, figures in batch.items()
            if own and not name.startswith("probe") and own["ms"] > NOISE * figures["ms"]
        ]
        if better:
            yield f"Exact, {size} at once: cir takes {own['ms']:.3g} ms; {', '.join(better)}."


def _ann(result: Any) -> Iterator[str]:
    for kind, timed in result["in_turn"].items():
        own = timed.get("cir")
        better = [
            f"{name} {figures['p50_ms']:.3g}"
            for name, figures in timed.items()
            if own and own["p50_ms"] > NOISE * figures["p50_ms"]
        ]
        if better:
            goal = f"recall {result['goal']}"
            yield f"Approximate, {kind}, {goal}: cir takes {own['p50_ms']:.3g} ms; {', '.join(better)}."
    for point in result["curves"].get("cir", []):
        for kind in result["in_turn"]:
            promised = point["effort"] or result["goal"]
            if point[kind]["recall"] < promised:
                yield f"Approximate, {kind}: asked for recall {promised}, it brings {point[kind]['recall']}."
    for name, built in result["peers"].items():
        if built["build_s"] and built["build_s"] < result["build_s"] / NOISE:
            yield f"Building: {name} takes {built['build_s']:.0f} s, cir {result['build_s']:.0f}."


def _tokens(result: Any) -> Iterator[str]:
    for statistics, figures in result["statistics"].items():
        own = figures["times"]["cir"]["ms"]
        for name, times in figures["times"].items():
            if name.startswith("int8 brute") and own > NOISE * times["ms"]:
                yield (
                    f"Tokens, {statistics}: {name} takes {times['ms']:.3g} ms at recall@10 {figures['recall'][name]}, "
                    f"cir {own:.3g} at {figures['recall']['cir']}."
                )
