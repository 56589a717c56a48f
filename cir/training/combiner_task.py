"""The task `combiner`: CLIP4Cir's Combiner over a frozen dual encoder (Baldrati et al., CVPR Workshops 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cir.arrays import Floats
from cir.files import make_folder, sha256_file, write_json
from cir.known import remember_model
from cir.models import combiner_folder
from cir.models.combiner import Combiner
from cir.models.dual_encoder import DualEncoder
from cir.models.weights import write_tensors
from cir.training import losses
from cir.training.encoded_triplets import equal
from cir.training.photo_source import AttributeData
from cir.training.sources import AttributeBatches
from cir.training.two_towers import TwoTowerTask, TwoTowerValidation
from cir.typed_json import digest, to_json
from cir.types import ModelCard

SCALE = 100.0  # of the logits


class CombinerTask(TwoTowerTask):
    """Trains a combiner over a frozen dual encoder, as CLIP4Cir does: cross-entropy over a batch, logits times 100.

    Args:
        base: the dual encoder.
        network: the combiner.
        name: of the whole.
        data, batches, seed, device: see `TwoTowerTask`.
    """

    def __init__(
        self,
        base: DualEncoder,
        network: Combiner,
        name: str,
        data: AttributeData,
        batches: AttributeBatches,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__(data, batches, seed, device)
        self._base, self._network, self._name = base, network.to(device), name

    @property
    def module(self) -> nn.Module:
        """The combiner."""
        return self._network

    def encode_captions(self, captions: Sequence[str]) -> Floats:
        """B captions -> (B, D) float32, the base's features."""
        return self._base.text_features(captions)

    def vectors(self, pictures: Tensor, texts: Tensor | None) -> Tensor:
        """(B, D) unit-norm: of pictures, or composed with captions."""
        if texts is None:
            return F.normalize(pictures, dim=-1)
        queries: Tensor = self._network(pictures, texts)
        return queries

    def text_vectors(self, texts: Tensor) -> Tensor:
        """(B, D) unit-norm, of captions."""
        return F.normalize(texts, dim=-1)

    def losses(self, step: int) -> dict[str, Tensor]:
        """The contrast of queries and targets; other items that answer as well are no negatives, references are."""
        rows = self.draw(step)
        chosen = [self.triplets[row] for row in rows]
        references = [(source, triplet.reference) for source, triplet in chosen]
        items = [(source, triplet.target) for source, triplet in chosen] + references
        queries = self.vectors(self.pictures(references), self._captions[rows])
        same = equal(self.tables, [triplet for _, triplet in chosen], items).to(self.device)
        scores = losses.cosines(queries, self.vectors(self.pictures(items), None))
        return {"contrast": losses.info_nce(scores, 1 / SCALE, same)}

    @cached_property
    def _captions(self) -> Tensor:
        return self.encoded([triplet.query.caption for _, triplet in self.triplets])

    def save(self, directory: Path, training: Mapping[str, Any], validation: TwoTowerValidation) -> None:
        """Write the folder: its card last, so that a folder with one is whole."""
        make_folder(directory)
        state = {key: value.detach().cpu().contiguous() for key, value in self._network.state_dict().items()}
        write_tensors(directory / combiner_folder.WEIGHTS, state)
        base = self._base.card
        config = combiner_folder.CombinerConfig(base.digest, base.dims, *self._network.sizes)
        card = ModelCard(
            name=self._name,
            weights_sha256=sha256_file(directory / combiner_folder.WEIGHTS),
            config_sha256=digest(config),
            vocabulary_sha256=base.vocabulary_sha256,
            preprocess_sha256=base.preprocess_sha256,
            dims=base.dims,
            tokens=0,
            vector=True,
            composition="combiner",
            sum_weight=validation.weight,
            query_heads={base.space.id: base.dims},
            training={**training, "held-out": validation.to_json()},
            architecture=base.architecture,
            source=base.source,
        )
        content = to_json(combiner_folder.CombinerFile(card, base, config))
        write_json(directory / combiner_folder.CARD, content, indent=1)
        if self._base.directory is not None:
            remember_model(base.digest, self._base.directory.resolve())
