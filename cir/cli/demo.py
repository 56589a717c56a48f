"""`cir demo`: the main job, end to end, on pictures that it draws or on yours."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cir.cli.options import device_option, quiet_libraries
from cir.cli.progress import ProgressBar
from cir.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cir.data.benchmark import Benchmark
    from cir.data.wardrobe import Garment
    from cir.search import Searcher
    from cir.types import Query

OUTPUT = Path("cir-demo")
PICTURES, SEED, EVALUATED = 300, 25, 150
OLDER, QUESTIONS = "small-lite", 400
Attributes = dict[str, str]
# The searches: attributes of the garment to start from, those that change, the caption, what is not wanted.
SEARCHES: tuple[tuple[Attributes, Attributes, str, str], ...] = (
    ({"sleeves": "short"}, {"colour": "red", "sleeves": "long"}, "like this, but in red and with long sleeves", ""),
    ({"type": "dress"}, {"pattern": "floral"}, "make it floral", ""),
    ({}, {}, "a striped sweater with long sleeves", "red"),
)


@click.command()
@click.argument("folder", required=False, default=OUTPUT, metavar="[DIR]", type=click.Path(path_type=Path))
@device_option
def demo(folder: Path, device: str) -> None:
    """Index pictures, search them, and replace the model.

    Without DIR, or if it is new, a wardrobe is drawn into it (default: ./cir-demo), recall is measured, and the model
    of an index is replaced without re-indexing. If DIR holds pictures, those are searched instead, and the results go
    to ./cir-demo. Every search leaves a sheet of its hits.

    \b
    Example:
      cir demo
      cir demo ~/Pictures/shop
    """
    quiet_libraries()
    from cir.data import wardrobe
    from cir.images import scan

    drawn = folder / "wardrobe"
    if folder.is_file():
        raise DataError(f"{folder} is a file; name a folder")
    own = not (drawn / wardrobe.TABLE).is_file() and folder.is_dir() and bool(scan([folder]))
    try:
        if own:
            _own_pictures(folder, device)
        else:
            _wardrobe(folder, drawn, device)
    except OSError as error:
        if error.filename is None:  # not about a file: a closed pipe
            raise
        raise DataError(f"{error.filename}: cannot be written: {error.strerror}; name another folder") from None


def _own_pictures(folder: Path, device: str) -> None:
    from cir.types import Query

    OUTPUT.mkdir(exist_ok=True)
    searcher = _index(folder, OUTPUT / "my.index", {}, device)
    first, last = searcher.ids[0], searcher.ids[-1]
    queries = [
        Query((first,), "in red"),
        Query((last,), "outdoors, in the snow"),
        Query((), "something blue"),
        Query((), "a dog on the grass"),
    ]
    _search(searcher, queries, OUTPUT)
    _finish(OUTPUT)


def _wardrobe(output: Path, folder: Path, device: str) -> None:
    from cir.data import wardrobe
    from cir.data.attribute_benchmarks import load_wardrobe
    from cir.eval.engine import evaluate
    from cir.eval.render import render
    from cir.types import Query

    if folder.is_dir() and any(folder.iterdir()) and not (folder / wardrobe.TABLE).is_file():
        raise UsageError(f"{folder} holds an unfinished wardrobe, or something else; delete it and try again")
    if not (folder / wardrobe.TABLE).is_file():
        click.echo(f"drawing {PICTURES} garments into {folder}")
        wardrobe.write(folder, PICTURES, seed=SEED)
    garments = {
        f"images/{number:05d}.jpg": garment
        for number, garment in enumerate(wardrobe.garments(PICTURES, seed=SEED), start=1)
    }
    metadata = {image_id: garment.attributes for image_id, garment in garments.items()}
    searcher = _index(folder, output / "wardrobe.index", metadata, device)
    queries = [
        Query((_starting_from(garments, start, change),) if start else (), text, (negative,) if negative else ())
        for start, change, text, negative in SEARCHES
    ]
    _search(searcher, queries, output)
    click.echo(f"measuring {EVALUATED} judged queries:")
    benchmark = load_wardrobe(folder, queries=EVALUATED)
    click.echo(render(evaluate(benchmark, searcher).report))
    _replace(folder, output / "older.index", metadata, benchmark, searcher, device)
    _finish(output)


def _replace(
    folder: Path,
    index: Path,
    metadata: Mapping[str, Attributes],
    benchmark: Benchmark,
    reindexed: Searcher,
    device: str,
) -> None:
    """Put a better model behind an index that an older one has made of the same pictures."""
    from cir.data import wardrobe
    from cir.images import scan
    from cir.indexer.storage.folder import is_index
    from cir.indexer.writing.build import build_index
    from cir.indexer.writing.serve import serve_model
    from cir.models import DEFAULT, load_model
    from cir.replacement import questions
    from cir.replacement.study import may_serve, study_replacement

    click.echo("replacing the model of an index without re-indexing:")
    _say("build-index", folder, "-o", index, "--model", OLDER, "--metadata", folder / wardrobe.TABLE)
    if is_index(index):
        shutil.rmtree(index)  # an earlier demo has replaced its model already
    newer, older = reindexed.encoder, load_model(OLDER, device=device)
    build_index(scan([folder]), index, older, metadata=metadata, progress=ProgressBar("encoding"))
    searcher = _open(index, older, newer)
    kinds = {kind: kind for kind in wardrobe.KINDS}
    columns = [word for kind in kinds for word in ("--metadata", f"{kind}={kind}")]
    _say("questions", index, *columns, "--count", QUESTIONS)
    queries = questions.generate(searcher.gallery, kinds, QUESTIONS)
    questions.store(searcher.gallery, queries)
    before, stored = _recall(searcher, benchmark), _segment_digests(index)
    _say("replace-model", index, DEFAULT, "--apply")
    studies = study_replacement(searcher, newer, queries, progress=ProgressBar("measuring"))
    if not may_serve(studies):
        verdict = studies[0].evidence.verdict
        reasons = [*verdict.objections, *(reason for against in verdict.refused.values() for reason in against)]
        click.echo(f"  refused, nothing has changed: {reasons[0]}")
        return
    mappings = {study.evidence.space: study.mapping for study in studies if study.mapping}
    serve_model(index, newer, mappings, generation=searcher.gallery.manifest.generation)
    after, full = _recall(_open(index, older, newer), benchmark), _recall(reindexed, benchmark)
    unchanged = "unchanged, byte for byte" if _segment_digests(index) == stored else "CHANGED, which must not be"
    old, new = older.card.name, newer.card.name
    click.echo(f"  before: {old} answers {before[0]} of {EVALUATED} queries by its first hit, {before[1]} within ten")
    click.echo(f"  after:  {new} answers {after[0]} by its first hit, {after[1]} within ten, on the vectors of {old}")
    click.echo(f"  stored vectors: {unchanged}; `cir rollback {index}` undoes the replacement")
    click.echo(f"  after a full re-index by {new} it would be {full[0]} and {full[1]}: `cir backfill {index}`")


def _open(index: Path, *encoders: Any) -> Searcher:
    """The index with models that are loaded already."""
    from cir.indexer.reading.gallery import Gallery
    from cir.search import Searcher

    by_digest = {encoder.card.digest: encoder for encoder in encoders}
    return Searcher(Gallery.open(index), lambda card: by_digest[card.digest])


def _recall(searcher: Searcher, benchmark: Benchmark) -> tuple[int, int]:
    """How many judged queries are answered by the first hit, and within ten."""
    queries = [query for query in benchmark.queries if query.headline]
    results = searcher.search_many([query.query for query in queries])
    ranks = [
        next((hit.rank for hit in result.hits if hit.id in query.targets), 99)
        for result, query in zip(results, queries, strict=True)
    ]
    return sum(rank == 1 for rank in ranks), sum(rank <= 10 for rank in ranks)


def _segment_digests(index: Path) -> list[str]:
    from cir.files import sha256_file
    from cir.indexer.storage.folder import GALLERY, IndexFolder

    return [sha256_file(path) for path in sorted(IndexFolder(index).segments.rglob(GALLERY))]


def _index(folder: Path, index: Path, metadata: Mapping[str, Attributes], device: str) -> Searcher:
    from cir.data import wardrobe
    from cir.images import scan
    from cir.indexer.writing.build import build_index
    from cir.models import load_model

    click.echo("indexing with the model in the package:")
    table = ["--metadata", folder / wardrobe.TABLE] if metadata else []
    _say("build-index", folder, "-o", index, *table)
    encoder = load_model(device=device)
    report = build_index(scan([folder]), index, encoder, metadata=metadata, progress=ProgressBar("encoding"))
    click.echo(f"  {report.total} images, {report.images_per_second:.0f} images/s")
    return _open(index, encoder)


def _search(searcher: Searcher, queries: Sequence[Query], output: Path) -> None:
    """Answer queries, and leave a sheet of each."""
    from cir.sheet import MIN_SIDE, draw_sheet, save_sheet

    click.echo("searching:")
    for number, query in enumerate(queries, start=1):
        sheet = output / f"sheet-{number}.png"
        result = searcher.search(query)
        save_sheet(draw_sheet(result, lambda name: searcher.picture(name, MIN_SIDE)), sheet)
        references = [word for reference in query.references for word in ("-i", reference)]
        negatives = [word for text in query.negatives for word in ("--not", text)]
        _say("query", searcher.gallery.folder.root, *references, "-t", query.text, *negatives, "--sheet", sheet)
        for hit in result.hits[:1]:
            known = _described(hit.metadata)
            click.echo(f"  best: {hit.id} {f'({known}) ' if known else ''}{hit.score:.2f}")


def _described(metadata: Mapping[str, str]) -> str:
    """Attributes in the order in which people say them: colour, pattern and type first."""
    order = ("colour", "pattern", "type", "sleeves", "neckline")
    return " ".join(metadata[kind] for kind in order if metadata.get(kind, "none") != "none")


def _starting_from(garments: Mapping[str, Garment], start: Attributes, change: Attributes) -> str:
    """A garment with some attributes, if possible one whose changed version is in the wardrobe too."""
    known = {tuple(garment.attributes.items()) for garment in garments.values()}
    fitting = [
        (image_id, garment.attributes)
        for image_id, garment in garments.items()
        if start.items() <= garment.attributes.items()
        and all(garment.attributes[kind] != value for kind, value in change.items())
    ]
    for image_id, attributes in fitting:
        if tuple({**attributes, **change}.items()) in known:
            return image_id
    return fitting[0][0] if fitting else next(iter(garments))


def _finish(output: Path) -> None:
    click.echo(
        f"now open {output}/sheet-*.png, and try a sentence of your own with `cir query`; the model knows everyday "
        "photos (people, animals, streets, sports) and photos of clothes, shoes and accessories"
    )


def _say(*words: object) -> None:
    click.echo("  $ cir " + shlex.join(str(word) for word in words))
