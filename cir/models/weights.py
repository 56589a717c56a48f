"""A model on disk: a directory of `card.json`, `model.safetensors` and `vocab.txt`. No pickles.

What training did not touch may lie in a second file, `frozen.safetensors`, or beside the directory as
`frozen-DIGEST.safetensors`, where models that share it find it: it is stored once.

Compact models, those of ours, are stored in float16 with the word embedding in int8 and one float16 scale a row: it is
half of a small model and rounds to less than a thousandth of a vector's length. Converted models keep the precision of
their checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Collection, Mapping, Sequence
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
FROZEN, FROZEN_DIGEST = "frozen.safetensors", "frozen"  # a file, and the key of its digest in the weights' metadata
WORDS = "embeddings.word_embeddings.weight"
SCALE = "embeddings.word_embeddings.scale"
REDUCED_FROM = 1_000_000  # parameters of a trunk from which on less precision pays


def save(
    directory: Path,
    model: Sprc,
    *,
    name: str,
    preprocess: Preprocess,
    vocabulary: Path,
    sum_weight: float,
    training: Mapping[str, Any],
    min_scores: Mapping[str, float] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    compact: bool = True,
) -> ModelCard:
    """Write a model directory.

    Args:
        directory: made if it is not there; files of a model in it are replaced, the card last.
        model: what to store.
        name, preprocess, sum_weight, min_scores, classes, training: for the card.
        vocabulary: the tokenizer's `vocab.txt`, copied.
        compact: store float16 and int8 words; without it every tensor keeps its precision.
    """
    tensors = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    frozen: dict[str, Tensor] = {}
    if compact:
        # The trunk and the words, where training left them alone: what models of one start have in common.
        frozen_parts = {key for key, value in model.named_parameters() if not value.requires_grad}
        untouched = {key for key in frozen_parts if key == WORDS or key.startswith("vision.")}
        words = tensors[WORDS].float()
        scale = (words.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-8)
        tensors = {key: value.half() for key, value in tensors.items()}
        tensors[WORDS] = (words / scale).round().to(torch.int8)
        tensors[SCALE] = scale.half()
        if WORDS in untouched:
            untouched.add(SCALE)
        frozen = {key: tensors.pop(key) for key in sorted(untouched)}
    return write(
        directory,
        tensors,
        model.config,
        name=name,
        preprocess=preprocess,
        vocabulary=vocabulary,
        sum_weight=sum_weight,
        min_scores=min_scores,
        classes=classes,
        training=training,
        frozen=frozen,
    )


def write(
    directory: Path,
    tensors: Mapping[str, Tensor],
    config: SprcConfig,
    *,
    name: str,
    preprocess: Preprocess,
    vocabulary: Path,
    sum_weight: float,
    training: Mapping[str, Any],
    min_scores: Mapping[str, float] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    metadata: Mapping[str, str] | None = None,
    frozen: Mapping[str, Tensor] | None = None,
) -> ModelCard:
    """Write a model directory from tensors as they are; the card last, so that a directory with a card is complete.

    Args:
        tensors: state of a `Sprc`; contiguous, no two in one memory. They are written without being copied.
        config: its sizes.
        metadata: kept in the weights file, and so in the model's digest; one entry, or the digest is left to chance.
        frozen: tensors for a file of their own, whose digest takes the place of `metadata`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(vocabulary, directory / VOCABULARY)
    if frozen:
        _write_tensors(directory, FROZEN, frozen, None)
        metadata = {FROZEN_DIGEST: sha256(directory / FROZEN)}
    else:
        (directory / FROZEN).unlink(missing_ok=True)  # of a model that was here before
    _write_tensors(directory, WEIGHTS, tensors, metadata)
    card = ModelCard(
        name=name,
        weights_sha256=sha256(directory / WEIGHTS),
        preprocess_sha256=preprocess.sha256,
        dims=config.dims,
        tokens=config.query_tokens if config.gallery_tokens else 0,
        vector=config.gallery_vector,
        sum_weight=sum_weight,
        min_scores=min_scores or {},
        query_heads=dict(config.query_heads),
        simplex=config.simplex,
        classes=classes or {},
        training=training,
    )
    content = {"card": card.to_json(), "config": config.to_json(), "preprocess": vars(preprocess)}
    temporary = directory / (CARD + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, directory / CARD)
    return card


def _write_tensors(
    directory: Path, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None
) -> None:
    """Written aside: the file that it replaces may be mapped, even by the tensors themselves."""
    from safetensors.torch import save_file

    aside = directory / (name + ".tmp")
    save_file(dict(tensors), aside, metadata=None if metadata is None else dict(metadata))
    shutil.copymode(directory / VOCABULARY, aside)  # safetensors lets only the owner read
    os.replace(aside, directory / name)


def files_of(directory: Path) -> list[Path]:
    """The files of a model: its directory's, and what it shares with models beside it."""
    frozen = _frozen(directory)
    return sorted({path for path in directory.iterdir() if path.is_file()} | ({frozen} if frozen else set()))


def _frozen(directory: Path) -> Path | None:
    """The file of what training did not touch, or None for a model that is one file.

    Raises:
        WeightsError: it is not here, or another one is.
    """
    from safetensors import safe_open

    with safe_open(directory / WEIGHTS, "pt") as file:
        digest = (file.metadata() or {}).get(FROZEN_DIGEST)
    if digest is None:
        return None
    beside = f"frozen-{digest[:16]}.safetensors"
    for path in (directory / FROZEN, directory.parent / beside):
        if path.is_file():
            if sha256(path) != digest:
                raise WeightsError(f"{path}: is not what {directory.name} was trained over; copy it again")
            return path
    raise WeightsError(
        f"{directory}: what training did not touch is missing; copy {FROZEN} into it, or {beside} beside it"
    )


def read_card(directory: Path) -> ModelCard:
    """The card of a model directory, without loading its weights. Raises WeightsError."""
    return _card(directory, _read(directory))


def load(directory: Path, *, trunk: torch.dtype = torch.float32) -> tuple[Sprc, ModelCard, Preprocess]:
    """The model of a directory, on the CPU and in eval mode.

    Args:
        directory: of `card.json`, `model.safetensors` and `vocab.txt`.
        trunk: what the image trunk's matrices are held and multiplied in; all else is float32. A trunk too small to
            gain by it stays in float32, and so exact.

    Raises:
        WeightsError: a file is missing, broken, or does not fit the configuration; the message names the keys.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    content = _read(directory)
    card = _card(directory, content)
    try:
        config = SprcConfig.from_json(content["config"])
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
        frozen = _frozen(directory)
        if frozen is not None:
            tensors |= load_file(frozen)
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}; copy it again") from None
    if SCALE in tensors and WORDS in tensors:
        tensors[WORDS] = tensors[WORDS].float() * tensors.pop(SCALE).float()
    if sum(value.numel() for value in model.vision.parameters()) >= REDUCED_FROM:
        model.trunk_precision = trunk
    _fit(path, model, tensors)
    if sha256(path) != card.weights_sha256 or settings.sha256 != card.preprocess_sha256:
        raise WeightsError(
            f"{directory}: weights or settings are not those of its card; copy the whole directory again"
        )
    # The only buffers, which are not stored: counts from 0.
    for name, buffer in list(model.named_buffers()):
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, torch.arange(buffer.shape[-1]).expand(1, -1))
    model.tokenizer = Tokenizer(directory / VOCABULARY)
    if model.tokenizer.size > config.vocabulary:
        raise WeightsError(f"{directory / VOCABULARY}: {model.tokenizer.size} words for {config.vocabulary} embeddings")
    return model.eval(), card, settings


def start_from(model: Sprc, directory: Path) -> None:
    """Give a model the weights of another of the same size; tensors that only one of the two has are left alone."""
    theirs = load(directory)[0].state_dict()
    ours = model.state_dict()
    shared = {key: value for key, value in theirs.items() if key in ours and ours[key].shape == value.shape}
    if len(shared) < len(ours) // 2:
        raise WeightsError(f"{directory}: a model of another size cannot be the start of this training")
    model.load_state_dict(shared, strict=False)


def misfit(
    missing: Collection[str], unexpected: Collection[str], misshapen: Mapping[str, tuple[Sequence[int], Sequence[int]]]
) -> str:
    """What does not fit, in one line; empty where all does.

    Args:
        missing, unexpected: names of tensors.
        misshapen: name -> its shape, and the shape it should have.
    """
    shapes = [f"{key} {tuple(is_)} for {tuple(wanted)}" for key, (is_, wanted) in sorted(misshapen.items())]
    return "; ".join(
        f"{label}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for label, names in (("missing", sorted(missing)), ("unexpected", sorted(unexpected)), ("misshapen", shapes))
        if names
    )


def _fit(path: Path, model: Sprc, tensors: dict[str, Tensor]) -> None:
    wanted = model.state_dict()
    problems = misfit(
        wanted.keys() - tensors.keys(),
        tensors.keys() - wanted.keys(),
        {
            key: (tensors[key].shape, value.shape)
            for key, value in wanted.items()
            if key in tensors and tensors[key].shape != value.shape
        },
    )
    if problems:
        raise WeightsError(f"{path}: does not fit its configuration; {problems}")
    reduced = model.trunk_matrices()
    state = {
        key: value.to(model.trunk_precision if key in reduced else torch.float32) for key, value in tensors.items()
    }
    model.load_state_dict(state, strict=True, assign=True)


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


def sha256(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
