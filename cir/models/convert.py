"""Official checkpoints into model directories, tensor by tensor.

Each tensor of ours has a source: one tensor of theirs, several joined, or a third of one. A source that is not there is
missing, what is nobody's source is unexpected, and either stops the conversion.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mode
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from cir import images
from cir.errors import UsageError, WeightsError
from cir.models import weights
from cir.models.checkpoints import SPRC, Checkpoint, open_checkpoint, open_state
from cir.models.naming import Names
from cir.models.sprc import VIT_G, VIT_L, Sprc, SprcConfig
from cir.text import Tokenizer
from cir.types import ModelCard

VOCABULARY = Path(__file__).parent / "vocab.txt"  # of bert-base-uncased, and [DEC]
TEMPERATURE = 0.07  # with which LAVIS and SPRC start
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PROMPT_DEVIATION = 0.02  # with which SPRC draws its prompts
VISION_HEADS = {1408: 16, 1024: 16}  # by width
QFORMER_HEADS = {768: 12}

# Of every checkpoint: nothing in SPRC computes with these.
IGNORED = {
    r"Qformer\.cls\..+": "BERT's language-model head; built and saved, never used",
    r"itm_head\..+": "image-text matching; SPRC does not use it",
    r"(Qformer\.bert\.)?embeddings\.position_ids": "a count from 0",
}
# Of the file of an image encoder alone: what comes after the last block that BLIP-2 uses.
IGNORED_VISION = r"visual_encoder\.(norm|fc_norm|head|ln_post)\..+|visual_encoder\.proj"


@dataclass(frozen=True)
class Converted:
    """What a conversion made.

    Attributes:
        directory: the model.
        card: its card.
        parameters: how many numbers it holds.
        notes: what the checkpoint did not have and how it was made, one line each.
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
    vocabulary: Path = VOCABULARY,
) -> Converted:
    """Make a model directory of an official checkpoint. The directory appears when it is complete, or not at all.

    Tensors keep their precision and are written from the mapped file, so that memory stays near the checkpoint's size.

    Args:
        checkpoint: file, folder or hub id; see `cir.models.checkpoints`.
        directory: what to make; must not exist, or be empty.
        vision: file of the image encoder (`eva_vit_g.pth`, `clip_vit_L.pth`), for LAVIS checkpoints that come without.
        vision_heads, qformer_heads: for sizes other than the published ones; tensors do not tell.
        vocabulary: `vocab.txt` of the tokenizer.

    Raises:
        WeightsError: the checkpoint cannot be read, or does not fit; the message names the tensors.
        UsageError: the directory is taken.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} is there already; name another directory, or remove it")
    source = open_checkpoint(checkpoint)
    given = dict(source.tensors)
    if vision is not None:
        given |= _vision_state(vision, given)
    config, names = configuration(source, given, vision_heads, qformer_heads)
    if (words := Tokenizer(vocabulary).size) > config.vocabulary:
        raise WeightsError(f"{vocabulary}: {words} words for {config.vocabulary} embeddings; give another --vocab")
    state, notes = _state(source, given, config, names)
    record = {
        "converted from": {"file": source.path.name, "kind": source.kind, **source.record},
        **({"image encoder": vision.name} if vision else {}),
        "notes": notes,
    }
    # Sizes and words are not in the tensors, but decide vectors: with this they are in the digest. It is one entry,
    # because safetensors writes several in any order.
    decides = {"config": config.to_json(), "vocabulary": weights.sha256(vocabulary)}
    temporary = directory.parent / f".{directory.name}.{os.getpid()}.tmp"
    try:
        card = weights.write(
            temporary,
            state,
            config,
            name=directory.absolute().name,
            preprocess=images.Preprocess(size=config.vision["image_size"]),
            vocabulary=vocabulary,
            sum_weight=0.5,
            training=record,
            metadata={"cir": json.dumps(decides, sort_keys=True)},
        )
        os.replace(temporary, directory)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{directory}: cannot be written: {reason}; nothing was kept") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Converted(directory, card, sum(value.numel() for value in state.values()), tuple(notes))


def _vision_state(path: Path, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image encoder of a file of its own, under the names it has within BLIP-2, without its last block."""
    if any(key.startswith(("visual_encoder.", "vision_model.")) for key in given):
        raise UsageError("the checkpoint has an image encoder of its own; leave out --vision")
    state = {f"visual_encoder.{key}": value for key, value in open_state(path).items()}
    state = {key: value for key, value in state.items() if not re.fullmatch(IGNORED_VISION, key)}
    stem = "visual_encoder.blocks" if "visual_encoder.cls_token" in state else "visual_encoder.transformer.resblocks"
    last = f"{stem}.{_count(state, stem) - 1}."
    return {key: value for key, value in state.items() if not key.startswith(last)}


# Sizes, as the tensors say them.


def configuration(
    source: Checkpoint, given: Mapping[str, Tensor], vision_heads: int | None, qformer_heads: int | None
) -> tuple[SprcConfig, Names]:
    """Sizes read off the tensors, and the checkpoint's way of naming them. Raises WeightsError."""
    names = Names(source, given)

    def size(*places: tuple[str, int]) -> int:
        """What most of these axes measure, so that one bad tensor is named as what does not fit."""
        shapes = [(given[names(key)].shape, axis) for key, axis in places if names(key) in given]
        found = [shape[axis] for shape, axis in shapes if -len(shape) <= axis < len(shape) and shape[axis]]
        if not found:
            first = names(places[0][0])
            raise WeightsError(f"{source.path}: does not fit; {'misshapen' if first in given else 'missing'}: {first}")
        return mode(found)

    def layers(stem: str, inner: str) -> tuple[int, int]:
        """How many layers, and how wide their feed-forward is."""
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
    trunk: dict[str, Any] = {
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
    config = SprcConfig(
        vision={**trunk, "num_attention_heads": heads[0]},
        width=q_width,
        layers=q_depth,
        heads=heads[1],
        intermediate=q_inner,
        cross_attention_every=min(seeing, default=q_depth),
        query_tokens=size(("query_tokens", 1)),
        dims=size(("vision_proj.bias", 0), ("text_proj.bias", 0), ("text_proj.weight", 0)),
        vocabulary=size((words, 0)),
        positions=size(("embeddings.position_embeddings.weight", 0)),
    )
    return config, names


def _heads(path: Path, *parts: tuple[str, int, int | None]) -> list[int]:
    unknown = [f"{option} (width {width})" for option, width, heads in parts if heads is None]
    if unknown:
        raise WeightsError(f"{path}: tensors do not tell the number of heads; give {' and '.join(unknown)}")
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
    """For each tensor of ours where it comes from (`Names.sources`); those that `_made` makes are left out.

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
    made, notes = _made(source, given, config)
    return {**state, **made}, notes


def _may_lack(source: Checkpoint, given: Mapping[str, Tensor], ours: str) -> bool:
    """Whether the checkpoint is without a tensor that training would only start."""
    return ours not in given and (ours == "temp" or (ours == "prompt_tokens" and source.kind != SPRC))


def _made(source: Checkpoint, given: Mapping[str, Tensor], config: SprcConfig) -> tuple[dict[str, Tensor], list[str]]:
    """What a checkpoint may lack, as training would start it."""
    made, notes = {}, []
    if _may_lack(source, given, "temp"):
        made["temp"] = torch.tensor(TEMPERATURE)
        notes.append(f"no temp in the checkpoint: {TEMPERATURE}, with which training starts")
    if _may_lack(source, given, "prompt_tokens"):
        shape = (1, config.query_tokens, config.width)
        made["prompt_tokens"] = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * PROMPT_DEVIATION
        notes.append(
            f"no prompt_tokens in the checkpoint: drawn from N(0, {PROMPT_DEVIATION}), seed 0, as SPRC starts; "
            "queries of a text alone use them"
        )
    return made, notes


def _joined(parts: Sequence[Tensor | None], third: int | None) -> Tensor:
    """The parts along the first axis, None as zeros like the first part; or one third of the only one."""
    first = parts[0]
    assert first is not None  # it was checked to be there
    if first.dtype == torch.float64:
        first = first.float()
    if third is not None:
        return first.chunk(3)[third].clone()
    if len(parts) == 1:
        return first.contiguous()
    return torch.cat([torch.zeros_like(first) if part is None else part for part in parts])
