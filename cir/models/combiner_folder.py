"""The folder of a trained combiner: `combiner.json`, which names the dual encoder under it, and its own weights.

Without torch. The dual encoder is not copied: it is looked for by its digest, as the model of an index is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cir.checked import agrees
from cir.errors import WeightsError
from cir.files import parse_json, read_regular
from cir.model_card import ModelCard
from cir.typed_json import Within, digest, from_json

CARD, WEIGHTS = "combiner.json", "combiner.safetensors"
_LONGEST = 4_000_000  # bytes


@dataclass(frozen=True)
class CombinerConfig:
    """The sizes of a combiner (Baldrati et al., 2022), and the model that it was trained on.

    Attributes:
        base: digest of the dual encoder.
        dims: D of its features.
        projection: P, into which both features are projected.
        hidden: H of the two branches.
    """

    base: str
    dims: Annotated[int, Within(1, 8192)]
    projection: Annotated[int, Within(1, 65_536)]
    hidden: Annotated[int, Within(1, 65_536)]


@dataclass(frozen=True)
class CombinerFile:
    """What `combiner.json` holds.

    Attributes:
        card: the identity of the whole, dual encoder and combiner.
        base: the card of the dual encoder.
        config: the combiner's sizes.
    """

    card: ModelCard
    base: ModelCard
    config: CombinerConfig

    def __post_init__(self) -> None:
        """Raises ValueError where the parts contradict each other."""
        if digest(self.config) != self.card.config_sha256:
            raise ValueError("config is not that of the card's config_sha256")
        if (self.config.base, self.config.dims) != (self.base.digest, self.base.dims):
            raise ValueError("config is about another base")


def read_combiner(directory: Path) -> CombinerFile:
    """What `combiner.json` of a folder holds. Raises WeightsError in one line that names the file."""
    path = directory / CARD
    try:
        return from_json(CombinerFile, parse_json(read_regular(path, _LONGEST)))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}; copy it again") from None
    except ValueError as error:
        raise WeightsError(f"{path}: not a combiner of this version: {error}; train it again") from None


def read_card(directory: Path) -> ModelCard:
    """The card of a combiner. Raises WeightsError where its files are not those that it names."""
    card = read_combiner(directory).card
    weights = directory / WEIGHTS
    try:
        whole = agrees(weights, card.weights_sha256)
    except OSError as error:
        raise WeightsError(f"{weights}: cannot be read: {error.strerror}; copy it again") from None
    if not whole:
        raise WeightsError(f"{weights}: not the weights of {card.name} ({card.digest}); copy the whole directory again")
    return card


def files_of(directory: Path) -> list[Path]:
    """The files of a combiner, without those of the dual encoder under it. Raises WeightsError."""
    read_card(directory)
    return [directory / CARD, directory / WEIGHTS]
