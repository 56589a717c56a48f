"""From files to vectors on several threads: while one lane decodes another encodes; results come in order."""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from cir.errors import ImageDecodeError, MissingImageError, WeightsError
from cir.images import ImageFile, decode
from cir.indexer.store import Layout, Stored
from cir.types import Encoded, GalleryEncoder

_NORM_ERROR = 1e-2


@dataclass
class Batch:
    """What one lane made of some files.

    Attributes:
        files: those that could be read, with the SHA-256 of their bytes.
        unreadable: those that could not, with the reason.
        undecodable: contents that are no usable image, digest -> reason.
        digests: contents that were encoded here.
        vectors: (n, D) of those in the layout's precision, or None.
        tokens: (n, T, D) likewise, or None.
        decode_seconds: CPU time of reading, hashing, decoding and preprocessing.
        encode_seconds: CPU time of encoding, in this thread.
    """

    files: list[tuple[ImageFile, bytes]] = field(default_factory=list)
    unreadable: list[tuple[ImageFile, str]] = field(default_factory=list)
    undecodable: dict[bytes, str] = field(default_factory=dict)
    digests: list[bytes] = field(default_factory=list)
    vectors: Stored | None = None
    tokens: Stored | None = None
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0


class Claims:
    """Contents that need no encoding, or that some lane has taken on: each is encoded once."""

    def __init__(self, known: Iterable[bytes]) -> None:
        """Start from the contents whose vectors exist."""
        self._taken = set(known)
        self._lock = Lock()

    def take(self, digest: bytes) -> bool:
        """Whether the caller is the one to encode this content."""
        with self._lock:
            if digest in self._taken:
                return False
            self._taken.add(digest)
            return True


def default_workers() -> int:
    """One lane per core that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(
    images: Sequence[ImageFile],
    encoder: GalleryEncoder | None,
    layout: Layout,
    claims: Claims,
    *,
    workers: int,
    batch_size: int,
) -> Generator[Batch, None, None]:
    """Read, hash, decode and encode images in batches, in order; close the iterator to stop early.

    Args:
        images: what to read.
        encoder: None to read and hash only.
        layout: what to keep of what the encoder gives.
        claims: which contents to encode.
        workers: how many batches are worked on at once; as many again may wait, which bounds the memory.
        batch_size: images per batch.

    Raises:
        WeightsError: the encoder gives other shapes than its card promises, or vectors not of unit length.
    """
    chunks = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    executor = ThreadPoolExecutor(workers, thread_name_prefix="cir-lane")
    running: deque[Future[Batch]] = deque()
    try:
        for chunk in chunks:
            running.append(executor.submit(_lane, chunk, encoder, layout, claims))
            if len(running) >= 2 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _lane(images: Sequence[ImageFile], encoder: GalleryEncoder | None, layout: Layout, claims: Claims) -> Batch:
    started = time.thread_time()
    batch = Batch()
    pixels = []
    for image in images:
        try:
            data = image.read()
        except (ImageDecodeError, MissingImageError) as error:
            batch.unreadable.append((image, str(error)))
            continue
        digest = hashlib.sha256(data).digest()
        batch.files.append((image, digest))
        if encoder is None or not claims.take(digest):
            continue
        try:
            pixels.append(encoder.preprocess(decode(data, image.id)))
            batch.digests.append(digest)
        except ImageDecodeError as error:
            batch.undecodable[digest] = str(error)
    decoded = time.thread_time()
    if encoder is not None and pixels:
        encoded = encoder.encode_images(np.stack(pixels))
        batch.vectors, batch.tokens = checked(encoded, layout, len(pixels))
    batch.decode_seconds = decoded - started
    batch.encode_seconds = time.thread_time() - decoded
    return batch


def checked(encoded: Encoded, layout: Layout, rows: int) -> tuple[Stored | None, Stored | None]:
    """The arrays that a layout asks for, in its precision, after a look at shapes, numbers and norms.

    Args:
        encoded: of `rows` images.
        layout: what to keep.
        rows: how many images they are.

    Returns:
        (rows, D) vectors and (rows, T, D) tokens, None for what the layout does not keep.

    Raises:
        WeightsError: other shapes than the model's card promises, or not of unit length (NaN included).
    """
    kept: list[Stored | None] = []
    for name, values, wanted, shape in (
        ("vectors", encoded.vectors, layout.vectors, (rows, layout.dims)),
        ("tokens", encoded.tokens, layout.tokens > 0, (rows, layout.tokens, layout.dims)),
    ):
        if not wanted:
            kept.append(None)
            continue
        if values is None or values.shape != shape:
            found = "none" if values is None else values.shape
            raise WeightsError(f"model {layout.model_name} gave {name} {found}, not {shape} as its card says")
        if not (np.abs(np.linalg.norm(values, axis=-1) - 1) < _NORM_ERROR).all():  # also when there are NaNs
            raise WeightsError(f"model {layout.model_name} gave {name} that are not of unit length; check its weights")
        kept.append(values.astype(layout.precision))
    return kept[0], kept[1]
