"""Real photos' tokens of a model of the official size, with random weights: what there is of SPRC tokens here."""

from __future__ import annotations

import click
import full_size
import numpy as np

import cir
from cir.arrays import Floats
from cir.data import products
from cir.data.image_source import image_source
from cir.files import make_folder, write_atomically
from index_parts.base import Setting

PHOTOS = 64


def known(setting: Setting) -> bool:
    """Whether there are such tokens, or photos to make them of."""
    return setting.data_root is not None or (setting.work / "vit-g.npz").is_file()


def real_tokens(setting: Setting) -> tuple[Floats, Floats]:
    """(n, T, D) tokens and (B, D) composed queries, float32, unit-norm; encoded once, in some minutes and 10 GB."""
    path = setting.work / "vit-g.npz"
    if not path.is_file():
        _encode(setting)
    with np.load(path) as stored:
        return stored["tokens"], stored["queries"]


def _encode(setting: Setting) -> None:
    assert setting.data_root is not None
    directory, index = setting.work / "random-vit-g", setting.work / "vit-g.index"
    if not (directory / "card.json").is_file():
        click.echo("making a model of the official size", err=True)
        make_folder(setting.work)
        full_size.make(directory)
    source = image_source(setting.data_root)
    photos = [image for _, image in products.product_images(source)][:PHOTOS]
    click.echo(f"encoding {len(photos)} photos with it", err=True)
    cir.build_index(photos, index, cir.load_model(directory))
    searcher = cir.open_index(index, model=directory)
    ids = list(searcher.ids)
    captions = full_size.CAPTIONS
    asked = [cir.Query((name,), captions[number % len(captions)]) for number, name in enumerate(ids[: PHOTOS // 2])]
    queries = searcher.encode(asked).by_space[searcher.gallery.space.id]
    tokens = np.stack([searcher.gallery.image(name).stored for name in ids]).astype(np.float32)
    with write_atomically(setting.work / "vit-g.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, tokens=tokens, queries=queries)
