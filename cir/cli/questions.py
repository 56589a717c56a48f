"""`cir questions`"""

from __future__ import annotations

from pathlib import Path

import click

from cir.cli.options import columns_of, index_argument, trust_roots_option
from cir.errors import UsageError

SHOWN = 3


@click.command()
@index_argument
@click.option(
    "--from",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Store the judged queries of this file, one JSON object per line, as for `evaluate jsonl`: "
    '{"id": "q1", "reference": "shoes/1.jpg", "caption": "in red", "targets": ["shoes/7.jpg"]}; '
    '"reference" may be "".',
)
@click.option(
    "--data-root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that image names in the file are relative to; without it they are ids of INDEX.",
)
@click.option(
    "--metadata",
    "kinds",
    multiple=True,
    metavar="KIND=COLUMN",
    help="Generate judged queries from metadata: colour=baseColour means that the column baseColour holds colours. "
    "KIND is colour, type, gender, pattern, sleeves, neckline, usage, season or material. May be repeated.",
)
@click.option("--count", type=click.IntRange(min=1), help="Number of queries to generate.  [default: 1000]")
@click.option(
    "--from-marks",
    is_flag=True,
    help="Store the queries whose hits people have marked (`cir query --judge`), if one of them is right; images that "
    "are marked wrong are known wrong answers, and all others unjudged.",
)
@trust_roots_option
def questions(
    index: Path,
    file: Path | None,
    data_root: Path | None,
    kinds: tuple[str, ...],
    count: int | None,
    from_marks: bool,
    trust_roots: bool,
) -> None:
    """Store judged queries in INDEX, or show them.

    A judged query is a reference, a caption and the images that answer it. `replace-model` judges a new model by them:
    it needs at least 200 for each model that made vectors in INDEX. Their photos are copied into INDEX, so the queries
    still work when the originals are gone. New queries replace the stored ones.

    \b
    Example:
      cir questions my.index --from questions.jsonl
      cir questions my.index --metadata colour=baseColour --metadata type=articleType
      cir questions my.index --from-marks
    """
    from cir.indexer.reading.gallery import Gallery
    from cir.replacement import questions as stored_questions
    from cir.replacement.gate import MIN_QUERIES
    from cir.replacement.marked import marked

    if bool(file) + bool(kinds) + from_marks > 1:
        raise UsageError("--from, --metadata and --from-marks exclude each other; give one of them")
    if count is not None and not kinds:
        raise UsageError("--count is the number of queries to generate from --metadata; give that too")
    gallery, wanted = Gallery.open(index, trust_roots=trust_roots, strict=True), count or stored_questions.GENERATED
    before = len(stored_questions.stored(gallery).queries)
    if file:
        stored_questions.store(gallery, stored_questions.read_file(file, gallery, data_root))
    elif kinds:
        columns = columns_of(kinds, "--metadata")
        stored_questions.store(gallery, stored_questions.generate(gallery, columns, wanted))
    marks = marked(gallery)
    if from_marks and not marks.answered:
        raise UsageError(
            f"{index}: no hit is marked as right ({marks.marks:,} marks); mark some: `cir query {index} -t TEXT "
            "--judge`"
        )
    if from_marks:
        stored_questions.store(gallery, marks.answered)
    stored = stored_questions.stored(gallery)
    images = {name for query in stored.queries for name in (query.reference, *query.targets) if name}
    about = f" ({stored.sha256}) about {len(images):,} images" if images else ""
    click.echo(f"{index}: {len(stored.queries):,} judged queries{about}")
    if marks.marks or marks.gone:
        gone = f"; {marks.gone:,} more about images that are gone" if marks.gone else ""
        click.echo(
            f"  {marks.marks:,} marks on hits of {len(marks.queries):,} queries, {len(marks.answered):,} with a right "
            f"answer{gone}"
        )
    if before and (file or kinds or from_marks):
        click.echo(f"  they replace {before:,}")
    if kinds and len(stored.queries) < wanted:
        click.echo("  the metadata yield no more distinct queries")
    if images and len(stored.queries) < MIN_QUERIES:
        click.echo(f"  a replacement needs {MIN_QUERIES}; store more with --from")
    if stored.gone:
        click.echo(f"  {stored.gone:,} more name images that are gone; store new ones with --from or --metadata")
    for query in stored.queries[:SHOWN]:
        more = f" and {len(query.targets) - 1:,} more" if len(query.targets) > 1 else ""
        click.echo(f"  {query.reference or 'no reference'}: {query.caption!r} -> {min(query.targets)}{more}")
