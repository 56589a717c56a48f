"""The part `report`: docs/results/index.md from the newest results, between its markers; prose around them stays."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cir.files import write_text
from index_parts import goals, losses, plots
from index_parts.ann import GOAL, NONE, quickest
from index_parts.base import read

PAGE = Path(__file__).parents[2] / "docs" / "results" / "index.md"
PARTS = ("data", "probe", "exact", "peers", "ann", "lists", "opening", "tokens", "curves", "appends")

Results = Mapping[str, Any]  # part -> the newest result with the most rows


def write(folder: Path) -> None:
    """Rewrite the generated blocks and the plots from the results in a folder."""
    results = newest(folder)
    if not results:
        raise click.ClickException(f"no results in {folder}; run the other parts first")
    page = PAGE.read_text(encoding="utf-8")
    blocks = {"figures": figures(results), "losses": losses.found(results)}
    for name, lines in blocks.items():
        marked = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if not marked.search(page):
            raise click.ClickException(f"{PAGE} has no block {name}")
        text = "\n".join(map(_wrapped, lines))
        page = marked.sub(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page)
    write_text(PAGE, page)
    plots.draw(results, PAGE.parent)
    click.echo(f"report: {PAGE}")


def _wrapped(line: str) -> str:
    """A line of prose in lines of the usual length; tables, headings and images stay as they are."""
    if line.startswith(("|", "#", "!")):
        return line
    return textwrap.fill(line, 120, subsequent_indent="  " if line.startswith("- ") else "")


def newest(folder: Path) -> Results:
    """Part -> its newest result; of several sizes on one day the largest."""
    found = {}
    for part in PARTS:
        paths = folder.glob(f"*-index-{part}-*.json")
        values = sorted((read(path) for path in paths), key=lambda value: (value["date"][:10], value["rows"]))
        if values:
            found[part] = values[-1]
    return found


def figures(results: Results) -> list[str]:
    """All tables."""
    tables = {
        "data": _data,
        "probe": _probe,
        "exact": _exact,
        "ann": _ann,
        "lists": _lists,
        "opening": _opening,
        "tokens": _tokens,
        "curves": _curves,
        "appends": _appends,
    }
    reached = goals.goals(results)
    lines = ["", "### Goals", "", *table(["", "goal", "measured", "met"], [goal.row() for goal in reached])]
    for part, tabulate in tables.items():
        if part in results:
            lines += ["", *tabulate(results[part]), "", _source(results[part])]
    return [*lines, ""]


def _source(result: Any) -> str:
    """What a table was measured on."""
    machine = result["machine"]
    load = result["load_before"][0]
    busy = "" if load <= 0.25 * machine["cores"] else "**beside other jobs**, "
    return (
        f"*{result['date'][:10]}, commit {result['commit']}, {machine['processor']}, {machine['cores']} cores, "
        f"{', '.join(machine['flags'])}; {busy}load before {load}, after {result['load_after'][0]}.*"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join('–' if cell is None else str(cell) for cell in line)} |" for line in lines]


def short(value: Any) -> str:
    """A number with three digits that count."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _data(result: Any) -> list[str]:
    noise = result["noise"]
    rows = [
        [kind, rank, *(f"{each[2]:.3f} ({each[0]:.3f} to {each[4]:.3f})" for each in (quantiles, copies[rank]))]
        for kind, both in result["neighbour_cosines"].items()
        for copies in [both["among_copies"]]
        for rank, quantiles in both["among_real_photos"].items()
        if rank in copies
    ]
    head = ["queries", "neighbour", f"cosine among {result['photos']:,} photos", f"among {result['rows']:,} copies"]
    return [
        "### The vectors",
        "",
        f"{result['photos']:,} real vectors, multiplied to {result['rows']:,} with noise of length "
        f"{noise['scale']:.3g} over {noise['dims_of_noise']:.0f} effective dims. A copy's tenth neighbour is at "
        f"1 - cosine {noise['distance_at_scale']:.4f}; the law fitted on real photos expects "
        f"{noise['expected_distance']:.4f} among that many. What queries find, median and 5 to 95 %:",
        "",
        *table(head, rows),
    ]


def _probe(result: Any) -> list[str]:
    rows = [
        [f"{result[name]['bytes'] / 1e6:,.0f} MB", *(short(result[name][who]["gb_per_s"]) for who in whos)]
        for whos in [("one core", "all cores")]
        for name in ("vectors", "64 MB")
    ]
    return ["### Reading bytes", "", *table(["", "one core, GB/s", "all cores, GB/s"], rows)]


def _exact(result: Any) -> list[str]:
    batches = result["batches"]
    names = list(dict.fromkeys(name for batch in batches.values() for name in batch))
    rows = []
    for name in names:
        cells = [batch.get(name) for batch in batches.values()]
        shown = [cell and f"{short(cell['ms'])} ({short(cell['ratio'])} x)" for cell in cells]
        rows.append([name, *shown, result["recall"].get(name)])
    one, many = batches["1"].get("cir"), batches[max(batches, key=int)].get("cir")
    return [
        "### Exact search",
        "",
        f"{result['rows']:,} x {result['dims']} float16, milliseconds for all queries of a batch together, selection "
        "included, and how often the bytes could have been read by all cores in that time (round by round, median):",
        "",
        *table(["queries at once", *batches, "recall@10"], rows),
        "",
        *(
            [f"One query: {one['ratio']} x the read. 64 at once: {many['ratio_per_query']} x the read per query."]
            if one and many
            else []
        ),
    ]


def _ann(result: Any) -> list[str]:
    lines = ["### Approximate search", "", "![recall against latency](index-recall.png)", ""]
    for kind, timed in result["in_turn"].items():
        rows = []
        for name, figures in timed.items():
            point = _point(result["curves"].get(name, []), kind, name)
            rows.append(
                [
                    name,
                    point and point["effort"] if name != "cir" else "default",
                    point and point[kind]["recall"],
                    *(short(figures[key]) for key in ("p50_ms", "p95_ms")),
                    *(short(figures.get(f"over_{other}")) for other in ("raw faiss", "cir")),
                ]
            )
        head = ["engine", "effort", "recall@10", "p50 ms", "p95 ms", "x raw FAISS", "x cir"]
        lines += [f"Queries: {kind}, in turn, each engine at its quickest effort with recall@10 of {GOAL} or more:", ""]
        lines += [*table(head, rows), ""]
    lines += _peers(result)
    rows = []
    for where, figures in result["filters"].items():
        for kind in result["in_turn"]:
            for name, timed in figures[kind].items():
                if not name.startswith("raw faiss"):
                    times = [timed["p50_ms"], timed["p95_ms"], timed["over_unfiltered"]]
                    label = f"{where} ({figures['selectivity']})"
                    rows.append([label, kind, name, timed.get("recall"), *map(short, times)])
    head = ["filter", "queries", "", "recall@10", "p50 ms", "p95 ms", "x unfiltered"]
    return [*lines, "Filters, recall against the exact answer among the same rows:", "", *table(head, rows)]


def _point(curve: Sequence[Any], kind: str, name: str) -> Any:
    if name == "cir":
        return next((point for point in curve if point["effort"] is None), None)
    effort = quickest(curve, kind)
    return None if effort is NONE else next(point for point in curve if point["effort"] == effort)


def _peers(result: Any) -> list[str]:
    rows = [["cir (and raw FAISS)", short(result["build_s"]), None, None]]
    for name, built in result["peers"].items():
        memory = short(sum(built["private_mb"].values())) if "private_mb" in built else None
        rows.append([name, short(built["build_s"]), short(built.get("mb")), memory])
    head = ["", "build s", "files MB", "private MB after 500 queries"]
    return [*table(head, rows), ""]


def _opening(result: Any) -> list[str]:
    rows = []
    for name, runs in result.items():
        if isinstance(runs, dict) and "open_ms" in runs and name != "serving":
            private = runs["open_private_mb"]
            rows.append([name, short(runs["open_ms"]), short(private.get("anonymous")), short(runs["first_answer_ms"])])
    served = result["serving"]["bytes_per_vector"]
    conditions = [
        [name, *(short(times.get(key)) for key in ("first_ms", "later_ms"))]
        for name, times in result["conditions"].items()
    ]
    return [
        "### Opening and memory",
        "",
        f"{result['rows']:,} rows, fresh processes; kernels and FAISS are loaded by the first answer:",
        "",
        *table(["", "open ms", "private MB then", "first answer after ms"], rows),
        "",
        f"Serving, after 1,000 queries, bytes per vector: {', '.join(f'{k} {short(v)}' for k, v in served.items())}.",
        "",
        *table(["condition", "first ms", "later ms"], conditions),
    ]


def _tokens(result: Any) -> list[str]:
    lines = ["### Tokens", "", f"{result['images']:,} images x {result['tokens']} x {result['dims']}:", ""]
    rows = []
    for statistics, figures in result["statistics"].items():
        brute = [value["ms"] for name, value in figures["times"].items() if name.startswith("int8 brute")]
        for name, times in figures["times"].items():
            codes = short(figures["codes_bytes_per_image"]) if name == "cir" else None
            recall = figures["recall"].get(name)
            cells = [short(times["ms"]), short(times["ratio"]), short(times["ms"] / min(brute))]
            rows.append([statistics, name, recall, codes, *cells])
    head = ["statistics", "", "recall@10", "codes B per image", "ms", "x read of the float16", "x best int8 brute"]
    return [*lines, *table(head, rows)]


def _lists(result: Any) -> list[str]:
    kinds = [name for name, value in next(iter(result["counts"].values())).items() if isinstance(value, dict)]
    rows = [
        [
            f"{lists} (taken)" if int(lists) == result["usual"] else lists,
            short(figures["build_and_curve_s"]),
            f"{figures['nprobe']}, {figures['fetched']}",
            *(f"{short(figures[kind]['p50_ms'])} ms at {figures[kind]['recall']}" for kind in kinds),
        ]
        for lists, figures in result["counts"].items()
    ]
    head = ["lists", "build and curve s", "lists scanned, candidates", *(f"{kind}: p50, recall@10" for kind in kinds)]
    return ["### The number of lists", "", *table(head, rows)]


def _curves(result: Any) -> list[str]:
    costs = ("write_s", "ann_s", "append_s", "remove_s", "compact_s", "bytes_per_vector", "open_ms")
    rows = [
        [f"{int(rows):,} x {size['dims']}", *(short(size[cost]) for cost in costs)]
        + [short(size[f"{way}_query"]["p50_ms"]) for way in ("ann", "exact")]
        for rows, size in result["sizes"].items()
    ]
    head = ["N", "write s", "ANN s", "append 1,000 s", "remove 1,000 s", "compact s", "bytes a vector", "open ms"]
    return [
        "### Cost against N",
        "",
        "![cost against N](index-cost.png)",
        "",
        *table([*head, "ANN query ms", "exact query ms"], rows),
    ]


def _appends(result: Any) -> list[str]:
    segments, queries = result["segments"], result["query_ms"]
    rows = [
        ["first appends (median of 20)", f"{short(result['first_ms'])} ms"],
        ["last appends", f"{short(result['last_ms'])} ms, {result['last_over_first']} x"],
        ["slowest append", f"{short(result['worst_ms'])} ms"],
        ["segments, most and at the end", f"{segments['most']}, {segments['at_the_end']}"],
        ["query", f"{short(queries['appended'])} ms; of one segment {short(queries['one segment'])} ms"],
        ["ratio", f"{result['query_over_one_segment']} x"],
        ["same answers as one segment", "yes" if result["same_answers"] else "**no**"],
    ]
    title = f"### {result['appends']} appends of {result['photos_each']} photos"
    return [title, "", *table(["", ""], rows)]
