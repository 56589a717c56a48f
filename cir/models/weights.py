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
from cir.files import remove_tree, sha256_bytes, sha256_file, write_atomically, write_bytes, write_json
from cir.images import Preprocess
from cir.model_card import GalleryKind, SpaceId
from cir.models import folder, stationary
from cir.models.config import SprcConfig
from cir.models.folder import CARD, FROZEN, FROZEN_DIGEST, VOCABULARY, WEIGHTS, ModelFile
from cir.models.graphs import FOLDER as GRAPHS
from cir.models.sprc import Sprc
from cir.models.stored_tensors import SCALE, WORDS
from cir.models.tensor_file import Header
from cir.text import Tokenizer
from cir.typed_json import to_json
from cir.types import ModelCard

FLOATS = ("F16", "BF16", "F32", "F64")
REDUCED_FROM = 1_000_000  # parameters of a backbone from which on less precision pays


@dataclass(frozen=True)
class ModelDescription:
    """What a model directory holds beside tensors and their sizes.

    Attributes:
        name: immutable versioned name.
        preprocess: how a picture becomes pixels.
        vocabulary: the content of the tokenizer's `vocab.txt`.
        sum_weight, min_scores, gallery_kinds, classes, training, gallery_of: see `ModelCard`.
    """

    name: str
    preprocess: Preprocess
    vocabulary: bytes
    sum_weight: float = 0.5
    min_scores: Mapping[str, float] = field(default_factory=dict)
    gallery_kinds: tuple[GalleryKind, ...] = ()
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    gallery_of: SpaceId | None = None


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
    frozen: Mapping[str, Tensor] | None = None,
) -> ModelCard:
    """Write a model directory from tensors as they are; the card last, so that a directory with a card is complete.

    Args:
        directory: created if missing.
        tensors: state of a `Sprc`; contiguous, without shared memory. They are written without being copied.
        config: its sizes.
        description: what goes into the directory beside the weights.
        frozen: tensors for a second file, whose digest is stored in the first.

    Raises:
        DataError: the disk is full or the directory cannot be written to.
    """
    remove_tree(directory / GRAPHS)  # of a model that this one replaces
    write_bytes(directory / VOCABULARY, description.vocabulary)
    metadata = None
    if frozen:
        write_tensors(directory / FROZEN, frozen)
        metadata = {FROZEN_DIGEST: sha256_file(directory / FROZEN)}
    else:
        (directory / FROZEN).unlink(missing_ok=True)  # of a model that this one replaces
    write_tensors(directory / WEIGHTS, tensors, metadata)
    card = ModelCard(
        name=description.name,
        weights_sha256=sha256_file(directory / WEIGHTS),
        config_sha256=config.sha256,
        vocabulary_sha256=sha256_bytes(description.vocabulary),
        preprocess_sha256=description.preprocess.sha256,
        dims=config.dims,
        tokens=config.query_tokens if config.gallery_tokens else 0,
        vector=config.gallery_vector,
        sum_weight=description.sum_weight,
        min_scores=description.min_scores,
        gallery_kinds=description.gallery_kinds,
        query_heads=dict(config.query_heads),
        simplex=config.simplex,
        classes=description.classes,
        training=description.training,
        gallery_of=description.gallery_of,
    )
    write_json(directory / CARD, to_json(ModelFile(card, config, description.preprocess)), indent=1)
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


def load(directory: Path, *, backbone: torch.dtype = torch.float32) -> tuple[Sprc, ModelCard, Preprocess]:
    """The model of a directory, on the CPU and in eval mode.

    Args:
        directory: of `card.json`, `model.safetensors` and, there or beside it, `vocab.txt`.
        backbone: precision in which the image backbone's matrices are held and multiplied; all else is float32. A
            backbone too small to gain from it stays in float32, and so exact.

    Raises:
        WeightsError: a file is missing, broken, or does not fit the configuration; the message names the keys.
    """
    known = folder.read_model_file(directory)
    card, config = known.card, known.config
    model = _laid_out(directory, config)
    files = folder.tensor_files(directory)
    _fit(files, model)
    for problem in folder.check_tensors(files, card, remembered=True):
        raise WeightsError(problem)
    words = folder.words_of(directory, known)
    tensors = {name: value for file in files for name, value in _load_tensors(file).items()}
    if SCALE in tensors:
        tensors[WORDS] = tensors[WORDS].float() * tensors.pop(SCALE).float()
    if sum(value.numel() for value in model.vision.parameters()) >= REDUCED_FROM:
        model.backbone_precision = backbone
    reduced = model.backbone_matrices()
    state = {
        key: value.to(model.backbone_precision if key in reduced else torch.float32) for key, value in tensors.items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    # The only buffers, which are not stored: counts from 0.
    for name, buffer in list(model.named_buffers()):
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, torch.arange(buffer.shape[-1]).expand(1, -1))
    model.tokenizer = Tokenizer(words)
    return model.eval(), card, known.preprocess


def _laid_out(directory: Path, config: SprcConfig) -> Sprc:
    """A model of these sizes without memory: nothing is initialised only to be overwritten. Raises WeightsError."""
    simplex = config.simplex
    try:
        if simplex is not None and stationary.product(simplex.blocks, simplex.free_weight) != simplex:
            raise ValueError("the vertices of simplex are not those of its blocks")
        with torch.device("meta"):
            return Sprc(config)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{directory / CARD}: not a model of this version: {error}; update cir or the model"
        ) from None


def _load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory, all finite. Raises WeightsError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}; copy it again") from None
    for name, value in tensors.items():
        if not all(bound.isfinite() for bound in value.aminmax()):
            raise WeightsError(
                f"{path}: {name} holds values that are not finite; copy the model again, or train it anew"
            )
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


def _fit(files: Mapping[Path, Header], model: Sprc) -> None:
    """Raise WeightsError unless the tensors in these files are those of a model, by their headers alone."""
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    shapes: dict[str, tuple[int, ...]] = {}
    for path, header in files.items():
        for name, entry in header.tensors.items():
            if name in shapes:
                raise WeightsError(f"{path}: {name} is in {WEIGHTS} too; copy the whole model directory again")
            if entry.dtype == "I8" and name == WORDS:
                wanted[SCALE] = (entry.shape[0], 1) if entry.shape else ()
            elif entry.dtype not in FLOATS:
                raise WeightsError(f"{path}: {name} holds {entry.dtype}, not floats; copy the model again")
            shapes[name] = entry.shape
    problems = misfit(
        wanted.keys() - shapes.keys(),
        shapes.keys() - wanted.keys(),
        {name: (shapes[name], shape) for name, shape in wanted.items() if shapes.get(name, shape) != shape},
    )
    if problems:
        raise WeightsError(f"{next(iter(files))}: does not fit its configuration; {problems}")
