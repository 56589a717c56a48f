"""The two plots: recall against latency, and cost against N."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_STYLE = {"cir": {"color": "black", "linewidth": 2.2, "zorder": 9}}
_DPI = 110


def draw(results: Mapping[str, Any], folder: Path) -> None:
    """Write `index-recall.png` and `index-cost.png`, as far as there are results for them."""
    import matplotlib

    matplotlib.use("Agg")
    if "ann" in results:
        _recall(results["ann"], folder / "index-recall.png")
    if "curves" in results:
        _cost(results["curves"], folder / "index-cost.png")


def _recall(result: Any, path: Path) -> None:
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, ScalarFormatter

    kinds = list(result["in_turn"])
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(10, 4.8), sharey=True)
    for kind, axis in zip(kinds, axes, strict=True):
        for number, (name, curve) in enumerate(result["curves"].items()):
            points = _front([(point[kind]["recall"], point[kind]["p50_ms"]) for point in curve])
            style = {"color": f"C{number}", **_STYLE.get(name, {})}
            # Misses on a logarithmic axis: that from 0.98 to 0.99 is as far as from 0.998 to 0.999.
            misses = [max(1 - recall, 2e-4) for recall, _ in points]
            axis.plot(misses, [time for _, time in points], marker="o", markersize=4, label=name, **style)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(0.5, 1.5e-4)
        ticks = [0.5, 0.1, 0.05, 0.01, 0.001, 2e-4]
        axis.set_xticks(ticks, ["0.5", "0.9", "0.95", "0.99", "0.999", "1"])
        axis.minorticks_off()
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ScalarFormatter())
        axis.axvline(1 - result["goal"], color="grey", linewidth=0.8, linestyle=":")
        axis.set_title(f"queries: {kind}")
        axis.set_xlabel("recall@10")
        axis.grid(True, which="major", alpha=0.3)
    axes[0].set_ylabel("p50, ms, one query")
    figure.suptitle(f"{result['rows']:,} x {result['dims']}; lower and further right is better", fontsize=10)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.savefig(path, dpi=_DPI)
    pyplot.close(figure)


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both, by recall: a sweep over two settings has many that are beaten."""
    kept: list[tuple[float, float]] = []
    for recall, time in sorted(points, key=lambda point: (-point[0], point[1])):
        if not kept or time < kept[-1][1]:
            kept.append((recall, time))
    return kept[::-1]


def _cost(result: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.4))
    sizes = {int(rows): size for rows, size in result["sizes"].items()}
    seconds = {name: f"{name}_s" for name in ("write", "ann", "append", "remove", "compact")}
    _lines(axes[0], {name: {rows: size[key] for rows, size in sizes.items()} for name, key in seconds.items()})
    axes[0].set_ylabel("seconds")
    times = {"open": {rows: size["open_ms"] for rows, size in sizes.items()}}
    for way in ("ann", "exact"):
        times[f"{way} query"] = {rows: size[f"{way}_query"]["p50_ms"] for rows, size in sizes.items()}
    _lines(axes[1], times)
    axes[1].set_ylabel("milliseconds")
    figure.suptitle("cost against N; dotted: extrapolated from the last two sizes", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=_DPI)
    pyplot.close(figure)


def _lines(axis: Any, costs: Mapping[str, Mapping[int, float]]) -> None:
    for number, (name, line) in enumerate(costs.items()):
        rows, values = list(line), list(line.values())
        axis.plot(rows, values, marker="o", markersize=4, color=f"C{number}", label=name)
        if len(rows) > 1 and rows[-1] < 10_000_000:
            slope = np.log(values[-1] / values[-2]) / np.log(rows[-1] / rows[-2])
            reach = values[-1] * (10_000_000 / rows[-1]) ** slope
            axis.plot([rows[-1], 10_000_000], [values[-1], reach], ":", color=f"C{number}")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("N")
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(fontsize=8)
