"""Queries that no caption template contains, over real photos and over rendered garments: sheets to look at.

    python bench/free_form.py DATA_ROOT --output SHEETS
    python bench/free_form.py --garments --output docs/images/free-form

The gallery is the val split of the product photos, or the wardrobe of the benchmark. The queries were written before
`small-3` was trained; docs/results/small-3.md has the results. Sheets of photos show the data set and are not
published.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from cir import models
from cir.data import products, wardrobe
from cir.data.attribute_benchmarks import WARDROBE_PICTURES, WARDROBE_SEED
from cir.data.image_source import image_source
from cir.images import scan
from cir.indexer.reading.gallery import Gallery
from cir.indexer.writing.build import build_index
from cir.search.searcher import Searcher
from cir.sheet import draw_sheet, save_sheet
from cir.types import Encoder, Query

# Product id of the reference, and the caption.
QUERIES = (
    ("16137", "would suit a wedding"),
    ("18577", "something my brother could wear"),
    ("16416", "no stripes please"),
    ("10738", "the opposite of flashy"),
    ("17138", "my laptop has to fit in there"),
    ("15066", "far too stiff, I want to jog in them"),
    ("13159", "my granddaughter adores pink"),
    ("11653", "gold suits me better"),
    ("", "what do I wear to the beach"),
    ("", "keeps the sun out of my eyes"),
)
# Attributes of the reference, and the caption.
GARMENT_QUERIES: tuple[tuple[dict[str, str], str], ...] = (
    ({"type": "shirt", "pattern": "striped"}, "no stripes please"),
    ({"type": "dress", "pattern": "floral"}, "the opposite of flashy"),
    ({"type": "t-shirt", "colour": "white"}, "would keep me warm in December"),
    ({"type": "sweater", "colour": "grey"}, "my daughter only wears pink"),
    ({"type": "trousers", "colour": "beige"}, "too hot for these, cut them at the knee"),
    ({"type": "shirt", "sleeves": "long"}, "rolled up for the summer"),
    ({"type": "jacket", "colour": "red"}, "something I can wear to a funeral"),
    ({"type": "dress", "colour": "navy"}, "with little spots like my grandmother had"),
    ({}, "like a lumberjack"),
    ({}, "the colour of the sea on a sunny day"),
)


def search_garments(encoder: Encoder, folder: Path, output: Path) -> None:
    """Draw the wardrobe of the benchmark, search it, and write small JPEG sheets."""
    catalogue = wardrobe.write(folder / "wardrobe", WARDROBE_PICTURES, seed=WARDROBE_SEED)
    build_index(scan([folder / "wardrobe"]), folder / "index", encoder)
    searcher = Searcher(Gallery.open(folder / "index"), lambda card: encoder)
    looks = {name: garment.attributes for name, garment in catalogue}
    for number, (like, text) in enumerate(GARMENT_QUERIES, start=1):
        reference = next((name for name, look in looks.items() if like and like.items() <= look.items()), "")
        result = searcher.search(Query((reference,) if reference else (), text, k=5))
        sheet = draw_sheet(result, searcher.picture)
        sheet.save(output / f"{number:02d}.jpg", quality=80, optimize=True)
        click.echo(f"{number}. {looks.get(reference, 'no reference')}: {text!r} confident={result.confident}")
        for hit in result.hits:
            click.echo(f"   {', '.join(looks[hit.id].values())}")


@click.command()
@click.argument("root", type=click.Path(path_type=Path), required=False)
@click.option("--garments", is_flag=True, help="Search rendered garments instead of photos.")
@click.option("--model", default=models.DEFAULT, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the sheets.")
def main(root: Path | None, garments: bool, model: str, output: Path) -> None:
    """Search, draw, and print the hits in words."""
    output.mkdir(parents=True, exist_ok=True)
    if garments:
        with tempfile.TemporaryDirectory() as scratch:
            search_garments(models.load_model(model), Path(scratch), output)
        return
    if root is None:
        raise click.UsageError("give DATA_ROOT, or --garments")
    styles = products.read_styles(root)
    photos = [
        (product, image)
        for product, image in products.product_images(image_source(root))
        if products.split_of(product) == "val"
    ]
    ids = {product: image.id for product, image in photos}
    encoder = models.load_model(model)
    with tempfile.TemporaryDirectory() as scratch:
        build_index([image for _, image in photos], Path(scratch) / "index", encoder)
        searcher = Searcher(Gallery.open(Path(scratch) / "index"), lambda card: encoder)
        for number, (reference, text) in enumerate(QUERIES, start=1):
            result = searcher.search(Query((ids[reference],) if reference else (), text, k=5))
            save_sheet(draw_sheet(result, searcher.picture), output / f"{number:02d}.png")
            hits = [styles[Path(hit.id).stem]["productDisplayName"] for hit in result.hits]
            like = styles[reference]["productDisplayName"] if reference else "no reference"
            click.echo(f"{number}. {like}: {text!r} confident={result.confident}\n   " + "\n   ".join(hits))


if __name__ == "__main__":
    main()
