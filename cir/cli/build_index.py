"""`cir build-index`"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.options import device_option, json_option, kinds_of, model_dir_option, quiet_libraries
from cir.errors import DataError

if TYPE_CHECKING:
    from cir.images import ImageFile
    from cir.indexer.writing.report import BuildReport


@click.command("build-index")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The index directory.")
@click.option(
    "--model",
    default=None,
    metavar="NAME",
    help="Name or folder of the model.  [default: the one that serves the index; small for a new one]",
)
@device_option
@click.option(
    "--batch-size", default=32, show_default=True, type=click.IntRange(1, 4096), help="Images encoded at once."
)
@click.option("--workers", type=click.IntRange(1, 256), help="Threads that decode and encode.  [default: one a core]")
@click.option("--no-tokens", is_flag=True, help="Keep one vector per image and no tokens, where a model gives both.")
@click.option("--metadata", type=click.Path(dir_okay=False, path_type=Path), help="CSV with one row per image.")
@click.option("--id-column", default="id", show_default=True, help="Column of the CSV: an id, a file name or its stem.")
@click.option(
    "--anchors",
    "kinds",
    multiple=True,
    metavar="KIND=COLUMN",
    help="Also keep anchors made of metadata, by which a new model will be judged; as `cir anchors --metadata`.",
)
@click.option("--prune", is_flag=True, help="Also drop images that are no longer found under PATH.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and write nothing.")
@model_dir_option
@json_option
def build_index(
    paths: tuple[Path, ...],
    output: Path,
    model: str | None,
    device: str,
    batch_size: int,
    workers: int | None,
    no_tokens: bool,
    metadata: Path | None,
    id_column: str,
    kinds: tuple[str, ...],
    prune: bool,
    dry_run: bool,
    model_dirs: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Encode the images under each PATH (folders, zips, files) into an index.

    Run it again to add what is new: images whose content the index holds are not encoded again. A build that was
    stopped goes on where it was. Files that cannot be read are counted and listed in skipped.jsonl in the index.

    \b
    Example:
      cir build-index photos/ -o my.index
      cir build-index photos/ more.zip -o my.index --metadata photos.csv
    """
    quiet_libraries()
    from cir import images, models
    from cir.indexer.writing.build import build_index as build

    asked = kinds_of(kinds, "--anchors")
    files = images.scan(paths)
    if not files:
        raise DataError(
            f"no images under {', '.join(map(str, paths))}; looked for {', '.join(sorted(images.SUFFIXES))}"
        )
    columns = _read_metadata(metadata, id_column, files) if metadata else None
    encoder = models.load_model(model or _model_of(output, model_dirs), device=device, model_dirs=model_dirs)
    report = build(
        files,
        output,
        encoder,
        workers=workers,
        batch_size=batch_size,
        tokens=not no_tokens,
        metadata=columns,
        prune=prune,
        dry_run=dry_run,
        progress=Progress("encoding"),
    )
    click.echo(json.dumps(report.to_json()) if as_json else summary(report, prune))
    if report.added and not metadata and not dry_run and _has_metadata(output):
        click.echo(f"cir: {len(report.added):,} images were added without metadata; give --metadata again", err=True)
    if asked and not dry_run:
        _keep_anchors(output, asked)


def _keep_anchors(index: Path, columns: Mapping[str, str]) -> None:
    from cir.indexer.reading.gallery import Gallery
    from cir.replacement.questions import MADE, anchors_from_metadata, keep_anchors

    gallery = Gallery.open(index)
    made = anchors_from_metadata(gallery, columns, MADE)
    keep_anchors(index, gallery, made)
    click.echo(f"cir: {len(made):,} anchors kept in {index}", err=True)


def _has_metadata(index: Path) -> bool:
    from cir.indexer.reading.gallery import Gallery

    return bool(Gallery.open(index).columns)


def _model_of(output: Path, model_dirs: Sequence[Path]) -> str | Path:
    """The model that an existing index goes on with; the default for a new one."""
    from cir import models
    from cir.indexer.reading.gallery import Gallery
    from cir.indexer.storage.manifest import CURRENT

    if not (output / CURRENT).is_file():
        return models.DEFAULT
    gallery = Gallery.open(output)
    return models.find_for(gallery.card, gallery.model_path, model_dirs)


def _read_metadata(path: Path, id_column: str, files: Sequence[ImageFile]) -> Mapping[str, Mapping[str, str]]:
    """Image id -> column -> value; a warning if rows name no image."""
    from cir.data.metadata import read_metadata

    metadata = read_metadata(path, id_column, files)
    if metadata.unmatched:
        click.echo(f"cir: {path}: {metadata.unmatched:,} rows fit no image here; they are left out", err=True)
    return metadata.by_image


class Progress:
    """A bar on stderr with images/s and time left; nothing where stderr is not a terminal."""

    def __init__(self, what: str, *, unit: str = "images") -> None:
        self._what = what
        self._unit = unit
        self._bar: object | None = None

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            shown = sys.stderr.isatty()
            self._bar = tqdm(total=total, desc=self._what, unit=f" {self._unit}", disable=not shown, leave=False)
        bar: tqdm = self._bar
        bar.update(done - bar.n)
        if done >= total:
            bar.close()


def summary(report: BuildReport, prune: bool) -> str:
    """What a person wants to know when a build has ended."""
    counts = [
        (len(report.added), "added"),
        (len(report.updated), "changed"),
        (len(report.renamed), "renamed"),
        (len(report.unchanged), "unchanged"),
        (len(report.missing), "no longer found"),
        (len(report.skipped), "skipped"),
    ]
    said = ", ".join(f"{count:,} {what}" for count, what in counts if count or what == "added")
    lines = [f"{report.path}: {'would be ' if report.dry_run else ''}{report.total:,} images ({said})"]
    if report.images_per_second and not report.dry_run:
        lines.append(
            f"{report.images_per_second:.0f} images/s, {_seconds(report.seconds)}; "
            f"{report.bytes_per_image:,.0f} bytes per image"
        )
    if report.resumed:
        lines.append(f"{report.resumed:,} of them were kept from a build that was stopped")
    for image_id, reason in report.skipped[:3]:
        lines.append(f"  skipped {reason if image_id in reason else f'{image_id}: {reason}'}")
    if report.skipped:
        where = "" if report.dry_run else f"all of them are in {report.path / 'skipped.jsonl'}"
        lines.append(f"  {where}" if where else "")
    if report.missing:
        lines.append(
            "images that are no longer found stay searchable; --prune drops them"
            if not prune
            else f"images that are no longer found {'would be' if report.dry_run else 'were'} dropped"
        )
    return "\n".join(line for line in lines if line)


def _seconds(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds)) if seconds >= 60 else f"{seconds:.1f} s"
