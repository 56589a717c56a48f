"""The numbers in the configuration and the picture processor of a hub encoder, bounded: they come out of files.

Absurd ones would take all memory before any library refuses them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

# Twice and more what any published model has.
SIZES = {
    **dict.fromkeys(("num_hidden_layers", "depth"), 128),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads", "patch_size"), 256),
    **dict.fromkeys(("head_dim", "spatial_merge_size", "temporal_patch_size"), 1024),
    **dict.fromkeys(("image_size",), 4096),
    **dict.fromkeys(("projection_dim", "projection_size"), 8192),
    **dict.fromkeys(("hidden_size", "out_hidden_size"), 16_384),
    **dict.fromkeys(("intermediate_size", "num_patches", "num_position_embeddings"), 65_536),
    "max_position_embeddings": 4_194_304,
    "vocab_size": 4_000_000,
}
SIDE, PATCHES = 4096, 16_384
AREA = 1 << 30  # Qwen's processor counts pixels, not sides


def config_problem(config: Mapping[str, Any]) -> str:
    """The first size in a configuration that no model has; empty if there is none."""
    for name, value in _walk(config):
        limit = SIZES.get(name.rpartition(".")[2])
        if limit is not None and not _whole(value, limit):
            return f"{name} is {str(value)[:40]!r}, not a whole number from 1 to {limit:,}"
    return ""


def processor_problem(content: Mapping[str, Any], *, counts_pixels: bool) -> str:
    """Why a picture processor cannot be meant, or leaves pixels to be guessed; empty if it is sound.

    Args:
        content: of its file.
        counts_pixels: whether its sizes are numbers of pixels, as Qwen's are.
    """
    inner = content.get("image_processor")
    settings = inner if isinstance(inner, Mapping) else content
    for name in ("image_mean", "image_std"):
        values = settings.get(name)
        if not isinstance(values, list) or len(values) != 3 or not all(map(_number, values)):
            return f"{name} is not three numbers"
        if name == "image_std" and min(values) <= 0:
            return f"{name} has a number that is not above 0"
    limit = AREA if counts_pixels else SIDE
    for name in ("size", "crop_size"):
        given = settings.get(name)
        sides = given.values() if isinstance(given, Mapping) else [given]
        for side in sides:
            if side is not None and not _whole(side, limit):
                return f"{name} holds {str(side)[:40]!r}, not a whole number from 1 to {limit:,}"
    for name, most in (("max_num_patches", PATCHES), ("patch_size", 256), ("merge_size", 16)):
        if settings.get(name) is not None and not _whole(settings[name], most):
            return f"{name} is {str(settings[name])[:40]!r}, not a whole number from 1 to {most:,}"
    return ""


def _walk(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _walk(value, f"{above}{name}.")
        elif value is not None:
            yield f"{above}{name}", value


def _whole(value: Any, limit: int) -> bool:
    return type(value) is int and 1 <= value <= limit


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
