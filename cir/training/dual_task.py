"""The task `dual`: a dual encoder out of frozen parts, trained on pictures and the descriptions of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cir.arrays import Floats
from cir.files import make_folder, write_bytes, write_json
from cir.images import Preprocess
from cir.models.hub.files import CONFIG, PROCESSORS, WEIGHTS
from cir.models.small_dual import SmallDual
from cir.models.weights import write_tensors
from cir.text import Tokenizer
from cir.training import losses
from cir.training.encoded_triplets import equal
from cir.training.photo_source import AttributeData
from cir.training.sources import AttributeBatches
from cir.training.two_towers import TwoTowerTask, TwoTowerValidation
from cir.typed_json import to_json


class DualTask(TwoTowerTask):
    """Trains the projections of a `SmallDual` on pictures and the descriptions of them.

    Args:
        network: with the weights of its parts.
        name: of the model.
        preprocess: how a picture becomes pixels.
        vocabulary: the content of `vocab.txt`.
        tokenizer: of that vocabulary.
        data, batches, seed, device: see `TwoTowerTask`.
    """

    judged = "sum"

    def __init__(
        self,
        network: SmallDual,
        name: str,
        preprocess: Preprocess,
        vocabulary: bytes,
        tokenizer: Tokenizer,
        data: AttributeData,
        batches: AttributeBatches,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__(data, batches, seed, device)
        self._network = network.to(device)
        self._name, self._preprocess, self._vocabulary, self._tokenizer = name, preprocess, vocabulary, tokenizer

    @property
    def module(self) -> nn.Module:
        """The network, of which norms and projections are trained."""
        return self._network

    @torch.inference_mode()
    def encode_captions(self, captions: Sequence[str]) -> Floats:
        """B captions -> (B, W) float32, MiniLM's pooled states."""
        pieces = self._tokenizer(captions, self._network.sizes.text_length)
        self._network.eval()
        pooled: Floats = (
            self._network.pooled_texts(*(torch.from_numpy(part).to(self.device) for part in pieces)).cpu().numpy()
        )
        self._network.train()
        return pooled

    def vectors(self, pictures: Tensor, texts: Tensor | None) -> Tensor:
        """(B, D) unit-norm: of pictures, or the plain sum with captions."""
        vectors = F.normalize(self._network.project_pictures(pictures), dim=-1)
        return vectors if texts is None else F.normalize(vectors + self.text_vectors(texts), dim=-1)

    def text_vectors(self, texts: Tensor) -> Tensor:
        """(B, D) unit-norm, of captions."""
        return F.normalize(self._network.project_texts(texts), dim=-1)

    def losses(self, step: int) -> dict[str, Tensor]:
        """CLIP's symmetric contrast of pictures and descriptions; descriptions of equal items are no negatives."""
        rows = self.draw(step)
        chosen = [self.triplets[row] for row in rows]
        items = [(source, triplet.target) for source, triplet in chosen]
        pictures = self.vectors(self.pictures(items), None)
        texts = self.text_vectors(self._descriptions[rows])
        temperature = torch.exp(-self._network.logit_scale).clamp(0.01, 1)
        same = equal(self.tables, [triplet for _, triplet in chosen], items, described=True).to(self.device)
        scores = losses.cosines(texts, pictures)
        return {
            "text to picture": losses.info_nce(scores, temperature, same) / 2,
            "picture to text": losses.info_nce(scores.T, temperature, same.T) / 2,
        }

    @cached_property
    def _descriptions(self) -> Tensor:
        return self.encoded([triplet.description for _, triplet in self.triplets])

    def save(self, directory: Path, training: Mapping[str, Any], validation: TwoTowerValidation) -> None:
        """Write the folder: `config.json` last, so that a folder with one is whole."""
        make_folder(directory)
        write_bytes(directory / "vocab.txt", self._vocabulary)
        write_json(directory / PROCESSORS[0], to_json(self._preprocess))
        state = {key: value.detach().cpu().contiguous() for key, value in self._network.state_dict().items()}
        write_tensors(directory / WEIGHTS, state)
        config = {
            "model_type": "cir-dual",
            "architectures": ["CirDual"],
            **to_json(self._network.sizes),
            "sum_weight": validation.weight,
            "training": {"name": self._name, **training, "held-out": validation.to_json()},
        }
        write_json(directory / CONFIG, json.loads(json.dumps(config)))
