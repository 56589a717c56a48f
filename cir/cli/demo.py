"""`cir demo`: the main job, end to end, on pictures it draws itself."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cir.cli.build_index import Progress
from cir.cli.options import device_option, quiet_libraries

if TYPE_CHECKING:
    from cir.wardrobe import Garment

PICTURES, SEED = 480, 21
# What is asked: which garment to start from, what changes, how that is said, what is not wanted, the name of the sheet.
Attributes = dict[str, str]
QUESTIONS: tuple[tuple[Attributes, Attributes, str, str, str], ...] = (
    ({"sleeves": "short"}, {"colour": "red", "sleeves": "long"}, "like this, but in red and with long sleeves", "", "red-long"),
    ({"type": "dress"}, {"pattern": "floral"}, "make it floral", "", "floral"),
    ({"type": "shirt"}, {"colour": "light blue"}, "in light blue instead", "", "light-blue"),
    ({}, {}, "a striped sweater with a v-neck", "yellow", "striped-sweater"),
)


@click.command()
@click.option("-o", "--output", default="cir-demo", show_default=True, type=click.Path(path_type=Path), help="A new folder.")
@click.option("--pictures", default=PICTURES, show_default=True, type=click.IntRange(40, 5000), help="How many to draw.")
@device_option
def demo(output: Path, pictures: int, device: str) -> None:
    """Draw a wardrobe, index it, and search it with pictures and sentences.

    \b
    Example:
      cir demo
    """
    quiet_libraries()
    from cir import images, models, wardrobe
    from cir.errors import UsageError
    from cir.indexer.build import build_index
    from cir.search import open_index
    from cir.sheet import draw_sheet, save_sheet
    from cir.types import Query

    if output.exists() and any(output.iterdir()):
        raise UsageError(f"{output} is not empty; name a new folder with -o, or delete it")
    click.echo(f"drawing {pictures} garments into {output / 'wardrobe'}")
    garments = wardrobe.write(output / "wardrobe", pictures, seed=SEED)
    click.echo("indexing them with the model that comes with the package:")
    index = output / "wardrobe.index"
    _say("build-index", output / "wardrobe", "-o", index, "--metadata", output / "wardrobe" / "wardrobe.csv")
    encoder = models.load_model(device=device)
    table = {image_id: garment.attributes for image_id, garment in garments}
    report = build_index(
        images.scan([output / "wardrobe"]), index, encoder, metadata=table, progress=Progress("encoding")
    )
    click.echo(f"  {report.total} images, {report.images_per_second:.0f} images/s")
    opened = open_index(index, device=device)
    click.echo("searching:")
    for start, change, text, negative, name in QUESTIONS:
        reference = _find(garments, start, change) if start else None
        sheet = output / f"{name}.png"
        query = Query((reference,) if reference else (), text, (negative,) if negative else ())
        result = opened.search(query)
        save_sheet(draw_sheet(result, [opened.picture(r) for r in query.references], opened.picture), sheet)
        told = [*(["-i", reference] if reference else []), "-t", text, *(["--not", negative] if negative else [])]
        _say("query", index, *told, "--sheet", sheet)
        best = result.hits[0]
        click.echo(f"  best: {best.id}, {_phrase(table[best.id])} ({best.score:.2f})")
    click.echo(f"now open {output}/*.png, and try a sentence of your own with `cir query`")


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


def _phrase(attributes: Attributes) -> str:
    sleeves = {"none": "", "sleeveless": ", no sleeves"}.get(attributes["sleeves"], f", {attributes['sleeves']} sleeves")
    neckline = "" if attributes["neckline"] == "none" else f", {attributes['neckline']}"
    return f"{attributes['colour']} {attributes['pattern']} {attributes['type']}{sleeves}{neckline}"


def _say(*words: object) -> None:
    click.echo("  $ cir " + shlex.join(str(word) for word in words))
