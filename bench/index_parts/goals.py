"""What the index must show, against what the results say; the worse of two kinds of queries counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """One figure and its bound.

    Attributes:
        name: what it is.
        bound: what it may be at most, or at least.
        least: whether the bound is the least.
        value: what was measured.
    """

    name: str
    bound: float
    value: float
    least: bool = False

    @property
    def met(self) -> bool:
        """Whether the value keeps the bound."""
        return self.value >= self.bound if self.least else self.value <= self.bound

    def row(self) -> list[str]:
        """Cells of a table."""
        sign = "at least" if self.least else "at most"
        return [self.name, f"{sign} {self.bound:g}", f"{self.value:.4g}", "yes" if self.met else "**no**"]


def goals(results: Mapping[str, Any]) -> list[Goal]:
    """All goals for which there are results."""
    ways = {"exact": _exact, "ann": _ann, "opening": _opening, "tokens": _tokens, "appends": _appends}
    return [goal for part, way in ways.items() if part in results for goal in way(results[part])]


def _exact(result: Any) -> Iterator[Goal]:
    batches = result["batches"]
    if "cir" in batches["1"]:
        yield Goal("exact, one query, x read of its bytes", 1.6, batches["1"]["cir"]["ratio"])
        yield Goal("exact, 64 at once, x read, per query", 0.25, batches["64"]["cir"]["ratio_per_query"])


def _ann(result: Any) -> Iterator[Goal]:
    if "cir" not in result["curves"]:
        return
    turns = list(result["in_turn"].values())
    default = next(point for point in result["curves"]["cir"] if point["effort"] is None)
    yield Goal("ANN, recall@10", 0.99, min(default[kind]["recall"] for kind in result["in_turn"]), True)
    yield Goal("ANN, p50 ms", 1.5, max(turn["cir"]["p50_ms"] for turn in turns))
    if all("raw faiss" in turn for turn in turns):
        yield Goal("ANN, x raw FAISS of the same effort", 1.3, max(turn["cir"]["over_raw faiss"] for turn in turns))
    for where, figures in result["filters"].items():
        worst = max(figures[kind]["filtered"]["over_unfiltered"] for kind in result["in_turn"])
        yield Goal(f"ANN, {where} ({figures['selectivity']}), x unfiltered", 2, worst)
    lance = [
        min((t["over_cir"] for name, t in turn.items() if name.startswith("lancedb")), default=0) for turn in turns
    ]
    if all(lance):
        yield Goal("ANN, quickest LanceDB, x cir", 1, min(lance), True)


def _opening(result: Any) -> Iterator[Goal]:
    warm, served = result["warm, first ann"], result["serving"]["bytes_per_vector"]
    yield Goal("opening, ms", 150, warm["open_ms"])
    yield Goal("opening, private MB", 40, warm["open_private_mb"]["anonymous"])
    yield Goal("first ANN answer after opening, ms", 400, warm["first_answer_ms"])
    yield Goal(
        "serving, bytes per vector of private memory and ANN", 600, served["anonymous"] + served.get("ann.faiss", 0)
    )
    for name, bound in (("equality", 10), ("comparison", 30)):
        if "later_ms" in result["conditions"][name]:
            yield Goal(f"--where, {name}, ms", bound, result["conditions"][name]["later_ms"])


def _tokens(result: Any) -> Iterator[Goal]:
    for statistics, figures in result["statistics"].items():
        times = figures["times"]
        brute = min(each["ms"] for name, each in times.items() if name.startswith("int8 brute"))
        yield Goal(f"tokens, {statistics}, recall@10", 0.99, figures["recall"]["cir"], True)
        yield Goal(f"tokens, {statistics}, codes, bytes per image", 8200, figures["codes_bytes_per_image"])
        yield Goal(f"tokens, {statistics}, x best int8 brute force", 1.1, times["cir"]["ms"] / brute)
        yield Goal(f"tokens, {statistics}, exact, x read of its bytes", 1.6, times["cir, exact"]["ratio"])


def _appends(result: Any) -> Iterator[Goal]:
    yield Goal(f"{result['appends']} appends, last x first", 2, result["last_over_first"])
    yield Goal("a query after them, x that of one segment", 1.3, result["query_over_one_segment"])
