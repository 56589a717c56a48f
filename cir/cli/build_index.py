"""`cir build-index`"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.options import PLACE, columns_of, device_option, json_option, model_dir_option, quiet_libraries
from cir.cli.progress import ProgressBar
from cir.cli.spreading import ray_options, spreading
from cir.errors import DataError, UsageError
from cir.given import MOST_KEPT
from cir.images.names import shown

if TYPE_CHECKING:
    from cir.images import ImageFile
    from cir.indexer.writing.report import BuildReport


@click.command("build-index")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=PLACE)
@click.option("-o", "--output", required=True, type=PLACE, help="The index directory, or s3://BUCKET/PREFIX.")
@click.option(
    "--model",
    default=None,
    metavar="NAME",
    help="Name or folder of the model.  [default: the one that serves the index; small for a new one]",
)
@device_option
@click.option(
    "--batch-size",
    type=click.IntRange(1, 4096),
    help="Images encoded at once.  [default: 32; on GPUs with --ray as many as a trial finds fastest]",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Threads that decode and encode; with --ray those of each process.  [default: one per core; with --ray up to "
    "4, or 8 beside a GPU]",
)
@click.option(
    "--segment-rows",
    type=click.IntRange(1),
    metavar="N",
    help="Write a segment for every N images, in the order of their ids: the same bytes in one process and with --ray. "
    " [default: one segment; with --ray a 16th of the images, 1024 to 131072]",
)
@ray_options
@click.option("--no-tokens", is_flag=True, help="Store one vector per image and no tokens, if a model gives both.")
@click.option("--metadata", type=click.Path(dir_okay=False, path_type=Path), help="CSV with one row per image.")
@click.option("--id-column", default="id", show_default=True, help="Column of the CSV: an id, a file name or its stem.")
@click.option(
    "--questions",
    "kinds",
    multiple=True,
    metavar="KIND=COLUMN",
    help="Also store judged queries generated from metadata, as `cir questions --metadata` does.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="Leave out files like '*.gif', folders like thumbs, paths like '2019/*.png'. May be repeated.",
)
@click.option("--prune", is_flag=True, help="Also delete images that are no longer under PATH.")
@click.option(
    "--keep",
    type=click.IntRange(1, MOST_KEPT),
    metavar="N",
    help="Keep N earlier generations for `cir rollback` from now on; those around a change of model stay in any "
    "case.  [default: as before; 20 for a new index]",
)
@click.option("--dry-run", is_flag=True, help="Report what would be done and write nothing.")
@model_dir_option
@json_option
def build_index(
    paths: tuple[Path, ...],
    output: Path,
    model: str | None,
    device: str,
    batch_size: int | None,
    workers: int | None,
    segment_rows: int | None,
    address: str | None,
    processes: int | None,
    no_tokens: bool,
    metadata: Path | None,
    id_column: str,
    kinds: tuple[str, ...],
    exclude: tuple[str, ...],
    prune: bool,
    keep: int | None,
    dry_run: bool,
    model_dirs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Index the images under each PATH: folders, archives, files.

    Run it again to add new images: a file whose bytes are in the index is not encoded again, even under another name. A
    build that was stopped is resumed. Images that cannot be read are counted, and listed in skipped.jsonl in the index;
    other files are counted by kind. PATH and the index may also be places in an object store, s3://BUCKET/PREFIX.

    The table of --metadata may use commas, semicolons, tabs or bars, in UTF-8 or UTF-16. Its ids may be file names or
    paths from any folder on, with or without suffix, in any letter case where that is unambiguous.

    An archive is a zip, a tar (WebDataset), or a parquet file with a column of pictures, paths or addresses.

    With --ray the images are read and encoded by processes on one machine or many, which see PATH and the index under
    the same names. What a lost process had begun is made by another one; if this command itself is lost, its next run
    finds the finished segments.

    \b
    Example:
      cir build-index photos/ -o my.index
      cir build-index photos/ more.zip -o my.index --metadata photos.csv --exclude thumbs
      cir build-index shards/ -o my.index --ray auto
    """
    quiet_libraries()
    from cir.images import SUFFIXES, scan
    from cir.indexer.writing.build import BuildOptions
    from cir.indexer.writing.build import build_index as build
    from cir.models import load_model

    columns = columns_of(kinds, "--questions")
    if address and dry_run:
        raise UsageError("--dry-run encodes nothing; leave out --ray")
    files = scan(paths, exclude=exclude)
    if not files and not files.unusable:
        passed = _passed_over(files.passed_over)
        looked = f"looked for {', '.join(sorted(SUFFIXES))}"
        raise DataError(f"no images under {', '.join(map(str, paths))}; {passed or looked}")
    table = _read_metadata(metadata, id_column, files) if metadata else None
    chosen = model or _model_of(output, model_dirs)
    encoder = load_model(chosen, device=device, model_dirs=model_dirs)
    options = BuildOptions(
        workers,
        batch_size,
        tokens=not no_tokens,
        prune=prune,
        dry_run=dry_run,
        keep=keep,
        segment_rows=segment_rows,
    )
    with spreading(address, processes, chosen, device=device, model_dirs=model_dirs, threads=workers) as spread:
        progress = ProgressBar("encoding")
        report = build(files, output, encoder, options=options, metadata=table, progress=progress, spread=spread)
    if as_json:
        click.echo(json.dumps(report.to_json() | {"passed_over": dict(files.passed_over)}))
    else:
        click.echo("\n".join(filter(None, (summary(report, prune), _passed_over(files.passed_over)))))
    if report.added and not metadata and not dry_run and _has_metadata(output):
        click.echo(f"cir: {len(report.added):,} images were added without metadata; give --metadata again", err=True)
    if columns and not dry_run:
        _store_questions(output, columns)


def _store_questions(index: Path, columns: Mapping[str, str]) -> None:
    from cir.indexer.reading.gallery import Gallery
    from cir.replacement import questions

    gallery = Gallery.open(index)
    generated = questions.generate(gallery, columns, questions.GENERATED)
    questions.store(gallery, generated)
    click.echo(f"cir: {len(generated):,} judged queries stored in {index}", err=True)


def _has_metadata(index: Path) -> bool:
    from cir.indexer.reading.gallery import Gallery

    return bool(Gallery.open(index).columns)


def _model_of(output: Path, model_dirs: Sequence[Path]) -> str | Path:
    """The model that serves an existing index; the default for a new one."""
    from cir.indexer.storage.fetching import live_manifest
    from cir.models import DEFAULT, find_for

    manifest = live_manifest(output)
    return DEFAULT if manifest is None else find_for(manifest.card, model_dirs)


def _read_metadata(path: Path, id_column: str, files: Sequence[ImageFile]) -> Mapping[str, Mapping[str, str]]:
    """Image id -> column -> value; a warning if rows name no image."""
    from cir.data.metadata import read_metadata

    metadata = read_metadata(path, id_column, files)
    if metadata.unmatched:
        click.echo(
            f"cir: {path}: {metadata.unmatched:,} rows fit no image here; they are left out, "
            f"the first: {shown(metadata.example)}",
            err=True,
        )
    return metadata.by_image


def summary(report: BuildReport, prune: bool) -> str:
    """A build report for people."""
    counts = [
        (len(report.added), "added"),
        (len(report.updated), "changed"),
        (len(report.renamed), "renamed"),
        (len(report.unchanged), "unchanged"),
        (len(report.missing), "missing"),
        (len(report.skipped), "skipped"),
    ]
    counted = ", ".join(f"{count:,} {what}" for count, what in counts if count or what == "added")
    lines = [f"{report.path}: {'would hold ' if report.dry_run else ''}{report.total:,} images ({counted})"]
    if report.images_per_second and not report.dry_run:
        lines.append(
            f"{report.images_per_second:.0f} images/s, {_seconds(report.seconds)}; "
            f"{report.bytes_per_image:,.0f} bytes per image"
        )
    if report.resumed:
        lines.append(f"{report.resumed:,} of them come from a build that was stopped")
    for image_id, reason in report.skipped[:3]:
        lines.append(shown(f"  skipped {reason if image_id in reason else f'{image_id}: {reason}'}"))
    if report.skipped and not report.dry_run:
        lines.append(f"  all skipped images are listed in {report.path / 'skipped.jsonl'}")
    if report.missing:
        deleted = f"missing images {'would be' if report.dry_run else 'were'} deleted"
        lines.append(deleted if prune else "missing images stay searchable; --prune deletes them")
    return "\n".join(lines)


def _passed_over(kinds: Mapping[str, int]) -> str:
    """The files that are no images, by kind, the most frequent first; empty if there are none."""
    counts = sorted(kinds.items(), key=lambda kind: -kind[1])
    return f"passed over: {', '.join(f'{count:,} {kind}' for kind, count in counts)}" if counts else ""


def _seconds(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds >= 60 else f"{seconds:.1f} s"
