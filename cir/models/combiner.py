"""CLIP4Cir's Combiner (Baldrati et al., CVPR Workshops 2022) over a frozen dual encoder.

One network makes the query out of both features: a mixture of the two, in a share that depends on them, and a vector of
its own. Stored vectors are those of the dual encoder, so a combiner also serves an index of that encoder
(`cir replace-model`, by its trained head).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cir.arrays import Floats
from cir.errors import WeightsError
from cir.models.combiner_folder import WEIGHTS, read_card, read_combiner
from cir.models.computing import computes, placed
from cir.models.dual_encoder import DualEncoder

if TYPE_CHECKING:
    from PIL.Image import Image

    from cir.types import ModelCard

DROPOUT = 0.5


class Combiner(nn.Module):
    """The network: features of a picture and of a caption -> one query.

    Args:
        dims: D of the features.
        projection: P, into which each of them is projected.
        hidden: H of the two branches.

    Attributes:
        sizes: P and H.
    """

    def __init__(self, dims: int, projection: int, hidden: int) -> None:
        super().__init__()
        self.sizes = projection, hidden
        self.image_projection = nn.Linear(dims, projection)
        self.text_projection = nn.Linear(dims, projection)
        self.mixture = nn.Sequential(
            nn.Linear(2 * projection, hidden), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(hidden, dims)
        )
        self.share = nn.Sequential(
            nn.Linear(2 * projection, hidden), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(hidden, 1), nn.Sigmoid()
        )
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """(B, D) and (B, D) features, not normalised -> (B, D) unit-norm queries."""
        both = torch.cat(
            [
                self.dropout(F.relu(self.image_projection(images))),
                self.dropout(F.relu(self.text_projection(texts))),
            ],
            dim=-1,
        )
        share = self.share(both)  # of the text, as in the paper's code
        return F.normalize(self.mixture(both) + share * texts + (1 - share) * images, dim=-1)


class CombinerEncoder(DualEncoder):
    """A dual encoder whose queries a combiner makes.

    Args:
        base: the dual encoder.
        network: the combiner.
        card: of the whole.
        directory: the combiner's folder.
    """

    def __init__(self, base: DualEncoder, network: Combiner, card: ModelCard, directory: Path | None = None) -> None:
        super().__init__(card, base.device, directory)
        self._base = base
        self._network = placed(network, base.device)

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """As of the dual encoder."""
        return self._base.pixel_shape

    def preprocess(self, image: Image) -> Floats:
        """As the dual encoder."""
        return self._base.preprocess(image)

    def image_features(self, pixels: Floats) -> Floats:
        """As of the dual encoder."""
        return self._base.image_features(pixels)

    def text_features(self, captions: Sequence[str]) -> Floats:
        """As of the dual encoder."""
        return self._base.text_features(captions)

    def unread(self, caption: str) -> str:
        """As the dual encoder."""
        return self._base.unread(caption)

    @computes
    def _composed(self, images: Floats, texts: Floats) -> Floats:
        if self.card.composition != "combiner":
            return super()._composed(images, texts)
        given = (torch.from_numpy(values).to(self.device) for values in (images, texts))
        vectors: Floats = self._network(*given).float().cpu().numpy()
        return vectors


def load_combiner(directory: Path, device: torch.device, model_dirs: Sequence[Path]) -> CombinerEncoder:
    """The encoder of a combiner's folder, with the dual encoder that it names, wherever that is.

    Raises:
        WeightsError: a file is missing or damaged, or the dual encoder cannot be found.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from cir.models import find_for, load_model

    card, known = read_card(directory), read_combiner(directory)
    base = load_model(find_for(known.base, [*model_dirs, directory.absolute().parent]), device=str(device))
    if not isinstance(base, DualEncoder):
        raise WeightsError(f"{directory}: {known.base.name} is no dual encoder; train the combiner again")
    network = Combiner(known.config.dims, known.config.projection, known.config.hidden)
    try:
        network.load_state_dict(load_file(directory / WEIGHTS))
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise WeightsError(f"{directory / WEIGHTS}: not the weights of a combiner: {reason}; copy it again") from None
    return CombinerEncoder(base, network, card, directory)
