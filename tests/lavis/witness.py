"""LAVIS's side of scripts/check_lavis: runs in LAVIS's environment, and imports nothing of cir.

    python witness.py eva_clip_g|clip_L FOLDER

Writes FOLDER/blip2.pth, a checkpoint as LAVIS saves it, and FOLDER/witness.npz, the features LAVIS computes with it.
Everything that LAVIS would download is given to it here: the tokenizer's words, BERT's sizes, the image encoder's
weights.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

DEPTH = 2  # blocks of the image encoder; with DEPTH + 2 layers of the Q-Former two see the image
WORDS = Path(__file__).parents[2] / "cir" / "weights" / "vocab.txt"
CAPTIONS = ["is shiny and silver with shorter sleeves", "remove the dog, and make the sofa red - not blue", "x"]


def import_torchvision() -> None:
    """Import torchvision for LAVIS. Beside a CPU torch, PyPI's CUDA build lacks two operators that it registers."""
    try:
        import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        import_module("torchvision")

        globals()["_library"] = library  # the operators live as long as it


def build(vision: str, folder: Path) -> torch.nn.Module:
    """LAVIS's Blip2Qformer, its image encoder stored in float16, with random weights everywhere."""
    import_torchvision()
    from lavis.models import clip_vit, eva_vit
    from lavis.models.blip2_models import blip2
    from lavis.models.blip2_models.blip2_qformer import Blip2Qformer

    tokenizer, config = blip2.BertTokenizer(str(WORDS)), blip2.BertConfig(num_hidden_layers=DEPTH + 2)
    blip2.BertTokenizer.from_pretrained = lambda name: tokenizer
    blip2.BertConfig.from_pretrained = lambda name: config
    from_config = blip2.BertLMHeadModel
    blip2.BertLMHeadModel.from_pretrained = lambda name, config: from_config(config)
    torch.save(
        {"pos_embed": torch.zeros(1, 257, 1408), "positional_embedding": torch.zeros(257, 1024)}, folder / "v.pth"
    )
    for module in (eva_vit, clip_vit):
        module.download_cached_file = lambda url, **_: str(folder / "v.pth")
    eva, clip = eva_vit.VisionTransformer, clip_vit.VisionTransformer
    eva_vit.VisionTransformer = lambda **sizes: eva(**{**sizes, "depth": DEPTH})
    clip_vit.VisionTransformer = lambda **sizes: clip(**{**sizes, "layers": DEPTH + 1})  # it builds one less
    model = Blip2Qformer(vit_model=vision).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            norm = value.ndim == 1 and name.endswith("weight")
            value.copy_(torch.randn(value.shape) * (0.1 if value.ndim == 1 else 0.03) + float(norm))
        model.temp.fill_(0.05)
    return model


@torch.no_grad()
def main() -> None:
    """Build, save, compute."""
    vision, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    model = build(vision, folder)
    torch.save({"model": model.state_dict()}, folder / "blip2.pth")
    model = model.float()  # as LAVIS does on a CPU
    pixels = torch.randn(4, 3, 224, 224)
    images = model.extract_features({"image": pixels}, mode="image").image_embeds_proj
    texts = model.extract_features({"text_input": CAPTIONS}, mode="text").text_embeds_proj[:, 0]
    ids = model.tokenizer(CAPTIONS, return_tensors="np", padding=True).input_ids
    np.savez(folder / "witness.npz", pixels=pixels, captions=CAPTIONS, images=images, texts=texts, ids=ids)


main()
