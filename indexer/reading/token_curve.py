"""What token codes find for which effort: measured when they are made, and what each search is promised from.

The effort is the share of the images that are opened, in the order of their means (`token_codes`). Recall at depth d is
the share of the d best images, by the stored tokens, that lie in it. A filter that leaves a share s of the images makes
the k best of them lie at about depth k / s of all, so curves over several depths serve every filter that has nothing to
do with the query.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from cir.arrays import Floats, Rows, Stored, unit
from cir.typed_json import Within

DEPTHS = (10, 30, 100, 300, 1000)
QUERIES = 128  # of each kind
OPENED = tuple(round(2 ** (-step / 2), 5) for step in range(20, -1, -1))  # 1/1024 ... 1
_Z = 1.645  # of a one-sided bound of 95 %

Count = Annotated[int, Within(1, 10**9)]
Share = Annotated[float, Within(0, 1)]


@dataclass(frozen=True)
class OpeningCurve:
    """Recall against the share of the images that are opened.

    Attributes:
        queries: number of queries of each kind, see `Judged`.
        depths: ascending.
        opened: shares, ascending; the last one is 1.
        recall: for each depth, at each share: the mean over the queries of the kind for which it is lowest.
        lower: the same for lower bounds of 95 %, which are what is promised.
    """

    queries: Mapping[str, Count]
    depths: Annotated[tuple[Count, ...], Within(1, 100)]
    opened: Annotated[tuple[Share, ...], Within(1, 1000)]
    recall: tuple[tuple[Share, ...], ...]
    lower: tuple[tuple[Share, ...], ...]

    def __post_init__(self) -> None:
        for name, values in (("depths", self.depths), ("opened", self.opened)):
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name}: not ascending")
        if self.opened[-1] != 1:
            raise ValueError("opened: does not end with 1")
        for name, lines in (("recall", self.recall), ("lower", self.lower)):
            if [len(line) for line in lines] != [len(self.opened)] * len(self.depths):
                raise ValueError(f"{name}: contradicts the depths or the shares")

    def promised(self, share: float) -> float:
        """The lower bound of recall at the least depth when a share of `opened` is opened."""
        return self.lower[0][self.opened.index(share)]

    def share(self, count: int, left: float, recall: float) -> float:
        """The least measured share of the images to open for a recall; 1 if no other is enough.

        Args:
            count: images wanted, at least 1.
            left: share of the images that may be found, above 0.
            recall: wanted.
        """
        for depth, line in zip(self.depths, self.lower, strict=True):
            if depth >= count / left:
                enough = (share for share, found in zip(self.opened, line, strict=True) if found >= recall)
                return next(enough, 1.0)
        return 1.0


class Judged:
    """Queries of one kind, and the best images for each as they are found, block by block.

    - "stored": a token of the gallery; its own image does not count, since it would always be found.
    - "between": half way between tokens of two images, the nearest thing to a composed query known without a model.
    - "given": real queries, if there are some.

    Args:
        queries: (B, D) float32, unit-norm.
        own: (B,) the image of each query, which is not one of its answers; None without.

    Attributes:
        queries: as given.
    """

    def __init__(self, queries: Floats, own: Rows | None = None) -> None:
        self.queries, self._own = queries, own
        self._rows = np.empty((len(queries), 0), np.int64)
        self._scores = np.empty((len(queries), 0), np.float32)

    def add(self, start: int, block: Floats) -> None:
        """Take the (n, T, D) float32 tokens of the images from `start` on."""
        scores = (block.reshape(-1, block.shape[-1]) @ self.queries.T).reshape(*block.shape[:2], -1).max(axis=1).T
        rows = np.broadcast_to(np.arange(start, start + len(block)), scores.shape)
        if self._own is not None:
            scores = np.where(rows == self._own[:, None], -np.inf, scores)
        self._rows = np.concatenate([self._rows, rows], axis=1)
        self._scores = np.concatenate([self._scores, scores], axis=1)
        if self._scores.shape[1] > DEPTHS[-1]:
            best = np.argpartition(self._scores, -DEPTHS[-1], axis=1)[:, -DEPTHS[-1] :]
            self._rows = np.take_along_axis(self._rows, best, axis=1)
            self._scores = np.take_along_axis(self._scores, best, axis=1)

    def best(self) -> Rows:
        """(B, m) the best images seen, best first."""
        return np.take_along_axis(self._rows, np.argsort(-self._scores, axis=1, kind="stable"), axis=1)


def questions(tokens: Stored, given: Floats | None) -> dict[str, Judged]:
    """Queries of each kind.

    Args:
        tokens: (N, T, D), unit-norm.
        given: (B, D) float32, unit-norm, or None.
    """
    rng = np.random.default_rng(0)
    images, each, _ = tokens.shape
    own = rng.choice(images, min(QUERIES, images), replace=False)
    stored = tokens[own, rng.integers(0, each, len(own))].astype(np.float32)
    kinds = {"stored": Judged(stored, own), "between": Judged(unit(stored + rng.permutation(stored)))}
    if given is not None and len(given):
        kinds["given"] = Judged(np.asarray(given[:QUERIES], np.float32))
    return kinds


def curve_of(images: int, places: Mapping[str, Rows]) -> OpeningCurve:
    """The curve of finished codes.

    Args:
        images: how many there are.
        places: for each kind (B, m) where the best images, best first, stand in the order of means.
    """
    depths = tuple(depth for depth in DEPTHS if depth == DEPTHS[0] or depth * 10 <= images)
    recall, lower = (
        tuple(tuple(line) for line in np.min(lines, axis=0).round(5).tolist())
        for lines in zip(*(_found(images, depths, each) for each in places.values()), strict=True)
    )
    return OpeningCurve({kind: len(each) for kind, each in places.items()}, depths, OPENED, recall, lower)


def _found(images: int, depths: Iterable[int], places: Rows) -> tuple[Floats, Floats]:
    """(depths, shares) means and lower bounds of recall."""
    found = np.array([[(places[:, :depth] < share * images).mean(axis=1) for share in OPENED] for depth in depths])
    mean = found.mean(axis=2)
    return mean, np.clip(mean - _Z * found.std(axis=2) / np.sqrt(len(places)), 0, 1)
