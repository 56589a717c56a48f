"""Small random encoders in the form of the hub, saved by transformers itself: config, weights, processor, tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WIDTH, DIMS, SIDE, PATCH = 32, 16, 32, 8
WORDS = (
    "red",
    "blue",
    "sleeves",
    "long",
    "with",
    "dress",
    "shirt",
    "in",
    "and",
    "a",
    "the",
    "collar",
    "has",
    "no",
    "is",
)


def save_clip(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A CLIP: shortest side resized, centre cropped; the text is pooled at its end."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    vocabulary = _byte_vocabulary(["<|startoftext|>", "<|endoftext|>"], suffix="</w>")
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[])
    ends = {
        "bos_token_id": vocabulary["<|startoftext|>"],
        "eos_token_id": vocabulary["<|endoftext|>"],
        "pad_token_id": vocabulary["<|endoftext|>"],
    }
    text = _text(len(vocabulary)) | {"max_position_embeddings": 77} | ends
    config = CLIPConfig(text_config=text, vision_config=_vision(), projection_dim=DIMS, **changes)
    torch.manual_seed(seed)
    return _save(
        folder,
        CLIPModel(config),
        tokenizer,
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
    )


def save_siglip(folder: Path, *, seed: int = 0) -> Path:
    """A SigLIP of one resolution: resized to the exact square, the text padded to the length of training."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    tokenizer = _siglip2_tokenizer()
    text = _text(len(tokenizer)) | {"max_position_embeddings": 64, "projection_size": WIDTH}
    torch.manual_seed(seed)
    return _save(
        folder,
        SiglipModel(SiglipConfig(text_config=text, vision_config=_vision())),
        tokenizer,
        SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}),
    )


def save_siglip2(folder: Path, *, seed: int = 0) -> Path:
    """A SigLIP 2 of a variable resolution (NaFlex): patches with a mask."""
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model

    tokenizer = _siglip2_tokenizer()
    text = _text(len(tokenizer)) | {"max_position_embeddings": 64, "projection_size": WIDTH}
    vision = _vision() | {"num_patches": 16}
    del vision["image_size"]
    torch.manual_seed(seed)
    return _save(
        folder,
        Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)),
        tokenizer,
        Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=16),
    )


def save_qwen3_vl(folder: Path, *, seed: int = 0) -> Path:
    """A Qwen3-VL: the embedder that reads picture and text together."""
    from transformers import Qwen2Tokenizer, Qwen2VLImageProcessorPil, Qwen3VLConfig, Qwen3VLModel

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    vocabulary = _byte_vocabulary([])
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=special[1:])
    tokenizer.chat_template = CHAT
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {
        "depth": 2,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(seed)
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 16 * PATCH**2, "longest_edge": 64 * PATCH**2}, patch_size=PATCH, merge_size=2
    )
    return _save(folder, Qwen3VLModel(config), tokenizer, processor)


# In the form of the published template: turns between marks, pictures between theirs.
CHAT = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n"
    "{% for part in turn.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _save(folder: Path, model: Any, tokenizer: Any, processor: Any) -> Path:
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _text(words: int) -> dict[str, Any]:
    return {
        "vocab_size": words,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }


def _vision() -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
    }


def _byte_vocabulary(special: list[str], suffix: str = "") -> dict[str, int]:
    """Every byte as a piece, at the end of a word and within, so that any text can be cut without merges."""
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(letter + suffix for letter in letters if suffix), *special]
    return {piece: number for number, piece in enumerate(pieces)}


def _siglip2_tokenizer() -> Any:
    from transformers import Siglip2Tokenizer

    letters = "▁abcdefghijklmnopqrstuvwxyz0123456789-'.,"
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *letters]
    return Siglip2Tokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])
