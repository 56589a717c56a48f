"""What a picture shows as a whole: the pooled last layer of the backbone, beside the map that the Q-Former attends to.

EfficientNet's last convolution, to 1,280 channels, was trained to tell 1,000 kinds of things apart. Its average over a
picture says what is there, learnable from thousands of captions; the map, which says where, takes more to learn from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cir.models.config import LAST_CHANNELS, WholePictureSettings

CHANNELS = 1280  # of EfficientNet-Lite0's last convolution


class WholePicture(nn.Module):
    """What a picture shows as a whole, for the states of pass C and for the sentence prompt of pass A.

    `summary`, pooled features -> (B, width), is added to each state of pass C, if the gallery uses it; `prompt`, pooled
    features -> (B, T, width), to the prompt.

    Args:
        settings: its sizes.
        map_width: W, channels of the backbone's map, whose last ones are those of the last stage.
        width: of the Q-Former.
        tokens: T, number of prompt tokens.
    """

    def __init__(self, settings: WholePictureSettings, *, map_width: int, width: int, tokens: int) -> None:
        super().__init__()
        self.last = nn.Linear(LAST_CHANNELS, CHANNELS)  # frozen, with its batch normalisation folded in
        pooled = 2 * map_width + CHANNELS
        self.summary: nn.Sequential | None = None
        if settings.gallery:
            self.summary = nn.Sequential(
                nn.LayerNorm(pooled),
                nn.Dropout(settings.dropout),
                nn.Linear(pooled, settings.hidden),
                nn.GELU(),
                nn.Dropout(settings.dropout),
                nn.Linear(settings.hidden, width),
            )
        self.prompt = nn.Sequential(
            nn.LayerNorm(pooled),
            nn.Dropout(settings.dropout),
            nn.Linear(pooled, settings.hidden // 4),
            nn.GELU(),
            nn.Linear(settings.hidden // 4, tokens * width),
            nn.Unflatten(-1, (tokens, width)),
        )
        last = [self.prompt[4]] if self.summary is None else [self.prompt[4], self.summary[5]]
        for layer in last:  # a model that gets it starts as it was
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def pool(self, features: Tensor) -> Tensor:
        """(B, P, W) features of the backbone -> (B, 2 W + 1280), averages and maxima over the picture."""
        kinds = F.relu6(self.last(features[..., -LAST_CHANNELS:])).mean(dim=1)
        return torch.cat([features.mean(dim=1), features.amax(dim=1), kinds], dim=-1)
