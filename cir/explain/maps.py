"""The maps of an explanation, by whichever method each model allows, and what keeps one from being made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cir.errors import CirError
from cir.explain.explanation import HeatMap
from cir.explain.occlusion import Occlusion
from cir.explain.pictures import photo_of, picture_of
from cir.explain.torch_twin import gives_gradients, torch_twin
from cir.given import printable

if TYPE_CHECKING:
    from PIL.Image import Image

    from cir.explain.gradients import Gradients
    from cir.indexer.reading.stored_image import StoredImage
    from cir.query_vectors import QueryVectors
    from cir.search import Searcher
    from cir.search.prepare import PreparedQuery
    from cir.types import Encoder

METHODS = ("auto", "gradients", "occlusion")
MOST_REFERENCES = 4  # that get a map; by occlusion each takes a batch of queries
ALIKE = 0.01  # differences of scores up to this are rounding: of stored vectors, of another runtime


@dataclass
class Problems:
    """What could not be shown.

    Attributes:
        notes: one line each.
        first: the first error among them.
    """

    notes: list[str] = field(default_factory=list)
    first: CirError | None = None

    def add(self, what: str, error: CirError) -> None:
        """A map over something that cannot be made."""
        self.notes.append(f"no map over {what}: {error}")
        self.first = self.first or error


class Maps:
    """Makes maps of one query.

    Args:
        searcher: of one generation of the index.
        method: of `METHODS`.
        grid: of occlusion.

    Raises:
        UsageError, WeightsError, MissingDependencyError: gradients of a serving model that gives none.
    """

    def __init__(self, searcher: Searcher, method: str, grid: int) -> None:
        self._searcher = searcher
        self._method = method
        self._grid = grid
        if method == "gradients":
            torch_twin(searcher.encoder)

    def over_references(
        self, prepared: PreparedQuery, images: Sequence[StoredImage], problems: Problems
    ) -> list[tuple[HeatMap | None, ...]]:
        """For each image a map for each reference, or None in its place."""
        pictures: dict[int, Image] = {}
        made: list[dict[int, HeatMap]] = [{} for _ in images]
        for number, reference in enumerate(prepared.references[:MOST_REFERENCES]):
            try:
                pictures[number] = picture_of(reference, self._searcher.encoder)
            except CirError as error:
                problems.add(named(prepared.query.references[number], number), error)
        if len(prepared.references) > MOST_REFERENCES:
            problems.notes.append(f"only the first {MOST_REFERENCES} references get a map")
        if pictures:
            try:
                way = self._way(self._searcher.encoder)
                made = way.over_references(prepared.query, pictures, images)
            except CirError as error:
                problems.add("the references", error)
        return [tuple(map(maps.get, range(len(prepared.references)))) for maps in made]

    def over_hit(self, image: StoredImage, queries: QueryVectors, problems: Problems) -> list[HeatMap]:
        """For each query the map over an image; none if that cannot be."""
        try:
            encoder = self._searcher.encoder_of(self._searcher.gallery.manifest.maker(image.space))
            return self._way(encoder).over_hit(image, photo_of(image, encoder), queries)
        except CirError as error:
            problems.add(printable(image.id), error)
            return []

    def _way(self, encoder: Encoder) -> Occlusion | Gradients:
        if self._method == "occlusion" or (self._method == "auto" and not gives_gradients(encoder)):
            return Occlusion(self._searcher, self._grid)
        torch_twin(encoder)  # where torch is missing, this says so
        from cir.explain.gradients import Gradients

        return Gradients(self._searcher)


def differences(maps: Iterable[tuple[str, HeatMap | None]], score: float) -> Iterator[str]:
    """What to say of maps, each with the name of what it is over, that are of another score than the search's."""
    for what, heat in maps:
        if heat is not None and abs(heat.score - score) > ALIKE:
            yield (
                f"the map over {what} is of its photo as it is encoded now, which scores {heat.score:.3f}; the search "
                f"gave {score:.3f}"
            )


def named(reference: object, number: int) -> str:
    """What to call a reference."""
    return printable(reference) if isinstance(reference, str) else f"reference {number + 1}"
