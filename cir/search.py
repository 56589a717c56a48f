"""Search: an index on disk and the model that made it, asked composed queries.

    query -> vector of the index's space -> candidates by gallery vector -> order by tokens -> hits

What a query consists of decides how its vector is made: reference and text by passes A and B, a text alone by pass D,
references alone by their own gallery vectors. Several references are averaged; each negative is subtracted.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cir.errors import ImageDecodeError, MissingImageError, SpaceMismatchError, UsageError
from cir.images import ImageFile, decode, locate
from cir.indexer.gallery import Gallery
from cir.indexer.usage import record
from cir.text import clean_caption
from cir.types import Edge, Encoded, Encoder, Hit, ModelCard, Query, SearchResult, Trunk

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    Floats = NDArray[np.float32]

# Share of a negative's direction that is taken away. At 1 a query says more about what it is not than what it is.
NEGATIVE_WEIGHT = 0.5
BATCH = 64
BRIDGES = ("procrustes", "simplex")  # routes whose edges carry query vectors

# Gives who makes vectors: an encoder, and the head it uses, None for its own. Called only where one is needed.
Maker = Callable[[], tuple[Encoder, str | None]]


def open_index(
    path: str | Path, *, model: str | Path | None = None, model_dirs: Sequence[Path] = (), device: str = "auto"
) -> Index:
    """Open an index for searching. The model is the one the index names, and is loaded when first needed.

    Args:
        path: the index directory.
        model: a model to query with instead; refused unless its space is the index's.
        model_dirs: where else to look for the model's folder.
        device: where the model runs.

    Raises:
        IndexFormatError: not an index, a newer format, or damaged.
    """
    from cir import models

    gallery = Gallery.open(Path(path))
    if model is not None:  # before a query that needs no encoder could pass
        from cir.models.weights import read_card

        _same_space(gallery, read_card(models.find(model, model_dirs)))

    def load(card: ModelCard) -> Encoder:
        if model is not None and card.digest == gallery.card.digest:
            return models.load_model(model, device=device, model_dirs=model_dirs)
        found = models.find_for(card, gallery.manifest.model_paths.get(card.digest), model_dirs)
        return models.load_model(found, device=device)

    return Index(gallery, load)


class Index:
    """A gallery and its query encoder.

    Args:
        gallery: an opened snapshot.
        load: card -> encoder; called once for the serving model, when a query first needs it, and once for each older
            model that still makes queries for its own vectors.
        note: note which images of older models are retrieved, for `cir backfill`.
    """

    def __init__(self, gallery: Gallery, load: Callable[[ModelCard], Encoder], *, note: bool = True) -> None:
        self.gallery = gallery
        self._load = load
        self._note = note
        self._encoders: dict[str, Encoder] = {}  # space -> who makes queries in it

    @property
    def card(self) -> ModelCard:
        """Card of the model that serves the index."""
        return self.gallery.card

    @property
    def ids(self) -> Sequence[str]:
        """Ids of all live images."""
        return self.gallery.ids

    @property
    def encoder(self) -> Encoder:
        """The query encoder.

        Raises:
            SpaceMismatchError: the model is not the one whose vectors the index holds.
        """
        return self.encoder_of(self.gallery.card)

    def encoder_of(self, card: ModelCard) -> Encoder:
        """The encoder of a model that the index names; loaded when it is first asked for.

        Raises:
            SpaceMismatchError: what was loaded is another model.
            WeightsError: it is not here.
        """
        space = card.space.id
        if space not in self._encoders:
            encoder = self._load(card)
            _same_space(self.gallery, encoder.card, space)
            self._encoders[space] = encoder
        return self._encoders[space]

    def _maker(self, space: str) -> tuple[Encoder, str | None]:
        """Who makes queries in a space, and with which of its heads; None for its own."""
        edge = self.gallery.edges.get(space)
        if edge is not None and edge.route == "head":
            return self.encoder, space
        if edge is not None and edge.route == "fitted":
            return _Fitted(self.encoder, edge), space
        return self._encoder_of(space), None

    def _encoder_of(self, space: str) -> Encoder:
        models = self.gallery.manifest.models.values()
        return self.encoder_of(next(card for card in map(ModelCard.from_json, models) if card.space.id == space))

    def search(self, query: Query, *, exact: bool = False) -> SearchResult:
        """Answer one query; see `search_many`."""
        return self.search_many([query], exact=exact)[0]

    def search_many(self, queries: Sequence[Query], *, exact: bool = False) -> list[SearchResult]:
        """Answer queries, encoded in batches.

        References that are gallery images, by id or by content, are not among their own hits.

        Args:
            exact: compare with every image, tokens included, instead of ordering the best candidates.

        Raises:
            UsageError: an empty query, k below 1, an unknown metadata column.
            MissingImageError: a reference that is neither an image file nor an id of the gallery.
            ImageDecodeError: a reference that cannot be read.
        """
        started = time.perf_counter()
        for query in queries:
            _check(query)
        resolved = self._all_resolved(queries)
        vectors = self._vectors(queries, resolved)
        results = []
        for row, (query, references) in enumerate(zip(queries, resolved, strict=True)):
            exclude = query.exclude.union(*(reference.same for reference in references))
            allowed = self.gallery.select(query.where) if query.where else None
            asked = {space: each[row : row + 1] for space, each in vectors.items()}
            found = self.gallery.search(asked, query.k, allowed=allowed, exclude=[exclude], exact=exact)[0]
            wanted = np.ones(len(self.gallery), np.bool_) if allowed is None else allowed
            searched = int((wanted & self.gallery.searchable).sum())
            left_out = int((wanted & ~self.gallery.searchable).sum())
            hits = tuple(self._hit(rank, image_id, score) for rank, (image_id, score) in enumerate(found, start=1))
            fits = self._fits(query, hits)
            older = [hit.id for hit in hits if self.gallery.stored_space(hit.id) != self.gallery.space.id]
            if older and self._note:
                record(self.gallery.path, older)
            results.append(SearchResult(query, hits, searched, self.card.name, 0.0, fits, left_out))
        seconds = (time.perf_counter() - started) / max(1, len(queries))
        return [replace(result, seconds=seconds) for result in results]

    def _fits(self, query: Query, hits: Sequence[Hit]) -> bool | None:
        floor = self.card.floors.get("composed" if query.references else "text")
        if floor is None or query.negatives or not clean_caption(query.text) or not hits:
            return None
        return hits[0].score >= floor

    def query_vectors(self, queries: Sequence[Query]) -> Floats:
        """What `rank` takes: (B, D) float32, a query's unit-norm vectors in all spaces that are asked, side by side.

        For an index that one model has made, D is that model's dims.
        """
        vectors = self.vectors(queries)
        return np.concatenate([vectors[space] for space in self._spaces()], axis=1)

    def rank(
        self, vectors: Floats, k: int, *, allowed: Sequence[str] | None = None, exclude: Sequence[frozenset[str]] = ()
    ) -> list[list[tuple[str, float]]]:
        """The k best (id, score) for each of (B, D) vectors, among `allowed` ids, without each row's `exclude`.

        Args:
            vectors: from `query_vectors`, or sums of such.
        """
        mask = None
        if allowed is not None:
            mask = np.zeros(len(self.gallery), dtype=bool)
            mask[[self.gallery.row(image_id) for image_id in allowed]] = True
        asked, start = {}, 0
        for space in self._spaces():
            part = vectors[:, start : start + self._dims(space)]
            asked[space] = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
            start += part.shape[1]
        return self.gallery.search(asked, k, allowed=mask, exclude=exclude or [frozenset()] * len(vectors))

    def _spaces(self) -> list[str]:
        return sorted(self.gallery.asked) or [self.gallery.space.id]

    def _dims(self, space: str) -> int:
        return int(self.gallery.manifest.spaces[space]["dims"])

    def vectors(self, queries: Sequence[Query]) -> dict[str, Floats]:
        """Space -> (B, D) float32, unit-norm: the queries in every space that the gallery is asked in."""
        return self._vectors(queries, self._all_resolved(queries))

    def made(self, space: str, queries: Sequence[Query]) -> Floats:
        """(B, D) float32, unit-norm: the queries by the model whose own space it is, whoever asks there now."""
        return self._made(space, queries, self._all_resolved(queries), lambda: (self._encoder_of(space), None))

    def _all_resolved(self, queries: Sequence[Query]) -> list[list[_Reference]]:
        return [[self._resolve(reference) for reference in query.references] for query in queries]

    def _vectors(self, queries: Sequence[Query], resolved: Sequence[Sequence[_Reference]]) -> dict[str, Floats]:
        """Space -> the queries' vectors in it, for every space that the gallery is asked in."""
        native, bridges = self.gallery.space.id, self._bridges()
        vectors: dict[str, Floats] = {}
        if native in self._spaces() or bridges:
            alike = {space: self._alike(space, queries, resolved) for space in bridges}
            spared = [] if native in self._spaces() else sorted(set.intersection(*map(set, alike.values())))
            rest = np.setdiff1d(np.arange(len(queries)), spared).tolist()
            own = np.zeros((len(queries), self._dims(native)), np.float32)
            own[rest] = self._made(native, [queries[row] for row in rest], [resolved[row] for row in rest])
            for space, edge in bridges.items():
                vectors[space], rows = edge.carry(own), alike[space]
                vectors[space][rows] = self._made(
                    space, [queries[row] for row in rows], [resolved[row] for row in rows]
                )
            if native in self._spaces():
                vectors[native] = own
        for space in self.gallery.asked:
            if space not in vectors:
                vectors[space] = self._made(space, queries, resolved)
        return vectors

    def _alike(self, space: str, queries: Sequence[Query], resolved: Sequence[Sequence[_Reference]]) -> list[int]:
        """Queries that want more like images of a space: what is stored says it better than what is carried there."""
        return [
            row
            for row, (query, references) in enumerate(zip(queries, resolved, strict=True))
            if not clean_caption(query.text)
            and not query.negatives
            and all(each.id is not None and self.gallery.space_of(each.id) == space for each in references)
        ]

    def _bridges(self) -> dict[str, Edge]:
        """Older space -> the edge that carries the serving model's query vectors there, where one does that."""
        edges = self.gallery.edges
        return {space: edges[space] for space in self.gallery.asked if space in edges and edges[space].route in BRIDGES}

    def _made(
        self,
        space: str,
        queries: Sequence[Query],
        resolved: Sequence[Sequence[_Reference]],
        maker: Maker | None = None,
    ) -> Floats:
        """(B, D) float32, unit-norm in a space, by a maker; by whoever asks there now if None."""
        maker = maker or partial(self._maker, space)
        out = np.zeros((len(queries), self._dims(space)), dtype=np.float32)
        composed: list[tuple[int, _Reference, str]] = []
        texts: list[tuple[int, float, str]] = []
        for row, (query, references) in enumerate(zip(queries, resolved, strict=True)):
            text = clean_caption(query.text)
            if query.text and references:
                composed += [(row, reference, text) for reference in references]
            elif text:
                texts.append((row, 1.0, text))
            else:
                for reference in references:
                    out[row] += self._own_vector(space, reference, maker)
        for start in range(0, len(composed), BATCH):
            part = composed[start : start + BATCH]
            encoder, head = maker()
            pixels = np.stack([encoder.preprocess(reference.picture()) for _, reference, _ in part])
            encoded = encoder.encode_queries(pixels, [text for _, _, text in part], head)
            np.add.at(out, [row for row, _, _ in part], encoded)
        _add_texts(maker, out, texts)
        out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
        negatives = [(row, -NEGATIVE_WEIGHT, text) for row, query in enumerate(queries) for text in query.negatives]
        _add_texts(maker, out, negatives)
        out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
        return out

    def _own_vector(self, space: str, reference: _Reference, maker: Maker) -> Floats:
        """The reference as the gallery of a space sees it: the stored vector, or one encoded now."""
        if reference.id is not None and self.gallery.space_of(reference.id) == space:
            return self.gallery.vector(reference.id)
        encoder, head = maker()
        if head is not None:  # the model gives no images in that space, but a query that says nothing is near them
            pixels = encoder.preprocess(reference.picture())[None]
            said_nothing: Floats = encoder.encode_queries(pixels, [""], head)[0]
            return said_nothing
        encoded = encoder.encode_images(encoder.preprocess(reference.picture())[None])
        if encoded.vectors is not None and (self.gallery.has_vectors or space != self.gallery.space.id):
            vector: Floats = encoded.vectors[0]
            return vector
        if encoded.tokens is None:
            raise UsageError(
                f"{encoder.card.name} gives neither vectors nor tokens; rebuild the index with another model"
            )
        mean: Floats = encoded.tokens[0].mean(axis=0)
        mean /= np.linalg.norm(mean)
        return mean

    def picture(self, reference: Any) -> Image:
        """The decoded picture of a reference: an image file, an id of the gallery, or a picture already.

        Raises:
            MissingImageError: no such file or id, or the photo of a gallery image is no longer where it was.
            ImageDecodeError: it cannot be read.
        """
        image: Image = self._resolve(reference).picture()
        return image

    def _resolve(self, reference: Any) -> _Reference:
        """Find out what a reference is; files are read and decoded here, so that mistakes are told before encoding.

        An id of the gallery wins over a file of the same name, so that the working directory changes no answer.
        """
        if not isinstance(reference, str | Path):
            return _Reference(picture=lambda: reference)
        name = str(reference)
        if name in self.gallery:
            return _Reference(picture=lambda: self._photo(name), same=frozenset([name]), id=name)
        if _is_file(name):
            data = ImageFile(name, "", name).read()
            image = decode(data, name)
            same = self.gallery.ids_of(hashlib.sha256(data).digest())
            return _Reference(picture=lambda: image, same=frozenset(same), id=min(same, default=None))
        example = self.gallery.ids[0] if len(self.gallery) else "folder/name.jpg"
        raise MissingImageError(
            f"{name}: neither an image file nor an id of {self.gallery.path}; ids look like {example}"
        )

    def _photo(self, image_id: str) -> Image:
        return decode(self.gallery.photo(image_id), image_id)

    def _hit(self, rank: int, image_id: str, score: float) -> Hit:
        metadata: Mapping[str, str] = self.gallery.metadata(image_id)
        try:
            file = locate(self.gallery.root(image_id), image_id)
            path = file.path if file.member is None else f"{file.path}/{file.member}"
        except (MissingImageError, ImageDecodeError):
            path = None  # vectors outlive photos
        return Hit(rank, image_id, score, path, metadata)


class _Fitted:
    """The serving model with a head that was fitted at its replacement. `space` is the edge's, and said for nothing."""

    def __init__(self, encoder: Encoder, edge: Edge) -> None:
        if not isinstance(encoder, Trunk):
            raise SpaceMismatchError(f"{encoder.card.name} does not show what a fitted head projects")
        self._encoder, self._trunk, self._edge = encoder, encoder, edge
        self.card = encoder.card

    def preprocess(self, image: Image) -> Floats:
        return self._encoder.preprocess(image)

    def encode_images(self, pixels: Floats) -> Encoded:
        return self._encoder.encode_images(pixels)

    def shared_by(self, workers: int) -> AbstractContextManager[None]:
        return self._encoder.shared_by(workers)

    def encode_queries(self, pixels: Floats, captions: Sequence[str], space: str | None = None) -> Floats:
        return self._edge.carry(self._trunk.query_states(pixels, captions))

    def encode_texts(self, captions: Sequence[str], space: str | None = None) -> Floats:
        return self._edge.carry(self._trunk.text_states(captions))


class _Reference:
    """A resolved reference: how to get its picture, its gallery id if any, and the ids of the same picture."""

    def __init__(self, *, picture: Any, same: frozenset[str] = frozenset(), id: str | None = None) -> None:
        self.picture = picture
        self.same = same
        self.id = id


def _add_texts(maker: Maker, out: Floats, texts: Sequence[tuple[int, float, str]]) -> None:
    """Add to (B, D) rows the vectors of texts, each (row, weight, text)."""
    for start in range(0, len(texts), BATCH):
        part = texts[start : start + BATCH]
        encoder, head = maker()
        encoded = encoder.encode_texts([text for _, _, text in part], head)
        weights = np.array([weight for _, weight, _ in part], dtype=np.float32)
        np.add.at(out, [row for row, _, _ in part], encoded * weights[:, None])


def _same_space(gallery: Gallery, card: ModelCard, space: str | None = None) -> None:
    if card.space.id != (space or gallery.space.id):
        raise SpaceMismatchError(
            f"{gallery.path} holds vectors of {gallery.card.name} ({gallery.card.digest}), which {card.name} "
            f"({card.digest}) cannot search; query without --model, or rebuild: "
            f"cir build-index IMAGES -o NEW.index --model YOUR_MODEL"
        )


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # a name longer than any file's
        return False


def _check(query: Query) -> None:
    if not query.references and not clean_caption(query.text):
        raise UsageError("an empty query; give a reference (-i), a text (-t), or both")
    for text in (query.text, *query.negatives):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise UsageError(f"{text!a}: not readable as text; write it in UTF-8")
    if not all(map(clean_caption, query.negatives)):
        raise UsageError("an empty negative; say what is not wanted, or leave it out")
    if query.k < 1:
        raise UsageError(f"k is {query.k}; ask for at least 1 hit")
