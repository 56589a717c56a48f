"""`cir import`"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.options import PLACE, json_option, model_dir_option
from cir.cli.progress import ProgressBar
from cir.errors import UsageError, WeightsError
from cir.images.names import shown

if TYPE_CHECKING:
    from cir.indexer.writing.report import ImportReport
    from cir.types import ModelCard


@click.command("import")
@click.argument("vectors", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=PLACE, help="The index directory, or s3://BUCKET/PREFIX.")
@click.option("--ids", type=click.Path(dir_okay=False, path_type=Path), help="Text file with one id per vector.")
@click.option("--metadata", type=click.Path(dir_okay=False, path_type=Path), help="CSV with one row per vector.")
@click.option(
    "--id-column", default="id", show_default=True, metavar="NAME", help="Column of the ids, in parquet and CSV."
)
@click.option(
    "--vector-column", default="vector", show_default=True, metavar="NAME", help="Column of the vectors, in parquet."
)
@click.option(
    "--model",
    metavar="NAME",
    help="Name or folder of the model that made the vectors.  [default: that of the index, if it has had only one]",
)
@click.option(
    "--foreign-model",
    metavar="NAME",
    help="Its name, if cir does not have it, such as clip-vit-b-32. The index then answers vectors and its own ids, "
    "but no texts.",
)
@model_dir_option
@json_option
def import_vectors(
    vectors: Path,
    output: Path,
    ids: Path | None,
    metadata: Path | None,
    id_column: str,
    vector_column: str,
    model: str | None,
    foreign_model: str | None,
    model_dirs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Index VECTORS that another program has made.

    VECTORS is a matrix in a .npy file, one row per id in --ids, or a .parquet file with a column of ids, a column of
    vectors, and metadata in the others. They are stored as they are, of unit length; no photos are needed. Run it again
    to add vectors, and to update those that have changed. Vectors that are zero or not finite are counted, and listed
    in skipped.jsonl in the index.

    \b
    Example:
      cir import vectors.npy --ids ids.txt --metadata table.csv --model small -o my.index
      cir import clip.parquet --id-column sku --foreign-model clip-vit-b-32 -o clip.index
    """
    from cir.indexer.writing.import_vectors import ImportOptions
    from cir.indexer.writing.import_vectors import import_vectors as run
    from cir.known import remember_model

    if model is not None and foreign_model is not None:
        raise UsageError("--model and --foreign-model exclude each other; give one of them")
    card, directory = _card(vectors, output, vector_column, (model, foreign_model), model_dirs)
    report = run(
        vectors,
        output,
        card,
        ids=ids,
        metadata=metadata,
        options=ImportOptions(id_column, vector_column),
        progress=ProgressBar("importing"),
    )
    if directory is not None:
        remember_model(card.digest, directory)
    if report.unmatched:
        count = len(report.unmatched)
        fits = "1 row of metadata fits" if count == 1 else f"{count:,} rows of metadata fit"
        click.echo(
            f"cir: left out: {fits} no vector, the first: {shown(report.unmatched[0])}",
            err=True,
        )
    click.echo(json.dumps(report.to_json()) if as_json else summary(report))


def _card(
    vectors: Path,
    output: Path,
    vector_column: str,
    names: tuple[str | None, str | None],
    model_dirs: Sequence[Path],
) -> tuple[ModelCard, Path | None]:
    """The card of the model that made the vectors, and its folder if cir has it."""
    from cir import models
    from cir.data.vector_files import vector_dims
    from cir.indexer.storage.fetching import live_manifest
    from cir.models.kinds import read_card
    from cir.types import ModelCard

    model, foreign = names
    if foreign is not None:
        try:
            directory = models.find(foreign, model_dirs)
        except WeightsError:
            return ModelCard.named(foreign, vector_dims(vectors, vector_column)), None
        raise UsageError(f"cir has a model {foreign} ({directory}); give it with --model")
    if model is not None:
        try:
            directory = models.find(model, model_dirs)
        except WeightsError as error:
            raise WeightsError(f"{error}; one that cir does not have is named with --foreign-model") from None
        return read_card(directory), directory.resolve()
    manifest = live_manifest(output)
    if manifest is None:
        raise UsageError("say which model made the vectors: --model NAME, or --foreign-model NAME if cir lacks it")
    if len(manifest.models) > 1:  # a replacement may have made these the vectors of another model than people think
        names_of_all = ", ".join(sorted(card.name for card in manifest.models.values()))
        raise UsageError(
            f"{output} has had several models ({names_of_all}); say which made these vectors: --model NAME; it must be "
            f"{manifest.card.name}, which serves it now"
        )
    return manifest.card, None


def summary(report: ImportReport) -> str:
    """A report for people."""
    counts = [
        (report.added, "added"),
        (report.updated, "changed"),
        (report.unchanged, "unchanged"),
        (len(report.skipped), "skipped"),
    ]
    counted = ", ".join(f"{count:,} {what}" for count, what in counts if count or what == "added")
    lines = [f"{report.path}: {report.total:,} images ({counted}), vectors of {report.model}; {report.seconds:.1f} s"]
    if report.normalised:
        which = "1 vector was" if report.normalised == 1 else f"{report.normalised:,} vectors were"
        lines.append(f"{which} not of unit length; stored normalised")
    if report.rewritten:
        lines.append(f"{report.rewritten:,} ids are stored in the form of paths: composed Unicode, no empty parts")
    lines += [shown(f"  skipped {reason}") for _, reason in report.skipped[:3]]
    if report.skipped:
        lines.append(f"  all skipped vectors are listed in {report.path / 'skipped.jsonl'}")
    return "\n".join(lines)
