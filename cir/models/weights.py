"""A model on disk: a directory of `card.json`, `model.safetensors` and `vocab.txt`. No pickles.

Models that share files store them once. The vocabulary may lie beside the directory. Tensors that training left
unchanged may lie in a second file, `frozen.safetensors`, or beside the directory as `frozen-DIGEST.safetensors`.

The compact models of this project are stored in float16, their word embedding in int8 with one float16 scale per row.
This halves a small model, and the rounding is below a thousandth of a vector's length. Converted models keep the
precision of their checkpoint.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cir.errors import DataError, WeightsError
from cir.files import parse_json, sha256_file, write_atomically, write_bytes, write_json
from cir.images import Preprocess
from cir.models.sprc import Sprc, SprcConfig
from cir.text import Tokenizer
from cir.types import ModelCard

CARD, WEIGHTS, VOCABULARY = "card.json", "model.safetensors", "vocab.txt"
FROZEN, FROZEN_DIGEST = "frozen.safetensors", "frozen"  # a file, and the key of its digest in the weights' metadata
WORDS = "embeddings.word_embeddings.weight"
SCALE = "embeddings.word_embeddings.scale"
REDUCED_FROM = 1_000_000  # parameters of a backbone from which on less precision pays


@dataclass(frozen=True)
class ModelDescription:
    """What a model directory holds beside tensors and their sizes.

    Attributes:
        name: immutable versioned name.
        preprocess: how a picture becomes pixels.
        vocabulary: the content of the tokenizer's `vocab.txt`.
        sum_weight, min_scores, classes, training: see `ModelCard`.
    """

    name: str
    preprocess: Preprocess
    vocabulary: bytes
    sum_weight: float = 0.5
    min_scores: Mapping[str, float] = field(default_factory=dict)
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


def save(directory: Path, model: Sprc, description: ModelDescription, *, compact: bool = True) -> ModelCard:
    """Write a model directory.

    Args:
        directory: created if missing; files of a model in it are replaced, the card last.
        model: what to store.
        description: what goes into the directory beside the weights.
        compact: store float16 and int8 words; otherwise every tensor keeps its precision.

    Raises:
        DataError: the disk is full or the directory cannot be written to.
    """
    tensors = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    frozen: dict[str, Tensor] = {}
    if compact:
        # Where training left backbone and words unchanged, all models from the same start share them.
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
    return write(directory, tensors, model.config, description, frozen=frozen)


def write(
    directory: Path,
    tensors: Mapping[str, Tensor],
    config: SprcConfig,
    description: ModelDescription,
    *,
    metadata: Mapping[str, str] | None = None,
    frozen: Mapping[str, Tensor] | None = None,
) -> ModelCard:
    """Write a model directory from tensors as they are; the card last, so that a directory with a card is complete.

    Args:
        directory: created if missing.
        tensors: state of a `Sprc`; contiguous, without shared memory. They are written without being copied.
        config: its sizes.
        description: what goes into the directory beside the weights.
        metadata: stored in the weights file, and so part of the model's digest. Give at most one entry: safetensors
            writes several in any order.
        frozen: tensors for a second file, whose digest takes the place of `metadata`.

    Raises:
        DataError: the disk is full or the directory cannot be written to.
    """
    write_bytes(directory / VOCABULARY, description.vocabulary)
    if frozen:
        write_tensors(directory / FROZEN, frozen)
        metadata = {FROZEN_DIGEST: sha256_file(directory / FROZEN)}
    else:
        (directory / FROZEN).unlink(missing_ok=True)  # of a model that this one replaces
    write_tensors(directory / WEIGHTS, tensors, metadata)
    card = ModelCard(
        name=description.name,
        weights_sha256=sha256_file(directory / WEIGHTS),
        preprocess_sha256=description.preprocess.sha256,
        dims=config.dims,
        tokens=config.query_tokens if config.gallery_tokens else 0,
        vector=config.gallery_vector,
        sum_weight=description.sum_weight,
        min_scores=description.min_scores,
        query_heads=dict(config.query_heads),
        simplex=config.simplex,
        classes=description.classes,
        training=description.training,
    )
    content = {"card": card.to_json(), "config": config.to_json(), "preprocess": vars(description.preprocess)}
    write_json(directory / CARD, content, indent=1)
    return card


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically; the file it replaces may be mapped, even by the tensors themselves.

    Raises:
        DataError: the disk is full or the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with write_atomically(path, sum(value.nbytes for value in tensors.values())) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(dict(tensors), temporary, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            raise DataError(f"{path} cannot be written: {error}; check the disk") from error
        temporary.chmod(mode)  # safetensors lets only the owner read


def files_of(directory: Path) -> list[Path]:
    """The files of a model: those in its directory, and those beside it that it shares with other models.

    Raises:
        WeightsError: the weights or the file of frozen tensors are missing or broken.
    """
    shared = {path for path in (_vocabulary(directory), _frozen(directory)) if path is not None}
    return sorted({path for path in directory.iterdir() if path.is_file()} | shared)


def vocabulary_of(directory: Path) -> Path:
    """The `vocab.txt` of a model: in its directory, or beside it, where models that share it find it.

    Raises:
        WeightsError: it is in neither place.
    """
    path = _vocabulary(directory)
    if path is None:
        raise WeightsError(
            f"{directory}: the tokenizer's vocabulary is missing; copy {VOCABULARY} into the directory, or beside it"
        )
    return path


def _vocabulary(directory: Path) -> Path | None:
    places = (directory / VOCABULARY, directory.parent / VOCABULARY)
    return next((path for path in places if path.is_file()), None)


def _frozen(directory: Path) -> Path | None:
    """The file of the tensors that training left unchanged, or None for a model in one file.

    Raises:
        WeightsError: the file is missing, or is another model's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(directory / WEIGHTS, "pt") as file:
            digest = (file.metadata() or {}).get(FROZEN_DIGEST)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{directory / WEIGHTS}: not a readable safetensors file: {error}; copy it again") from None
    if digest is None:
        return None
    beside = f"frozen-{digest[:16]}.safetensors"
    for path in (directory / FROZEN, directory.parent / beside):
        if path.is_file():
            if sha256_file(path) != digest:
                raise WeightsError(f"{path}: is not the file that {directory.name} was trained with; copy it again")
            return path
    raise WeightsError(
        f"{directory}: the tensors that training left unchanged are missing; "
        f"copy {FROZEN} into the directory, or {beside} beside it"
    )


def read_card(directory: Path) -> ModelCard:
    """The card of a model directory, without loading its weights. Raises WeightsError."""
    return _card(directory, _read(directory))


def load(directory: Path, *, backbone: torch.dtype = torch.float32) -> tuple[Sprc, ModelCard, Preprocess]:
    """The model of a directory, on the CPU and in eval mode.

    Args:
        directory: of `card.json`, `model.safetensors` and, there or beside it, `vocab.txt`.
        backbone: precision in which the image backbone's matrices are held and multiplied; all else is float32. A
            backbone too small to gain from it stays in float32, and so exact.

    Raises:
        WeightsError: a file is missing, broken, or does not fit the configuration; the message names the keys.
    """
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
    tensors = _load_tensors(path)
    if frozen := _frozen(directory):
        tensors |= _load_tensors(frozen)
    if SCALE in tensors and WORDS in tensors:
        tensors[WORDS] = tensors[WORDS].float() * tensors.pop(SCALE).float()
    if sum(value.numel() for value in model.vision.parameters()) >= REDUCED_FROM:
        model.backbone_precision = backbone
    _fit(path, model, tensors)
    if sha256_file(path) != card.weights_sha256 or settings.sha256 != card.preprocess_sha256:
        raise WeightsError(
            f"{directory}: weights or settings are not those of its card; copy the whole directory again"
        )
    # The only buffers, which are not stored: counts from 0.
    for name, buffer in list(model.named_buffers()):
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, torch.arange(buffer.shape[-1]).expand(1, -1))
    vocabulary = vocabulary_of(directory)
    model.tokenizer = Tokenizer(vocabulary)
    if model.tokenizer.size > config.vocabulary:
        raise WeightsError(f"{vocabulary}: {model.tokenizer.size} words for {config.vocabulary} embeddings")
    return model.eval(), card, settings


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory. Raises WeightsError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}; copy it again") from None
    return tensors


def start_from(model: Sprc, directory: Path) -> None:
    """Give a model the weights of another of the same size; tensors that only one of the two has stay as they are.

    Raises:
        WeightsError: the other model cannot be loaded, or is of another size.
    """
    theirs = load(directory)[0].state_dict()
    ours = model.state_dict()
    shared = {key: value for key, value in theirs.items() if key in ours and ours[key].shape == value.shape}
    if len(shared) < len(ours) // 2:
        raise WeightsError(f"{directory}: a model of another size cannot be the start of this training")
    model.load_state_dict(shared, strict=False)


def misfit(
    missing: Collection[str], unexpected: Collection[str], misshapen: Mapping[str, tuple[Sequence[int], Sequence[int]]]
) -> str:
    """The tensors that do not fit, in one line; empty if all fit.

    Args:
        missing, unexpected: names of tensors.
        misshapen: name -> its shape, and the required shape.
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
    reduced = model.backbone_matrices()
    state = {
        key: value.to(model.backbone_precision if key in reduced else torch.float32) for key, value in tensors.items()
    }
    model.load_state_dict(state, strict=True, assign=True)


def _read(directory: Path) -> dict[str, Any]:
    path = directory / CARD
    if not path.is_file():
        raise WeightsError(f"{directory}: no {CARD}; a model is a directory of {CARD}, {WEIGHTS} and {VOCABULARY}")
    try:
        content: dict[str, Any] = parse_json(path.read_bytes())
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON: {error}; copy it again") from None
    return content


def _card(directory: Path, content: Mapping[str, Any]) -> ModelCard:
    try:
        return ModelCard.from_json(content["card"])
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{directory / CARD}: not a model card of this version: {error}; update cir") from None
