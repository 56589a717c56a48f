"""The folder of a hub encoder: which kind it is, whether it is whole, and the card that its files give it.

Without torch. A folder is taken only if transformers itself has the network; `auto_map`, which names code in the
repository, is never followed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cir.checked import digest_of
from cir.errors import WeightsError
from cir.files import parse_json, read_regular, sha256_bytes
from cir.models.hub.settings import config_problem, processor_problem
from cir.models.hub.snapshot import origin_of
from cir.models.tensor_file import read_header
from cir.types import ModelCard

CONFIG = "config.json"
WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
OWN = "cir-dual"  # of `cir train`, in the form of the hub
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model")
PROMPTS = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
_LARGEST = 200_000_000  # bytes of a JSON file or a vocabulary
# These decide no vector.
_NOISE = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "auto_map", "training", "sum_weight")
_LICENCE = re.compile(r"^licen[cs]e:\s*[\"']?([\w.+-]+)", re.MULTILINE)


@dataclass(frozen=True)
class Architecture:
    """A network that cir knows how to use.

    Attributes:
        composition: how it composes: "sum" for a dual encoder, "joint" for one that reads picture and text together.
        tasks: names in `architectures` of the configuration that are this network.
        pads: whether captions are padded to the length of training, as SigLIP's are.
    """

    composition: str
    tasks: tuple[str, ...]
    pads: bool = False


ARCHITECTURES: Mapping[str, Architecture] = {
    "clip": Architecture("sum", ("CLIPModel",)),
    "metaclip_2": Architecture("sum", ("MetaClip2Model",)),
    "siglip": Architecture("sum", ("SiglipModel",), pads=True),
    "siglip2": Architecture("sum", ("Siglip2Model",), pads=True),
    OWN: Architecture("sum", ("CirDual",)),
    "qwen3_vl": Architecture("joint", ("Qwen3VLModel", "Qwen3VLForConditionalGeneration", "Qwen3VLForEmbedding")),
}


@dataclass(frozen=True)
class HubFiles:
    """A whole folder of a hub encoder.

    Attributes:
        directory: the folder.
        kind: `model_type` of its configuration.
        config: what `config.json` holds.
        weights: the safetensors files.
        processor: the file with the picture's preprocessing.
        tokenizer: the files of the vocabulary.
    """

    directory: Path
    kind: str
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    processor: Path
    tokenizer: tuple[Path, ...]

    @property
    def architecture(self) -> Architecture:
        """What cir knows about the network."""
        return ARCHITECTURES[self.kind]

    @property
    def all(self) -> list[Path]:
        """Every file that decides a vector."""
        prompts = [self.directory / name for name in PROMPTS if (self.directory / name).is_file()]
        return [self.directory / CONFIG, *self.weights, self.processor, *self.tokenizer, *prompts]


def is_hub_folder(directory: Path) -> bool:
    """Whether a folder has the configuration of a hub model, whichever kind it is."""
    return (directory / CONFIG).is_file()


def read_files(directory: Path) -> HubFiles:
    """The files of a hub encoder.

    Raises:
        WeightsError: a file is missing or broken, or it is no encoder that cir can use; one line that says what to do.
    """
    config = _json(directory / CONFIG)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        known = ", ".join(name for name in ARCHITECTURES if name != OWN)
        if "auto_map" in config:
            raise WeightsError(
                f"{directory}: wants code from the hub to be run, which cir never does; it takes models that "
                f"transformers itself has: {known}"
            )
        if kind is None:
            raise WeightsError(f"{directory / CONFIG}: names no model_type, so it is no model of the hub")
        raise WeightsError(
            f"{directory}: a model of the type {str(kind)[:60]!r}, which cir cannot use; it takes {known}"
        )
    tasks = [name for name in config.get("architectures") or [] if isinstance(name, str)]
    if tasks and not set(tasks) & set(ARCHITECTURES[kind].tasks):
        raise WeightsError(
            f"{directory}: made for another task ({tasks[0]}); take the model with both pictures and text: "
            f"{ARCHITECTURES[kind].tasks[0]}"
        )
    processor = next((directory / name for name in PROCESSORS if _has_pictures(directory / name)), None)
    if processor is None:
        raise WeightsError(
            f"{directory}: no picture processor ({PROCESSORS[0]}); copy it from the model's page, without it pixels "
            "would be guessed"
        )
    if problem := config_problem(config):
        raise WeightsError(f"{directory / CONFIG}: {problem}; copy it again")
    if kind != OWN and (problem := processor_problem(_json(processor), counts_pixels=kind == "qwen3_vl")):
        raise WeightsError(f"{processor}: {problem}; copy the model's own")
    tokenizer = tuple(directory / name for name in TOKENIZERS if (directory / name).is_file())
    if not tokenizer:
        raise WeightsError(f"{directory}: no tokenizer ({TOKENIZERS[0]}); copy it from the model's page")
    return HubFiles(directory, kind, config, _weights(directory), processor, tokenizer)


def card_of(files: HubFiles) -> ModelCard:
    """The card of a hub encoder, made from its files. Raises WeightsError where they contradict each other."""
    config = {key: value for key, value in files.config.items() if key not in _NOISE}
    prompts = [path for path in files.all if path.name in PROMPTS]
    source = origin_of(files.directory)
    licence = _licence(files.directory)
    return ModelCard(
        name=(source.get("hub_id") or _trained_name(files) or files.directory.resolve().name)[:200],
        weights_sha256=_joint(files.weights),
        config_sha256=sha256_bytes(json.dumps(config, sort_keys=True).encode()),
        vocabulary_sha256=_joint([*files.tokenizer, *prompts]),
        preprocess_sha256=_joint([files.processor]),
        dims=_dims(files),
        tokens=0,
        vector=True,
        composition=files.architecture.composition,  # type: ignore[arg-type]
        sum_weight=_share(files.config.get("sum_weight", 0.5)),
        training=files.config.get("training", {}) if files.kind == OWN else {},
        architecture=files.kind,
        source={**source, **({"licence": licence} if licence else {})},
    )


def _trained_name(files: HubFiles) -> str:
    """The name that `cir train` gave; empty for a model of the hub."""
    training = files.config.get("training")
    name = training.get("name") if isinstance(training, dict) and files.kind == OWN else ""
    return name if isinstance(name, str) else ""


def _share(value: Any) -> float:
    return float(value) if isinstance(value, float | int) and 0 <= value <= 1 else 0.5


def _dims(files: HubFiles) -> int:
    """D, by the shapes of the weights: configurations leave out what is the default."""
    names = {
        "clip": ("visual_projection.weight", 0),
        "metaclip_2": ("visual_projection.weight", 0),
        OWN: ("visual_projection.weight", 0),
        "siglip": ("vision_model.head.layernorm.weight", 0),
        "siglip2": ("vision_model.head.layernorm.weight", 0),
        "qwen3_vl": ("language_model.embed_tokens.weight", 1),
    }
    wanted, axis = names[files.kind]
    for path in files.weights:
        for name, entry in read_header(path).tensors.items():
            if name.endswith(wanted) and len(entry.shape) > axis:
                return entry.shape[axis]
    raise WeightsError(f"{files.directory}: {wanted} is not in its weights; copy the whole model again")


def _weights(directory: Path) -> tuple[Path, ...]:
    if (directory / WEIGHTS).is_file():
        return (directory / WEIGHTS,)
    if (directory / SHARDS).is_file():
        places = _json(directory / SHARDS).get("weight_map")
        names = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
        missing = [name for name in names if "/" in name or not (directory / name).is_file()]
        if missing or not names:
            raise WeightsError(
                f"{directory}: {(missing or [SHARDS])[0]} is missing or broken; download the model again"
            )
        return tuple(directory / name for name in names)
    pickles = sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise WeightsError(
            f"{directory}: its weights are only there as {pickles[0]}, which can run code when it is opened; take a "
            f"revision with {WEIGHTS}, or convert it with transformers' save_pretrained in a place you trust"
        )
    raise WeightsError(f"{directory}: no {WEIGHTS}; download the model again")


def _has_pictures(path: Path) -> bool:
    """Whether a file says how a picture becomes pixels."""
    if not path.is_file():
        return False
    content = _json(path)
    return path.name == PROCESSORS[0] or "image_processor" in content or "image_mean" in content


def _licence(directory: Path) -> str:
    """The licence in the front matter of a model's README; empty if unknown."""
    try:
        text = read_regular(directory / "README.md", _LARGEST).decode("utf-8", "replace")
    except OSError:
        return ""
    found = _LICENCE.search(text.split("\n---", 1)[0]) if text.startswith("---") else None
    return found[1][:200] if found else ""


def _joint(paths: list[Path] | tuple[Path, ...]) -> str:
    """SHA-256 of one file, or of the names and digests of several."""
    try:
        digests = {path.name: digest_of(path) for path in paths}
    except OSError as error:
        raise WeightsError(f"{error.filename}: cannot be read: {error.strerror}; copy it again") from None
    return next(iter(digests.values())) if len(digests) == 1 else sha256_bytes(json.dumps(digests).encode())


def _json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_regular(path, _LARGEST))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}; copy it again") from None
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON: {error}; copy it again") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: not an object of settings; copy it again")
    return content
