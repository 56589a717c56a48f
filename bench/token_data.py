"""Tokens and queries made from a seed, block by block: no tokens of an official model can be had here.

`Clustered` invents them. Each image has a direction of its own, near those of its subject; each of its tokens adds one
of the prototypes that its subject has for that token, and noise. The shares decide how alike the tokens of an image
are, and how near the nearest token of another image: "medium" 0.67 and 0.90, "high" 0.87 and 0.94 (cosines). "none" has
neither, which is the worst case for every method but a scan. `Multiplied` makes many images out of the real tokens of a
few, such as a model with random weights gives for real photos. A block depends on nothing but the seed and its number,
so that data of any size needs no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cir.arrays import Floats, unit

TOKENS, DIMS, BLOCK = 32, 256, 2_048
_TOPICS, _SUBJECTS, _PROTOTYPES = 40, 30, 4  # subjects per topic, prototypes per token and subject


@dataclass(frozen=True)
class Statistics:
    """Shares of a token's squared length: of its image, of its prototype; the rest is noise of its own.

    Attributes:
        image, prototype: the shares.
        common, topic, subject: shares of an image's direction; the rest is its own.
    """

    image: float
    prototype: float
    common: float = 0.33
    topic: float = 0.25
    subject: float = 0.30


STATISTICS = {
    "medium": Statistics(image=0.66, prototype=0.26),
    "high": Statistics(image=0.86, prototype=0.10),
    "none": Statistics(image=0.0, prototype=0.0),
}


class TokenData:
    """Tokens of any number of images, made from a seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def blocks(self, images: int) -> Iterator[Floats]:
        """Blocks of (n, T, D) float32, unit-norm, `images` in all."""
        for number, start in enumerate(range(0, images, BLOCK)):
            yield self._block(number)[: images - start]

    def queries(self, images: int, count: int) -> Floats:
        """(count, D) float32, unit-norm: each a token of one of the images, moved as a caption might move it."""
        rng = np.random.default_rng([self._seed, 3])
        chosen = np.sort(rng.choice(images, count, replace=count > images))
        found = []
        for number in np.unique(chosen // BLOCK):
            block = self._block(int(number))
            rows = chosen[chosen // BLOCK == number] % BLOCK
            found.append(block[rows, rng.integers(0, block.shape[1], len(rows))])
        return unit(self._moved(np.concatenate(found), rng))

    def _block(self, number: int) -> Floats:
        """(BLOCK, T, D) float32, unit-norm."""
        raise NotImplementedError

    def _moved(self, tokens: Floats, rng: np.random.Generator) -> Floats:
        raise NotImplementedError


class Clustered(TokenData):
    """Invented tokens.

    Args:
        name: one of STATISTICS.
        seed: of everything.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        super().__init__(seed)
        self._shares = STATISTICS[name]
        rng = np.random.default_rng([seed, 1])
        self._common = _directions(rng, 1)
        self._topics = _directions(rng, _TOPICS)
        self._subjects = _directions(rng, _TOPICS * _SUBJECTS)
        self._prototypes = _directions(rng, _TOPICS, TOKENS, _PROTOTYPES)
        self._gap = _directions(rng, 1)
        order = np.arange(1, len(self._subjects) + 1) ** -0.7
        self._popularity = rng.permutation(order / order.sum())

    def _moved(self, tokens: Floats, rng: np.random.Generator) -> Floats:
        """Noise, and what all queries have in common."""
        return tokens + 0.7 * _directions(rng, len(tokens)) + 0.3 * self._gap

    def _block(self, number: int) -> Floats:
        rng = np.random.default_rng([self._seed, 2, number])
        shares = self._shares
        subject = rng.choice(len(self._subjects), BLOCK, p=self._popularity)
        topic = subject // _SUBJECTS
        own = 1 - shares.common - shares.topic - shares.subject
        image = unit(
            shares.common**0.5 * self._common
            + shares.topic**0.5 * self._topics[topic]
            + shares.subject**0.5 * self._subjects[subject]
            + own**0.5 * _directions(rng, BLOCK)
        )
        which = rng.integers(0, _PROTOTYPES, (BLOCK, TOKENS))
        prototype = self._prototypes[topic[:, None], np.arange(TOKENS), which]
        noise = 1 - shares.image - shares.prototype
        return unit(
            shares.image**0.5 * image[:, None]
            + shares.prototype**0.5 * prototype
            + noise**0.5 * _directions(rng, BLOCK, TOKENS)
        )


class Multiplied(TokenData):
    """Images between real ones: one, moved along the difference of two others, and a little noise.

    Args:
        tokens: (N, T, D) float32 of real images, unit-norm.
        queries: (B, D) float32, unit-norm: real queries, which are mixed; without them tokens are moved.
        seed: of everything.
    """

    def __init__(self, tokens: Floats, queries: Floats | None = None, seed: int = 0) -> None:
        super().__init__(seed)
        self._tokens = np.asarray(tokens, np.float32)
        self._queries = queries
        self._spread = float(np.linalg.norm(self._tokens - self._tokens.mean(axis=0), axis=-1).mean())

    def queries(self, images: int, count: int) -> Floats:
        """As above; with real queries mixtures of two of them."""
        if self._queries is None:
            return super().queries(images, count)
        rng = np.random.default_rng([self._seed, 3])
        first, second = self._queries[rng.integers(0, len(self._queries), (2, count))]
        share = rng.uniform(0, 0.5, (count, 1)).astype(np.float32)
        return unit((1 - share) * first + share * second + 0.1 * _noise(rng, *first.shape))

    def _block(self, number: int) -> Floats:
        rng = np.random.default_rng([self._seed, 2, number])
        first, second, third = self._tokens[rng.integers(0, len(self._tokens), (3, BLOCK))]
        share = rng.uniform(0.2, 0.8, (BLOCK, 1, 1)).astype(np.float32)
        return unit(first + share * (second - third) + 0.2 * self._spread * _noise(rng, *first.shape))

    def _moved(self, tokens: Floats, rng: np.random.Generator) -> Floats:
        """Along the differences of real tokens, and anywhere."""
        flat = self._tokens.reshape(-1, self._tokens.shape[-1])
        first, second = flat[rng.integers(0, len(flat), (2, len(tokens)))]
        return tokens + 0.5 * (first - second) + 0.3 * _noise(rng, *tokens.shape)


def _noise(rng: np.random.Generator, *shape: int) -> Floats:
    return unit(rng.standard_normal(shape, np.float32))


def _directions(rng: np.random.Generator, *shape: int) -> Floats:
    """(*shape, DIMS) unit vectors whose spectrum falls as those of photos do."""
    spectrum = (np.arange(1, DIMS + 1) ** -0.5).astype(np.float32)
    return unit(rng.standard_normal((*shape, DIMS), np.float32) * spectrum)
