"""Whether a training that promises to keep a gallery can keep it."""

from __future__ import annotations

from pathlib import Path

import torch

from cir.errors import UsageError
from cir.images import Preprocess
from cir.models import weights
from cir.models.sprc import Sprc


def check_same_gallery(model: Sprc, preprocess: Preprocess, start: Path) -> None:
    """Refuse a model whose gallery vectors are not, bit for bit, those of the model that it starts from.

    Args:
        model: at its starting weights.
        preprocess: its preprocessing.
        start: the model whose gallery it is to keep.

    Raises:
        UsageError: the gallery is another, or one of the two models has no gallery vectors.
    """
    theirs, _, their_preprocess = weights.load(start)
    pixels = torch.rand(1, 3, *(preprocess.size,) * 2)
    training, same = model.training, preprocess == their_preprocess and model.gallery_proj is not None
    if same and theirs.gallery_proj is not None:
        with torch.inference_mode():
            ours, kept = (
                each.project_vector(each.target_states(each.image_features(pixels))) for each in (model.eval(), theirs)
            )
        model.train(training)
        same = torch.equal(ours, kept)
    if not same or theirs.gallery_proj is None:
        raise UsageError(
            f"keep_gallery: the gallery would not be that of {start}; take its [preprocess], sizes, dims and [simplex]"
        )
