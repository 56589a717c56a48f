"""How much of a caption a tokenizer of the hub reads, whichever kind it is."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any


def read_part(tokenizer: Any, caption: str, length: int) -> str:
    """The beginning of a caption that fits, whole words; all of it in the usual case.

    Args:
        tokenizer: of transformers.
        caption: as given.
        length: longest caption in pieces, those at both ends included.
    """

    def pieces(text: str) -> int:
        return len(tokenizer(text, truncation=False, padding=False)["input_ids"])

    if pieces(caption) <= length:
        return caption
    words = caption.split(" ")
    fitting = bisect_right(range(len(words)), length, key=lambda count: pieces(" ".join(words[: count + 1])))
    return " ".join(words[:fitting])
