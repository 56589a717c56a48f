"""Published checkpoints, opened without running code or copying tensors.

    SPRC            a file, {"epoch", "Blip2QformerCirAlignPrompt": state}
    LAVIS           a file, {"model": state}: BLIP-2's first stage, often without its image encoder
    Hugging Face    a folder, or an id on the hub, of Blip2ForImageTextRetrieval: safetensors or .bin, in shards or not

Files are mapped into memory and read with `weights_only=True`: a pickle that holds code is refused before it runs.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cir.errors import WeightsError
from cir.files import parse_json, read_regular
from cir.models.tensor_file import read_header
from cir.typed_json import LARGEST

SPRC, LAVIS, HUGGING_FACE = "SPRC", "LAVIS", "Hugging Face"
STATES = {"Blip2QformerCirAlignPrompt": SPRC, "model": LAVIS}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LONGEST_JSON = 16_000_000  # bytes; an index of shards has 200,000
_HUB_FILES = ["*.json", "*.safetensors", "pytorch_model*.bin"]


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        path: the file or folder.
        kind: SPRC, LAVIS or HUGGING_FACE.
        tensors: its tensors by its own names, mapped from the file.
        vision_heads, qformer_heads: attention heads, where the checkpoint records them; None otherwise.
        record: what goes into the model's card: the epoch.
    """

    path: Path
    kind: str
    tensors: Mapping[str, Tensor]
    vision_heads: int | None = None
    qformer_heads: int | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


def open_checkpoint(name: str | Path) -> Checkpoint:
    """A checkpoint by file, folder or hub id. Raises WeightsError."""
    path = Path(name)
    if not path.exists():
        path = _download(str(name))
    return _open_folder(path) if path.is_dir() else _open_file(path)


def open_state(path: Path) -> dict[str, Tensor]:
    """The state in a file, bare or under the key "model", such as `eva_vit_g.pth`. Raises WeightsError."""
    content = _unpickle(path)
    return _tensors(path, content.get("model", content))


def _open_file(path: Path) -> Checkpoint:
    content = _unpickle(path)
    found = [key for key in STATES if key in content]
    if len(found) != 1:
        there = ", ".join(sorted(map(_short, content))[:5]) or "nothing"
        raise WeightsError(
            f"{path}: holds {there}; an SPRC checkpoint has Blip2QformerCirAlignPrompt, a LAVIS one has model"
        )
    epoch = content.get("epoch")
    record = {"epoch": epoch} if type(epoch) is int and abs(epoch) <= LARGEST else {}
    return Checkpoint(path, STATES[found[0]], _tensors(path, content[found[0]]), record=record)


def _open_folder(folder: Path) -> Checkpoint:
    if (folder / "card.json").is_file():
        raise WeightsError(f"{folder}: a model of cir already; use it as it is")
    safe = sorted(folder.glob("*.safetensors"))
    files = safe or sorted(folder.glob("pytorch_model*.bin"))
    for index in folder.glob("*.safetensors.index.json" if safe else "*.bin.index.json"):
        files = _shards(index)
    if not files:
        raise WeightsError(f"{folder}: no checkpoint; a Hugging Face folder has model.safetensors or pytorch_model.bin")
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _mapped(file) if safe else _tensors(file, _unpickle(file))
    config = _json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return Checkpoint(
        folder,
        HUGGING_FACE,
        tensors,
        vision_heads=_heads(config, "vision_config"),
        qformer_heads=_heads(config, "qformer_config"),
    )


def _shards(index: Path) -> list[Path]:
    """The files that an index of shards names, all of them in its own folder."""
    shards = _json(index).get("weight_map")
    names = set(shards.values()) if isinstance(shards, dict) and all(map(_is_file_name, shards.values())) else set()
    if not names:
        raise WeightsError(f"{index}: does not name the files of this folder; copy it again")
    return [index.parent / name for name in sorted(names)]


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name.isprintable() and name not in ("", ".", "..") and "/" not in name


def _heads(config: Mapping[str, Any], part: str) -> int | None:
    """Attention heads by config.json; None where it leaves them out, because they are transformers' default."""
    values = config.get(part)
    heads = values.get("num_attention_heads") if isinstance(values, dict) else None
    return heads if isinstance(heads, int) else None


def _unpickle(path: Path) -> Mapping[str, Any]:
    """The dictionary in a file of `torch.save`; tensors only, mapped where the format allows it."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; copy it beside the others")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever matters is raised below
            try:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError as error:
                if "_use_new_zipfile_serialization" not in str(error):
                    raise
                content = torch.load(path, map_location="cpu", weights_only=True)  # the format before torch 1.6
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise WeightsError(f"{path}: not a readable checkpoint; copy it again") from None
        raise WeightsError(
            f"{path}: holds code ({code[1]}), not only tensors, and was not opened; get it from its authors"
        ) from None
    except Exception as error:  # broken files make the decoder raise nearly anything
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise WeightsError(f"{path}: not a readable checkpoint: {reason}; is it cut off? Copy it again") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not named tensors; is it the right file?")
    return content


def _mapped(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_header(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}; copy it again") from None
    return tensors


def _tensors(path: Path, state: object) -> dict[str, Tensor]:
    values: Iterable[tuple[object, object]] = state.items() if isinstance(state, dict) else [("state", state)]
    for key, value in values:
        if not isinstance(value, Tensor) or not isinstance(key, str):
            kind = type(value).__name__
            raise WeightsError(f"{path}: {_short(key)} is a {kind}, not a tensor; is it the right file?")
        # A few bytes may be repeated to a tensor of any size.
        plain = value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.nbytes > value.untyped_storage().nbytes():
            raise WeightsError(f"{path}: {_short(key)} is not a plain tensor in the file; is it the right file?")
    return dict(state)  # type: ignore[call-overload]


def _short(key: object) -> str:
    text = str(key)[:120]
    return text if text.isprintable() else ascii(text)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        content = parse_json(read_regular(path, LONGEST_JSON))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: not JSON: {error}; copy it again") from None
    return content if isinstance(content, dict) else {}


def _download(name: str) -> Path:
    """The folder of a hub id, in the hub's own cache. Raises WeightsError."""
    if not _HUB_ID.fullmatch(name):
        raise WeightsError(f"{name}: no such file or folder, and not a hub id such as Salesforce/blip2-itm-vit-g")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_HUB_FILES))
    except Exception as error:  # network clients raise nearly anything
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{name}: no such file or folder, and the Hugging Face hub does not provide it: {reason}; "
            "download it elsewhere and name the folder"
        ) from None
