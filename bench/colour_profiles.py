"""What a colour profile does to what a model sees: photos as cameras save them, with and without conversion to sRGB.

    python bench/colour_profiles.py PHOTOS --output bench/results/DATE-colour-profiles.json

Each photo is taken for sRGB, and the same colours are written in ProPhoto RGB, Display P3 and Adobe RGB, with the
profile. Reported is for how many photos another colour word is nearest than for the photo itself, and the mean cosine
of the two vectors: if the profile is ignored, and if the picture is converted.
"""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageCms

from cir import load_model
from cir.arrays import Floats
from cir.images import as_seen, decode, scan
from cir.testing.profiles import SPACES, rgb_profile
from cir.types import Encoder

WORDS = ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "beige")


def encode(model: Encoder, pictures: Sequence[Image.Image]) -> Floats:
    """(N, D) vectors of pictures that are sRGB already, whatever the model's card says of profiles."""
    rows = []
    for start in range(0, len(pictures), 32):
        pixels = [model.preprocess(picture) for picture in pictures[start : start + 32]]
        vectors = model.encode_images(np.stack(pixels)).vectors
        assert vectors is not None
        rows.append(vectors)
    return np.concatenate(rows)


@click.command()
@click.argument("photos", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=300, show_default=True)
@click.option("--model", default="small", show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(photos: Path, count: int, model: str, output: Path | None) -> None:
    """Measure and write the figures."""
    encoder = load_model(model)
    files = scan([photos])
    chosen = files[:: max(1, len(files) // count)][:count]
    plain = [decode(file.read(), file.id).convert("RGB") for file in chosen]
    for picture in plain:
        picture.info.clear()
    words = encoder.encode_texts([f"in {word}" for word in WORDS])
    vectors = encode(encoder, plain)
    best = (vectors @ words.T).argmax(axis=1)
    figures = {}
    for name in SPACES:
        profile = rgb_profile(name)
        saved = [decode(_as_saved(picture, profile), name) for picture in plain]
        ignored = [Image.fromarray(np.asarray(picture)) for picture in saved]
        figures[name] = {}
        for way, pictures in (("ignored", ignored), ("converted", [as_seen(picture) for picture in saved])):
            others = encode(encoder, pictures)
            figures[name][way] = {
                "another best colour word": float(((others @ words.T).argmax(axis=1) != best).mean()),
                "mean cosine": float((others * vectors).sum(axis=1).mean()),
            }
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.processor() or platform.machine(),
        "model": encoder.card.name,
        "photos": len(plain),
        "of": photos.name,
        "words": WORDS,
        "figures": figures,
    }
    click.echo(json.dumps(result, indent=1))
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _as_saved(picture: Image.Image, profile: bytes) -> bytes:
    """The same colours in another space, as a PNG with its profile."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    saved = ImageCms.profileToProfile(picture, ImageCms.createProfile("sRGB"), target, ImageCms.Intent(1))
    assert saved is not None
    buffer = io.BytesIO()
    saved.save(buffer, "PNG", icc_profile=profile)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
