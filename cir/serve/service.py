"""All parts of a running server, and what the routes have in common."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cir.errors import CirError
from cir.indexer.reading.column_values import ColumnValues, column_values
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.mirror import place_of
from cir.indexer.writing.history import generations
from cir.places import is_url
from cir.search.generations import needed_side
from cir.search.searcher import Searcher
from cir.serve.answers import Describer
from cir.serve.batching import Batcher
from cir.serve.engine import Engine
from cir.serve.jobs import Found, Uploaded, Wanted
from cir.serve.marks import Marks
from cir.serve.metrics import Metrics
from cir.serve.pools import Pools
from cir.serve.problems import busy
from cir.serve.requests import Asked, Reference, Upload
from cir.serve.settings import Settings
from cir.serve.thumbnails import Thumbnails
from cir.serve.uploads import Uploads, uploaded
from cir.threads import default_workers

T = TypeVar("T")
log = logging.getLogger(__name__)

_FOLLOW = 1.0  # seconds between two looks at what was built, while no query comes
_DECODERS = 4
_EXPLAINING = 4  # explanations that are computed or wait


class Service:
    """The parts of a server, for the routes.

    Attributes:
        settings: how it is set up.
        engine: the searcher.
        batcher: the queue in front of it.
        uploads: pictures that were uploaded.
        thumbnails: those that were made.
        marks: what people have judged.
        pools: what is to be judged about a new model; None where none is.
        metrics: what is counted.
        stopping: whether it answers nothing more.
    """

    def __init__(self, searcher: Searcher, settings: Settings, pools: Pools | None = None) -> None:
        self.settings = settings
        self.pools = pools
        self.marks = Marks()
        self.stopping = False
        self.engine = Engine(searcher)
        self.metrics = Metrics()
        self.uploads = Uploads(settings.limits)
        self.thumbnails = Thumbnails(settings.thumbnails, settings.thumbnail_bytes)
        self._engine_thread = ThreadPoolExecutor(1, "cir-engine")
        self._explainer = ThreadPoolExecutor(1, "cir-explain")
        self._explaining = 0
        self._pictures = ThreadPoolExecutor(min(_DECODERS, default_workers() + 1), "cir-pictures")
        self.batcher: Batcher[Wanted, Found] = Batcher(self.engine.answer, self._engine_thread, settings, self.metrics)
        self._following: asyncio.Task[None] | None = None
        self._columns: tuple[Gallery, asyncio.Future[list[ColumnValues]]] | None = None
        self._histories: dict[tuple[int, str], dict[str, int]] = {}
        self.metrics.watch(
            lambda: len(self.batcher), lambda: self.gallery.manifest.generation, lambda: len(self.gallery)
        )

    @property
    def gallery(self) -> Gallery:
        """The generation that answers."""
        return self.engine.gallery

    @property
    def name(self) -> str:
        """What people call the index."""
        return place_of(self.gallery.folder).absolute().name

    def without_paths(self, message: str) -> str:
        """A message in which folders are called by their last name: clients may not know where they are."""
        root = self.gallery.folder.root
        folders = {str(root), str(root.absolute()), str(self.gallery.folder), *self.gallery.manifest.roots}
        for folder in sorted(folders, key=len, reverse=True):
            if (folder.startswith("/") or is_url(folder)) and len(folder) > 1:
                message = message.replace(folder, Path(folder).name)
        return message

    async def start(self) -> None:
        """Begin to answer."""
        if self.pools is not None:
            self.pools.start()
        self.batcher.start()
        self._following = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """End what was begun."""
        self.stopping = True
        if self._following is not None:
            self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following
        await self.batcher.stop()
        self._pictures.shutdown(cancel_futures=True)
        self._explainer.shutdown(cancel_futures=True)
        self._engine_thread.shutdown()

    async def search(self, asked: Sequence[Asked]) -> list[Found | Exception]:
        """Answer queries together with those of other requests; each may have its own error. Raises Refused."""
        wanted: list[Wanted | Exception] = []
        for each in asked:
            try:
                wanted.append(await self.wanted(each))
            except CirError as error:
                wanted.append(error)
        jobs = [each for each in wanted if isinstance(each, Wanted)]
        answers = await self.batcher.answers(jobs) if jobs else []
        self.metrics.partial.inc(sum(isinstance(each, Found) and each.result.coverage < 1 for each in answers))
        given = iter(answers)
        return [next(given) if isinstance(each, Wanted) else each for each in wanted]

    async def wanted(self, asked: Asked) -> Wanted:
        """A query with its uploads decoded. Raises DataError."""
        # Models of an earlier generation may not be loaded yet: for them a picture is decoded whole.
        side = needed_side(self.engine.searcher) if asked.generation is None else None
        references = tuple([await self._reference(reference, side) for reference in asked.references])
        return Wanted(references, asked.query, asked.offset, asked.exact, asked.generation)

    async def on_pictures(self, work: Callable[[], T]) -> T:
        """The result of work on pictures, in a thread of those that decode."""
        return await asyncio.get_running_loop().run_in_executor(self._pictures, work)

    async def explanations(self, work: Callable[[], T]) -> T:
        """The result of work that takes all cores for seconds; one at a time, and few may wait. Raises Refused."""
        if self._explaining >= _EXPLAINING:
            self.metrics.refused.labels("explanations").inc()
            raise busy("too many explanations at once; try again later", 5)
        self._explaining += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._explainer, work)
        finally:
            self._explaining -= 1

    async def in_turn(self, work: Callable[[], T]) -> T:
        """The result of work in the thread of the queue, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._engine_thread, work)

    async def columns(self, gallery: Gallery) -> list[ColumnValues]:
        """What the columns of a generation hold; counted once, by whoever asks first. Raises CorruptIndexError."""
        if self._columns is None or self._columns[0] is not gallery:
            self._columns = gallery, asyncio.ensure_future(asyncio.to_thread(column_values, gallery))
        try:
            return await asyncio.shield(self._columns[1])
        except CirError:
            self._columns = None
            raise

    def describer(self, gallery: Gallery | None = None) -> Describer:
        """What says what images are; reads manifests, so not for the event loop."""
        gallery = gallery or self.gallery
        return Describer(gallery, self._history(gallery))

    def _history(self, gallery: Gallery) -> dict[str, int]:
        """Name of a segment -> the earliest generation that is kept and has it."""
        key = (gallery.manifest.generation, gallery.card.digest)
        if key not in self._histories:
            found: dict[str, int] = {}
            with suppress(CirError):
                for manifest in reversed(generations(gallery.folder.root)[0]):
                    for entry in manifest.segments:
                        found.setdefault(entry.name, manifest.generation)
            for entry in gallery.entries:
                found.setdefault(entry.name, gallery.manifest.generation)
            if len(self._histories) > 8:
                self._histories.clear()
            self._histories[key] = found
        return self._histories[key]

    async def _reference(self, reference: Reference, side: int | None) -> str | Uploaded:
        if isinstance(reference, str):
            return reference
        data = self.uploads.get(reference.sha256) if isinstance(reference, Upload) else reference
        found = await self.on_pictures(lambda: uploaded(data, side, self.settings.limits))
        self.uploads.keep(data)
        return found

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_FOLLOW)
            try:
                await self.in_turn(self.engine.follow)
            except Exception:
                log.exception("looking for a newer generation")
