"""The searcher behind a server: batches of queries, and going on to what is built meanwhile.

Everything here runs in the one thread of the queue, so that no answer mixes two generations: a newer one is taken
between two batches. If it is served by another model, that is loaded in a thread of its own first, and the generation
that is open goes on to answer.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cir.errors import CirError
from cir.indexer.reading.gallery import Gallery
from cir.indexer.storage.fetching import behind
from cir.query_json import answer_each
from cir.search.generations import earlier, has_model, is_newest, newest, warm_up
from cir.search.prepare import prepare, unknown
from cir.search.searcher import Searcher
from cir.serve.jobs import Found, Uploaded, Wanted
from cir.types import Query, SearchResult

log = logging.getLogger(__name__)

_EARLIER = 2  # earlier generations that stay open


class Engine:
    """Answers queries in batches.

    Attributes:
        searcher: of the generation that answers; another one takes its place.
        texts: whether the serving model can encode queries; of some models there is only a name.
        problem: why a newer generation is not used, in one line; else empty.
    """

    def __init__(self, searcher: Searcher) -> None:
        self.searcher = searcher
        self.texts = False
        self.problem = ""
        self._newest = searcher  # of the latest generation that could be opened
        self._coming: _Coming | None = None
        self._earlier: OrderedDict[int, Searcher] = OrderedDict()

    @property
    def gallery(self) -> Gallery:
        """The generation that answers; for any thread."""
        return self.searcher.gallery

    def warm_up(self) -> None:
        """Load the models and compute one query. Raises WeightsError, as the command line would at the first query."""
        self.texts = warm_up(self.searcher)

    def follow(self) -> None:
        """Go on to what was built meanwhile, as soon as its model is loaded; reads one line where nothing was."""
        coming = self._coming
        if coming is not None and not coming.is_alive():
            self._coming = None
            if coming.problem:
                self._report(coming.problem)
            else:
                self._newest = coming.searcher
                self._go_on(coming.searcher, coming.texts)
        try:
            spread = self._newest.gallery.spread is not None
            other = None if is_newest(self._newest) else self._newest if spread else newest(self._newest)
        except CirError as error:
            self._report(str(error))
            return
        if other is None:
            if self._newest is self.searcher:
                self.problem = behind(self.gallery.folder)
            return
        if spread:  # its parts open the newer generation, which may take a while
            if self._coming is None:
                self._coming = _Coming(other, open_newest=True)
                self._coming.start()
            return
        self._newest = other
        if has_model(other) or other.card.only_named:
            self._coming = None
            self._go_on(other, not other.card.only_named)
        else:
            self._coming = _Coming(other)
            self._coming.start()

    def answer(self, wanted: list[Wanted]) -> Sequence[Found | Exception]:
        """Answer queries together; each that cannot be answered has its own error."""
        self.follow()
        groups: dict[tuple[int | None, bool], list[int]] = defaultdict(list)
        for row, each in enumerate(wanted):
            groups[each.generation, each.exact].append(row)
        answers: dict[int, Found | Exception] = {}
        for (generation, exact), rows in groups.items():
            try:
                searcher = self._at(generation)
            except CirError as error:
                answers.update(dict.fromkeys(rows, error))
                continue
            answers |= zip(rows, _answer(searcher, [wanted[row] for row in rows], exact), strict=True)
        return [answers[row] for row in range(len(wanted))]

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("%s; answers are those of generation %s", problem, self.gallery.manifest.generation)
        self.problem = problem

    def _go_on(self, other: Searcher, texts: bool) -> None:
        self.searcher, self.texts, self.problem = other, texts, ""
        log.info("going on with generation %s", other.gallery.manifest.generation)

    def _at(self, generation: int | None) -> Searcher:
        """The searcher of a generation. Raises UsageError or CorruptIndexError."""
        if generation is None or generation == self.gallery.manifest.generation:
            return self.searcher
        if generation not in self._earlier:
            self._earlier[generation] = earlier(self.searcher, generation)
            while len(self._earlier) > _EARLIER:
                self._earlier.popitem(last=False)
        self._earlier.move_to_end(generation)
        return self._earlier[generation]


class _Coming(threading.Thread):
    """A newer generation whose model is being loaded.

    Args:
        searcher: of that generation.
        open_newest: open the newest generation first; `searcher` is of an older one.

    Attributes:
        searcher: of the newer generation, once the thread has ended.
        texts: whether its model can encode queries.
        problem: why it cannot be used, in one line; else empty.
    """

    def __init__(self, searcher: Searcher, *, open_newest: bool = False) -> None:
        super().__init__(name="cir-coming", daemon=True)
        self._open_newest = open_newest
        self.searcher, self.texts, self.problem = searcher, False, ""

    def run(self) -> None:
        """Load the model."""
        try:
            if self._open_newest:
                self.searcher = newest(self.searcher) or self.searcher
            self.texts = warm_up(self.searcher)
        except CirError as error:
            self.problem = str(error)
        except Exception as error:  # a bug may not end the thread without a word
            log.exception("a newer generation cannot be used")
            self.problem = f"a newer generation cannot be used: {type(error).__name__}"


def _answer(searcher: Searcher, wanted: Sequence[Wanted], exact: bool) -> list[Found | Exception]:
    """Answers of one generation, encoded and searched together."""
    answers: dict[int, Found | Exception] = {}
    ready: dict[int, Query] = {}
    for row, each in enumerate(wanted):
        try:
            ready[row] = query_of(searcher.gallery, each)
        except CirError as error:
            answers[row] = error
    results = answer_each(list(ready.values()), lambda queries: searcher.search_many(queries, exact=exact))
    for row, result in zip(ready, results, strict=True):
        if isinstance(result, SearchResult):
            answers[row] = Found(wanted[row], result, searcher.gallery)
        else:
            answers[row] = result
    return [answers[row] for row in range(len(wanted))]


def query_of(gallery: Gallery, wanted: Wanted) -> Query:
    """A query with its references, which are ids of the gallery or pictures: a name never becomes a path.

    Raises:
        MissingImageError: no such image in the gallery.
        UsageError: an empty query.
    """
    references: list[Any] = []
    for reference in wanted.references:
        if isinstance(reference, Uploaded):
            digest = bytes.fromhex(reference.sha256)
            known = gallery.ids_of([digest])[digest]
            references.append(reference.data if known else reference.picture)
        elif reference in gallery:
            references.append(gallery.image(reference).id)
        else:
            raise unknown(gallery, reference)
    query = replace(wanted.query, references=tuple(references))
    prepare(gallery, query)  # what is wrong with it alone is said before others are answered together with it
    return query
