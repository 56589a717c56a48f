"""Compact codes of the tokens of one large segment. They are derived: lost ones cost a pass over the tokens to make.

The T tokens of an image are turned, along T, into their mean and T - 1 differences (an orthonormal cosine transform),
each as D 8-bit numbers. That takes T x D bytes an image, as 8-bit tokens do, and is no less exact. The means of all
images lie together. A query is compared with those first, which reads 1/T of the codes. Only the images whose means are
nearest are opened: their differences are read, which gives the scores of all their tokens. How many must be opened for
which recall was measured when the codes were made (`token_curve`); if it is all, this is a scan of 8-bit tokens. The
caller scores what is found again, from the stored tokens.

Codes are mapped from the file and not copied.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from cir.arrays import Floats, Mask, Rows, Stored
from cir.errors import DataError
from cir.files import write_atomically
from cir.indexer.reading.kernels import numkong
from cir.indexer.reading.token_curve import OpeningCurve, curve_of, questions
from cir.indexer.storage.derived import measured_of, problem_of, write_record
from cir.threads import free_cores
from cir.typed_json import Within, from_json, to_json

FILE = "tokens.codes"
_SAMPLE = 1024  # images whose largest numbers fix the scales
_BUILD_BYTES = 32 * 1024 * 1024  # of tokens in float32
_BLOCK_BYTES = 512 * 1024  # of codes, which stay in the cache between copy and product
_THREAD_BYTES = 2 * 1024 * 1024  # below, a second thread costs more than it saves
_GROUP = 8  # queries that share what is opened for any of them
_LEAST_OPENED = 256

Codes = NDArray[np.int8]
Scale = Annotated[float, Within(1e-9, 1)]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measured:
    """What a reader must know about codes.

    Attributes:
        mean_scale, difference_scale: what one step of an 8-bit number is worth.
        curve: what is found for which effort.
    """

    mean_scale: Scale
    difference_scale: Scale
    curve: OpeningCurve


class TokenCodes:
    """The codes of (N, T, D) tokens. Safe to share between threads.

    Args:
        means: (N, D) int8.
        differences: (N, T - 1, D) int8.
        measured: what belongs to them.

    Attributes:
        curve: what is found for which effort.
    """

    def __init__(self, means: Codes, differences: Codes, measured: Measured) -> None:
        """Use `load_or_build`."""
        self._means, self._differences = means, differences
        self.curve = measured.curve
        transform = _transform(differences.shape[1] + 1)
        self._of_mean = measured.mean_scale * float(transform[0, 0])  # what a step counts in the score of each token
        self._of_differences = (np.float32(measured.difference_scale) * transform[1:]).T  # (T, T - 1)

    def pay(self, left: int) -> bool:
        """Whether a search among `left` images reads less here than in the stored tokens, of two bytes at least."""
        tokens: int = self._differences.shape[1] + 1
        return len(self._means) < left * 2 * tokens

    def search(self, queries: Floats, count: int, recall: float, usable: Mask | None = None) -> list[Rows]:
        """Candidates for the best `count` rows of each query; to be scored again.

        Args:
            queries: (B, D) float32, unit-norm.
            count: rows wanted per query, at least 1.
            recall: share of them that is wanted on average; from 1 on all images are opened.
            usable: (N,) which rows may be returned; None for all.

        Returns:
            B arrays of rows, unordered: all usable ones or a few more than `count`.
        """
        rows = None if usable is None else np.flatnonzero(usable)
        left = len(self._means) if rows is None else len(rows)
        if not left:
            return [np.empty(0, np.int64)] * len(queries)
        fetch = min(left, 2 * count + 20)  # the order is that of 8-bit codes
        share = self.curve.share(count, left / len(self._means), recall) if recall < 1 else 1.0
        opened = min(left, max(_LEAST_OPENED, 2 * fetch, round(left * share)))
        found: list[Rows] = []
        for start in range(0, len(queries), _GROUP):
            found += self._search(queries[start : start + _GROUP], fetch, opened, rows)
        return found

    def _search(self, queries: Floats, fetch: int, opened: int, rows: Rows | None) -> list[Rows]:
        multiply, steps = _multiplication(queries)
        means = _mean_scores(self._means, multiply, self._of_mean * steps)
        if rows is not None:
            means = means[rows]
        near = np.ones(means.shape, np.bool_)
        if opened < len(means):
            near[:] = False
            for number, column in enumerate(means.T):
                near[_largest(column, opened), number] = True
            kept = np.flatnonzero(near.any(axis=1))
            near, means, rows = near[kept], means[kept], kept if rows is None else rows[kept]
        scores = np.empty_like(means)
        _, others, dims = self._differences.shape

        def score(span: range) -> None:
            step = max(1, _BLOCK_BYTES // max(1, others * dims))
            copied = np.empty((step, others, dims), np.int8)  # new memory for each block would cost more than it holds
            for start in span[::step]:
                here = slice(start, min(start + step, span.stop))
                block = self._differences[here]
                if rows is not None:
                    block = copied[: here.stop - start]
                    np.take(self._differences, rows[here], axis=0, out=block, mode="clip")  # "raise" would copy twice
                products = multiply(block.reshape(-1, dims)).reshape(len(block), others, len(queries))
                by_difference = products.transpose(1, 0, 2).reshape(others, len(block) * len(queries))
                of_tokens = self._of_differences @ by_difference  # (T, n x B)
                scores[here] = of_tokens.max(axis=0).reshape(len(block), len(queries)) * steps + means[here]

        _on_free_cores(score, len(scores), max(1, others * dims))
        scores[~near] = -np.inf  # the answer to a query does not depend on those beside it
        best = (_largest(column, fetch) for column in scores.T)
        return [column if rows is None else rows[column] for column in best]


def load_or_build(
    folder: Path, origin: str, tokens: Stored, queries: Callable[[], Floats | None] = lambda: None
) -> TokenCodes | None:
    """The codes of a segment: mapped if the file is sound and not stale; otherwise made and stored.

    Args:
        folder: the segment's folder.
        origin: digest of the segment file.
        tokens: (N, T, D), unit-norm, N at least 1.
        queries: gives (B, D) float32, unit-norm: real queries to measure recall on, too; called if codes are made.

    Returns:
        None if they cannot be stored: a reader may have no right to write, and memory is no place for them.
    """
    stored = _read(folder, origin, tokens.shape)
    if stored is not None:
        return stored
    log.info("making the token codes of %s", folder)
    try:
        with write_atomically(folder / FILE, need=tokens.size) as temporary:
            measured = _make(tokens, temporary, queries())
        write_record(folder / FILE, origin, to_json(measured))
    except (DataError, OSError) as error:
        log.warning("the token codes of %s could not be stored, and it is searched exactly: %s", folder, error)
        return None
    return _read(folder, origin, tokens.shape)


def stored_curve(folder: Path) -> OpeningCurve | None:
    """What was measured on the stored codes of a folder, whether or not they are stale; None without any."""
    try:
        return from_json(Measured, measured_of(folder / FILE)).curve
    except (OSError, ValueError):
        return None


def _read(folder: Path, origin: str, shape: tuple[int, ...]) -> TokenCodes | None:
    """The stored codes of tokens of this shape; None if there are none, or none that can be used."""
    path = folder / FILE
    try:
        problem = problem_of(path, [origin])
        if problem is None:
            measured = from_json(Measured, measured_of(path))
            if path.stat().st_size == np.prod(shape):
                return TokenCodes(*_mapped(path, shape), measured)
            problem = f"{path} holds codes of something else"
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        problem = f"{path} cannot be read: {' '.join(str(error).split())[:200]}"
    log.warning("%s; it is made again", problem)
    return None


def _mapped(path: Path, shape: tuple[int, ...]) -> tuple[Codes, Codes]:
    """The means and the differences in the file, for (N, T, D) tokens."""
    images, tokens, dims = shape
    codes = np.asarray(np.memmap(path, np.int8, "r"))
    return codes[: images * dims].reshape(images, dims), codes[images * dims :].reshape(images, tokens - 1, dims)


def _make(tokens: Stored, path: Path, given: Floats | None) -> Measured:
    """Write the codes of tokens to a file, and measure them."""
    images, each, dims = tokens.shape
    transform = _transform(each)
    sample = np.unique(np.linspace(0, images - 1, _SAMPLE, dtype=np.int64))
    largest = np.abs(transform @ tokens[sample].astype(np.float32)).max(axis=(0, 2))
    # Others may be larger by a little; what is larger still is cut.
    scales = [round(max(1e-6, 1.1 * float(part.max(initial=0)) / 127), 8) for part in (largest[:1], largest[1:])]
    kinds = questions(tokens, given)
    step = max(1, _BUILD_BYTES // (4 * each * dims))
    # Written and not mapped: a full disk is an error of a write, but the end of a process that fills a map.
    with path.open("wb") as file:
        for start in range(0, images, step):
            block = tokens[start : start + step].astype(np.float32)
            coefficients = transform @ block
            for place, part, scale in (
                (start * dims, coefficients[:, :1], scales[0]),
                (images * dims + start * (each - 1) * dims, coefficients[:, 1:], scales[1]),
            ):
                file.seek(place)
                file.write(np.clip(np.rint(part / np.float32(scale)), -127, 127).astype(np.int8).tobytes())
            for judged in kinds.values():
                judged.add(start, block)
    means, _ = _mapped(path, tokens.shape)
    places = {kind: _places(means, judged.queries, judged.best()) for kind, judged in kinds.items()}
    return Measured(scales[0], scales[1], curve_of(images, places))


def _places(means: Codes, queries: Floats, best: Rows) -> Rows:
    """(B, m) where the (B, m) best images stand in the order of their means."""
    places = np.empty_like(best)
    for number, query in enumerate(queries):
        scores = _mean_scores(means, *_multiplication(query[None]))[:, 0]
        places[number] = len(scores) - np.searchsorted(np.sort(scores), scores[best[number]], side="right")
    return places


def _mean_scores(means: Codes, multiply: Callable[[Codes], Floats], steps: Floats) -> Floats:
    """(N, B) float32 inner products of means and queries, whose steps are worth (B,) `steps`."""
    scores = np.empty((len(means), len(steps)), np.float32)

    def score(span: range) -> None:
        step = max(1, _BLOCK_BYTES // means.shape[1])
        for start in span[::step]:
            here = slice(start, min(start + step, span.stop))
            np.multiply(multiply(means[here]), steps, out=scores[here])

    _on_free_cores(score, len(scores), means.shape[1])
    return scores


def _transform(tokens: int) -> Floats:
    """(T, T) float32, orthonormal: the first row takes the mean, times the root of T."""
    step = np.arange(tokens)
    matrix: Floats = (np.cos(np.pi / tokens * (step + 0.5) * step[:, None]) * np.sqrt(2 / tokens)).astype(np.float32)
    matrix[0] = np.sqrt(1 / tokens)
    return matrix


def _multiplication(queries: Floats) -> tuple[Callable[[Codes], Floats], Floats]:
    """How to multiply (n, D) codes with B queries in 8 bits, giving (n, B), and what a step of each query is worth."""
    steps = np.maximum(np.abs(queries).max(axis=1), 1e-12) / np.float32(127)
    rounded = np.rint(queries / steps[:, None])
    library = numkong()
    if library is None:
        transposed = rounded.T.astype(np.float32)
        return lambda rows: rows.astype(np.float32) @ transposed, steps
    codes = rounded.astype(np.int8)
    if len(codes) == 1:  # without AVX-512 nearly twice as fast
        return lambda rows: np.asarray(library.cdist(codes, rows, metric="dot")).astype(np.float32).T, steps
    packed = library.dots_pack(codes)
    return lambda rows: np.asarray(library.dots_packed(rows, packed)).astype(np.float32), steps


def _largest(scores: Floats, count: int) -> Rows:
    """(count,) the places of the largest of (n,) scores, unordered; all if there are no more."""
    if count >= len(scores):
        return np.arange(len(scores))
    return np.argpartition(scores, len(scores) - count)[len(scores) - count :]


def _on_free_cores(function: Callable[[range], None], rows: int, row_bytes: int) -> None:
    """Call a function for parts of the rows, one for each core if they are long enough."""
    workers = max(1, min(free_cores(), rows * row_bytes // _THREAD_BYTES))
    if workers == 1:
        function(range(rows))
        return
    bounds = np.linspace(0, rows, workers + 1).astype(np.int64).tolist()
    with ThreadPoolExecutor(workers, thread_name_prefix="cir-codes") as pool:
        list(pool.map(function, map(range, bounds[:-1], bounds[1:])))
