"""`cir evaluate`"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.build_index import Progress
from cir.cli.options import device_option, json_option, model_dir_option, quiet_libraries
from cir.errors import UsageError

if TYPE_CHECKING:
    from cir.eval.benchmark import Benchmark
    from cir.search import Index

BENCHMARKS = ("products", "wardrobe", "jsonl")


@click.command()
@click.argument("benchmark", type=click.Choice(BENCHMARKS))
@click.option("--data-root", type=click.Path(path_type=Path), help="Folder (for jsonl also a zip) of the data set.")
@click.option("--model", metavar="NAME", help="Name or folder of the model.  [default: small]")
@click.option("--index", type=click.Path(path_type=Path), help="Evaluate this index instead of encoding the gallery.")
@click.option(
    "--split", default="val", show_default=True, type=click.Choice(["val", "train"]), help="products: which part."
)
@click.option(
    "--images", metavar="NAME", help="products: folder or zip beside styles.csv.  [default: the largest pictures]"
)
@click.option("--queries", type=click.Path(path_type=Path), help="jsonl: one query a line.")
@click.option("--keep-reference", is_flag=True, help="jsonl: leave the reference in the ranking.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the report as JSON.")
@click.option(
    "--run", "run_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the ranking as a TREC run."
)
@device_option
@model_dir_option
@json_option
def evaluate(
    benchmark: str,
    data_root: Path | None,
    model: str | None,
    index: Path | None,
    split: str,
    images: str | None,
    queries: Path | None,
    keep_reference: bool,
    output: Path | None,
    run_file: Path | None,
    device: str,
    model_dirs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Measure recall on a benchmark, with the image, the text and their sum alone as baselines.

    The gallery is encoded into a temporary index by the code of build-index and searched by the code of query.
    `products` reads real photos with attributes, `wardrobe` draws its own, `jsonl` takes your pictures and queries.

    \b
    Example:
      cir evaluate products --data-root fashion-products
      cir evaluate wardrobe
      cir evaluate jsonl --data-root photos --queries queries.jsonl --output report.json --run run.trec
    """
    quiet_libraries()
    from cir.eval.engine import evaluate as run_benchmark
    from cir.eval.report import render, write_report
    from cir.eval.runs import write_run

    if model and index:
        raise UsageError("--model and --index exclude each other: an index names its model; give one")
    if benchmark != "wardrobe" and data_root is None:
        raise UsageError(f"{benchmark} needs --data-root, the folder of its pictures")
    if benchmark == "jsonl" and queries is None:
        raise UsageError("jsonl needs --queries, a file with one query a line")
    with tempfile.TemporaryDirectory(prefix="cir-evaluate-") as scratch:
        loaded = _load(benchmark, data_root or Path(scratch) / "wardrobe", split, images, queries, keep_reference)
        searched = _open(loaded, index, model, model_dirs, device, Path(scratch))
        evaluation = run_benchmark(loaded, searched)
    if output:
        write_report(output, evaluation.report)
    if run_file:
        write_run(run_file, evaluation.runs["composed"])
    click.echo(json.dumps(evaluation.report) if as_json else render(evaluation.report))


def _load(
    name: str, root: Path, split: str, images: str | None, queries: Path | None, keep_reference: bool
) -> Benchmark:
    from cir.eval.catalogues import load_products, load_wardrobe
    from cir.eval.jsonl import load_jsonl

    if name == "products":
        return load_products(root, split=split, images=images)
    if name == "wardrobe":
        return load_wardrobe(root)
    assert queries is not None  # checked above
    return load_jsonl(queries, root, keep_reference=keep_reference)


def _open(
    benchmark: Benchmark,
    index: Path | None,
    model: str | None,
    model_dirs: tuple[Path, ...],
    device: str,
    scratch: Path,
) -> Index:
    from cir import models
    from cir.errors import DataError
    from cir.indexer.build import build_index
    from cir.indexer.gallery import Gallery
    from cir.search import Index, open_index

    if index is not None:
        return open_index(index, model_dirs=model_dirs, device=device)
    encoder = models.load_model(model or models.DEFAULT, device=device, model_dirs=model_dirs)
    report = build_index(list(benchmark.images), scratch / "index", encoder, progress=Progress("encoding the gallery"))
    if report.skipped:
        first = report.skipped[0]
        raise DataError(f"{len(report.skipped)} images of the gallery cannot be read, first {first[0]}: {first[1]}")
    return Index(Gallery.open(scratch / "index"), lambda: encoder)
