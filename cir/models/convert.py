"""Official checkpoints into model directories, tensor by tensor.

Each of our tensors has a source in the checkpoint: one tensor, several joined, or a third of one. A source that the
checkpoint lacks is missing, a tensor that is no source is unexpected; either stops the conversion.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mode
from typing import Any

import torch
from torch import Tensor

from cir import images
from cir.errors import UsageError, WeightsError
from cir.files import write_atomically
from cir.models import PACKAGED, weights
from cir.models.checkpoints import SPRC, Checkpoint, open_checkpoint, open_state
from cir.models.config import VIT_G, VIT_L, SprcConfig
from cir.models.folder import VOCABULARY
from cir.models.naming import Names
from cir.models.sprc import Sprc
from cir.text import read_vocabulary
from cir.typed_json import from_json
from cir.types import ModelCard

DECODER_TOKEN = b"[DEC]\n"  # that BLIP-2 adds to the words of bert-base-uncased
TEMPERATURE = 0.07  # LAVIS and SPRC start training from it
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PROMPT_DEVIATION = 0.02  # standard deviation from which SPRC draws its prompts
VISION_HEADS = {1408: 16, 1024: 16}  # by width
QFORMER_HEADS = {768: 12}

# Tensors of every checkpoint that SPRC does not use.
IGNORED = {
    r"Qformer\.cls\..+": "BERT's language-model head; built and saved, never used",
    r"itm_head\..+": "image-text matching; SPRC does not use it",
    r"(Qformer\.bert\.)?embeddings\.position_ids": "a count from 0",
}
# Tensors in the file of a separate image encoder that come after the last block that BLIP-2 uses.
IGNORED_VISION = r"visual_encoder\.(norm|fc_norm|head|ln_post)\..+|visual_encoder\.proj"


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Attributes:
        directory: of the model.
        card: its card.
        parameters: number of its parameters.
        notes: one line for each tensor that the checkpoint lacked, and how it was initialised.
    """

    directory: Path
    card: ModelCard
    parameters: int
    notes: tuple[str, ...]


def convert(
    checkpoint: str | Path,
    directory: Path,
    *,
    vision: Path | None = None,
    vision_heads: int | None = None,
    qformer_heads: int | None = None,
    vocabulary: Path | None = None,
) -> Converted:
    """Convert an official checkpoint into a model directory, which appears complete or not at all.

    Tensors keep their precision and are written from the mapped file, so that memory stays near the checkpoint's size.

    Args:
        checkpoint: file, folder or hub id; see `cir.models.checkpoints`.
        directory: of the new model; must not exist, or be empty.
        vision: file of the image encoder (`eva_vit_g.pth`, `clip_vit_L.pth`), for LAVIS checkpoints without it.
        vision_heads, qformer_heads: attention heads; needed for unpublished sizes, because tensors do not show them.
        vocabulary: `vocab.txt` of the tokenizer; the words of bert-base-uncased and [DEC] if None.

    Raises:
        WeightsError: the checkpoint cannot be read, or does not fit; the message names the tensors.
        UsageError: the directory is not empty.
        DataError: the disk is full or the directory cannot be written to.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is there already; name another directory, or remove it")
    name = directory.absolute().name
    if not name.isprintable():
        raise UsageError(f"{name!a} is not a name for a model; name a directory in printable characters")
    source = open_checkpoint(checkpoint)
    given = dict(source.tensors)
    if vision is not None:
        given |= _vision_state(vision, given)
    config, names = configuration(source, given, vision_heads, qformer_heads)
    words = _words(vocabulary, config.vocabulary)
    state, notes = _state(source, given, config, names)
    record = {
        "converted from": {"file": _printed(source.path), "kind": source.kind, **source.record},
        **({"image encoder": _printed(vision)} if vision else {}),
        "notes": notes,
    }
    description = weights.ModelDescription(
        name=name,
        preprocess=images.Preprocess(size=config.vision["image_size"]),
        vocabulary=words,
        training=record,
    )
    with write_atomically(directory, sum(value.nbytes for value in state.values())) as temporary:
        card = weights.write(temporary, state, config, description)
    return Converted(directory, card, sum(value.numel() for value in state.values()), tuple(notes))


def _printed(path: Path) -> str:
    """The name of a file for a card, which is UTF-8."""
    return os.fsencode(path.name).decode("utf-8", "replace")


def _words(path: Path | None, embeddings: int) -> bytes:
    """The content of the model's `vocab.txt`. Raises WeightsError for a file that does not fit."""
    if path is None:
        return (PACKAGED / VOCABULARY).read_bytes() + DECODER_TOKEN
    if (count := len(read_vocabulary(path))) > embeddings:
        raise WeightsError(f"{path}: {count} words for {embeddings} embeddings; give another --vocab")
    return path.read_bytes()


def _vision_state(path: Path, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a separate image encoder, by their names within BLIP-2, without its last block."""
    if any(key.startswith(("visual_encoder.", "vision_model.")) for key in given):
        raise UsageError("the checkpoint has an image encoder of its own; leave out --vision")
    state = {f"visual_encoder.{key}": value for key, value in open_state(path).items()}
    state = {key: value for key, value in state.items() if not re.fullmatch(IGNORED_VISION, key)}
    stem = "visual_encoder.blocks" if "visual_encoder.cls_token" in state else "visual_encoder.transformer.resblocks"
    last = f"{stem}.{_count(state, stem) - 1}."
    return {key: value for key, value in state.items() if not key.startswith(last)}


# Sizes, read from the shapes of the tensors.


def configuration(
    source: Checkpoint, given: Mapping[str, Tensor], vision_heads: int | None, qformer_heads: int | None
) -> tuple[SprcConfig, Names]:
    """Sizes read from the tensors, and the checkpoint's names for our tensors. Raises WeightsError."""
    names = Names(source, given)

    def size(*places: tuple[str, int]) -> int:
        """The size that most of these axes have, so that a single bad tensor is reported as misshapen."""
        shapes = [(given[names(key)].shape, axis) for key, axis in places if names(key) in given]
        found = [shape[axis] for shape, axis in shapes if -len(shape) <= axis < len(shape) and shape[axis]]
        if not found:
            first = names(places[0][0])
            raise WeightsError(f"{source.path}: does not fit; {'misshapen' if first in given else 'missing'}: {first}")
        return mode(found)

    def layers(stem: str, inner: str) -> tuple[int, int]:
        """The number of layers, and the width of their feed-forward."""
        count = _count(given, names(f"{stem}.").removesuffix("."))
        return count, size(*((f"{stem}.{i}.{inner}", 0) for i in range(max(1, count))))

    embeddings = "vision.model.embeddings"
    position = f"{embeddings}.position_embedding{'.weight' if names.clip else ''}"
    patches = f"{embeddings}.patch_embedding.weight"
    width = size(("ln_vision.weight", 0), ("ln_vision.bias", 0), (position, -1), (patches, 0))
    positions, patch = size((position, -2)), size((patches, -1))
    side = math.isqrt(max(0, positions - 1))
    if side * side + 1 != positions:
        raise WeightsError(f"{source.path}: {names(position)} has {positions} rows, not a class token and a square")
    depth, inner = layers("vision.model.encoder.layers", "mlp.fc1.weight")
    backbone: dict[str, Any] = {
        **(VIT_L if names.clip else VIT_G),
        "image_size": side * patch,
        "patch_size": patch,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "intermediate_size": inner,
    }
    words = "embeddings.word_embeddings.weight"
    q_width = size(("query_tokens", 2), (words, 1), ("qformer.layernorm.weight", 0), ("text_proj.weight", 1))
    q_depth, q_inner = layers("qformer.encoder.layer", "intermediate.dense.weight")
    seeing = {int(found[1]) for key in given if (found := re.search(r"layer\.(\d+)\.crossattention\.", key))} - {0}
    heads = _heads(
        source.path,
        ("--vision-heads", width, vision_heads or source.vision_heads or VISION_HEADS.get(width)),
        ("--qformer-heads", q_width, qformer_heads or source.qformer_heads or QFORMER_HEADS.get(q_width)),
    )
    sizes = {
        "vision": {**backbone, "num_attention_heads": heads[0]},
        "width": q_width,
        "layers": q_depth,
        "heads": heads[1],
        "intermediate": q_inner,
        "cross_attention_every": min(seeing, default=q_depth),
        "query_tokens": size(("query_tokens", 1)),
        "dims": size(("vision_proj.bias", 0), ("text_proj.bias", 0), ("text_proj.weight", 0)),
        "vocabulary": size((words, 0)),
        "positions": size(("embeddings.position_embeddings.weight", 0)),
    }
    try:
        return from_json(SprcConfig, sizes), names
    except ValueError as error:
        raise WeightsError(f"{source.path}: not the tensors of an SPRC model: {error}; is it the right file?") from None


def _heads(path: Path, *parts: tuple[str, int, int | None]) -> list[int]:
    unknown = [f"{option} (width {width})" for option, width, heads in parts if heads is None]
    if unknown:
        raise WeightsError(f"{path}: tensors do not show the number of heads; give {' and '.join(unknown)}")
    for option, width, heads in parts:
        if not heads or heads < 0 or width % heads:
            raise WeightsError(f"{path}: {heads} heads do not divide the width {width}; give another {option}")
    return [heads for _, _, heads in parts if heads]


def _count(given: Mapping[str, Tensor], stem: str) -> int:
    """Number of layers under a name."""
    return len({found[1] for key in given if (found := re.match(re.escape(stem) + r"\.(\d+)\.", key))})


# Tensors.


def sources(
    source: Checkpoint, given: Mapping[str, Tensor], config: SprcConfig, names: Names
) -> dict[str, tuple[list[str | None], int | None]]:
    """The source of each of our tensors (`Names.sources`), except those that `_initial` initialises.

    Raises:
        WeightsError: a tensor is missing, unexpected or misshapen; the message names them, as the checkpoint does.
    """
    with torch.device("meta"):
        wanted = {key: tuple(value.shape) for key, value in Sprc(config).state_dict().items()}
    found = {ours: names.sources(ours) for ours in wanted if not _may_lack(source, given, ours)}
    shapes: dict[str, tuple[int, ...]] = {}
    for ours, (keys, third) in found.items():
        shape = wanted[ours]
        if len(keys) > 1 or third is not None:
            shape = (shape[0] * 3 if third is not None else shape[0] // len(keys), *shape[1:])
        shapes |= {key: shape for key in keys if key is not None}
    ignored = re.compile("|".join(IGNORED))
    problems = weights.misfit(
        shapes.keys() - given.keys(),
        {key for key in given.keys() - shapes.keys() if not ignored.fullmatch(key)},
        {key: (given[key].shape, shape) for key, shape in shapes.items() if key in given and given[key].shape != shape},
    )
    if problems:
        raise WeightsError(f"{source.path}: does not fit; {problems}")
    return found


def _state(
    source: Checkpoint, given: Mapping[str, Tensor], config: SprcConfig, names: Names
) -> tuple[dict[str, Tensor], list[str]]:
    """Our tensors in the checkpoint's precision, and notes on those that it does not have."""
    found = sources(source, given, config, names)
    for key in sorted({key for keys, _ in found.values() for key in keys if key is not None}):
        value = given[key]
        if value.dtype not in FLOATS or value.layout != torch.strided:
            raise WeightsError(f"{source.path}: {key} holds {value.dtype}, not plain floats; is it the right file?")
        if not all(bound.isfinite() for bound in value.aminmax()):
            raise WeightsError(f"{source.path}: {key} holds values that are not finite; copy it again")
    state: dict[str, Tensor] = {}
    taken: set[int] = set()
    for ours, (keys, third) in found.items():
        value = _joined([given[key] if key else None for key in keys], third)
        state[ours] = value.clone() if value.data_ptr() in taken else value  # safetensors refuses tied tensors
        taken.add(value.data_ptr())
    initial, notes = _initial(source, given, config)
    return {**state, **initial}, notes


def _may_lack(source: Checkpoint, given: Mapping[str, Tensor], ours: str) -> bool:
    """Whether the checkpoint lacks a tensor that it may lack: training only starts from it."""
    return ours not in given and (ours == "temp" or (ours == "prompt_tokens" and source.kind != SPRC))


def _initial(
    source: Checkpoint, given: Mapping[str, Tensor], config: SprcConfig
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that the checkpoint lacks, as training would initialise them, and a note about each."""
    initial, notes = {}, []
    if _may_lack(source, given, "temp"):
        initial["temp"] = torch.tensor(TEMPERATURE)
        notes.append(f"no temp in the checkpoint: {TEMPERATURE}, with which training starts")
    if _may_lack(source, given, "prompt_tokens"):
        shape = (1, config.query_tokens, config.width)
        initial["prompt_tokens"] = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * PROMPT_DEVIATION
        notes.append(
            f"no prompt_tokens in the checkpoint: drawn from N(0, {PROMPT_DEVIATION}), seed 0, as SPRC starts; "
            "queries by text alone use them"
        )
    return initial, notes


def _joined(parts: Sequence[Tensor | None], third: int | None) -> Tensor:
    """The parts along the first axis, None as zeros like the first part; or one third of the only one."""
    first = parts[0]
    assert first is not None  # `sources` has checked it
    if first.dtype == torch.float64:
        first = first.float()
    if third is not None:
        return first.chunk(3)[third].clone()
    if len(parts) == 1:
        return first.contiguous()
    return torch.cat([torch.zeros_like(first) if part is None else part for part in parts])
