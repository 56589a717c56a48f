"""A model on disk: a directory of `card.json`, `model.safetensors` and `vocab.txt`. No pickles.

Floats are stored in float16. A word embedding may be stored in int8 with one float16 scale a row: it is half of a small
model and rounds to less than a thousandth of a vector's length.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cir.errors import WeightsError
from cir.images import Preprocess
from cir.models.sprc import Sprc, SprcConfig
from cir.text import Tokenizer
from cir.types import ModelCard

CARD, WEIGHTS, VOCABULARY = "card.json", "model.safetensors", "vocab.txt"
WORDS = "embeddings.word_embeddings.weight"
SCALE = "embeddings.word_embeddings.scale"


def save(
    directory: Path,
    model: Sprc,
    *,
    name: str,
    preprocess: Preprocess,
    vocabulary: Path,
    sum_weight: float,
    training: Mapping[str, Any],
) -> ModelCard:
    """Write a model directory; the card is written last, so that a directory with a card is complete."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().half().contiguous() for key, value in model.state_dict().items()}
    words = model.state_dict()[WORDS].detach().float()
    scale = (words.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-8)
    tensors[WORDS] = (words / scale).round().to(torch.int8)
    tensors[SCALE] = scale.half()
    save_file(tensors, directory / WEIGHTS)
    shutil.copyfile(vocabulary, directory / VOCABULARY)
    card = ModelCard(
        name=name,
        weights_sha256=_sha256(directory / WEIGHTS),
        preprocess_sha256=preprocess.sha256,
        dims=model.config.dims,
        tokens=model.config.query_tokens,
        vector=model.config.gallery_vector,
        sum_weight=sum_weight,
        training=training,
    )
    content = {"card": card.to_json(), "config": model.config.to_json(), "preprocess": vars(preprocess)}
    temporary = directory / (CARD + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, directory / CARD)
    return card


def read_card(directory: Path) -> ModelCard:
    """The card of a model directory, without loading its weights. Raises WeightsError."""
    return _card(directory, _read(directory))


def load(directory: Path) -> tuple[Sprc, ModelCard, Preprocess]:
    """The model of a directory, in float32 on the CPU and in eval mode.

    Raises:
        WeightsError: a file is missing, broken, or does not fit the configuration; the message names the keys.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    content = _read(directory)
    card = _card(directory, content)
    try:
        values = dict(content["config"])
        config = SprcConfig(**values)
        settings = Preprocess.from_json(content["preprocess"])
        with torch.device("meta"):  # nothing is initialised only to be overwritten
            model = Sprc(config)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{directory / CARD}: not a model of this version: {error}; update cir or the model"
        ) from None
    path = directory / WEIGHTS
    if not path.is_file():
        raise WeightsError(f"{directory}: {WEIGHTS} is missing; copy the whole model directory")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}; copy it again") from None
    if SCALE in tensors and WORDS in tensors:
        tensors[WORDS] = tensors[WORDS].float() * tensors.pop(SCALE).float()
    _fit(path, model, tensors)
    if _sha256(path) != card.weights_sha256 or settings.sha256 != card.preprocess_sha256:
        raise WeightsError(
            f"{directory}: weights or settings are not those of its card; copy the whole directory again"
        )
    # The one buffer that is not stored, because it is a count from 0.
    model.embeddings.position_ids = torch.arange(config.positions).expand(1, -1)
    model.tokenizer = Tokenizer(directory / VOCABULARY)
    if model.tokenizer.size > config.vocabulary:
        raise WeightsError(f"{directory / VOCABULARY}: {model.tokenizer.size} words for {config.vocabulary} embeddings")
    return model.eval(), card, settings


def _fit(path: Path, model: Sprc, tensors: dict[str, Tensor]) -> None:
    wanted = model.state_dict()
    missing, unexpected = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} for {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & tensors.keys())
        if tensors[key].shape != wanted[key].shape
    ]
    problems = [
        f"{label}: {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for label, keys in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if keys
    ]
    if problems:
        raise WeightsError(f"{path}: does not fit its configuration; {'; '.join(problems)}")
    model.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=True, assign=True)


def _read(directory: Path) -> dict[str, Any]:
    path = directory / CARD
    if not path.is_file():
        raise WeightsError(f"{directory}: no {CARD}; a model is a directory of {CARD}, {WEIGHTS} and {VOCABULARY}")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path}: not JSON: {error}; copy it again") from None
    return content


def _card(directory: Path, content: Mapping[str, Any]) -> ModelCard:
    try:
        return ModelCard.from_json(content["card"])
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{directory / CARD}: not a model card of this version: {error}; update cir") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
