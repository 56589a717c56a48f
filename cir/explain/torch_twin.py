"""Which encoders give gradients: models of this project on torch, or the same model loaded on torch for that."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cir.errors import UsageError, WeightsError
from cir.models import load_model
from cir.models.base_encoder import BaseEncoder
from cir.models.onnx_encoder import OnnxEncoder

if TYPE_CHECKING:
    from cir.models.encoder import SprcEncoder
    from cir.types import Encoder


def gives_gradients(encoder: Encoder) -> bool:
    """Whether an encoder, as it is loaded, gives gradients."""
    return isinstance(encoder, BaseEncoder) and not isinstance(encoder, OnnxEncoder)


def torch_twin(encoder: Encoder) -> SprcEncoder:
    """The encoder itself, or where ONNX Runtime runs it the same model on torch, loaded once.

    Raises:
        UsageError: an encoder of another kind.
        WeightsError, MissingDependencyError: it cannot be loaded on torch.
    """
    if isinstance(encoder, OnnxEncoder) and encoder.directory is not None:
        return _loaded(encoder.directory, encoder.card.digest)
    if not gives_gradients(encoder):
        raise UsageError(f"{encoder.card.name} gives no gradients; explain it by occlusion")
    return encoder  # type: ignore[return-value]  # a `BaseEncoder` that is not on ONNX Runtime


@lru_cache(maxsize=2)  # of an index that had its model replaced
def _loaded(directory: Path, digest: str) -> SprcEncoder:
    loaded = load_model(directory, device="cpu", runtime="torch")
    if loaded.card.digest != digest:
        raise WeightsError(f"{directory} holds another model by now ({loaded.card.digest}); open the index again")
    return loaded  # type: ignore[return-value]  # what that runtime gives for a folder with graphs
