"""all-MiniLM-L6-v2 as published, from the package that carries it: what the text side of `small` starts from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cir.arrays import Floats
from cir.files import parse_json, read_regular
from cir.models.pretrained import minilm_state
from cir.training.tasks import TEXT_PACKAGE, package

LENGTH, DIMS, BATCH = 256, 384, 128


class MiniLM:
    """Sentences -> vectors: states averaged over the words, as its `modules.json` says."""

    def __init__(self) -> None:
        from transformers import AutoTokenizer, BertConfig, BertModel

        folder = package(TEXT_PACKAGE) / "model"
        sizes = parse_json(read_regular(folder / "config.json", 10**6))
        self._bert = BertModel(BertConfig(**sizes), add_pooling_layer=False).eval()
        state = minilm_state(folder)
        del state["embeddings.position_ids"]  # 0, 1, 2, ..., which transformers no longer stores
        self._bert.load_state_dict(state)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Floats:
        """N texts -> (N, 384) float32, unit-norm."""
        parts = [torch.empty(0, DIMS)]
        for start in range(0, len(texts), BATCH):
            pieces = self._tokenizer(
                list(texts[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=LENGTH,
                return_tensors="pt",
            )
            mask = pieces["attention_mask"][:, :, None]
            states = self._bert(**pieces).last_hidden_state
            parts.append(torch.nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=-1))
        vectors: Floats = torch.cat(parts).numpy()
        return vectors
