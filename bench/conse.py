"""ConSE (Norouzi et al., 2014) as a dual encoder: an encoder of another make, to be replaced and to replace.

A picture's vector is the mean of its likeliest classes' names, as MiniLM encodes them, weighted by the probabilities
that EfficientNet-Lite0 gives; a text's vector is MiniLM's. Nothing is trained. It lives in `bench/`, because nobody
would search with it; `python bench/encoder_pairs.py --conse CLASSES.txt` takes it in. CLASSES.txt holds the names of
ImageNet's 1,000 classes in their order, one per line.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from cir.arrays import Floats
from cir.files import parse_json, read_regular, sha256_bytes
from cir.images import Preprocess
from cir.images.picture import as_picture
from cir.model_card import ModelCard
from cir.models.dual_encoder import DualEncoder
from cir.models.efficientnet import EfficientNetLite0
from cir.models.pretrained import BATCH_NORM_EPSILON, efficientnet_lite0_state, minilm_state
from cir.text import Tokenizer, read_vocabulary
from cir.training.tasks import BACKBONE_PACKAGE, TEXT_PACKAGE, package

if TYPE_CHECKING:
    from PIL.Image import Image

LIKELIEST, DIMS, LENGTH, SIDE = 10, 384, 32, 224
STATISTICS = (0.498, 0.498, 0.498), (0.502, 0.502, 0.502)


class Conse(DualEncoder):
    """The encoder.

    Args:
        classes: file of the class names.
    """

    def __init__(self, classes: Path) -> None:
        from transformers import BertConfig, BertModel

        names = classes.read_text(encoding="utf-8").splitlines()
        digest = sha256_bytes("\n".join(names).encode())
        card = ModelCard(
            "conse-1", digest, digest, digest, digest, DIMS, 0, True, composition="sum", architecture="conse"
        )
        super().__init__(card, torch.device("cpu"), None)
        self._preprocess = Preprocess(SIDE, 1.0, 255, flatten=True, mean=STATISTICS[0], std=STATISTICS[1])
        trunk = package(BACKBONE_PACKAGE) / "models"
        self._trunk = EfficientNetLite0(stages=(6,))
        self._trunk.load_state_dict(efficientnet_lite0_state(trunk))
        state = torch.load(next(trunk.glob("*.pth")), weights_only=True)
        gain = state["_bn1.weight"] / torch.sqrt(state["_bn1.running_var"] + BATCH_NORM_EPSILON)
        self._head = state["_conv_head.weight"][:, :, 0, 0] * gain[:, None]
        self._head_bias = state["_bn1.bias"] - state["_bn1.running_mean"] * gain
        self._classifier, self._classifier_bias = state["_fc.weight"], state["_fc.bias"]
        text = package(TEXT_PACKAGE) / "model"
        sizes = parse_json(read_regular(text / "config.json", 10**6))
        self._bert = BertModel(BertConfig(**sizes), add_pooling_layer=False).eval()
        self._bert.load_state_dict(minilm_state(text), strict=False)
        self._tokenizer = Tokenizer(read_vocabulary(text / "vocab.txt"))
        self._names = F.normalize(torch.from_numpy(self.text_features(names)), dim=-1)

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        """(3, H, W)."""
        return 3, SIDE, SIDE

    def preprocess(self, image: Image) -> Floats:
        """One decoded picture -> (3, H, W) float32."""
        return self._preprocess(as_picture(image))

    @torch.inference_mode()
    def image_features(self, pixels: Floats) -> Floats:
        """(B, 3, H, W) -> (B, D) float32: the likeliest classes' names, weighted by their probabilities."""
        maps = self._trunk(torch.from_numpy(pixels))
        pooled = F.relu6(maps @ self._head.T + self._head_bias).mean(dim=1)
        chances = (pooled @ self._classifier.T + self._classifier_bias).softmax(dim=-1)
        best = chances.topk(LIKELIEST)
        mixed: Floats = (best.values[:, :, None] * self._names[best.indices]).sum(dim=1).numpy()
        return mixed

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str]) -> Floats:
        """B captions -> (B, D) float32: MiniLM's states, averaged over the words."""
        parts = []
        for start in range(0, len(captions), 128):
            ids, mask = (torch.from_numpy(part) for part in self._tokenizer(captions[start : start + 128], LENGTH))
            states = self._bert(input_ids=ids, attention_mask=mask).last_hidden_state
            parts.append((states * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True))
        pooled: Floats = torch.cat(parts).numpy()
        return pooled

    def unread(self, caption: str) -> str:
        """The end of a caption that is too long to be read; "" if all of it is read."""
        return self._tokenizer.unread(caption, LENGTH)
