"""`cir demo`: the main job, end to end, on pictures it draws itself or on yours."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.build_index import Progress
from cir.cli.options import device_option, quiet_libraries
from cir.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cir.data.benchmark import Benchmark
    from cir.search.searcher import Searcher
    from cir.types import Query
    from cir.data.wardrobe import Garment

OUTPUT = Path("cir-demo")
PICTURES, SEED, EVALUATED = 300, 25, 150
OLDER, ANCHORS = "small-lite", 400
# What is asked of the wardrobe: which garment to start from, what changes, how that is said, what is not wanted.
Attributes = dict[str, str]
QUESTIONS: tuple[tuple[Attributes, Attributes, str, str], ...] = (
    ({"sleeves": "short"}, {"colour": "red", "sleeves": "long"}, "like this, but in red and with long sleeves", ""),
    ({"type": "dress"}, {"pattern": "floral"}, "make it floral", ""),
    ({}, {}, "a striped sweater with long sleeves", "red"),
)


@click.command()
@click.argument("folder", required=False, default=OUTPUT, metavar="[DIR]", type=click.Path(path_type=Path))
@device_option
def demo(folder: Path, device: str) -> None:
    """Index pictures and search them with pictures and sentences, leaving a sheet of each answer.

    Without DIR, or when it is new, a wardrobe is drawn into it (default: ./cir-demo) and the answers are measured. Then
    an index of an older, smaller model gets the newer one without being made again.
    If DIR holds pictures, those are searched instead, and the results go to ./cir-demo.

    \b
    Example:
      cir demo
      cir demo ~/Pictures/shop
    """
    quiet_libraries()
    from cir import images
    from cir.data import wardrobe

    drawn = folder / "wardrobe"
    if folder.is_file():
        raise DataError(f"{folder} is a file; name a folder")
    own = not (drawn / wardrobe.TABLE).is_file() and folder.is_dir() and bool(images.scan([folder]))
    try:
        if own:
            _own_pictures(folder, device)
        else:
            _wardrobe(folder, drawn, device)
    except OSError as error:
        if error.filename is None:  # not about a file: a closed pipe
            raise
        raise DataError(f"{error.filename}: cannot be written: {error.strerror}; name another folder") from None


def _wardrobe(output: Path, folder: Path, device: str) -> None:
    from cir.data import wardrobe
    from cir.errors import UsageError
    from cir.data.attribute_benchmarks import load_wardrobe
    from cir.eval.engine import evaluate
    from cir.eval.render import render
    from cir.types import Query

    if folder.is_dir() and any(folder.iterdir()) and not (folder / wardrobe.TABLE).is_file():
        raise UsageError(f"{folder} holds a wardrobe that was not finished, or something else; delete it and try again")
    if not (folder / wardrobe.TABLE).is_file():
        click.echo(f"drawing {PICTURES} garments into {folder}")
        wardrobe.write(folder, PICTURES, seed=SEED)
    garments = [
        (f"images/{number:05d}.jpg", garment)
        for number, garment in enumerate(wardrobe.garments(PICTURES, seed=SEED), start=1)
    ]
    table = {image_id: garment.attributes for image_id, garment in garments}
    index = output / "wardrobe.index"
    opened = _index(folder, index, table, device)
    queries = []
    for start, change, text, negative in QUESTIONS:
        reference = (_find(garments, start, change),) if start else ()
        queries.append(Query(reference, text, (negative,) if negative else ()))
    _ask(opened, queries, output)
    click.echo(f"measuring {EVALUATED} questions whose answers are known:")
    benchmark = load_wardrobe(folder, queries=EVALUATED)
    click.echo(render(evaluate(benchmark, opened).report))
    _replace(output, folder, table, benchmark, opened, device)
    _good_bye(output)


def _replace(
    output: Path, folder: Path, table: dict[str, Attributes], benchmark: Benchmark, whole: Searcher, device: str
) -> None:
    """The same pictures as an older model has indexed them, and a better model behind what it has stored."""
    from cir import images, models
    from cir.data import wardrobe
    from cir.indexer.writing.build import build_index
    from cir.indexer.reading.gallery import Gallery
    from cir.indexer.storage.manifest import CURRENT
    from cir.replacement.questions import anchors_from_metadata, keep_anchors
    from cir.replacement.study import apply, passed, study_replacement
    from cir.search.searcher import open_index

    index = output / "older.index"
    click.echo("putting a better model behind an index that an older one has made:")
    _say("build-index", folder, "-o", index, "--model", OLDER, "--metadata", folder / wardrobe.TABLE)
    if (index / CURRENT).is_file():
        shutil.rmtree(index)  # of an earlier demo, which has replaced the model already
    older = models.load_model(OLDER, device=device)
    build_index(images.scan([folder]), index, older, metadata=table, progress=Progress("encoding"))
    gallery = Gallery.open(index)
    kinds = {kind: kind for kind in wardrobe.KINDS}
    _say("anchors", index, *(word for kind in kinds for word in ("--metadata", f"{kind}={kind}")))
    anchors = anchors_from_metadata(gallery, kinds, ANCHORS)
    keep_anchors(index, gallery, anchors)
    opened = open_index(index, device=device)
    before, stored = _answered(opened, benchmark), _gallery_digests(index)
    _say("replace-model", index, models.DEFAULT, "--apply")
    newer = whole.encoder
    found = study_replacement(opened, newer, anchors, progress=Progress("measuring"))
    old, new = older.card.name, newer.card.name
    if not passed(found):
        reasons = [reason for one in found for each in one.verdict.refused.values() for reason in each]
        click.echo(f"  refused, nothing was changed: {reasons[0]}")
        return
    apply(index, newer, found, gallery.manifest.generation)
    after, again = _answered(open_index(index, device=device), benchmark), _answered(whole, benchmark)
    same = "not a byte of them changed" if _gallery_digests(index) == stored else "CHANGED, which must not be"
    click.echo(f"  before: {old} answers {before[0]} of {EVALUATED} questions at once, {before[1]} within ten pictures")
    click.echo(f"  after:  {new} answers {after[0]} at once, {after[1]} within ten, over the vectors {old} had stored")
    click.echo(f"  those vectors: {same}; `cir rollback {index}` undoes it")
    click.echo(
        f"  with every picture encoded again by {new} it would be {again[0]} and {again[1]}: `cir backfill {index}`"
    )


def _answered(opened: Searcher, benchmark: Benchmark) -> tuple[int, int]:
    """How many questions are answered by the first hit, and within ten."""
    from cir.types import Query

    queries = [query for query in benchmark.queries if query.headline]
    asked = [Query((query.reference,), query.caption) for query in queries]
    ranks = [
        next((hit.rank for hit in result.hits if hit.id in query.targets), 99)
        for result, query in zip(opened.search_many(asked), queries, strict=True)
    ]
    return sum(rank == 1 for rank in ranks), sum(rank <= 10 for rank in ranks)


def _gallery_digests(index: Path) -> list[str]:
    from cir.files import sha256_file
    from cir.indexer.storage.manifest import GALLERY, SEGMENTS

    return [sha256_file(path) for path in sorted((index / SEGMENTS).rglob(GALLERY))]


def _own_pictures(folder: Path, device: str) -> None:
    from cir.types import Query

    OUTPUT.mkdir(exist_ok=True)
    opened = _index(folder, OUTPUT / "my.index", {}, device)
    first, last = opened.ids[0], opened.ids[-1]
    _ask(opened, [Query((first,), "in red"), Query((last,), "the same in black"), Query((), "something blue")], OUTPUT)
    _good_bye(OUTPUT)


def _index(folder: Path, index: Path, table: dict[str, Attributes], device: str) -> Searcher:
    from cir import images, models
    from cir.indexer.writing.build import build_index
    from cir.search.searcher import open_index

    click.echo("indexing with the model that comes with the package:")
    words = ["build-index", folder, "-o", index]
    _say(*words, *(["--metadata", folder / "wardrobe.csv"] if table else []))
    encoder = models.load_model(device=device)
    report = build_index(images.scan([folder]), index, encoder, metadata=table, progress=Progress("encoding"))
    click.echo(f"  {report.total} images, {report.images_per_second:.0f} images/s")
    return open_index(index, device=device)


def _ask(opened: Searcher, queries: Sequence[Query], output: Path) -> None:
    from cir.sheet import draw_sheet, save_sheet

    click.echo("searching:")
    for number, query in enumerate(queries, start=1):
        sheet = output / f"sheet-{number}.png"
        result = opened.search(query)
        save_sheet(draw_sheet(result, opened.picture), sheet)
        told = [word for reference in query.references for word in ("-i", reference)]
        denied = [word for text in query.negatives for word in ("--not", text)]
        _say("query", opened.gallery.path, *told, "-t", query.text, *denied, "--sheet", sheet)
        for hit in result.hits[:1]:
            known = " ".join(v for k, v in _ordered(hit.metadata) if v != "none")
            click.echo(f"  best: {hit.id} {f'({known}) ' if known else ''}{hit.score:.2f}")


def _good_bye(output: Path) -> None:
    click.echo(f"now open {output}/sheet-*.png, and try a sentence of your own with `cir query`")


def _ordered(metadata: object) -> list[tuple[str, str]]:
    """Colour, pattern and type first, as one would say it."""
    order = ("colour", "pattern", "type", "sleeves", "neckline")
    return [(kind, metadata[kind]) for kind in order if isinstance(metadata, dict) and kind in metadata]


def _find(garments: list[tuple[str, Garment]], start: Attributes, change: Attributes) -> str:
    """A garment to start from, if possible one that is in the wardrobe with the change applied."""
    there = {tuple(garment.attributes.items()) for _, garment in garments}
    fits = [
        (image_id, garment.attributes)
        for image_id, garment in garments
        if start.items() <= garment.attributes.items()
        and all(garment.attributes[kind] != value for kind, value in change.items())
    ]
    for image_id, attributes in fits:
        if tuple({**attributes, **change}.items()) in there:
            return image_id
    return fits[0][0] if fits else garments[0][0]


def _say(*words: object) -> None:
    click.echo("  $ cir " + shlex.join(str(word) for word in words))
