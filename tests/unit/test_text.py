"""Caption cleaning and tokenising."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cir.errors import WeightsError
from cir.text import Tokenizer, clean_caption, read_vocabulary


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Is RED.", "is red"),
        ('the "same" (but: blue)!', "the same but blue"),
        ("keeps commas, hyphens-and what's this?", "keeps commas, hyphens-and what's this?"),
        ("  spaces \t\n everywhere  \n", "spaces everywhere"),
        (" ".join(["word"] * 60), " ".join(["word"] * 50)),
        ("", ""),
    ],
)
def test_cleaning_is_lavis(raw: str, clean: str) -> None:
    assert clean_caption(raw) == clean


def test_cleaning_equals_the_official_captions(shared: Path) -> None:
    oracle = json.loads((shared / "oracles" / "sprc-tiny" / "oracle.json").read_text())
    assert [clean_caption(raw) for raw in oracle["captions_raw"]] == oracle["captions_processed"]


def test_batches_are_padded_and_truncated(tiny_model: Path) -> None:
    tokenizer = Tokenizer(read_vocabulary(tiny_model / "vocab.txt"))
    ids, mask = tokenizer(["red", "red with long sleeves"], 32)
    assert ids.tolist() == [[2, 5, 3, 0, 0, 0], [2, 5, 7, 8, 9, 3]]
    assert mask.tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    ids, _ = tokenizer(["red " * 60], 8)
    assert ids.shape == (1, 8)
    assert ids[0, -1] == 3  # [SEP] survives the cut
    assert Tokenizer(read_vocabulary(tiny_model / "vocab.txt"), pad_to_longest=False)(["red"], 32)[0].shape == (1, 32)


@pytest.mark.parametrize(
    ("caption", "length", "unread"),
    [
        ("red", 8, ""),
        ("red with long sleeves", 6, ""),
        ("Red, with LONG sleeves", 6, "sleeves"),  # [CLS] red , with long [SEP]
        ("red with blue abc", 6, "abc"),  # a word of three pieces, of which one would fit
        ("red " * 60, 300, " ".join(["red"] * 10)),  # fifty words, as the official code
        ("red " * 60, 8, " ".join(["red"] * 54)),
        ("red... " * 8, 8, "red red"),
        ("", 8, ""),
    ],
)
def test_what_a_long_caption_loses_is_told(tiny_model: Path, caption: str, length: int, unread: str) -> None:
    assert Tokenizer(read_vocabulary(tiny_model / "vocab.txt")).unread(caption, length) == unread


def test_a_wrong_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="vocabulary is missing"):
        read_vocabulary(tmp_path / "vocab.txt")
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(WeightsError, match="not a BERT vocabulary"):
        read_vocabulary(tmp_path / "vocab.txt")
