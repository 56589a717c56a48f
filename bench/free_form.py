"""Ten questions no template contains, asked of real photos: their sheets are for looking at.

    python bench/free_form.py DATA_ROOT --output SHEETS

The gallery is the val split of the product photos. The questions were written before the model that answers them was
trained; docs/models/small.md says what was found. The sheets show photos of the data set and stay where they are made.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from cir import models, products
from cir.indexer.build import build_index
from cir.indexer.gallery import Gallery
from cir.search import Index
from cir.sheet import draw_sheet, save_sheet
from cir.types import Query

QUESTIONS = (
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


@click.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--model", default=models.DEFAULT, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder of the sheets.")
def main(root: Path, model: str, output: Path) -> None:
    """Ask, draw, and print what was found in words."""
    output.mkdir(parents=True, exist_ok=True)
    styles = products.read_styles(root)
    photos = [
        (product, image)
        for product, image in products.product_images(products.image_source(root))
        if products.split_of(product) == "val"
    ]
    ids = {product: image.id for product, image in photos}
    encoder = models.load_model(model)
    with tempfile.TemporaryDirectory() as scratch:
        build_index([image for _, image in photos], Path(scratch) / "index", encoder)
        index = Index(Gallery.open(Path(scratch) / "index"), lambda card: encoder)
        for number, (reference, text) in enumerate(QUESTIONS, start=1):
            result = index.search(Query((ids[reference],) if reference else (), text, k=5))
            save_sheet(draw_sheet(result, index.picture), output / f"{number:02d}.png")
            found = [styles[Path(hit.id).stem]["productDisplayName"] for hit in result.hits]
            like = styles[reference]["productDisplayName"] if reference else "no reference"
            click.echo(f"{number}. {like}: {text!r} fits={result.fits}\n   " + "\n   ".join(found))


if __name__ == "__main__":
    main()
