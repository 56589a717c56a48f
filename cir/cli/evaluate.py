"""`cir evaluate`"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.benchmarks import BenchmarkOptions, benchmark_argument, benchmark_options
from cir.cli.options import (
    device_option,
    json_option,
    model_dir_option,
    quiet_libraries,
    search_device_option,
    trust_roots_option,
)
from cir.cli.progress import ProgressBar
from cir.errors import UsageError

if TYPE_CHECKING:
    from cir.data.benchmark import Benchmark
    from cir.search.searcher import Searcher


@click.command()
@benchmark_argument
@benchmark_options
@click.option("--model", metavar="NAME", help="Name or folder of the model.  [default: small]")
@click.option(
    "--index",
    type=click.Path(path_type=Path),
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
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the report as JSON.")
@click.option(
    "--run", "run_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the ranking as a TREC run."
)
@click.option(
    "--submission",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the files for the CIRR or CIRCO server into this folder.",
)
@device_option
@search_device_option
@model_dir_option
@trust_roots_option
@json_option
def evaluate(
    source: BenchmarkOptions,
    model: str | None,
    index: Path | None,
    allow_missing: bool,
    precision: str | None,
    output: Path | None,
    run_file: Path | None,
    submission: Path | None,
    device: str,
    search_device: str,
    model_dirs: tuple[Path, ...],
    trust_roots: bool,
    as_json: bool,
) -> None:
    """Measure recall on a benchmark, against its baselines.

    The baselines search with the image alone, the text alone, and the sum of both; for encoders that know image and
    text only apart, such as CLIP, also with slerp and product (`cir compose`). Queries by text alone stand beside
    chance. The gallery is encoded into a temporary index by the code of build-index and searched by the code of query.

    `products` reads real photos with attributes, `wardrobe` draws its own, `jsonl` takes your pictures and queries.
    `flickr8k` asks for everyday photos with the captions that people wrote; `flickr8k-mined` is no benchmark, but
    questions that a program made of those captions. The others are the official benchmarks, in the layout of their
    authors; `cir data check` says what is missing.

    \b
    Example:
      cir evaluate products --data-root fashion-products
      cir evaluate wardrobe
      cir evaluate flickr8k --data-root flickr8k --split test
      cir evaluate jsonl --data-root photos --queries queries.jsonl --output report.json --run run.trec
      cir evaluate fashioniq-val --data-root fashionIQ_dataset --model sprc-fiq
      cir evaluate cirr-test1 --data-root cirr_dataset --model sprc-cirr --submission submission
    """
    quiet_libraries()
    from cir import devices
    from cir.eval.engine import evaluate as run_benchmark
    from cir.eval.render import render, write_report
    from cir.eval.report import COMPOSED, Precision
    from cir.eval.runs import write_run
    from cir.eval.submissions import find_server, make_submission, write_submission
    from cir.indexer.storage.folder import is_index

    built = index is not None and is_index(index)
    if model and built:
        raise UsageError("--model and --index exclude each other: an index names its model; give one")
    if submission:
        find_server(source.name)
    computed = precision or ("float32" if source.official else "fast")
    with (
        tempfile.TemporaryDirectory(prefix="cir-evaluate-") as scratch,
        devices.full_precision() if computed == "float32" else nullcontext(),
    ):
        benchmark = source.load(Path(scratch), allow_missing=allow_missing)
        if index is not None and (built or not source.official):
            benchmark, searcher = _open(benchmark, index, model_dirs, device, search_device, trust_roots, allow_missing)
        else:
            # Official figures are compared with those of programs that round nothing.
            stored = "float32" if source.official else "float16"
            path = index or Path(scratch) / "index"
            benchmark, searcher = _build(
                benchmark, path, model, model_dirs, device, search_device, stored, allow_missing
            )
        evaluation = run_benchmark(benchmark, searcher, progress=ProgressBar("encoding the queries", unit="queries"))
        stored = searcher.gallery.layout.precision
    if source.official and stored != "float32":
        click.echo(f"cir: {index} stores {stored}; official figures are computed with float32", err=True)
    report = replace(evaluation.report, precision=Precision(computed, stored))
    composed = evaluation.runs[COMPOSED]
    files = make_submission(benchmark, composed, evaluation.subsets) if submission else {}
    if output:
        write_report(output, report)
    if run_file:
        write_run(run_file, composed)
    if submission:
        write_submission(submission, files)
    click.echo(json.dumps(report.to_json()) if as_json else render(report))


def _open(
    benchmark: Benchmark,
    index: Path,
    model_dirs: Sequence[Path],
    device: str,
    search_device: str,
    trust_roots: bool,
    allow_missing: bool,
) -> tuple[Benchmark, Searcher]:
    """An existing index, and the benchmark; images that the index lacks are absent from it where that is allowed."""
    from cir.search.opening import open_index

    searcher = open_index(
        index,
        model_dirs=model_dirs,
        device=device,
        search_device=search_device,
        trust_roots=trust_roots,
        strict=True,
    )
    absent = set(benchmark.gallery).difference(searcher.ids) if allow_missing else ()
    return benchmark.without(absent), searcher


def _build(
    benchmark: Benchmark,
    path: Path,
    model: str | None,
    model_dirs: Sequence[Path],
    device: str,
    search_device: str,
    stored: str,
    allow_missing: bool,
) -> tuple[Benchmark, Searcher]:
    """A new index of the benchmark's gallery, and the benchmark without its unreadable pictures."""
    from cir import models
    from cir.eval.gallery import index_gallery
    from cir.indexer.reading.gallery import Gallery
    from cir.indexer.writing.build import BuildOptions
    from cir.search.searcher import Searcher

    encoder = models.load_model(model or models.DEFAULT, device=device, model_dirs=model_dirs)
    benchmark = index_gallery(
        benchmark,
        path,
        encoder,
        options=BuildOptions(precision=stored),
        allow_missing=allow_missing,
        progress=ProgressBar("encoding the gallery"),
    )
    return benchmark, Searcher(Gallery.open(path, device=search_device), lambda card: encoder)
