"""The files of a model: which there are, what its card says, and whether they are those that the card names.

Without torch, so that models are listed, found and verified at once. `cir.models.weights` writes and loads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cir.checked import agrees
from cir.errors import WeightsError
from cir.files import parse_json, read_regular, sha256_file
from cir.images import Preprocess
from cir.models.config import EfficientNetSettings, SprcConfig, backbone_settings
from cir.models.tensor_file import Header, read_header
from cir.text import check_vocabulary
from cir.typed_json import from_json
from cir.types import ModelCard

CARD, WEIGHTS, VOCABULARY = "card.json", "model.safetensors", "vocab.txt"
FROZEN, FROZEN_DIGEST = "frozen.safetensors", "frozen"  # a file, and the key of its digest in the weights' metadata
LONGEST_CARD = 4_000_000  # bytes; the packaged cards have 11,000


@dataclass(frozen=True)
class ModelFile:
    """What `card.json` holds: the card, and the two things that it names by digest and that are files of no other kind.

    Attributes:
        card: the model's identity.
        config: its sizes.
        preprocess: how a picture becomes pixels.
    """

    card: ModelCard
    config: SprcConfig
    preprocess: Preprocess

    def __post_init__(self) -> None:
        """Raises ValueError where the parts contradict each other."""
        card, config = self.card, self.config
        if config.sha256 != card.config_sha256:
            raise ValueError("config is not that of the card's config_sha256")
        if self.preprocess.sha256 != card.preprocess_sha256:
            raise ValueError("preprocess is not that of the card's preprocess_sha256")
        tokens = config.query_tokens if config.gallery_tokens else 0
        of_config = (config.dims, tokens, config.gallery_vector, dict(config.query_heads), config.simplex)
        if (card.dims, card.tokens, card.vector, dict(card.query_heads), card.simplex) != of_config:
            raise ValueError("dims, tokens, vector, query_heads or simplex of the card are not those of config")
        backbone = backbone_settings(config.vision)
        if not isinstance(backbone, EfficientNetSettings) and backbone.image_size != self.preprocess.size:
            raise ValueError(f"pictures of {self.preprocess.size} pixels for a backbone of {backbone.image_size}")


def read_model_file(directory: Path) -> ModelFile:
    """The card, configuration and preprocessing of a model directory.

    Raises:
        WeightsError: `card.json` is missing, no such file, or contradicts itself; one line that names it.
    """
    path = directory / CARD
    try:
        data = read_regular(path, LONGEST_CARD)
    except (FileNotFoundError, NotADirectoryError):
        raise WeightsError(
            f"{directory}: no {CARD}; a model is a directory of {CARD}, {WEIGHTS} and {VOCABULARY}; "
            "one of the Hugging Face hub has a config.json"
        ) from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read: {_reason(error)}; copy it again") from None
    try:
        content = parse_json(data)
    except ValueError as error:
        raise WeightsError(f"{path}: not JSON: {error}; copy it again") from None
    try:
        return from_json(ModelFile, content)
    except ValueError as error:
        raise WeightsError(f"{path}: not a model of this version: {error}; copy it again, or update cir") from None


def read_card(directory: Path) -> ModelCard:
    """The card of a model directory, without loading its weights. Raises WeightsError."""
    return read_model_file(directory).card


def files_of(directory: Path) -> list[Path]:
    """The files of a model: those in its directory, and those beside it that it shares with other models.

    Raises:
        WeightsError: the weights, the vocabulary or the file of frozen tensors are missing or broken.
    """
    shared = {vocabulary_of(directory), *tensor_files(directory)}
    return sorted({path for path in directory.iterdir() if path.is_file()} | shared)


def vocabulary_of(directory: Path) -> Path:
    """The `vocab.txt` of a model: in its directory, or beside it, where models that share it find it.

    Raises:
        WeightsError: it is in neither place.
    """
    for path in (directory / VOCABULARY, directory.parent / VOCABULARY):
        if path.exists():
            return path
    raise WeightsError(
        f"{directory}: the tokenizer's vocabulary is missing; copy {VOCABULARY} into the directory, or beside it"
    )


def tensor_files(directory: Path) -> dict[Path, Header]:
    """The weights of a model and, second, the file of the tensors that training left unchanged if they name one.

    Raises:
        WeightsError: a file is missing, or its header is broken.
    """
    weights = directory / WEIGHTS
    found = {weights: read_header(weights)}
    digest = found[weights].metadata.get(FROZEN_DIGEST)
    if digest is None:
        return found
    beside = f"frozen-{digest[:16]}.safetensors"
    if "/" not in beside and "\0" not in beside:
        for path in (directory / FROZEN, directory.parent / beside):
            if path.exists():
                return {**found, path: read_header(path)}
    raise WeightsError(
        f"{directory}: the tensors that training left unchanged are missing; "
        f"copy {FROZEN} into the directory, or {ascii(beside)[1:-1]} beside it"
    )


def words_of(directory: Path, known: ModelFile) -> list[str]:
    """The word pieces of a model's vocabulary. Raises WeightsError where it is not the model's own, or too long."""
    path = vocabulary_of(directory)
    words = check_vocabulary(path, known.card.vocabulary_sha256)
    if len(words) > known.config.vocabulary:
        raise WeightsError(f"{path}: {len(words)} words for {known.config.vocabulary} embeddings")
    return words


def check_tensors(files: Mapping[Path, Header], card: ModelCard, *, remembered: bool = False) -> list[str]:
    """Which of a model's `tensor_files` are not those that its card and weights name, one line each.

    Args:
        files, card: of the model.
        remembered: do not read a file again that was checked before and has not changed since (`cir.checked`).
    """
    (weights, header), *frozen = files.items()
    problems = []
    if not _is(weights, card.weights_sha256, remembered):
        problems.append(f"{weights}: not the weights of {card.name} ({card.digest}); copy the whole directory again")
    for path, _ in frozen:
        if not _is(path, header.metadata[FROZEN_DIGEST], remembered):
            problems.append(f"{path}: is not the file that {card.name} was trained with; copy it again")
    return problems


def _is(path: Path, digest: str, remembered: bool) -> bool:
    try:
        return agrees(path, digest) if remembered else sha256_file(path) == digest
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {_reason(error)}; copy it again") from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
