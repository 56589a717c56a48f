"""Search: an index on disk and the models that encode its queries.

query -> prepared (checked, references resolved) -> vectors in every space of the index -> ranked hits
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from cir.conditions import Conditions
from cir.errors import CirError, UsageError
from cir.forks import no_fork
from cir.given import Names, instance, kind, names
from cir.images.reference import as_references
from cir.indexer.reading.coverage import search_covered
from cir.indexer.reading.gallery import Gallery, refreshed
from cir.indexer.reading.ranking import RankingOptions
from cir.indexer.reading.usage import log_usage
from cir.mappings import Maps
from cir.query_vectors import QueryVectors
from cir.search.calibration import calibrated
from cir.search.encoding import SpaceEncoder, check_space, encode_in, encode_in_every_space
from cir.search.one_generation import on_one_generation
from cir.search.prepare import PreparedQuery, as_query, prepare, resolve
from cir.search.raw_vectors import search_vectors
from cir.types import DEFAULT_RECALL, Encoder, Hit, ModelCard, Query, SearchResult, TellsUnread

if TYPE_CHECKING:
    from PIL.Image import Image

    from cir.arrays import Floats


class Searcher:
    """A gallery and the encoders of its queries.

    Args:
        gallery: an opened snapshot.
        load: card -> encoder; called once for the serving model, when a query first needs it, and once for each older
            model that is still needed.
        asker: card of the model that encodes queries, if it is not the serving one.
        keep_usage: log which images of older models are retrieved, for `cir backfill`.
        reopen: makes this searcher again in another process, which lets it be pickled.
    """

    def __init__(
        self,
        gallery: Gallery,
        load: Callable[[ModelCard], Encoder],
        *,
        asker: ModelCard | None = None,
        keep_usage: bool = False,
        reopen: Callable[[], Searcher] | None = None,
    ) -> None:
        self.gallery = instance(gallery, Gallery, "gallery", "open an index with cir.open_index(path)")
        if not callable(load):
            raise UsageError(f"load is {kind(load)}; give a function from a card to its encoder: lambda card: encoder")
        self._load = load
        self._asker, self._keep_usage = asker, keep_usage
        self._encoders: dict[str, Encoder] = {}  # by digest
        self._reopen = reopen

    def __reduce__(self) -> tuple[Callable[[], Searcher], tuple[()]]:
        """A searcher goes to another process as the arguments of `open_index`."""
        if self._reopen is None:
            raise UsageError(
                "a Searcher that was made from parts cannot be sent to another process; "
                "make it there, or use one of cir.open_index(path)"
            )
        return self._reopen, ()

    def _fixed(self) -> Self:
        """This searcher with the gallery of this moment; encoders that it loads stay loaded."""
        fixed = object.__new__(type(self))
        vars(fixed).update(vars(self))
        return fixed

    @no_fork
    def refresh(self) -> bool:
        """Go on with the generation that is live now; returns whether it is another, and reads one line if it is not.

        Searches that have begun end on the generation that they began with.

        Raises:
            IndexFormatError: it cannot be opened; the searcher stays as it is.
        """
        before, self.gallery = self.gallery, refreshed(self.gallery)
        return self.gallery is not before

    @property
    def card(self) -> ModelCard:
        """Card of the model that serves the index, with the floors for what this gallery holds (`calibrated`)."""
        return calibrated(self.gallery)

    @property
    def ids(self) -> Sequence[str]:
        """Ids of all live images, ascending."""
        return self.gallery.ids

    @property
    def encoder(self) -> Encoder:
        """The model that encodes queries. Raises SpaceMismatchError or WeightsError, as `encoder_of`."""
        return self.encoder_of(self._asker or self.gallery.card)

    @no_fork
    def encoder_of(self, card: ModelCard) -> Encoder:
        """The encoder of a model that the index names; loaded on first use.

        Raises:
            SpaceMismatchError: another model was loaded.
            WeightsError: its folder is missing.
        """
        if card.digest not in self._encoders:
            encoder = self._load(card)
            check_space(self.gallery, encoder.card, card.space.id)
            self._encoders[card.digest] = encoder
        return self._encoders[card.digest]

    @no_fork
    @on_one_generation
    def picture(self, reference: Any, min_side: int | None = None) -> Image:
        """The decoded picture of one reference, in any form that `Query` takes.

        Args:
            reference: as in a query.
            min_side: how large it is needed, as for `cir.images.decode`.

        Raises:
            MissingImageError: no such file or id, or the photo of a gallery image is gone.
            ImageDecodeError: it cannot be read.
            UsageError: no reference, or several.
        """
        references = as_references(reference)
        if len(references) != 1:
            raise UsageError(f"{len(references)} references; give one")
        return resolve(self.gallery, references[0]).picture(min_side)

    def search(self, query: Query, *, exact: bool = False, recall: float = DEFAULT_RECALL) -> SearchResult:
        """Answer one query; see `search_many`."""
        return self.search_many([as_query(query)], exact=exact, recall=recall)[0]

    @no_fork
    @on_one_generation
    def search_many(
        self, queries: Query | Iterable[Query], *, exact: bool = False, recall: float = DEFAULT_RECALL
    ) -> list[SearchResult]:
        """Answer queries, encoded and ranked in batches.

        References that are gallery images, by id or by content, are not among their own hits.

        Args:
            queries: what to search for.
            exact: compare with every image, tokens included, instead of ranking the best candidates.
            recall: the share of the best images that an approximate search must find (`RankingOptions.recall`).

        Raises:
            UsageError: an empty query, an unknown metadata column, a recall out of range, or what is no query.
            MissingImageError: a reference that is neither an image file nor an id of the gallery.
            ImageDecodeError: a reference that cannot be read.
        """
        started = time.perf_counter()
        prepared = prepare(self.gallery, queries)
        damaged = sum(segment.images for segment in self.gallery.damaged)
        groups = self._groups(prepared, exact, recall)  # conditions are checked before a model is loaded
        vectors = encode_in_every_space(self.gallery, self._encoder_for, prepared)
        results = self._rank(prepared, vectors, groups)
        seconds = (time.perf_counter() - started) / max(1, len(prepared))
        return [
            replace(result, seconds=seconds, unread=self._unread(result.query), damaged=damaged) for result in results
        ]

    @no_fork
    @on_one_generation
    def encode(self, queries: Query | Iterable[Query]) -> QueryVectors:
        """B queries as unit-norm vectors in every space of the index. Raises as `search_many`."""
        return encode_in_every_space(self.gallery, self._encoder_for, prepare(self.gallery, queries))

    @no_fork
    @on_one_generation
    def encode_native(self, space: str, queries: Query | Iterable[Query]) -> Floats:
        """(B, D) float32, unit-norm: queries encoded by the model that made a space, whichever mapping is in use.

        Raises:
            WeightsError: that model's folder is missing.
        """
        encoder = SpaceEncoder.native(self.gallery.manifest.maker(space), self.encoder_of)
        return encode_in(self.gallery, space, encoder, prepare(self.gallery, queries))

    @no_fork
    @on_one_generation
    def rank(
        self,
        vectors: QueryVectors,
        k: int,
        *,
        allowed: Names = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """The best k (id, score) for each of B queries, best first, ties by id.

        Args:
            vectors: from `encode`, or sums of such; need not be unit-norm.
            k: number of hits.
            allowed: ids to rank; all if None.
            exclude: B sets of ids that may not be among the hits.

        Raises:
            UsageError: an id of `allowed` that the gallery does not hold, or a value of another kind.
        """
        mask = None
        if allowed is not None:
            mask = self.gallery.rows.mask_of(self.gallery.row(image_id) for image_id in names(allowed, "allowed"))
        vectors = instance(vectors, QueryVectors, "vectors", "give what `encode` returned")
        return self.gallery.search(vectors.unit(), RankingOptions(k, mask), exclude=exclude)

    @no_fork
    def search_vectors(
        self, vectors: Any, k: int, *, where: Conditions = None, exact: bool = False, recall: float = DEFAULT_RECALL
    ) -> list[list[tuple[str, float]]]:
        """The best k (id, score) for each of (B, D) vectors of the serving model; `raw_vectors.search_vectors`."""
        return search_vectors(self.gallery, vectors, k, where, exact, recall)

    def _encoder_for(self, space: str) -> SpaceEncoder:
        """What encodes queries for a space: the serving model's own head, its head for that space, or a fitted one."""
        if self._asker is not None:
            check_space(self.gallery, self._asker, space, heads=True)
            if self._asker.space.id != space:
                return SpaceEncoder(lambda: self.encoder, space)
            return SpaceEncoder.native(self._asker, self.encoder_of)
        mapping = self.gallery.mappings.get(space)
        if mapping is not None and mapping.maps is Maps.NOTHING:
            return SpaceEncoder(lambda: self.encoder, space)
        if mapping is not None and mapping.maps is Maps.STATES:
            return SpaceEncoder(lambda: self.encoder, space, mapping)
        return SpaceEncoder.native(self.gallery.manifest.maker(space), self.encoder_of)

    def _groups(
        self, prepared: Sequence[PreparedQuery], exact: bool, recall: float
    ) -> list[tuple[RankingOptions, list[int]]]:
        """Rows of queries that can be ranked together: of the same k and conditions."""
        rows_of = defaultdict(list)
        for row, query in enumerate(prepared):
            rows_of[query.query.k, query.query.where].append(row)
        return [
            (RankingOptions(k, self.gallery.select(where) if where else None, exact, recall=recall), rows)
            for (k, where), rows in rows_of.items()
        ]

    def _rank(
        self,
        prepared: Sequence[PreparedQuery],
        vectors: QueryVectors,
        groups: Sequence[tuple[RankingOptions, list[int]]],
    ) -> list[SearchResult]:
        results: dict[int, SearchResult] = {}
        asker = self._asker or self.card
        for options, rows in groups:
            exclude = [prepared[row].excluded for row in rows]
            found = search_covered(self.gallery, vectors[rows], options, exclude)
            for row, pairs in zip(rows, found.hits, strict=True):
                hits = tuple(self._hit(rank, image_id, score) for rank, (image_id, score) in enumerate(pairs, start=1))
                results[row] = SearchResult(
                    prepared[row].query,
                    hits,
                    found.searched,
                    asker.name,
                    0.0,
                    self._confident(prepared[row], hits, found.coverage),
                    found.unsearched,
                    coverage=found.coverage,
                )
        if self._keep_usage:
            self._log_usage(results.values())
        return [results[row] for row in range(len(prepared))]

    def _hit(self, rank: int, image_id: str, score: float) -> Hit:
        image = self.gallery.image(image_id)
        try:
            file = image.file
            path = file.path if file.member is None else f"{file.path}/{file.member}"
        except CirError:
            path = None  # vectors outlive photos, and some may not be read
        return Hit(rank, image_id, score, path, image.metadata)

    def _confident(self, query: PreparedQuery, hits: Sequence[Hit], coverage: float) -> bool | None:
        asker = self._asker or self.card
        least = asker.min_scores.get("composed" if query.references else "text")
        if asker.space.id != self.gallery.space.id:  # its scores there were not calibrated
            least = None
        if least is None or query.query.negatives or not query.caption or not hits:
            return None
        fits = hits[0].score >= least
        return fits if fits or coverage == 1 else None  # what was not searched may fit

    def _unread(self, query: Query) -> tuple[str, ...]:
        """The ends of its texts that some model does not read; models that it needs are loaded by now."""
        models = [model for model in self._encoders.values() if isinstance(model, TellsUnread)]
        texts = (query.text, *query.negatives)
        ends = (max((model.unread(text) for model in models), key=len, default="") for text in texts)
        return tuple(filter(None, ends))

    def _log_usage(self, results: Iterable[SearchResult]) -> None:
        """Log the hits of older models."""
        native = self.gallery.space.id
        for result in results if self.gallery.mappings else ():
            older = [hit.id for hit in result.hits if self.gallery.image(hit.id).space != native]
            if older:
                log_usage(self.gallery.folder, older)
