"""The one way from photos to vectors: read, hash, decode and encode on several threads; results come in order.

While one worker decodes another encodes. Building, backfilling and measuring a replacement are its three users.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Container, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, Protocol, TypeVar

import numpy as np

from cir.arrays import Stored, unit_norm_mask
from cir.errors import ImageDecodeError, MissingImageError, WeightsError
from cir.images import affordable_workers, decode
from cir.images.names import shown
from cir.indexer.storage.segment import Layout
from cir.threads import default_workers
from cir.types import Encoded, GalleryEncoder


class Photo(Protocol):
    """What the pipeline reads: an `ImageFile`, or a `StoredImage` of an index."""

    @property
    def id(self) -> str:
        """Its id, for messages."""

    def read(self) -> bytes:
        """The bytes of its file. Raises MissingImageError or ImageDecodeError."""


PhotoT = TypeVar("PhotoT", bound=Photo)


@dataclass
class Batch(Generic[PhotoT]):
    """What one worker made of some photos.

    Attributes:
        files: photos that could be read, with the SHA-256 of their bytes.
        unreadable: photos that could not be read, with the reason.
        undecodable: contents that are not usable images, digest -> reason, without a name.
        encoded: photos that were encoded here.
        digests: their contents.
        vectors: (n, D) of those in the layout's precision, or None.
        tokens: (n, T, D) likewise, or None.
        decode_seconds: CPU time of reading, hashing, decoding and preprocessing.
        encode_seconds: CPU time of encoding, in this thread.
    """

    files: list[tuple[PhotoT, bytes]] = field(default_factory=list)
    unreadable: list[tuple[PhotoT, str]] = field(default_factory=list)
    undecodable: dict[bytes, str] = field(default_factory=dict)
    encoded: list[PhotoT] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    vectors: Stored | None = None
    tokens: Stored | None = None
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0


class DigestRegistry:
    """Contents that need no encoding, or that a worker has taken on."""

    def __init__(self, *known: Container[bytes], once: bool = True) -> None:
        """Start from the contents whose vectors exist.

        Args:
            known: these contents.
            once: encode each content once, in whichever batch comes first; otherwise as often as there are photos of
                it, so that what is in a batch depends on the photos alone.
        """
        self._known = known
        self._once = once
        self._taken: set[bytes] = set()
        self._lock = Lock()

    def take(self, digest: bytes) -> bool:
        """Whether the caller is the one to encode this content."""
        with self._lock:
            if digest in self._taken or any(digest in known for known in self._known):
                return False
            if self._once:
                self._taken.add(digest)
            return True


def encode_photos(
    photos: Sequence[PhotoT],
    encoder: GalleryEncoder | None,
    layout: Layout,
    registry: DigestRegistry | None = None,
    *,
    workers: int | None = None,
    batch_size: int = 32,
) -> Generator[Batch[PhotoT], None, None]:
    """Read, hash, decode and encode photos in batches, in order; close the iterator to stop early.

    Args:
        photos: what to read.
        encoder: None to read and hash only.
        layout: which of the encoder's outputs to keep, in which precision.
        registry: contents that need no encoding; none if None.
        workers: how many batches are worked on at once, by default one per core, fewer where memory is short; as many
            again may wait, which bounds the memory.
        batch_size: photos per batch.

    Raises:
        WeightsError: the encoder's output contradicts its card, or is not unit-norm.
    """
    if workers is None:
        reduced = encoder is None or encoder.min_side is not None
        workers = affordable_workers(default_workers(), reduced=reduced)
    registry = DigestRegistry() if registry is None else registry
    chunks = (photos[start : start + batch_size] for start in range(0, len(photos), batch_size))
    running: deque[Future[Batch[PhotoT]]] = deque()
    with encoder.shared_by(workers) if encoder else nullcontext():
        executor = ThreadPoolExecutor(workers, thread_name_prefix="cir-encode")
        try:
            for chunk in chunks:
                running.append(executor.submit(_encode_chunk, chunk, encoder, layout, registry))
                if len(running) >= 2 * workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _encode_chunk(
    photos: Sequence[PhotoT], encoder: GalleryEncoder | None, layout: Layout, registry: DigestRegistry
) -> Batch[PhotoT]:
    started = time.thread_time()
    batch: Batch[PhotoT] = Batch()
    pixels = []
    for photo in photos:
        try:
            data = photo.read()
        except (ImageDecodeError, MissingImageError) as error:
            batch.unreadable.append((photo, str(error)))
            continue
        digest = hashlib.sha256(data).digest()
        batch.files.append((photo, digest))
        if encoder is None or not registry.take(digest):
            continue
        try:
            pixels.append(encoder.preprocess(decode(data, photo.id, encoder.min_side)))
            batch.encoded.append(photo)
            batch.digests.append(digest)
        except ImageDecodeError as error:
            # Other photos may have the same content.
            batch.undecodable[digest] = str(error).removeprefix(f"{shown(photo.id)}: ")
        except MemoryError:
            batch.undecodable[digest] = "not enough memory for this picture; scale it down"
    decoded = time.thread_time()
    if encoder is not None and pixels:
        encoded = encoder.encode_images(np.stack(pixels))
        batch.vectors, batch.tokens = _checked(encoded, layout, len(pixels))
    batch.decode_seconds = decoded - started
    batch.encode_seconds = time.thread_time() - decoded
    return batch


def _checked(encoded: Encoded, layout: Layout, rows: int) -> tuple[Stored | None, Stored | None]:
    """The arrays that a layout keeps, in its precision, after a check of shapes and norms.

    Args:
        encoded: of `rows` images.
        layout: what to keep.
        rows: number of images.

    Returns:
        (rows, D) vectors and (rows, T, D) tokens, None for what the layout does not keep.

    Raises:
        WeightsError: other shapes than the model's card promises, or not unit-norm (NaN included).
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
            given = "none" if values is None else values.shape
            raise WeightsError(f"model {layout.model_name} gave {name} {given}, not {shape} as its card says")
        if not unit_norm_mask(values).all():
            raise WeightsError(f"model {layout.model_name} gave {name} that are not of unit length; check its weights")
        kept.append(values.astype(layout.precision))
    return kept[0], kept[1]
