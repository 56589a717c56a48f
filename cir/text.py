"""Captions: cleaned as LAVIS does, cut into word pieces of bert-base-uncased."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from cir.errors import WeightsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_WORDS = 50
_PUNCTUATION = re.compile(r"[.!\"()*#:;~]")
_SPACES = re.compile(r"\s{2,}")


def clean_caption(caption: str) -> str:
    """The caption processor of LAVIS, as SPRC uses it: lower case, some punctuation to spaces, 50 words."""
    caption = _SPACES.sub(" ", _PUNCTUATION.sub(" ", caption.lower()))
    caption = caption.rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:MAX_WORDS])


class Tokenizer:
    """WordPiece of bert-base-uncased, from a `vocab.txt`.

    Args:
        vocabulary: one word piece a line.
        pad_to_longest: pad a batch to its longest caption instead of L. Padding is masked, so vectors are the same
            to rounding, and a dozen words cost a third of 32.

    Raises:
        WeightsError: the file is missing or is not a BERT vocabulary.
    """

    def __init__(self, vocabulary: Path, *, pad_to_longest: bool = True) -> None:
        from tokenizers import BertWordPieceTokenizer

        if not vocabulary.is_file():
            raise WeightsError(f"{vocabulary}: the tokenizer's vocabulary is missing; copy the whole model directory")
        try:
            words = vocabulary.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise WeightsError(f"{vocabulary}: not a vocabulary in UTF-8, one word piece a line") from None
        missing = [word for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if word not in words]
        if missing or words[0] != "[PAD]":
            why = f"it has no {missing[0]}" if missing else "its first word is not [PAD]"
            raise WeightsError(f"{vocabulary}: not a BERT vocabulary; {why}")
        self._pieces = BertWordPieceTokenizer(vocab={word: i for i, word in enumerate(words)}, lowercase=True)
        self._pad_to_longest = pad_to_longest
        self._lock = Lock()
        self.size = len(words)

    def __call__(self, captions: Sequence[str], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """B raw captions -> ids and mask, each (B, L) int64; L is `length` or the longest caption's if shorter."""
        import numpy as np

        with self._lock:  # truncation is a setting of the tokenizer, which several threads share
            self._pieces.enable_truncation(length)
            encoded = [self._pieces.encode(clean_caption(caption)) for caption in captions]
        width = max((len(one.ids) for one in encoded), default=length) if self._pad_to_longest else length
        ids = np.zeros((len(encoded), width), np.int64)  # 0 is [PAD]
        mask = np.zeros((len(encoded), width), np.int64)
        for row, one in enumerate(encoded):
            ids[row, : len(one.ids)] = one.ids
            mask[row, : len(one.ids)] = 1
        return ids, mask
