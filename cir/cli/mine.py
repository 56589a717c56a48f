"""`cir mine`"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.options import json_option
from cir.errors import DataError, UsageError

if TYPE_CHECKING:
    from cir.arrays import Floats
    from cir.data.captioned import Captions


@click.command()
@click.argument("captions", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File for the questions."
)
@click.option(
    "--photos",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Use only the photos that this file lists, one name per line.  [default: all]",
)
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    help="Compare the pictures too, by their vectors in this index: leaves out pairs of which the pictures are nearly "
    "the same or have nothing in common.",
)
@click.option(
    "--phrasing",
    type=click.Choice(["train", "val"]),
    default="val",
    show_default=True,
    help="Templates of the captions; no training should use those of val.",
)
@click.option("--loose", is_flag=True, help="Many more questions, less sure, for training.")
@click.option("--limit", type=click.IntRange(min=1), help="Number of questions, drawn evenly over the kinds of change.")
@click.option("--seed", default=0, show_default=True, help="Of all draws.")
@json_option
def mine(
    captions: Path,
    output: Path,
    photos: Path | None,
    index: Path | None,
    phrasing: str,
    loose: bool,
    limit: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Make composed questions from photos with captions.

    CAPTIONS is a CSV with the columns image and caption, one caption per row; best are several captions a photo, in
    English. A question is made of two photos of which the captions agree in all but one thing: another place, action,
    thing, colour or number, somebody else, something more or less. Its targets are all photos that fit. The output has
    one question per line, as `evaluate jsonl` and `questions --from` read it, with its kind and its hard negatives.
    Names are those of CAPTIONS.

    \b
    Example:
      cir mine captions.csv -o questions.jsonl
      cir evaluate jsonl --data-root photos --queries questions.jsonl
    """
    from cir.data.captioned import read_captions, select
    from cir.data.mining import LOOSE, STRICT, to_lines
    from cir.data.mining import mine as mine_changes
    from cir.files import write_text

    known = read_captions(captions)
    if photos is not None:
        known = select(known, photos, str(captions))
    left_out: Counter[str] = Counter()
    changes = mine_changes(
        known,
        strictness=LOOSE if loose else STRICT,
        vectors=_vectors(index, known) if index is not None else None,
        limit=limit,
        seed=seed,
        left_out=left_out,
    )
    if not changes:
        raise DataError(
            f"{captions}: no two photos of {len(known):,} differ in one thing only; there have to be some hundreds of "
            "photos, best with several English captions each" + ("" if loose else ", and --loose asks for less")
        )
    write_text(output, "".join(f"{line}\n" for line in to_lines(changes, phrasing=phrasing, seed=seed)))
    kinds = Counter(change.kind for change in changes)
    if as_json:
        content = {"questions": len(changes), "photos": len(known), "kinds": kinds, "left_out": left_out}
        click.echo(json.dumps(content))
        return
    references = len({change.reference for change in changes})
    click.echo(f"{output}: {len(changes):,} questions about {references:,} of {len(known):,} photos")
    click.echo("  " + ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common()))
    for reason, count in left_out.most_common():
        click.echo(f"  left out: {count:,} {reason}")


def _vectors(index: Path, captions: Captions) -> dict[str, Floats]:
    """The vector of every photo with captions. Raises DataError for one that the index does not hold."""
    from cir.indexer.reading.gallery import Gallery

    gallery = Gallery.open(index)
    if len(gallery.query_spaces) > 1:
        raise UsageError(
            f"{index} holds vectors of several models, which cannot be compared; finish `cir backfill` first"
        )
    by_name = {image_id.rsplit("/", 1)[-1]: image_id for image_id in gallery.ids}
    vectors = {}
    for name in captions:
        image_id = name if name in gallery else by_name.get(name, name)
        if image_id not in gallery:
            raise DataError(f"{index}: no image {name!r}, which has captions; index all photos, or list some: --photos")
        vectors[name] = gallery.image(image_id).vector
    return vectors
