"""Cards of models, changed as somebody else may change them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cir.files import sha256_file
from cir.models.config import SprcConfig
from cir.models.folder import CARD, VOCABULARY, WEIGHTS
from cir.typed_json import from_json


def content_of(directory: Path) -> dict[str, Any]:
    """What `card.json` of a model holds, unchecked."""
    content: dict[str, Any] = json.loads((directory / CARD).read_text())
    return content


def change(*path: str, value: object) -> Callable[[Path], None]:
    """Set a value of card.json and leave every digest as it is."""

    def apply(directory: Path) -> None:
        content = content_of(directory)
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (directory / CARD).write_text(json.dumps(content))

    return apply


def sign(directory: Path) -> None:
    """Give a card the digests of the files as they are: what an author of absurd files would do."""
    content = content_of(directory)
    card = content["card"]
    card["weights_sha256"] = sha256_file(directory / WEIGHTS)
    card["config_sha256"] = from_json(SprcConfig, content["config"]).sha256
    card["vocabulary_sha256"] = sha256_file(directory / VOCABULARY)
    card.pop("digest", None)
    (directory / CARD).write_text(json.dumps(content))
