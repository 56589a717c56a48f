"""Real vectors: product photos and composed queries about them, encoded by the packaged `small` model, once.

Gallery vectors are photos of the train part. Queries are photos of the val part, which the gallery lacks, and composed
ones, a val photo with a caption in phrasings that no training has seen: they lie elsewhere than any photo.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

import cir
from cir.arrays import Floats
from cir.data import captions, products
from cir.data.image_source import image_source
from cir.data.items import Catalogue
from cir.files import make_folder, write_atomically
from cir.images import ImageFile
from index_parts.base import Setting

MODEL, QUERIES, SEED = "small", 500, 0


@dataclass(frozen=True)
class RealVectors:
    """(n, D) float32, unit-norm: photos of the gallery, photos as queries, composed queries."""

    photos: Floats
    held_out: Floats
    composed: Floats

    @property
    def queries(self) -> dict[str, Floats]:
        """The two kinds of queries."""
        return {"photos": self.held_out, "composed": self.composed}


def real_vectors(setting: Setting) -> RealVectors:
    """The real vectors; encoded if the work folder lacks them. A build that was killed goes on."""
    path = setting.work / "real.npz"
    if not path.is_file():
        _encode(setting, path)
    with np.load(path) as stored:
        return RealVectors(stored["photos"], stored["held_out"], stored["composed"])


def card() -> Any:
    """The card of the model that made them."""
    return cir.load_model(MODEL).card


def _encode(setting: Setting, path: Path) -> None:
    if setting.data_root is None:
        raise click.UsageError("no vectors in the work folder yet; give --data-root, the folder of the product photos")
    styles = products.read_styles(setting.data_root)
    train: list[ImageFile] = []
    val: dict[str, ImageFile] = {}
    for product, image in products.product_images(image_source(setting.data_root)):
        if products.split_of(product) == "train":
            train.append(image)
        elif products.split_of(product) == "val":
            val[product] = image
    model = cir.load_model(MODEL)
    index = setting.work / "photos.index"
    make_folder(setting.work)
    with click.progressbar(length=len(train) + len(val), label="encoding", file=click.get_text_stream("stderr")) as bar:
        cir.build_index([*train, *val.values()], index, model, progress=lambda done, _: bar.update(done - bar.pos))
    searcher = cir.open_index(index)
    queries = Catalogue([products.item(styles[name], image.id) for name, image in val.items()], products.KINDS)
    judged = captions.with_captions(
        queries.judged_queries(QUERIES, products.CHANGE_WEIGHTS, seed=SEED), random.Random(SEED), phrasing="val"
    )
    space = searcher.gallery.space.id
    composed = searcher.encode([query.query for query in judged]).by_space[space]
    held_out = [image.id for image in val.values()][:QUERIES]
    vectors = {
        "photos": np.stack([searcher.gallery.image(image.id).vector for image in train]),
        "held_out": np.stack([searcher.gallery.image(image_id).vector for image_id in held_out]),
        "composed": composed,
    }
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{name: values.astype(np.float32) for name, values in vectors.items()})
