"""What runs in each encoding process of a cluster."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from cir import __version__, devices
from cir.errors import DataError
from cir.images.names import shown
from cir.indexer.storage.segment import Layout
from cir.indexer.writing.pipeline import encode_photos
from cir.indexer.writing.segment_tasks import Recipe, RootedPhoto, SegmentResult, SegmentTask, make_segment, sees_index
from cir.places import is_url
from cir.types import GalleryEncoder

MakeEncoder = Callable[[], GalleryEncoder]  # called in each process, so it can be pickled


class EncodingProcess:
    """An actor that holds a model and makes segments.

    Args:
        make_encoder: gives the model.
        threads: that decode and encode.
        full_precision: whether the model runs in float32.
        version: of the package where this was asked for.

    Raises:
        DataError: this machine has another version of the package.
    """

    def __init__(self, make_encoder: MakeEncoder, threads: int, full_precision: bool, version: str) -> None:
        if version != __version__:
            raise DataError(
                f"machine {socket.gethostname()} has cir-engine {__version__}, not {version}; install the same one"
            )
        self._threads = threads
        if full_precision:
            ExitStack().enter_context(devices.full_precision())  # as long as the process lives
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no machine of a cluster asks the hub
        self._encoder = make_encoder()

    def pid(self) -> int:
        """Number of this process on its machine; the first answer says that the model is loaded."""
        return os.getpid()

    def trial(self, photos: Sequence[RootedPhoto], layout: Layout, batch_size: int) -> float:
        """Seconds to read and encode some photos."""
        started = time.perf_counter()
        for _ in encode_photos(photos, self._encoder, layout, workers=self._threads, batch_size=batch_size):
            pass
        return time.perf_counter() - started

    def make(self, task: SegmentTask, recipe: Recipe, roots: Sequence[str]) -> SegmentResult:
        """Make a segment.

        Args:
            task: what to make.
            recipe: how.
            roots: of its photos, those that are there for the process that asked.

        Raises:
            DataError: this machine does not see the index or a root; else as `make_segment`.
        """
        machine = socket.gethostname()
        for place in (recipe.index, *roots):
            if not is_url(place) and not os.path.exists(place):  # else all photos below it would count as missing
                raise DataError(f"machine {machine} does not see {shown(place)}; mount it there under the same path")
        if not sees_index(recipe):
            raise DataError(
                f"machine {machine} has another folder at {shown(recipe.index)}; mount the same one there, or write to "
                "another place"
            )
        return make_segment(task, recipe, self._encoder, self._threads)
