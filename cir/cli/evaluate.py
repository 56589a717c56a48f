"""`cir evaluate`"""

from __future__ import annotations

import json
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.benchmarks import OFFICIAL, Source, benchmark_argument, benchmark_options
from cir.cli.build_index import Progress
from cir.cli.options import device_option, json_option, model_dir_option, quiet_libraries
from cir.errors import DataError, UsageError

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
    help="Evaluate this index instead of encoding the gallery. Official benchmarks make it where there is none, or go "
    "on making it.",
)
@click.option("--allow-missing", is_flag=True, help="Go on without pictures that are missing; they count as misses.")
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
@model_dir_option
@json_option
def evaluate(
    source: Source,
    model: str | None,
    index: Path | None,
    allow_missing: bool,
    precision: str | None,
    output: Path | None,
    run_file: Path | None,
    submission: Path | None,
    device: str,
    model_dirs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Measure recall on a benchmark, with the image, the text and their sum alone as baselines.

    The gallery is encoded into a temporary index by the code of build-index and searched by the code of query.
    `products` reads real photos with attributes, `wardrobe` draws its own, `jsonl` takes your pictures and queries.
    The others are the official benchmarks, in the layout of their authors; `cir data check` says what is missing.

    \b
    Example:
      cir evaluate products --data-root fashion-products
      cir evaluate wardrobe
      cir evaluate jsonl --data-root photos --queries queries.jsonl --output report.json --run run.trec
      cir evaluate fashioniq-val --data-root fashionIQ_dataset --model sprc-fiq
      cir evaluate cirr-test1 --data-root cirr_dataset --model sprc-cirr --submission submission
    """
    quiet_libraries()
    from cir import devices
    from cir.eval.engine import evaluate as run_benchmark
    from cir.eval.render import render, write_report
    from cir.eval.runs import write_run
    from cir.eval.submissions import check_name, make_submission, write_submission

    if model and index and (index / "CURRENT").exists():
        raise UsageError("--model and --index exclude each other: an index names its model; give one")
    if submission:
        check_name(source.name)
    official = source.name in OFFICIAL
    exact = (precision or ("float32" if official else "fast")) == "float32"
    with (
        tempfile.TemporaryDirectory(prefix="cir-evaluate-") as scratch,
        devices.full_precision() if exact else nullcontext(),
    ):
        benchmark = source.load(Path(scratch), allow_missing=allow_missing)
        gallery = _Gallery(benchmark, official, allow_missing)
        benchmark, searched = gallery.open(index, model, model_dirs, device, Path(scratch))
        evaluation = run_benchmark(benchmark, searched, progress=Progress("encoding the queries", unit="queries"))
        stored = searched.gallery.precision
        evaluation.report["precision"] = {"computed": "float32" if exact else "fast", "stored": stored}
        if official and stored != "float32":
            click.echo(f"cir: {index} stores {stored}; official figures are made of float32", err=True)
    composed = evaluation.runs["composed"]
    files = make_submission(benchmark, composed, evaluation.subsets) if submission else {}
    if output:
        write_report(output, evaluation.report)
    if run_file:
        write_run(run_file, composed)
    if submission:
        write_submission(submission, files)
    click.echo(json.dumps(evaluation.report) if as_json else render(evaluation.report))


@dataclass(frozen=True)
class _Gallery:
    """The pictures of a benchmark on their way into an index."""

    benchmark: Benchmark
    official: bool
    allow_missing: bool

    def open(
        self, index: Path | None, model: str | None, model_dirs: tuple[Path, ...], device: str, scratch: Path
    ) -> tuple[Benchmark, Searcher]:
        """The benchmark, without unreadable pictures where that is allowed, and an index that holds it."""
        from cir.search.searcher import open_index

        if index is not None and (not self.official or (index / "CURRENT").exists()):
            searched = open_index(index, model_dirs=model_dirs, device=device)
            absent = set(self.benchmark.gallery).difference(searched.ids) if self.allow_missing else ()
            return self.benchmark.without(absent), searched
        return self._build(index or scratch / "index", model, model_dirs, device)

    def _build(
        self, path: Path, model: str | None, model_dirs: tuple[Path, ...], device: str
    ) -> tuple[Benchmark, Searcher]:
        from cir import models
        from cir.indexer.reading.gallery import Gallery
        from cir.indexer.writing.build import build_index
        from cir.search.searcher import Searcher

        encoder = models.load_model(model or models.DEFAULT, device=device, model_dirs=model_dirs)
        report = build_index(
            list(self.benchmark.images),
            path,
            encoder,
            # Official figures are compared with those of programs that round nothing.
            precision="float32" if self.official else "float16",
            progress=Progress("encoding the gallery"),
        )
        if report.skipped and not self.allow_missing:
            first = report.skipped[0]
            raise DataError(
                f"{len(report.skipped)} images of the gallery cannot be read, first {first[0]}: {first[1]};"
                " --allow-missing goes on without"
            )
        benchmark = self.benchmark.without(image_id for image_id, _ in report.skipped)
        return benchmark, Searcher(Gallery.open(path), lambda card: encoder)
