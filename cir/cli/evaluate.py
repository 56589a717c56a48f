"""`cir evaluate`"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cir.cli.benchmarks import BenchmarkOptions, several_benchmarks
from cir.cli.options import (
    PLACE,
    device_option,
    json_option,
    model_dir_option,
    quiet_libraries,
    search_device_option,
    trust_roots_option,
)
from cir.cli.progress import ProgressBar
from cir.cli.spreading import ray_options, spreading
from cir.errors import UsageError

if TYPE_CHECKING:
    from cir.data.benchmark import Benchmark
    from cir.eval.report import Report
    from cir.eval.runs import Run
    from cir.indexer.writing.spreading import Spread
    from cir.search.searcher import Searcher


@click.command()
@several_benchmarks
@click.option("--model", metavar="NAME", help="Name or folder of the model.  [default: small]")
@click.option(
    "--index",
    type=PLACE,
    help="Evaluate this index instead of encoding the gallery. For an official benchmark it is built if it does not "
    "exist.",
)
@click.option("--allow-missing", is_flag=True, help="Accept missing pictures; they count as misses.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "fast"]),
    help="How the model computes: float32, as the official code does on a CPU, or what is fast on the device.  "
    "[default: float32 for official benchmarks, else fast]",
)
@click.option(
    "--composition",
    metavar="NAME[,NAME...]",
    help="Which baselines to run, of image, text, sum, and with encoders that know image and text only apart also "
    "slerp and product.  [default: all]",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the report as JSON.")
@click.option(
    "--table",
    "tables",
    multiple=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a table for a paper: Markdown (.md) or LaTeX (.tex). May be repeated.",
)
@click.option(
    "--run",
    "run_file",
    type=click.Path(path_type=Path),
    help="Write the ranking as a TREC run; with several benchmarks a folder of BENCHMARK.trec.",
)
@click.option(
    "--submission",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the files for the CIRR or CIRCO server into this folder.",
)
@ray_options
@device_option
@search_device_option
@model_dir_option
@trust_roots_option
@json_option
def evaluate(
    sources: Sequence[BenchmarkOptions],
    model: str | None,
    index: Path | None,
    allow_missing: bool,
    precision: str | None,
    composition: str | None,
    output: Path | None,
    tables: tuple[Path, ...],
    run_file: Path | None,
    submission: Path | None,
    address: str | None,
    processes: int | None,
    device: str,
    search_device: str,
    model_dirs: tuple[Path, ...],
    trust_roots: bool,
    as_json: bool,
) -> None:
    """Measure recall on benchmarks, against their baselines.

    The baselines search with the image alone, the text alone, and the sum of both; for encoders that know image and
    text only apart, such as CLIP, also with slerp and product (`cir compose`). Queries by text alone stand beside
    chance. The gallery is encoded into a temporary index by the code of build-index and searched by the code of query.

    `products` reads real photos with attributes, `wardrobe` draws its own, `jsonl` takes your pictures and queries.
    `flickr8k` asks for everyday photos with the captions that people wrote; `flickr8k-mined` is no benchmark, but
    questions that a program made of those captions. The others are the official benchmarks, in the layout of their
    authors; `cir data check` says what is missing. What each one measures is in docs/benchmarks.md.

    Several benchmarks, separated by commas, share one index: a picture is encoded once. With --ray and several machines
    --index names a place that all of them see.

    \b
    Example:
      cir evaluate products --data-root fashion-products
      cir evaluate wardrobe
      cir evaluate flickr8k --data-root flickr8k --split test
      cir evaluate jsonl --data-root photos --queries queries.jsonl --output report.json --run run.trec
      cir evaluate fashioniq-val --data-root fashionIQ_dataset --model sprc-fiq
      cir evaluate cirr-test1 --data-root cirr_dataset --model sprc-cirr --submission submission
      cir evaluate genecis-focus-object,shoes-eval --data-root genecis=GeneCIS --data-root shoes=Shoes --table table.tex
    """
    quiet_libraries()
    from cir import devices
    from cir.eval.engine import evaluate as run_benchmark
    from cir.eval.paper import check_format, write_table
    from cir.eval.render import render, render_several
    from cir.eval.report import COMPOSED, Precision
    from cir.eval.runs import write_run
    from cir.eval.submissions import find_server, make_submission, write_submission
    from cir.files import write_json
    from cir.indexer.storage.fetching import live_manifest

    built, official = index is not None and live_manifest(index) is not None, any(source.official for source in sources)
    if model and built:
        raise UsageError("--model and --index exclude each other: an index names its model; give one")
    if address and index is not None and (built or not official):
        raise UsageError("--ray encodes the gallery, and this index has it; leave out --ray")
    for path in tables:
        check_format(path)
    for source in sources if submission else ():
        find_server(source.name)
    computed = precision or ("float32" if official else "fast")
    systems = [name.strip() for name in composition.split(",")] if composition is not None else None
    with (
        tempfile.TemporaryDirectory(prefix="cir-evaluate-") as scratch,
        devices.full_precision() if computed == "float32" else nullcontext(),
    ):
        benchmarks = [source.load(Path(scratch), allow_missing=allow_missing) for source in sources]
        if index is not None and (built or not official):
            benchmarks, searcher = _open(
                benchmarks, index, model_dirs, device, search_device, trust_roots, allow_missing
            )
        else:
            # Official figures are compared with those of programs that round nothing.
            stored = "float32" if official else "float16"
            path = index or Path(scratch) / "index"
            with spreading(address, processes, model or "small", device=device, model_dirs=model_dirs) as spread:
                benchmarks, searcher = _build(
                    benchmarks, path, model, model_dirs, device, search_device, stored, systems, allow_missing, spread
                )
        stored = searcher.gallery.layout.precision
        reports: list[Report] = []
        runs: dict[str, Run] = {}
        files: dict[str, Mapping[str, Any]] = {}
        for benchmark in benchmarks:
            label = "encoding the queries" if len(benchmarks) == 1 else f"encoding the queries of {benchmark.name}"
            progress = ProgressBar(label, unit="queries")
            evaluation = run_benchmark(benchmark, searcher, systems=systems, progress=progress)
            reports.append(replace(evaluation.report, precision=Precision(computed, stored)))
            runs[benchmark.name] = evaluation.runs[COMPOSED]  # those of the baselines are let go: they may be large
            if submission:
                files |= make_submission(benchmark, runs[benchmark.name], evaluation.subsets)
    if official and stored != "float32":
        click.echo(f"cir: {index} stores {stored}; official figures are computed with float32", err=True)
    one = len(reports) == 1
    as_values = reports[0].to_json() if one else {"benchmarks": {each.benchmark: each.to_json() for each in reports}}
    if output:
        write_json(output, as_values)
    for path in tables:
        write_table(path, reports)
    if run_file:
        for name, run in runs.items():
            write_run(run_file if one else run_file / f"{name}.trec", run)
    if submission:
        write_submission(submission, files)
    click.echo(json.dumps(as_values) if as_json else render(reports[0]) if one else render_several(reports))


def _open(
    benchmarks: Sequence[Benchmark],
    index: Path,
    model_dirs: Sequence[Path],
    device: str,
    search_device: str,
    trust_roots: bool,
    allow_missing: bool,
) -> tuple[list[Benchmark], Searcher]:
    """An existing index, and the benchmarks; images that the index lacks are absent from them if that is allowed."""
    from cir.search.opening import open_index

    searcher = open_index(
        index,
        model_dirs=model_dirs,
        device=device,
        search_device=search_device,
        trust_roots=trust_roots,
        strict=True,
    )
    known = set(searcher.ids)
    return [
        benchmark.without(set(benchmark.gallery) - known if allow_missing else ()) for benchmark in benchmarks
    ], searcher


def _build(
    benchmarks: Sequence[Benchmark],
    path: Path,
    model: str | None,
    model_dirs: Sequence[Path],
    device: str,
    search_device: str,
    stored: str,
    systems: Sequence[str] | None,
    allow_missing: bool,
    spread: Spread | None,
) -> tuple[list[Benchmark], Searcher]:
    """A new index of the benchmarks' galleries, and the benchmarks without their unreadable pictures."""
    from cir import models
    from cir.eval.engine import systems_of
    from cir.eval.gallery import index_galleries
    from cir.indexer.reading.gallery import Gallery
    from cir.indexer.writing.build import BuildOptions
    from cir.search.searcher import Searcher

    encoder = models.load_model(model or models.DEFAULT, device=device, model_dirs=model_dirs)
    systems_of(encoder.card, systems)  # before the gallery is encoded
    indexed = index_galleries(
        benchmarks,
        path,
        encoder,
        options=BuildOptions(precision=stored),
        allow_missing=allow_missing,
        progress=ProgressBar("encoding the gallery"),
        spread=spread,
    )
    return indexed, Searcher(Gallery.open(path, device=search_device), lambda card: encoder)
