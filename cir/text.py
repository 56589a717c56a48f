"""Captions: cleaned as LAVIS does, cut into word pieces of bert-base-uncased."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from cir.errors import UsageError, WeightsError
from cir.files import read_regular, sha256_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_WORDS = 50
LARGEST_VOCABULARY = 16_000_000  # bytes; bert-base-uncased's has 231,508
_PUNCTUATION = re.compile(r"[.!\"()*#:;~]")
_SPACES = re.compile(r"\s{2,}")


def clean_caption(caption: str) -> str:
    """The caption processor of LAVIS, as SPRC uses it: lower case, some punctuation to spaces, at most 50 words."""
    return " ".join(_clean(caption).split(" ")[:MAX_WORDS])


def _clean(caption: str) -> str:
    return _SPACES.sub(" ", _PUNCTUATION.sub(" ", caption.lower())).rstrip("\n").strip(" ")


def read_vocabulary(path: Path) -> list[str]:
    """The word pieces of a `vocab.txt`, one per line.

    Raises:
        WeightsError: the file is missing or is not a BERT vocabulary.
    """
    return _words(path, _read(path))


def check_vocabulary(path: Path, digest: str) -> list[str]:
    """The word pieces of a `vocab.txt` whose SHA-256 is `digest`. Raises WeightsError for another file."""
    data = _read(path)
    words = _words(path, data)
    if sha256_bytes(data) != digest:
        raise WeightsError(f"{path}: not the vocabulary of this model; copy the model's own")
    return words


def _read(path: Path) -> bytes:
    try:
        return read_regular(path, LARGEST_VOCABULARY)
    except FileNotFoundError:
        raise WeightsError(f"{path}: the tokenizer's vocabulary is missing; copy the whole model directory") from None
    except OSError as error:
        raise WeightsError(f"{path}: not a vocabulary: {error.strerror}; copy it again") from None


def _words(path: Path, data: bytes) -> list[str]:
    try:
        words = data.decode().splitlines()
    except UnicodeDecodeError:
        raise WeightsError(f"{path}: not a vocabulary in UTF-8, one word piece per line; copy it again") from None
    missing = [word for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if word not in words]
    if missing or words[0] != "[PAD]":
        why = f"it has no {missing[0]}" if missing else "its first word is not [PAD]"
        raise WeightsError(f"{path}: not a BERT vocabulary; {why}")
    return words


def _encodable(caption: str) -> str:
    """A text with halves of surrogate pairs joined, and replaced where one stands alone; any other as it is."""
    try:
        caption.encode()
    except UnicodeEncodeError:
        return caption.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return caption


class Tokenizer:
    """WordPiece of bert-base-uncased. Safe to call from several threads.

    Args:
        words: of a vocabulary, in order.
        pad_to_longest: pad a batch to its longest caption instead of L. Padding is masked, so vectors agree to
            rounding, and twelve words take a third of the time of 32.
    """

    def __init__(self, words: Sequence[str], *, pad_to_longest: bool = True) -> None:
        from tokenizers import BertWordPieceTokenizer

        self._pieces = BertWordPieceTokenizer(vocab={word: i for i, word in enumerate(words)}, lowercase=True)
        self._pad_to_longest = pad_to_longest
        self._lock = Lock()
        self.size = len(words)

    def __call__(self, captions: Sequence[str], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """B raw captions -> ids and mask, each (B, L) int64; L is `length` or the longest caption's if shorter.

        Raises:
            UsageError: one text in place of a list of captions, or something else than text among them.
        """
        import numpy as np

        if isinstance(captions, str) or not all(isinstance(caption, str) for caption in captions):
            raise UsageError('captions are a list of texts; write ["in red"], not "in red"')
        with self._lock:  # truncation is a setting of the tokenizer
            self._pieces.enable_truncation(length)
            encoded = self._pieces.encode_batch([clean_caption(_encodable(caption)) for caption in captions])
        width = max((len(pieces.ids) for pieces in encoded), default=length) if self._pad_to_longest else length
        ids = np.zeros((len(encoded), width), np.int64)  # 0 is [PAD]
        mask = np.zeros((len(encoded), width), np.int64)
        for row, pieces in enumerate(encoded):
            ids[row, : len(pieces.ids)] = pieces.ids
            mask[row, : len(pieces.ids)] = 1
        return ids, mask

    def unread(self, caption: str, length: int) -> str:
        """The end of a raw caption, cleaned, that is left out when it is cut to `length` pieces; "" if nothing is."""
        cleaned, read = _clean(caption), clean_caption(caption)
        if cleaned == read and len(read) <= length - 2:  # [CLS] and [SEP] are pieces too
            return ""
        with self._lock:
            self._pieces.no_truncation()
            offsets = self._pieces.encode(read).offsets
        if len(offsets) <= length:
            return cleaned[len(read) :].strip(" ")
        return cleaned[read.rfind(" ", 0, offsets[length - 1][0] + 1) + 1 :]
