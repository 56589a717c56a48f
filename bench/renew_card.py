"""Give a model from this repository's history the card of this version, so that older measurements can be repeated.

    git archive 60f1687 cir/models/small-2 | tar x && python bench/renew_card.py cir/models/small-2

Weights, words, sizes and preprocessing stay as they are; the digests are made anew, so an index of the older version
does not become readable. The thresholds of the oldest cards were called `floors`.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import click

from cir.files import sha256_file, write_json
from cir.images import Preprocess
from cir.models.config import SprcConfig
from cir.models.folder import CARD, WEIGHTS, ModelFile, check, vocabulary_of
from cir.typed_json import from_json, to_json
from cir.types import ModelCard


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
def main(directory: Path) -> None:
    """Rewrite the card of the model in DIRECTORY."""
    content = json.loads((directory / CARD).read_text(encoding="utf-8"))
    config = from_json(SprcConfig, content["config"])
    preprocess = from_json(Preprocess, content["preprocess"])
    old = content["card"]
    known = {field.name for field in fields(ModelCard)}
    values = {
        "min_scores": old.get("floors", {}),
        **{key: value for key, value in old.items() if key in known},
        "weights_sha256": sha256_file(directory / WEIGHTS),
        "config_sha256": config.sha256,
        "vocabulary_sha256": sha256_file(vocabulary_of(directory)),
        "preprocess_sha256": preprocess.sha256,
    }
    card = ModelCard.from_json(values)
    write_json(directory / CARD, to_json(ModelFile(card, config, preprocess)), indent=1)
    click.echo("\n".join(check(directory)) or f"{directory}: {card.name} ({card.digest})")


if __name__ == "__main__":
    main()
